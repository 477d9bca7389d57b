"""``latentpatch inpaint``, ``harmonize`` and ``edit`` of one picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import contents, misused, record, refused, run, written
from helpers.errors import refuses
from PIL import Image
from safetensors.torch import load_file

import latentpatch
from latentpatch.cli.entry import main
from latentpatch.io.images import read_image

QUICK = ["--iterations", 2, "--patch-size", 5]
BOX = (slice(12, 22), slice(14, 28))  # rows, columns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of stripes, one with a grey block and the mask of the block."""
    rows, columns = np.mgrid[:36, :44]
    stripes = np.stack([(rows % 6 < 3) * 120 + columns * 2, 200 - (rows % 6) * 20, 60 + columns], -1).astype(np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(stripes).save(folder / "whole.png")
    stripes[BOX] = 128
    Image.fromarray(stripes).save(folder / "block.png")
    mask = np.zeros((36, 44), np.uint8)
    mask[BOX] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def test_inpaint(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "out", folder / "block.png"
    options = [*QUICK, "-n", 2, "--seed", 5, "--offsets", "--json"]
    run("inpaint", picture, "--mask", folder / "mask.png", *options, "-o", out)
    printed = capsys.readouterr()
    assert "2 pictures in" in printed.err
    assert "contiguity" in printed.err
    names = ["0000.png", "0001.png", "grid.png", "inpaint.json", "offsets.safetensors", "provenance.png"]
    assert sorted(contents(out)) == names
    report = record(out, "inpaint.json")
    assert json.loads(printed.out) == report
    assert (report["command"], report["method"], report["size"]) == ("inpaint", "completion", [36, 44])
    assert (report["target"]["file"], report["mask"]["file"]) == ("block.png", "mask.png")
    made = latentpatch.inpaint(picture, folder / "mask.png", 2, seed=5, iterations=2, patch_size=5)
    assert made.offsets is not None
    assert torch.equal(load_file(out / "offsets.safetensors")["offsets"].long(), made.offsets)
    assert [{"file": row["file"], **each} for row, each in zip(report["images"], made.records(), strict=True)] == (
        report["images"]
    )
    outside = np.ones((36, 44), bool)
    outside[BOX] = False
    for i in range(2):
        assert (read_image(out / f"000{i}.png") - made.images[i]).abs().max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(written(out / f"000{i}.png")[outside], written(picture)[outside])
    run("inpaint", picture, "--box", "14,12,28,22", *QUICK, "-n", 1, "--seed", 6, "-q", "-o", tmp_path / "box")
    assert np.array_equal(written(tmp_path / "box" / "0000.png"), written(out / "0001.png"))
    assert record(tmp_path / "box", "inpaint.json")["box"] == "14,12,28,22"


@pytest.mark.parametrize("task", ["inpaint", "harmonize", "edit"])
def test_patches_come_from_other_pictures(task: str, folder: Path, tmp_path: Path) -> None:
    Image.open(folder / "whole.png").convert("RGBA").save(folder / "whole.png")
    pair = tmp_path / "pair"
    pair.mkdir()
    for name in ("whole", "block"):
        (pair / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    mask = folder / "mask.png"
    run(task, folder / "block.png", "--mask", mask, "--from", pair, *QUICK, "-n", 1, "-o", tmp_path / "out")
    assert [each["file"] for each in record(tmp_path / "out", f"{task}.json")["sources"]] == ["block.png", "whole.png"]
    made = getattr(latentpatch, task)(
        folder / "block.png", mask, sources=[pair / "block.png", pair / "whole.png"], iterations=2, patch_size=5
    )
    assert made.images.shape == (1, 3, 36, 44), "sources get the channels of the picture"
    assert (read_image(tmp_path / "out" / "0000.png") - made.images[0]).abs().max() <= 0.5 / 255 + 1e-6
    if task == "inpaint":
        assert (made.images[0] - read_image(folder / "whole.png")).abs().mean() < 0.03


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_channels_are_kept(mode: str, folder: Path, tmp_path: Path) -> None:
    picture = Image.open(folder / "block.png").convert(mode)
    if mode != "L":
        picture.putalpha(Image.fromarray(np.tile(np.arange(44) * 5, (36, 1)).astype(np.uint8)))
    picture.save(folder / "block.png")
    run("edit", folder / "block.png", "--box", "14,12,28,22", *QUICK, "-o", tmp_path / "out")
    with Image.open(tmp_path / "out" / "0000.png") as result:
        assert result.mode == mode


def test_the_other_method_fills_holes_too(folder: Path, tmp_path: Path) -> None:
    options = ["--method", "efros-leung", "--window", 5, "-n", 1]
    run("inpaint", folder / "block.png", "--mask", folder / "mask.png", *options, "-o", tmp_path / "out")
    assert record(tmp_path / "out", "inpaint.json")["method"] == "efros-leung"


def test_bad_input_leaves_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, picture = tmp_path / "place", folder / "block.png"
    place.mkdir()
    for name, size, value in (("other", (44, 35), 255), ("nothing", (44, 36), 0), ("all", (44, 36), 255)):
        Image.new("L", size, value).save(folder / f"{name}.png")
        assert "--mask " in refused(capsys, place, "inpaint", picture, "--mask", folder / f"{name}.png")
        with refuses("mask"):
            latentpatch.harmonize(picture, folder / f"{name}.png")
    assert "--box " in refused(capsys, place, "edit", picture, "--box", "0,0,50,50")
    assert "gone.png: " in refused(capsys, place, "harmonize", tmp_path / "gone.png", "--box", "0,0,5,5")
    assert "gone: " in refused(capsys, place, "edit", picture, "--box", "0,0,5,5", "--from", tmp_path / "gone")
    assert "--window belongs to efros-leung" in refused(
        capsys, place, "inpaint", picture, "--mask", folder / "mask.png", "--window", 5
    )
    with refuses("pictures"):
        latentpatch.inpaint(torch.full((3, 20, 20), torch.nan), torch.ones(20, 20, dtype=torch.bool))
    with refuses("mask"):
        latentpatch.inpaint(picture, torch.ones(36, 44))


def test_an_option_tells_the_tasks_of_a_bank(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--mask" in misused(capsys, "inpaint", "a.png", "-o", "out")
    assert "--where" in misused(capsys, "inpaint", "a.png", "--box", "0,0,9,9", "--where", "a=b", "-o", "out")
    assert "--from" in misused(capsys, "inpaint", "a", "--image", "a.png", "--box", "0", "--from", "b", "-o", "out")
    assert "--from" in misused(capsys, "edit", "a.png", "--donor=b", "--box", "0", "--from", "b", "-o", "out")
    for arguments, count in (("inpaint --help", 2), ("inpaint --image a --help", 1), ("edit -h", 2)):
        with pytest.raises(SystemExit):
            main(arguments.split())
        assert capsys.readouterr().out.count("usage: ") == count
