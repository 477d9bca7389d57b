"""``latentpatch stylize`` and ``analogy``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.command_line import contents, misused, record, refused, run
from PIL import Image

import latentpatch
from latentpatch.io.images import read_image, write_image

QUICK = ["--coarsest", 10, "--patch-size", 5, "--iterations", 2]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """A bright square on a dark ground, and noise of another size."""
    content = torch.full((3, 32, 40), 0.2)
    content[:, 8:24, 10:30] = 0.9
    style = torch.rand(3, 28, 30, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "in"
    folder.mkdir()
    for name, each in (("content", content), ("style", style)):
        write_image(folder / f"{name}.png", each)
    return folder / "content.png", folder / "style.png"


@pytest.mark.parametrize("command", ["stylize", "analogy"])
def test_two_pictures_in_and_what_the_others_write(
    command: str, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(command, *pictures, "-n", 2, "--seed", 3, "--offsets", *QUICK, "-o", out)
    assert "contiguity" in capsys.readouterr().err
    names = ["0000.png", "0001.png", "grid.png", "offsets.safetensors", "provenance.png", f"{command}.json"]
    assert sorted(contents(out)) == sorted(names)
    report = record(out, f"{command}.json")
    assert (report["command"], report["size"], report["target"]["file"]) == (command, [32, 40], "content.png")
    assert [(each["file"], each["size"]) for each in report["sources"]] == [("style.png", [28, 30])]
    made = getattr(latentpatch, command)(*pictures, 2, seed=3, coarsest=10, patch_size=5, iterations=2)
    for i in range(2):
        assert torch.equal((made.images[i] * 255).round() / 255, read_image(out / f"000{i}.png"))
    run(command, *pictures, "--seed", 4, *QUICK, "-o", tmp_path / "one")
    assert (tmp_path / "one" / "0000.png").read_bytes() == (out / "0001.png").read_bytes()


#: Options, and words that the one line about them holds.
REFUSED = {
    "grey content": (["GREY", "STYLE"], ["target ", "3 channels"]),
    "grey style": (["CONTENT", "GREY"], ["target ", "1 channels"]),
    "small style": (["CONTENT", "SMALL", "--patch-size", 17, "--coarsest", 17], ["size", "17 x 17"]),
    "missing": (["CONTENT", "gone.png"], ["gone.png: "]),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["stylize", "analogy"])
def test_bad_input_leaves_nothing(
    command: str, name: str, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSED[name]
    grey, small = (pictures[0].parent / f"{each}.png" for each in ("grey", "small"))
    Image.new("L", (40, 32)).save(grey)
    Image.new("RGB", (16, 16)).save(small)
    files = {"CONTENT": pictures[0], "STYLE": pictures[1], "GREY": grey, "SMALL": small}
    place = tmp_path / "place"
    place.mkdir()
    line = refused(capsys, place, command, *(files.get(str(word), word) for word in options))
    assert all(word in line for word in words), line


def test_unusable_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--strength" in misused(capsys, "stylize", "a.png", "b.png", "--strength", "2", "-o", "out")
    assert "STYLE" in misused(capsys, "stylize", "a.png", "-o", "out")
    assert "--method" in misused(capsys, "analogy", "a.png", "b.png", "--method", "quilting", "-o", "out")
