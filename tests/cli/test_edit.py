"""``latentpatch edit``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from helpers.command_line import (
    PIXELS,
    SHEETS,
    contents,
    indices,
    pixels,
    record,
    run,
    written,
)

from latentpatch.io.images import contact_sheet, read_image

REGION = (slice(20, 36), slice(16, 48))  # rows, columns of the box


def test_edit(faces: Path, tmp_path: Path, mask: Path) -> None:
    a, b = faces / "face00.png", faces / "face01.png"
    run("edit", a, "--donor", b, "--box", "16,20,48,36", *PIXELS, "-o", tmp_path / "box")
    assert sorted(contents(tmp_path / "box")) == ["0000.png", "edit.json", *SHEETS]
    expected = written(a).copy()
    expected[REGION] = written(b)[REGION]
    assert np.array_equal(written(tmp_path / "box" / "0000.png"), expected)
    index = indices(tmp_path / "box", "edit.json")[0]
    assert (index[5:9, 4:12] == 0).all()
    assert (index == -1).sum() == 256 - 32
    report = record(tmp_path / "box", "edit.json")
    assert report["ids"] == ["donor"]
    assert report["images"][0]["shares"] == {"donor": 0.125}
    assert report["images"][0]["largest_region"] == 0.125
    assert (report["image"]["file"], report["donor"]["file"]) == ("face00.png", "face01.png")
    sheet = torch.stack([read_image(path) for path in (a, b, tmp_path / "box" / "0000.png")])
    assert np.array_equal(written(tmp_path / "box" / "grid.png"), pixels(contact_sheet(sheet)))
    run("edit", a, "--donor", b, "--mask", mask, *PIXELS, "-o", tmp_path / "mask")
    assert np.array_equal(written(tmp_path / "mask" / "0000.png"), expected)
    run("edit", a, "--donor", b, "--mask", mask, *PIXELS, "--composite", "-o", tmp_path / "composite")
    composite = written(tmp_path / "composite" / "0000.png")
    assert np.array_equal(composite, expected), "pixels lose nothing, so there is nothing to fit"
