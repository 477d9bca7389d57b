"""Commands run in this process, and what they wrote."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.cli.entry import main
from latentpatch.io.images import to_pil

__all__ = [
    "PIXELS",
    "RASTER",
    "SHEETS",
    "contents",
    "indices",
    "jpeg",
    "misused",
    "model_of",
    "pictures",
    "pixels",
    "record",
    "refused",
    "run",
    "written",
]

PIXELS = ["--autoencoder", "pixels:4", "--size", "64"]
RASTER = ["--sampler", "raster"]
SHEETS = ["grid.png", "provenance.png"]


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too; folders are listed as empty with a slash."""
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def record(folder: Path, name: str = "generation.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def pictures(folder: Path) -> list[bytes]:
    """The single pictures, in order."""
    return [path.read_bytes() for path in sorted(folder.glob("[0-9]*.png"))]


def pixels(image: Tensor) -> np.ndarray:
    """Convert (3, H, W) in [0, 1] to (H, W, 3) uint8, as written."""
    return np.asarray(to_pil(image))


def written(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def indices(folder: Path, name: str = "generation.json") -> Tensor:
    return torch.tensor([row["index"] for row in record(folder, name)["images"]])


def model_of(faces: Path, components: int = 16, **options: Any) -> LatentPatch:
    return LatentPatch("pixels:4", components).fit(faces, size=64, **options)


def refused(capsys: pytest.CaptureFixture[str], place: Path, *arguments: object, output: str = "-o") -> str:
    """Return the one line of the error of a command, which leaves nothing behind and nothing changed."""
    (place / "there").mkdir(exist_ok=True)
    (place / "there" / "0000.png").write_bytes(b"mine")
    (place / "there" / "notes.txt").write_bytes(b"mine")
    before = contents(place)
    lines = set()
    for folder in (place / "there", place / "new" / "deep"):
        capsys.readouterr()
        where = [output, folder] if output else []
        assert main([str(argument) for argument in [*arguments, *where]]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("latentpatch: error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert contents(place) == before
        lines.add(err.removeprefix("latentpatch: error: ").rstrip().replace(str(folder), "OUT"))
    (line,) = lines
    return line


def misused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line of a command line that is refused with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("latentpatch: error: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("latentpatch: error: ").rstrip()


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()
