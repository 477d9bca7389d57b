"""``latentpatch reshuffle`` and ``retarget``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command_line import contents, misused, record, refused, run, written
from helpers.errors import refuses
from PIL import Image
from safetensors.torch import load_file

import latentpatch
from latentpatch.io.channels import on_white, read_channels
from latentpatch.io.images import contact_sheet, read_image, read_record
from latentpatch.runs import system

QUICK = ["--coarsest", 10, "--patch-size", 5, "--iterations", 1, "--steps", 2]
SETTINGS: dict[str, Any] = {"coarsest": 10, "patch_size": 5, "iterations": 1, "steps": 2}


@pytest.fixture
def beach(tmp_path: Path) -> Path:
    """A picture of sand and stones."""
    rows, columns = np.mgrid[:32, :40]
    picture = np.stack([180 + rows, 160 + columns // 2, 120 + 0 * rows], -1)
    for y, x in ((8, 8), (20, 14), (12, 30), (25, 33)):
        picture[(rows - y) ** 2 + (columns - x) ** 2 < 16] = (60, 70, 90)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture.astype(np.uint8)).save(folder / "beach.png")
    return folder / "beach.png"


def test_reshuffle(beach: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run("reshuffle", beach, "-n", 2, "--seed", 5, *QUICK, "--offsets", "--json", "-o", out)
    printed = capsys.readouterr()
    assert "2 pictures in" in printed.err
    assert "contiguity" in printed.err
    names = ["0000.png", "0001.png", "grid.png", "offsets.safetensors", "provenance.png", "reshuffle.json"]
    assert sorted(contents(out)) == names
    report = record(out, "reshuffle.json")
    assert json.loads(printed.out) == report
    assert (report["command"], report["method"], report["size"]) == ("reshuffle", "patch-diffusion", [32, 40])
    assert report["settings"]["coarsest"] == 10
    assert [row["seed"] for row in report["images"]] == [5, 6]
    assert all(0 <= row[name] <= 1 for row in report["images"] for name in ("in_place", "contiguity", "largest_share"))
    (source,) = report["sources"]
    assert (source["file"], source["size"], len(source["sha256"])) == ("beach.png", [32, 40], 64)
    result = latentpatch.reshuffle(beach, 2, seed=5, **SETTINGS)
    assert result.offsets is not None
    assert torch.equal(load_file(out / "offsets.safetensors")["offsets"].long(), result.offsets)
    assert [{"file": row["file"], **each} for row, each in zip(report["images"], result.records(), strict=True)] == (
        report["images"]
    )
    for i in range(2):
        assert (read_image(out / f"000{i}.png") - result.images[i]).abs().max() <= 0.5 / 255 + 1e-6
    sheet = contact_sheet(torch.cat([read_image(beach)[None], on_white(result.images)]))
    assert (read_image(out / "grid.png") - sheet).abs().max() <= 0.5 / 255 + 1e-6
    metadata = read_record(out / "0001.png")
    assert (metadata["seed"], metadata["method"], metadata["command"]) == (6, "patch-diffusion", "reshuffle")
    run("reshuffle", beach, "-n", 1, "--seed", 6, *QUICK, "-q", "-o", tmp_path / "one")
    assert (tmp_path / "one" / "0000.png").read_bytes() == (out / "0001.png").read_bytes()
    assert not capsys.readouterr().err


def test_retarget(beach: Path, tmp_path: Path) -> None:
    run("retarget", beach, "--size", "32x64", *QUICK, "-o", tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["0000.png", "grid.png", "provenance.png", "retarget.json"]
    assert written(tmp_path / "out" / "0000.png").shape == (32, 64, 3)
    assert record(tmp_path / "out", "retarget.json")["images"][0]["in_place"] is None
    image = latentpatch.retarget(beach, (32, 64), **SETTINGS).images[0]
    assert (read_image(tmp_path / "out" / "0000.png") - image).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_channels_are_kept(mode: str, beach: Path, tmp_path: Path) -> None:
    picture = Image.open(beach).convert(mode)
    if mode != "L":
        picture.putalpha(Image.fromarray(np.tile(np.arange(40) * 6, (32, 1)).astype(np.uint8)))
    picture.save(beach)
    run("reshuffle", beach, "-n", 1, *QUICK, "-o", tmp_path / "out")
    with Image.open(tmp_path / "out" / "0000.png") as result:
        assert result.mode == mode
        if mode != "L":
            assert len(np.unique(np.asarray(result)[..., -1])) > 10
    assert written(tmp_path / "out" / "grid.png").shape[2] == 3
    assert len(read_channels(beach)) == len(mode)


def test_several_pictures_give_patches(beach: Path, tmp_path: Path) -> None:
    picture = Image.open(beach).crop((0, 0, 30, 30)).transpose(Image.Transpose.ROTATE_90)
    picture.save(beach.parent / "other.png")
    run("reshuffle", beach, beach.parent / "other.png", "-n", 1, *QUICK, "-o", tmp_path / "out")
    report = record(tmp_path / "out", "reshuffle.json")
    assert [each["size"] for each in report["sources"]] == [[32, 40], [30, 30]]
    assert report["size"] == [32, 40]


def test_a_preset_is_a_method_with_settings(beach: Path, tmp_path: Path) -> None:
    run("reshuffle", beach, "-n", 1, "--preset", "gpnn-efficient", "--iterations", 1, "-o", tmp_path / "out")
    settings = record(tmp_path / "out", "reshuffle.json")["settings"]
    assert (settings["alpha_unit"], settings["alpha"], settings["iterations"]) == ("squared", 0.005, 1)


#: Options, and words that the one line about them holds.
REFUSED: dict[str, tuple[list[Any], list[str]]] = {
    "small result": (["--size", "4x40"], ["--size ", "7 x 7", "(4, 40)"]),
    "coarsest below a patch": (["--coarsest", 4], ["--coarsest ", "7", "4"]),
    "large patches": (["--patch-size", 33, "--coarsest", 33], ["size", "33 x 33", "(32, 40)"]),
    "missing": (["gone.png"], ["gone.png: "]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_leaves_nothing(
    name: str, beach: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    options, words = REFUSED[name]
    place = tmp_path / "place"
    place.mkdir()
    line = refused(capsys, place, "reshuffle", beach, *options)
    assert all(word in line for word in words), line


def test_memory_is_said_before_anything_starts(
    beach: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(capsys, tmp_path, "retarget", beach, "--size", "100000x100000")
    assert line.startswith("--size must be at most some ")
    assert "GiB" in line
    monkeypatch.setattr(system, "machine_memory", lambda: 1 << 20)
    with refuses("size"):
        latentpatch.reshuffle(beach)


def test_arguments_in_python_are_checked(beach: Path) -> None:
    with refuses("method"):
        latentpatch.reshuffle(beach, method="none")
    with refuses("settings"):
        latentpatch.reshuffle(beach, colour=3)
    with refuses("settings"):
        latentpatch.reshuffle(beach, method="gpnn", settings=latentpatch.RasterSettings())
    with refuses("n"):
        latentpatch.reshuffle(beach, 0)
    with refuses("pictures"):
        latentpatch.reshuffle(torch.full((3, 32, 32), torch.nan))
    with refuses("pictures"):
        latentpatch.reshuffle([])


def test_unusable_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--size" in misused(capsys, "retarget", "a.png", "-o", "out")
    assert "--method" in misused(capsys, "reshuffle", "a.png", "--method", "none", "-o", "out")
    assert "--search" in misused(capsys, "reshuffle", "a.png", "--search", "slow", "-o", "out")
