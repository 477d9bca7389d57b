"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import (
    PIXELS,
    run,
)
from PIL import Image


@pytest.fixture(scope="session")
def five(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that ``generate -n 5 --seed 0`` writes."""
    out = tmp_path_factory.mktemp("five")
    run("generate", faces, *PIXELS, "-n", 5, "-o", out)
    return out


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moods and ages of the faces: every third is glad."""
    path = tmp_path_factory.mktemp("table") / "known.csv"
    rows = [f"face{i:02d}.png,{'glad' if i % 3 == 0 else 'calm'},{20 + i}" for i in range(12)]
    path.write_text("\n".join(["file,mood,age", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def some(faces: Path, tmp_path: Path) -> Path:
    """A folder of four faces of one's own, to spoil."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(faces.iterdir())[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White where the box 16,20,48,36 is."""
    picture = Image.new("L", (64, 64))
    picture.paste(255, (16, 20, 48, 36))
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"
