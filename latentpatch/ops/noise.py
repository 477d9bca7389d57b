"""Noise: uniform variates of each image's own seed, and integers drawn with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError

__all__ = ["draw", "noise_from_seeds"]


def noise_from_seeds(seeds: Sequence[int], noise_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Return uniforms in [0, 1) of each image's seed alone: ``(len(seeds), noise_dim)`` float32.

    NumPy's default generator, seeded by the number: all integers from 0 on give different streams, and the same ones
    on every device.

    Raises:
        SettingError: for a negative seed.
    """
    for seed in seeds:
        if seed < 0:
            raise SettingError("seed", seed, "at least 0")
    rows = [np.random.default_rng(seed).random(noise_dim, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, noise_dim), dtype=np.float32)).to(device)


def draw(uniforms: Tensor, choices: int) -> Tensor:
    """Return ``floor(u * choices)``, kept below ``choices`` where rounding or u = 1 would reach it."""
    return (uniforms.double() * choices).long().clamp(0, choices - 1)
