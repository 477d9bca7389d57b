"""Paths: nothing is written outside of the output folder, through links neither; names reach terminals as text."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentpatch.cli.entry import main
from latentpatch.errors import FileError, printable
from latentpatch.io import atomic
from latentpatch.io.listing import identifiers

PIXELS = ["--autoencoder", "pixels", "--size", "64"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "in" / f"a{i}.png")
    return tmp_path


def test_no_aligned_picture_lies_outside_of_the_output(folder: Path) -> None:
    """Defect M10: a list with ".." had pictures written beside the output."""
    place = folder / "x" / "l1" / "l2" / "in"
    (place / "b").mkdir(parents=True)
    (folder / "x" / "evil").mkdir()
    for target in (folder / "x" / "evil" / "a.png", place / "b" / "a.png"):
        shutil.copy(folder / "in" / "a0.png", target)
    (place / "list.txt").write_text("../../../evil/a.png\nb/a.png\n")
    out = folder / "o" / "p" / "out"
    assert main(["align", str(place / "list.txt"), "-o", str(out), "--skip-bad", "--min-agreement", "-1", "-q"]) == 0
    written = [path for path in (folder / "o").rglob("*") if path.is_file()]
    assert len(written) == 3
    assert all(path.is_relative_to(out) for path in written)


def test_names_of_pictures_never_leave_their_folder() -> None:
    lists = [
        ["/p/x/../../evil/a.png", "/p/x/b/a.png"],
        ["/p/../a.png", "/p/./q/a.png", "/../../r/a.png"],
        ["/p//x/../y/a.jpg", "/p/z/../../a.jpg"],
    ]
    for paths in lists:
        names = identifiers([Path(path) for path in paths])
        assert len(set(names)) == len(names)
        for name in names:
            assert ".." not in Path(name).parts
            assert not Path(name).is_absolute()


@pytest.mark.parametrize("name", ["lock", "files", "batches", ""])
def test_links_in_a_work_folder_are_not_followed(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Defect L10: a link in place of the lock emptied the file that it led to."""
    victim, elsewhere = folder / "victim.txt", folder / "elsewhere"
    victim.write_text("keep")
    elsewhere.mkdir()
    link = folder / "out" / ".unfinished" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim if name == "lock" else elsewhere)
    assert main(["generate", str(folder / "in"), "-n", "1", "--resume", "-o", str(folder / "out"), *PIXELS]) == 1
    assert "is a link" in capsys.readouterr().err
    assert victim.read_text() == "keep"
    assert not list(elsewhere.iterdir())


def test_links_to_folders_in_an_output_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cats").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "made" / "cats").mkdir(parents=True)
    (tmp_path / "made" / "cats" / "a.png").write_bytes(b"x")
    with pytest.raises(FileError):
        atomic.move_into(tmp_path / "made", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cats"]


def test_an_empty_path_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect L17: an empty argument, such as an unset variable, was the current folder."""
    monkeypatch.chdir(folder / "in")
    before = sorted(Path().iterdir())
    for words in (["", "-o", "out"], ["a0.png", "-o", ""], ["a0.png", "-o", "out", "--attributes", ""]):
        with pytest.raises(SystemExit):
            main(["generate", *words, *PIXELS])
    assert sorted(Path().iterdir()) == before


def test_names_cannot_give_orders_to_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Defect L15: control characters in a file's name reached the terminal."""
    bad = folder / "bad\x1b]0;PWNED\x07\u202e\udcff.png"
    bad.write_bytes(b"junk")
    assert main(["generate", str(folder / "in"), str(bad), "-n", "1", "-o", str(folder / "out"), *PIXELS]) == 1
    main(["generate", str(folder / "in"), str(bad), "-n", "1", "-o", str(folder / "out"), "--skip-bad", *PIXELS])
    with pytest.raises(SystemExit):
        main(["generate", str(folder / "in"), "-o", "out", "--no-such-option\x1b]0;PWNED\x07"])
    text = capsys.readouterr().err
    assert text.count("PWNED") == 3
    assert not set(text) & set("\x1b\x07\u202e\udcff")
    assert printable("Zoë Müller 猫\n") == "Zoë Müller 猫\n"


def test_a_report_replaces_no_list_beside_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Defect L9: --report people.json replaced people.txt without a word."""
    model, report = str(folder / "m.safetensors"), folder / "people.json"
    main(["fit", str(folder / "in"), "-o", model, "-q", *PIXELS])
    (folder / "people.txt").write_text("in/a0.png\n")
    command = ["unlearn", model, "--id", "a0", "-o", str(folder / "n.safetensors"), "--report", str(report), "-q",
               "--seeds", "4"]  # fmt: skip
    assert main(command) == 1
    assert "people.txt" in capsys.readouterr().err
    assert (folder / "people.txt").read_text() == "in/a0.png\n"
    (folder / "people.txt").unlink()
    assert [main(command), main(command)] == [0, 0]  # a report of its own may be replaced


@pytest.mark.parametrize(
    "words",
    [["generate", "IN", *PIXELS], ["generate", "IN", "--resume", *PIXELS], ["align", "IN"], ["fit", "IN", *PIXELS]],
    ids=" ".join,
)
def test_loops_of_links_and_the_root_folder_are_refused(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """``-o "$UNSET/"`` is the root folder."""
    (folder / "loop").symlink_to("loop")
    words = [word.replace("IN", str(folder / "in")) for word in words]
    for place in ("loop", "loop/x.safetensors"):
        assert main([*words, "-q", "-o", str(folder / place)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    for place in ("/", "//"):
        with pytest.raises(SystemExit):
            main([*words, "-o", place])
    assert sorted(path.name for path in folder.iterdir()) == ["in", "loop"]


@pytest.mark.parametrize(
    "command", ["inspect", "generate", "audit", "explain", "train", "unlearn", "evaluate", "align"]
)
def test_names_that_are_too_long_are_one_line(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking whether such a path exists raises an error of the system, as does one in a forbidden folder."""
    monkeypatch.chdir(folder)
    for name in ("n" * 300 + ".png", "n" * 300 + ".safetensors", "n" * 300):
        words = {
            "inspect": [name], "generate": [name, "-o", "out"], "audit": ["in", name, "-o", "out"],
            "explain": [name, "in", "-o", "out"], "train": ["singan", name, "-o", "m.safetensors"],
            "unlearn": [name, "--id", "a", "-o", "m.safetensors", "--report", "r.json"],
            "evaluate": ["in", "--held-out", name, "-o", "out"], "align": ["in", "-o", name],
        }[command]  # fmt: skip
        assert main([command, *words]) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith("latentpatch: error: ")
    assert sorted(path.name for path in folder.iterdir()) == ["in"]
