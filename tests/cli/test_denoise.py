"""``latentpatch denoise``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import contents, misused, record, refused, run
from PIL import Image

import latentpatch
from latentpatch.io.images import read_image, read_record


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A grey square on black, with noise of 12 levels."""
    picture = np.full((32, 36), 60.0)
    picture[8:24, 10:26] = 160
    picture += np.random.default_rng(0).normal(0, 12, picture.shape)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "night.png")
    return folder / "night.png"


@pytest.mark.parametrize("method", ["nl-pca", "nl-means"])
def test_denoise(method: str, night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run("denoise", night, "--method", method, "--json", "-o", out)
    printed = capsys.readouterr()
    assert sorted(contents(out)) == ["0000.png", "denoise.json", "grid.png"]
    report = record(out, "denoise.json")
    assert json.loads(printed.out) == report
    assert (report["command"], report["method"], report["size"]) == ("denoise", method, [32, 36])
    assert 9 < report["settings"]["sigma"] < 14
    assert "levels of 255, estimated" in printed.err
    assert report["images"] == [{"file": "0000.png", "seed": 0}]
    assert read_record(out / "0000.png")["settings"] == report["settings"]
    with Image.open(out / "0000.png") as picture:
        assert picture.mode == "L"
    made = latentpatch.denoise(night, method=method)
    assert (made.images[0] - read_image(out / "0000.png")[:1]).abs().max() <= 0.5 / 255 + 1e-6
    run("denoise", night, "--method", method, "--sigma", 0, "-o", tmp_path / "same")
    assert torch.equal(read_image(tmp_path / "same" / "0000.png"), read_image(night))
    assert "0 levels of 255, as set" in capsys.readouterr().err


def test_bad_input_leaves_nothing(night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    assert "--bandwidth belongs to nl-means" in refused(capsys, place, "denoise", night, "--bandwidth", 2)
    assert "--window " in refused(capsys, place, "denoise", night, "--window", 20)
    assert "gone.png: " in refused(capsys, place, "denoise", tmp_path / "gone.png")
    Image.new("L", (16, 40)).save(night)
    assert "17 x 17" in refused(capsys, place, "denoise", night, "--patch-size", 17)


def test_unusable_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "b.png" in misused(capsys, "denoise", "a.png", "b.png", "-o", "out")
    assert "--sigma" in misused(capsys, "denoise", "a.png", "--sigma", "300", "-o", "out")
    assert "--seed" in misused(capsys, "denoise", "a.png", "--seed", "1", "-o", "out")
