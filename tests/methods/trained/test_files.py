"""Files of trained models whose header was changed: one clear error, and no work without bound."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from latentpatch.errors import FileError
from latentpatch.methods.trained.base import load_trained
from latentpatch.methods.trained.settings import SinGANSettings
from latentpatch.training.methods import train_model

ODD = [None, True, -1, 0, 1, 10**9, 2**63, 10**400, 1e308, float("inf"), float("nan"), "x", [], [1], [[1, 2]], {"a": 1}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("trained")
    model = train_model("singan", [torch.rand(3, 24, 32)], folder / "t", SinGANSettings(steps=1, width=2, coarsest=12))
    model.save(folder / "model.safetensors")
    return (folder / "model.safetensors").read_bytes()


def changed(data: bytes, path: Path, keys: tuple[str | int, ...], value: Any) -> Path:
    """Write the file with another value in its header."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    facts = json.loads(header["__metadata__"]["latentpatch"])
    place = facts
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    header["__metadata__"]["latentpatch"] = json.dumps(facts)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return path


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize(
    "keys", [("method",), ("sizes",), ("sizes", 0), ("size", 0), ("size", 1), ("arguments", "width")]
)
def test_headers_that_are_refused(data: bytes, tmp_path: Path, keys: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(FileError):
        load_trained(changed(data, tmp_path / "m.safetensors", keys, value))


def test_the_unchanged_file_is_read(data: bytes, tmp_path: Path) -> None:
    model = load_trained(changed(data, tmp_path / "m.safetensors", ("method",), "singan"))
    assert model.make("reshuffle", [0]).shape == (1, 3, 24, 32)
