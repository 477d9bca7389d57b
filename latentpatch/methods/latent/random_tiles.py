"""The random baselines of LatentPatch, figure 1 (a) and (b), which search has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.noise import draw
from ...validation import check_noise
from ..base import Context, Sampler
from .search.prepared import PreparedSources
from .settings import RandomCellsSettings, RandomPatchesSettings

__all__ = ["RandomCells", "RandomCellsSettings", "RandomPatches", "RandomPatchesSettings", "random_tiles"]


class RandomCells(Sampler):
    """Draw the source of every cell uniformly (figure 1 a)."""

    name = "random-cells"
    Settings = RandomCellsSettings
    is_shardable = True

    def noise_dim(self, settings: RandomCellsSettings, context: Context) -> int:
        return num_tiles(context.grid, 1)

    def sample(
        self,
        sources: PreparedSources,
        noise: Tensor,
        settings: RandomCellsSettings,
        reference: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return random_tiles(sources, noise, 1)


class RandomPatches(Sampler):
    """Draw the source of every patch uniformly, patches side by side (figure 1 b)."""

    name = "random-patches"
    Settings = RandomPatchesSettings
    is_shardable = True

    def noise_dim(self, settings: RandomPatchesSettings, context: Context) -> int:
        return num_tiles(context.grid, settings.in_cells(context.grid).window)

    def sample(
        self,
        sources: PreparedSources,
        noise: Tensor,
        settings: RandomPatchesSettings,
        reference: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        height, width = sources.keys.shape[1:3]
        return random_tiles(sources, noise, settings.in_cells((height, width)).window)


def num_tiles(grid: tuple[int, int], side: int) -> int:
    """Return how many tiles of ``side x side`` cells cover a grid."""
    return -(-grid[0] // side) * -(-grid[1] // side)


@torch.no_grad()
def random_tiles(sources: PreparedSources, noise: Tensor, side: int) -> Tensor:
    """Return ``(N, h, w)`` int64 index maps of tiles whose sources are drawn uniformly.

    Args:
        sources: only their number and grid matter.
        noise: ``(N, tiles)`` uniforms in [0, 1), one a tile in raster order.
        side: of the tiles, in cells.
    """
    height, width = sources.keys.shape[1:3]
    check_noise(noise, num_tiles((height, width), side))
    chosen = draw(noise, sources.total).view(len(noise), -(-height // side), -(-width // side))
    return chosen.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width].contiguous()
