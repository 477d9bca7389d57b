"""Samplers: plain functions from sources and uniform noise to index maps.

Each is named after its method and entered in :data:`SAMPLERS` under the name users give it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .baselines import RandomCellsSettings, RandomPatchesSettings, random_cells, random_patches, tile_steps
from .raster import raster, raster_steps
from .schedule import RasterSettings

__all__ = [
    "SAMPLERS",
    "RandomCellsSettings",
    "RandomPatchesSettings",
    "RasterSettings",
    "Sampler",
    "Settings",
    "noise_from_seeds",
    "random_cells",
    "random_patches",
    "raster",
    "raster_steps",
]

Settings = RasterSettings | RandomCellsSettings | RandomPatchesSettings


@dataclass(frozen=True)
class Sampler:
    """What a caller needs to know about a sampler.

    Attributes:
        sample: ``(keys, noise, settings[, reference, mask]) -> index map``.
        settings: its dataclass of settings.
        steps: uniforms an image takes, from ``(grid, settings, reference, mask)``.
        guided: whether it takes a reference and a mask.
    """

    sample: Callable[..., Tensor]
    settings: type[Any]
    steps: Callable[[tuple[int, int], Any, bool, Tensor | None], int]
    guided: bool


#: Samplers by the name users give them.
SAMPLERS = {
    "raster": Sampler(raster, RasterSettings, raster_steps, guided=True),
    "random-cells": Sampler(random_cells, RandomCellsSettings, lambda grid, *_: tile_steps(grid, 1), guided=False),
    "random-patches": Sampler(
        random_patches,
        RandomPatchesSettings,
        lambda grid, settings, *_: tile_steps(grid, settings.patch_size),
        guided=False,
    ),
}


def noise_from_seeds(seeds: Sequence[int], steps: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniforms of each image from its own seed alone: ``(len(seeds), steps)`` float32 in [0, 1).

    NumPy's default generator seeded by the number, so that all integers from 0 on give different streams
    and the same ones on every device.

    Raises:
        ValueError: for a negative seed.
    """
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seed {seed}: at least 0 is expected")
    rows = [np.random.default_rng(seed).random(steps, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, steps), dtype=np.float32)).to(device)
