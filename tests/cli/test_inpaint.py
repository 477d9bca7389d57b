"""``latentpatch inpaint``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from helpers.command_line import (
    PIXELS,
    SHEETS,
    contents,
    indices,
    model_of,
    pictures,
    pixels,
    record,
    run,
    written,
)

from latentpatch import RasterSettings
from latentpatch.io.images import read_image

REGION = (slice(20, 36), slice(16, 48))  # rows, columns of the box


def test_inpaint(faces: Path, tmp_path: Path, mask: Path) -> None:
    a = faces / "face02.png"
    options = ["--image", a, *PIXELS, "--patch-size", 4]
    run("inpaint", faces, *options, "--box", "16,20,48,36", "-n", 3, "--seed", 5, "-o", tmp_path / "box")
    assert sorted(contents(tmp_path / "box")) == [
        "0000.png",
        "0001.png",
        "0002.png",
        *SHEETS[:1],
        "inpaint.json",
        SHEETS[1],
    ]
    outside = np.ones((64, 64), bool)
    outside[REGION] = False
    for i in range(3):
        assert np.array_equal(written(tmp_path / "box" / f"{i:04d}.png")[outside], written(a)[outside])
    index = indices(tmp_path / "box", "inpaint.json")
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[5:9, 4:12] = True
    assert (index[:, ~inside] == -1).all()
    assert (index[:, inside] >= 0).all()
    assert (index[:, inside] < 12).all()
    assert len(set(pictures(tmp_path / "box"))) == 3, "several fillings"
    assert [row["seed"] for row in record(tmp_path / "box", "inpaint.json")["images"]] == [5, 6, 7]
    selected = torch.zeros(64, 64, dtype=torch.bool)
    selected[REGION] = True
    expected = model_of(faces).inpaint(read_image(a), selected, 3, seed=5, settings=RasterSettings(patch_size=4))
    assert torch.equal(index, expected.index)
    for i in range(3):
        assert np.array_equal(written(tmp_path / "box" / f"{i:04d}.png"), pixels(expected.images[i]))
    run("inpaint", faces, *options, "--mask", mask, "-n", 1, "--seed", 6, "-o", tmp_path / "mask")
    assert np.array_equal(written(tmp_path / "mask" / "0000.png"), written(tmp_path / "box" / "0001.png"))
    run("inpaint", faces, *options, "--mask", mask, "-n", 1, "--seed", 6, "--reconstructed", "-o", tmp_path / "own")
    bare = model_of(faces).inpaint(
        read_image(a), selected, seed=6, settings=RasterSettings(patch_size=4), composite=False
    )
    assert np.array_equal(written(tmp_path / "own" / "0000.png"), pixels(bare.images[0]))


def test_inpainting_is_constrained_too(faces: Path, csv: Path, tmp_path: Path) -> None:
    options = ["--image", faces / "face02.png", "--box", "8,8,56,56", "--attributes", csv, "--where", "mood=glad"]
    run("inpaint", faces, *PIXELS, *options, "-n", 4, "-o", tmp_path / "out")
    assert set(indices(tmp_path / "out", "inpaint.json").unique().tolist()) == {-1, 0, 3, 6, 9}
