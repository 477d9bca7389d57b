"""``latentpatch reconstruct``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import (
    PIXELS,
    pictures,
    record,
    run,
    written,
)


def test_reconstruct(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("reconstruct", faces, *PIXELS, "-o", tmp_path / "out", "--json")
    report = record(tmp_path / "out", "reconstruct.json")
    assert json.loads(capsys.readouterr().out) == report
    assert len(pictures(tmp_path / "out")) == len(report["images"]) == 12
    for row, source in zip(report["images"], sorted(faces.iterdir()), strict=True):
        assert row["id"] == source.stem
        assert row["psnr"] > 90, "pixels lose nothing"
        assert np.array_equal(written(tmp_path / "out" / row["file"]), written(source))
