"""Full disks, interruptions, too little memory: nothing half written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.command_line import (
    PIXELS,
    contents,
    refused,
)
from helpers.paths import ROOT

from latentpatch import LatentPatch
from latentpatch.__main__ import run
from latentpatch.cli.entry import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "FACES", *PIXELS],
        ["inpaint", "FACES", *PIXELS, "--image", "FACES/face00.png", "--box", "0,0,32,32", "-n", "2"],
        ["edit", "FACES/face00.png", *PIXELS, "--donor", "FACES/face01.png", "--box", "0,0,32,32"],
        ["reconstruct", "FACES", *PIXELS],
        ["fit", "FACES", *PIXELS],
    ],
    ids=lambda arguments: arguments[0],
)
def test_unwritable_places_are_named(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    given = [text.replace("FACES", str(faces)) for text in arguments]
    for output in (tmp_path / "file" / "below.safetensors", tmp_path / "file" / "a" / "b.safetensors"):
        assert main([*given, "-o", str(output)]) == 1
        named = output.parent if arguments[0] == "fit" else output
        assert capsys.readouterr().err == f"latentpatch: error: {named}: cannot be written: Not a directory\n"
        assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("0000.png", ["generate", "FACES", *PIXELS, "--resume"]),
        ("0012.png", ["generate", "FACES", *PIXELS]),
        ("train/0001.png", ["generate", "FACES", *PIXELS, "--dataset", "--resume"]),
        ("shard-000000.tar", ["generate", "FACES", *PIXELS, "--shards", "4"]),
        ("generation.json", ["generate", "FACES", *PIXELS, "--resume"]),
        ("grid.png", ["inpaint", "FACES", *PIXELS, "--image", "FACES/face00.png", "--box", "0,0,32,32"]),
        ("texture.json", ["texture", "FACES/face00.png", "--size", "64"]),
        ("0000.png", ["stylize", "FACES/face00.png", "FACES/face01.png"]),
        ("latents.safetensors", ["invert", "FACES/face00.png", "--generator", "pixels:4", "--steps", "10"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_folder_with_the_name_of_a_result_is_refused_before_the_work(
    faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: list[str],
) -> None:
    """Defect: all pictures were made, and the last move failed."""
    for made in ("model.LatentPatch.generate", "methods.picture.PictureMethod.__call__"):
        monkeypatch.setattr(f"latentpatch.{made}", lambda *_, **__: pytest.fail("it should not come to this"))
    output = tmp_path / "out"
    (output / name).mkdir(parents=True)
    before = contents(tmp_path)
    assert main([*(each.replace("FACES", str(faces)) for each in arguments), "-o", str(output)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"latentpatch: error: {output / name}: cannot be written: it is a folder"
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Path] = []

    def write_half_of_the_third(self: Path, data: bytes) -> int:
        calls.append(self)
        full = len(calls) % 3 == 0
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2] if full else data)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    place = tmp_path / "place"
    (place / "there").mkdir(parents=True)
    for name in ("0000.png", "notes.txt"):
        (place / "there" / name).write_bytes(b"mine")
    before = contents(place)
    for folder in (place / "there", place / "new" / "deep"):
        for command in (["generate", faces, "-n", 5], ["reconstruct", faces]):
            with monkeypatch.context() as patch:
                patch.setattr(Path, "write_bytes", write_half_of_the_third)
                assert main([str(argument) for argument in [*command, *PIXELS, "-o", folder]]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert err.splitlines()[-1].startswith("latentpatch: error: ")
            assert err.endswith("0002.png: cannot be written: No space left on device\n")
            assert contents(place) == before
    assert len(calls) == 12


def test_interruption_leaves_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "0000.png").write_bytes(b"mine")
    before = contents(tmp_path)
    monkeypatch.setattr("latentpatch.io.images.contact_sheet", interrupt)
    for folder in (tmp_path / "there", tmp_path / "new" / "deep"):
        assert main(["generate", str(faces), *PIXELS, "-o", str(folder)]) == 130
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1] == "latentpatch: interrupted, nothing was written"
        assert contents(tmp_path) == before


def test_an_interruption_after_the_last_file_says_so(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defect: it said that nothing was written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentpatch.cli._options.RunContext.say", interrupt)
    assert main(["reconstruct", str(faces), *PIXELS, "-o", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "latentpatch: interrupted, after files were written"
    assert (tmp_path / "out" / "grid.png").exists()


def test_ctrl_c_is_heeded_until_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: a traceback while modules were imported, and death by a signal when all was written."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> int:
        raise KeyboardInterrupt

    try:
        for work, status in ((interrupt, 130), (lambda: 3, 3)):
            signal.signal(signal.SIGINT, before)
            monkeypatch.setattr("latentpatch.cli.entry.main", work)
            assert run() == status
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no POSIX signals here")
def test_a_signal_half_way_leaves_nothing(faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentpatch", "generate", faces, *PIXELS, "-n", "100000", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def heed() -> None:  # a shell's background jobs are started deaf to it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*.png"))) < 20 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(list(tmp_path.rglob("*.png"))) >= 20
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "latentpatch: interrupted, nothing was written"
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_report_that_cannot_be_printed(five: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentpatch", "inspect", five / "0000.png"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "latentpatch: error: cannot write the report: No space left on device\n"


def test_too_little_memory(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhaust(*_: object, **__: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(LatentPatch, "fit", exhaust)
    assert refused(capsys, tmp_path, "generate", faces, *PIXELS).startswith("out of memory; ")


def test_errors_of_the_program_are_not_hidden(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(LatentPatch, "fit", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["generate", str(faces), *PIXELS, "-o", str(tmp_path / "out")])
    assert contents(tmp_path) == {}
