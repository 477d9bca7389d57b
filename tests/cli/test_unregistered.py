"""``latentpatch generate --unregistered``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import contents, misused, record, refused, run
from PIL import Image
from safetensors.torch import load_file

import latentpatch
from latentpatch.io.channels import read_channels, write_channels

QUICK = ["--coarsest", 10, "--patch-size", 5, "--coarse-patch-size", 5, "--iterations", 1, "--steps", 2]
SETTINGS: dict[str, Any] = {"coarsest": 10, "patch_size": 5, "coarse_patch_size": 5, "iterations": 1, "steps": 2}


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three pictures of a bright sky above noise, of different shapes."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for i, (height, width) in enumerate(((32, 40), (40, 36), (30, 30))):
        picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(i)) * 0.3
        picture[:, : height // 2] += 0.5 + 0.1 * i
        write_channels(folder / f"{i}.png", picture)
    return folder


def test_a_folder(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run("generate", scenes, "--unregistered", "-n", 2, "--size", "32x36", *QUICK, "--offsets", "-o", out)
    assert "sources a picture" in capsys.readouterr().err
    names = ["0000.png", "0001.png", "generate.json", "grid.png", "offsets.safetensors", "provenance.png"]
    assert sorted(contents(out)) == names
    report = record(out, "generate.json")
    assert (report["command"], report["unregistered"], report["method"]) == ("generate", True, "patch-diffusion")
    assert [source["size"] for source in report["sources"]] == [[32, 40], [36, 32], [30, 30]]
    for row in report["images"]:
        assert len(row["shares"]) == 3
        assert sum(row["shares"]) == pytest.approx(1, abs=1e-4)
        assert row["num_sources"] >= 2
    result = latentpatch.compose(scenes, 2, size=(32, 36), **SETTINGS)
    assert result.offsets is not None
    assert torch.equal(load_file(out / "offsets.safetensors")["offsets"].long(), result.offsets)


@pytest.mark.parametrize(("mode", "count"), [("L", 3), ("LA", 4), ("RGBA", 4)])
def test_pictures_of_other_channels(mode: str, count: int, scenes: Path, tmp_path: Path) -> None:
    with Image.open(scenes / "0.png") as picture:
        picture.convert(mode).save(scenes / "0.png")
    run("generate", scenes, "--unregistered", "-n", 1, "--size", 32, *QUICK, "-o", tmp_path / "out")
    assert len(read_channels(tmp_path / "out" / "0000.png")) == count


def test_structures(scenes: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    words = ["generate", scenes, "--unregistered", "--size", 32, *QUICK, "--structure"]
    run(*words, scenes / "1.png", scenes / "2.png", "-n", 2, "-o", out)
    assert [each["file"] for each in record(out, "generate.json")["structure"]] == ["1.png", "2.png"]
    run(*words, scenes / "2.png", "-n", 1, "--seed", 1, "-o", again)
    assert torch.equal(read_channels(out / "0001.png"), read_channels(again / "0000.png"))


def test_bad_input(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--unregistered"]
    assert "reshuffle" in refused(capsys, tmp_path, *words, scenes / "0.png")
    assert "size" in refused(capsys, tmp_path, *words, scenes, "--size", 4)
    assert "continuity" in misused(capsys, *words, scenes, "-o", "out", "--continuity", "-1")
    assert "--sampler" in misused(capsys, *words, scenes, "-o", "out", "--sampler", "raster")


def test_help_names_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("generate", "--help")
    text = capsys.readouterr().out
    assert text.index("--sampler") < text.index("--unregistered") < text.index("--continuity")
