"""Samplers: plain functions from sources and uniform noise to index maps.

Each is named after its method and entered in :data:`SAMPLERS` under the name users give it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .patch_diffusion import DiffusionSettings, diffusion, diffusion_steps
from .random_tiles import RandomCellsSettings, RandomPatchesSettings, random_cells, random_patches, tile_steps
from .raster import raster, raster_steps
from .resynthesis import ResynthesisSettings, resynthesis, resynthesis_steps
from .search.schedule import RasterSettings

__all__ = [
    "DEFAULT_PRESET",
    "PRESETS",
    "SAMPLERS",
    "DiffusionSettings",
    "RandomCellsSettings",
    "RandomPatchesSettings",
    "RasterSettings",
    "ResynthesisSettings",
    "Sampler",
    "Settings",
    "check_settings",
    "diffusion",
    "diffusion_steps",
    "noise_from_seeds",
    "random_cells",
    "random_patches",
    "raster",
    "raster_steps",
    "resynthesis",
    "resynthesis_steps",
    "sampler_of",
    "settings_from_record",
    "settings_record",
]

Settings = ResynthesisSettings | DiffusionSettings | RasterSettings | RandomCellsSettings | RandomPatchesSettings


@dataclass(frozen=True)
class Sampler:
    """What a caller needs to know about a sampler.

    Attributes:
        sample: ``(keys, noise, settings[, reference, mask]) -> index map``.
        settings: its dataclass of settings.
        steps: uniforms an image takes, from ``(grid, settings, reference, mask)``.
        guided: whether it takes a reference.
        resolved: settings with what they leave open filled in, from ``(settings, sources, reference)``.
    """

    sample: Callable[..., Tensor]
    settings: type[Any]
    steps: Callable[[tuple[int, int], Any, bool, Tensor | None], int]
    guided: bool
    resolved: Callable[[Any, int, bool], Any] = lambda settings, *_: settings


#: Samplers by the name users give them.
SAMPLERS = {
    "resynthesis": Sampler(
        resynthesis,
        ResynthesisSettings,
        lambda grid, settings, reference, _: resynthesis_steps(grid, settings, reference),
        guided=True,
        resolved=lambda settings, count, reference: settings.resolved(count, reference),
    ),
    "diffusion": Sampler(
        diffusion,
        DiffusionSettings,
        lambda grid, settings, *_: diffusion_steps(grid, settings),
        guided=True,
        resolved=lambda settings, count, reference: settings.resolved(count, reference),
    ),
    "raster": Sampler(
        raster,
        RasterSettings,
        raster_steps,
        guided=True,
        resolved=lambda settings, _, reference: settings.resolved(reference),
    ),
    "random-cells": Sampler(random_cells, RandomCellsSettings, lambda grid, *_: tile_steps(grid, 1), guided=False),
    "random-patches": Sampler(
        random_patches,
        RandomPatchesSettings,
        lambda grid, settings, *_: tile_steps(grid, settings.patch_size),
        guided=False,
    ),
}

#: Settings by the name of what they are good for: how much a picture keeps of one source, from most to least; for few
#: sources; the paper's.
PRESETS: dict[str, Settings] = {
    "faithful": ResynthesisSettings(keep_start=True),
    "balanced": ResynthesisSettings(),
    "diverse": ResynthesisSettings(max_share=0.1),
    "few": ResynthesisSettings(
        patch_size=10, stride=4, neighbours=3, max_share=0.375, draws=1, keep_start=True, subset=4
    ),
    "paper": RasterSettings(),
}
DEFAULT_PRESET = "balanced"


def sampler_of(settings: Settings) -> str:
    """Name of the sampler that settings are for."""
    return next(name for name, sampler in SAMPLERS.items() if type(settings) is sampler.settings)


def check_settings(settings: Settings, grid: tuple[int, int], count: int, reference: bool = False) -> None:
    """Refuse settings that do not go together with the grid or the number of sources.

    Raises:
        ValueError: where they do not.
    """
    SAMPLERS[sampler_of(settings)].steps(grid, settings, reference, None)
    if isinstance(settings, RasterSettings):
        settings.check_sources(count)
    elif isinstance(settings, ResynthesisSettings):
        settings.check_sources(count, reference)


def settings_record(settings: Settings) -> dict[str, Any]:
    """Settings as JSON holds them, with the name of their sampler."""
    return {"sampler": sampler_of(settings), **asdict(settings)}


def settings_from_record(record: Mapping[str, Any]) -> Settings:
    """What :func:`settings_record` gave. Without a sampler they are those of the raster sampler.

    Raises:
        TypeError, ValueError: where they are not settings of a sampler.
    """
    name = record.get("sampler", "raster")
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r}: one of {', '.join(SAMPLERS)} is expected")
    given = {key: value for key, value in record.items() if key != "sampler" and value is not None}
    settings: Settings = SAMPLERS[name].settings(**given)
    return settings


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
