"""The random baselines of LatentPatch, figure 1 (a) and (b): what search has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_integer, check_noise
from .torch_loops import draw

__all__ = ["RandomCellsSettings", "RandomPatchesSettings", "random_cells", "random_patches"]


@dataclass(frozen=True)
class RandomCellsSettings:
    """The sampler of random cells has no settings."""


@dataclass(frozen=True)
class RandomPatchesSettings:
    """Settings of the sampler of random patches.

    Attributes:
        patch_size: side of the copied patches in cells (omega).
    """

    patch_size: int = 6

    def __post_init__(self) -> None:
        check_integer("patch_size", self.patch_size, 1)


@torch.no_grad()
def random_cells(keys: Tensor, noise: Tensor, settings: RandomCellsSettings | None = None) -> Tensor:
    """Each cell from a source drawn uniformly (figure 1 a).

    Args:
        keys: ``(B, h, w, r)`` sources; only the shape matters.
        noise: ``(N, h * w)`` uniforms in [0, 1).
        settings: there are none.

    Returns:
        ``(N, h, w)`` int64 sources.
    """
    return _tiles(keys, noise, 1)


@torch.no_grad()
def random_patches(keys: Tensor, noise: Tensor, settings: RandomPatchesSettings | None = None) -> Tensor:
    """Side by side, patches from sources drawn uniformly (figure 1 b).

    Args:
        keys: ``(B, h, w, r)`` sources; only the shape matters.
        noise: ``(N, patches)`` uniforms in [0, 1), one a patch in raster order.
        settings: defaults where None.

    Returns:
        ``(N, h, w)`` int64 sources.
    """
    return _tiles(keys, noise, (settings or RandomPatchesSettings()).patch_size)


def tile_steps(grid: tuple[int, int], side: int) -> int:
    """Tiles of ``side x side`` cells it takes to cover a grid."""
    return -(-grid[0] // side) * -(-grid[1] // side)


def _tiles(keys: Tensor, noise: Tensor, side: int) -> Tensor:
    count, height, width, _ = keys.shape
    steps = tile_steps((height, width), side)
    check_noise(noise, steps)
    chosen = draw(noise, count).view(len(noise), -1, -(-width // side))
    return chosen.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width].contiguous()
