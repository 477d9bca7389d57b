"""Drawn landscapes: side pictures for those who have none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runs.defaults import plain_torch

__all__ = ["drawn_landscapes"]


@plain_torch()
def drawn_landscapes(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Draw landscapes: a sky with clouds, ridges, and land or water in front.

    Args:
        count: number of pictures.
        size: height and width in pixels.
        seed: of all of them.

    Returns:
        ``(count, 3, height, width)`` float32 in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_landscape(size, generator) for _ in range(count)])


def _landscape(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    height, width = size
    rows = torch.linspace(0, 1, height)[:, None]

    def uniform(*bounds: float) -> Tensor:
        low, high = torch.tensor(bounds).view(-1, 2).T
        drawn: Tensor = low + (high - low) * torch.rand(len(low), generator=generator)
        return drawn

    def color(*bounds: float) -> Tensor:
        return uniform(*bounds).view(3, 1, 1)

    def clouds(high: int, wide: int) -> Tensor:
        """Return smooth noise in [0, 1]: octaves of grids, the first of ``high x wide`` knots."""
        octaves = [
            F.interpolate(torch.rand(1, 1, high << k, wide << k, generator=generator), size, mode="bicubic")[0, 0]
            / 2**k
            for k in range(3)
        ]
        return (sum(octaves, torch.zeros(size)) / 1.75).clamp(0, 1)

    horizon = float(uniform(0.3, 0.7))
    top, low = color(0.1, 0.5, 0.3, 0.6, 0.6, 0.95), color(0.7, 1, 0.6, 0.95, 0.5, 1)
    sky = top + (low - top) * (rows / horizon).clamp(max=1)
    cover = (clouds(3, 2) * 3 - float(uniform(1, 2.2))).clamp(0, 1)
    picture = sky + (0.95 - sky) * cover
    if float(uniform(0, 1)) < 0.4:  # a sun
        x, y = uniform(0.1, 0.9, 0.05, horizon).tolist()
        distance = (rows - y) ** 2 + ((torch.linspace(0, 1, width) - x) * width / height) ** 2
        picture = picture + (torch.tensor([1.0, 0.9, 0.6]).view(3, 1, 1) - picture) * torch.exp(-distance / 0.006)
    num_ridges = int(uniform(0, 4))
    far, near = color(0.4, 0.7, 0.45, 0.7, 0.5, 0.8), color(0.05, 0.4, 0.1, 0.4, 0.05, 0.35)
    for k in range(num_ridges):
        rise = float(uniform(0.05, 0.3)) * (1 - k / 4)
        line = horizon - rise * clouds(1, int(uniform(2, 6)))[height // 2]
        shade = far + (near - far) * (k + 1) / num_ridges
        picture = torch.where(rows > line, shade * (0.8 + 0.4 * clouds(8, 8)), picture)
    if float(uniform(0, 1)) < 0.4:  # water mirrors what is above the horizon
        mirrored = picture[:, (2 * round(horizon * height) - torch.arange(height)).clamp(0, height - 1)]
        ground = 0.75 * mirrored * (0.85 + 0.3 * clouds(20, 3))
    else:
        ground = color(0.2, 0.7, 0.3, 0.6, 0.1, 0.4) * (0.6 + 0.8 * clouds(6, 8)) * (1.2 - 0.4 * rows)
    return torch.where(rows > horizon, ground, picture).clamp(0, 1)
