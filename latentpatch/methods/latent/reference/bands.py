"""Bands of rows with a group of donors each, so that no source gives the whole of what one recognizes."""

from __future__ import annotations

import numpy as np

from .sources import IntArray, mean_key

__all__ = ["band_of_rows", "default_bands"]


def default_bands(available: int, donors: float | None, max_share: float | None) -> int:
    """Return 3 where each band can have eight donors, and twice as many as fill the grid; else 1."""
    possible = available if donors is None or donors <= 1 else min(available, donors)
    group = max(8, 2 / (max_share or 0.3))
    return 3 if possible >= 3 * group else 1


def band_of_rows(keys: IntArray, stride: int, bands: int, side: int) -> IntArray:
    """Return the band of each row of blocks.

    Bands have equal amounts of detail of the mean source, as nearly as rows allow. The detail of a cell is what sets it
    apart from the nine cells around it; the border repeats its own. Squares of ``side``
    cells count as cells.
    """
    mean = mean_key(keys)  # (h, w, r)
    height, width, depth = mean.shape
    mean = np.pad(mean, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    cells = mean.reshape(mean.shape[0] // side, side, -1, side, depth).transpose(1, 3, 0, 2, 4)
    mean = mean_key(cells.reshape(side**2, *cells.shape[2:]))
    padded = np.pad(mean, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = sum(padded[i : i + len(mean), j : j + mean.shape[1]] for i in range(3) for j in range(3))
    detail = np.repeat(np.repeat(((9 * mean - around) ** 2).sum(2), side, 0), side, 1)[:height, :width].sum(1)
    rows = [int(detail[first : first + stride].sum()) for first in range(0, height, stride)]
    if sum(rows) == 0:
        rows = [1] * len(rows)
    bands = min(bands, len(rows))
    begins = [0]
    for band in range(1, bands):
        possible = range(begins[-1] + 1, len(rows) - (bands - band) + 1)
        begins.append(min(possible, key=lambda row: abs(bands * sum(rows[:row]) - band * sum(rows))))
    return np.searchsorted(begins, np.arange(len(rows)), side="right") - 1
