"""Model files: settings beyond their limits are neither written nor read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.errors import refuses
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from latentpatch import FileError, LatentPatch, ResynthesisSettings


def test_settings_beyond_their_limits_are_refused(model: LatentPatch, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    with safe_open(path, framework="np") as stored:
        header = json.loads(stored.metadata()["latentpatch"])
    header["settings"] = {"sampler": "resynthesis", "sweeps": 10**9}
    save_file(load_file(path), path, {"latentpatch": json.dumps(header)})
    with pytest.raises(FileError, match="sweeps must be at most 16"):
        LatentPatch.load(path)


def test_settings_that_could_not_be_read_are_not_written(model: LatentPatch, tmp_path: Path) -> None:
    model.settings = ResynthesisSettings(sweeps=17)
    with refuses("sweeps"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
