"""Fixtures shared by the tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.images import read_image

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve drawn faces, 64 pixels."""
    folder = tmp_path_factory.mktemp("faces")
    draw_face = _load(ROOT / "examples" / "draw_faces.py").draw_face
    for seed in range(12):
        draw_face(seed, 64).save(folder / f"face{seed:02d}.png")
    return folder


@pytest.fixture(scope="session")
def face_images(faces: Path) -> Tensor:
    """(12, 3, 64, 64)"""
    return torch.stack([read_image(path) for path in sorted(faces.iterdir())])


@pytest.fixture
def model(face_images: Tensor) -> LatentPatch:
    """A model of the drawn faces on a 16x16 grid of raw pixels."""
    return LatentPatch("pixels:4", components=8).fit(face_images)


@pytest.fixture
def shared() -> Path:
    """The folder of portraits and weights that development machines have beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{os.path.relpath(SHARED, ROOT)} (portraits and weights) is not on this machine")
    return SHARED
