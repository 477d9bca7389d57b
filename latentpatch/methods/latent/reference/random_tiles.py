"""Random tiles: the baseline that every search has to beat (LatentPatch, ICIP 2023, section 2, figure 1 a and b)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .sources import IntArray, draw

__all__ = ["random_tiles"]


def random_tiles(num_sources: int, grid: tuple[int, int], uniforms: Sequence[float], patch_size: int = 1) -> IntArray:
    """Copy every tile of a grid from a source that is drawn at random.

    Args:
        num_sources: B.
        grid: cells ``(h, w)``.
        uniforms: one number in [0, 1) a tile, row by row.
        patch_size: side of a tile in cells; 1 for figure 1 a. Tiles are cut at the right and the lower border.

    Returns:
        ``(h, w)`` the source of each cell.
    """
    height, width = grid
    index = np.empty(grid, dtype=np.int64)
    numbers = iter(uniforms)
    for top in range(0, height, patch_size):
        for left in range(0, width, patch_size):
            index[top : top + patch_size, left : left + patch_size] = draw(next(numbers), num_sources)
    return index
