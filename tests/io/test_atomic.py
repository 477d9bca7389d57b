"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses_file
from safetensors.torch import load_file

from latentpatch.io import atomic
from latentpatch.io.atomic import alone_in, append_line, replacing, staged, write_bytes, write_tensors


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too; folders are listed as empty with a slash."""
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def test_write_bytes_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    assert contents(tmp_path) == {"a.bin": b"one"}
    write_bytes(str(path), b"two")
    assert contents(tmp_path) == {"a.bin": b"two"}


def test_replacing_yields_a_hidden_sibling_with_the_same_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert first.parent == path.parent
        assert first.name.startswith(".")
        assert first.suffix == ".png"
        first.write_bytes(b"1")
        second.write_bytes(b"2")
        assert not path.exists()
    assert contents(tmp_path) == {"a.png": b"1"}


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), ValueError("y")])
def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert contents(tmp_path) == {"a.bin": b"old"}


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with refuses_file(path, "cannot be written: No space left on device"):
        write_bytes(path, b"new contents")
    assert contents(tmp_path) == {"a.bin": b"old"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_really_full_device(tmp_path: Path) -> None:
    def fill() -> None:
        with replacing(tmp_path / "a.bin") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")

    with refuses_file("a.bin", "No space left on device"):
        fill()
    assert contents(tmp_path) == {}


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with refuses_file("below", "cannot be written: Not a directory"):
        write_bytes(tmp_path / "file" / "below", b"x")
    with refuses_file("below", "cannot be written: No such file or directory"):
        write_bytes(tmp_path / "missing" / "below", b"x")
    (tmp_path / "folder").mkdir()
    with refuses_file("folder", "cannot be written: it is a folder"):
        write_bytes(tmp_path / "folder", b"x")
    assert contents(tmp_path) == {"file": b"", "folder/": b""}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_devices_are_not_replaced_by_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with refuses_file("pipe", "not a regular file"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with refuses_file("a.bin", "No such file"), replacing(tmp_path / "a.bin"):
        pass
    assert contents(tmp_path) == {}


def test_staged_moves_everything_into_a_new_folder(tmp_path: Path) -> None:
    with staged(tmp_path / "a" / "b") as staging:
        (staging / "x").write_bytes(b"1")
        (staging / "sub").mkdir()
        (staging / "sub" / "y").write_bytes(b"2")
        assert not (tmp_path / "a" / "b" / "x").exists()
    assert contents(tmp_path) == {"a/": b"", "a/b/": b"", "a/b/x": b"1", "a/b/sub/": b"", "a/b/sub/y": b"2"}


def test_staged_replaces_same_names_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other").write_bytes(b"other")
    with staged(tmp_path) as staging:
        (staging / "x").write_bytes(b"new")
        (staging / "sub").mkdir()
        (staging / "sub" / "y").write_bytes(b"2")
    assert contents(tmp_path) == {"x": b"new", "sub/": b"", "sub/other": b"other", "sub/y": b"2"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("z")])
@pytest.mark.parametrize("there", [False, True])
def test_staged_removes_what_it_made_when_the_block_fails(tmp_path: Path, error: Exception, there: bool) -> None:
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"old")
    before = contents(tmp_path)

    def fail() -> None:
        with staged(folder) as staging:
            (staging / "x").write_bytes(b"new")
            (staging / "y").write_bytes(b"new")
            raise error

    if isinstance(error, OSError):
        with refuses_file(folder, "cannot be written: No space left on device"):
            fail()
    else:
        with pytest.raises(RuntimeError, match="z"):
            fail()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("there", [False, True])
def test_staged_undoes_new_files_when_a_move_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
    before = contents(tmp_path)
    replace = Path.replace

    def replace_but_y(self: Path, target: Path) -> Path:
        if self.name == "y":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_but_y)

    def move() -> None:
        with staged(folder) as staging:
            (staging / "x").write_bytes(b"1")
            (staging / "y").write_bytes(b"2")

    with refuses_file(folder, "Input/output error"):
        move()
    assert contents(tmp_path) == before


def test_staged_moves_nothing_where_a_folder_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()

    def move() -> None:
        with staged(tmp_path) as staging:
            (staging / "a").write_bytes(b"new")
            (staging / "b").write_bytes(b"new")

    with refuses_file("b", "it is a folder"):
        move()
    assert contents(tmp_path) == {"a": b"old", "b/": b""}


def test_staged_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with refuses_file(folder, "cannot be written: Not a directory"), staged(folder):
            pass
    assert contents(tmp_path) == {"file": b"old"}


def test_staged_leaves_what_others_put_into_a_folder_it_made(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "new") as staging:
            (staging / "mine").write_bytes(b"")
            (tmp_path / "new" / "theirs").write_bytes(b"theirs")
            raise RuntimeError("z")

    with pytest.raises(RuntimeError, match="z"):
        fail()
    assert contents(tmp_path) == {"new/": b"", "new/theirs": b"theirs"}


def test_tensor_files_are_as_readable_as_others(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {"key": "value"})
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], torch.ones(2))
    with refuses_file("none/a.safetensors", "cannot be written"):
        write_tensors(tmp_path / "none" / "a.safetensors", {"x": torch.ones(2)})


# --- Several processes -----------------------------------------------------------------------------


def test_lines_of_many_writers_are_all_there(tmp_path: Path) -> None:
    """Defect L23: a log was read, changed and written without a lock."""
    path = tmp_path / "new" / "log.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append_line(path, f"{i} " + "x" * 5000), range(60)))
    assert sorted(int(line.split()[0]) for line in path.read_text().splitlines()) == list(range(60))
    path.write_text("without an end")
    append_line(path, "next")
    assert path.read_text() == "without an end\nnext\n"


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_line(path, "first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk: half of the line is written
    try:
        with refuses_file(path, "cannot be written"):
            append_line(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text() == "first\n"
    with refuses_file(tmp_path, "cannot be written"):
        append_line(tmp_path, "a folder")
    with refuses_file("/dev/full", "cannot be written"):
        append_line("/dev/full", "a device")


def test_a_folder_that_is_held_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_LONGEST_WAIT", 0.1)
    with alone_in(tmp_path):
        for write in (lambda: append_line(tmp_path / "log", "x"), lambda: stage_one(tmp_path)):
            with refuses_file(tmp_path, "another command"):
                write()
    assert not list(tmp_path.iterdir())
    stage_one(tmp_path)


def stage_one(folder: Path) -> None:
    with staged(folder) as staging:
        (staging / "a").write_text("a")


def test_files_of_two_commands_do_not_mix(tmp_path: Path) -> None:
    def command(number: int) -> None:
        with staged(tmp_path) as staging:
            for i in range(20):
                (staging / f"{i:02d}").write_text(str(number))

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(command, range(4)))
        assert len({path.read_text() for path in tmp_path.iterdir()}) == 1
