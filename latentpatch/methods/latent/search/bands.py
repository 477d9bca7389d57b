"""Bands: parts of the grid, one above the other, that take their patches from different sources.

A source that fits well at the eyes fits well at the nose, too, and one recognizes the person although most of the grid
is from others. So each band has its own group of donors. The bands have equal amounts of detail of the mean source
(:attr:`~.prepared.PreparedSources.detail`): what all sources have in common at the same place is what tells them
apart there. It is found in the bank alone, whatever the pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import floor

from ....errors import SettingError
from ..settings import ResynthesisSettings
from .resynthesis_schedule import blocks_of, waves

__all__ = ["band_cuts", "bands_of", "capacity"]


def band_cuts(detail: Sequence[int], stride: int, bands: int) -> tuple[int, ...]:
    """Return the rows of blocks at which bands begin, without the first band's: ``bands - 1`` ascending numbers.

    Args:
        detail: of each row of cells.
        stride: rows of cells in a row of blocks.
        bands: number of bands; fewer where there are fewer rows of blocks.
    """
    rows = [sum(detail[first : first + stride]) for first in range(0, len(detail), stride)]
    bands = min(bands, len(rows))
    if not any(rows):
        rows = [1] * len(rows)
    above = [sum(rows[:row]) for row in range(len(rows) + 1)]
    cuts: list[int] = []
    for band in range(1, bands):
        possible = range((cuts[-1] if cuts else 0) + 1, len(rows) - (bands - band) + 1)
        cuts.append(min(possible, key=lambda row: abs(bands * above[row] - band * above[-1])))  # the first among equals
    return tuple(cuts)


@lru_cache(maxsize=64)
def bands_of(grid: tuple[int, int], stride: int, symmetric: bool, cuts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the band of each place, in the order of visits.

    Args:
        grid: height and width in cells.
        stride, symmetric: settings of the sampler.
        cuts: see :func:`band_cuts`.
    """
    rows, columns = blocks_of(grid, stride, symmetric)
    return tuple(sum(row >= cut for cut in cuts) for row in range(rows) for _ in range(columns))


def capacity(settings: ResynthesisSettings, grid: tuple[int, int], donors: int, cuts: tuple[int, ...]) -> int:
    """Return the capacity of each source: the most cells that it gives to an image.

    Args:
        settings: resolved settings.
        grid: height and width in cells.
        donors: number of donors.
        cuts: see :func:`band_cuts`.

    Raises:
        SettingError: where donors of this capacity could not fill the grid.
    """
    assert settings.max_share is not None
    area = grid[0] * grid[1]
    limit = floor(settings.max_share * area)
    if limit >= area:
        return limit
    waves_in_bands = _cells_in_bands(grid, settings.window, settings.step, settings.symmetric, cuts)
    group = donors // (len(cuts) + 1)  # donors of the smallest group
    least = 0
    for sizes in zip(*waves_in_bands, strict=True):
        total = sum(sizes)
        for size, in_bands in zip(sizes, waves_in_bands, strict=True):
            # Before a wave is written, all other cells of a band may have sources of its group, one of which must have
            # room for the whole wave.
            if size and group * (limit - sum(in_bands) + 1) <= total - size:
                least = max(least, -(-(total - size + 1) // group) + sum(in_bands))
    if least:
        within = f" within each of {len(cuts) + 1} bands" if cuts else ""
        raise SettingError(
            "max_share",
            settings.max_share,
            f"at least {min(1.0, least / area):.3g}, so that {donors} sources can fill an image{within}",
        )
    return limit


@lru_cache(maxsize=64)
def _cells_in_bands(
    grid: tuple[int, int], patch_size: int, stride: int, symmetric: bool, cuts: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Return the number of cells that each wave writes in each band."""
    bands = bands_of(grid, stride, symmetric, cuts)
    found: list[tuple[int, ...]] = []
    for wave in waves(grid, patch_size, stride, symmetric):
        sizes = [0] * (len(cuts) + 1)
        for place, cells in zip(wave.places.tolist(), wave.cells, strict=True):
            sizes[bands[place]] += int((cells < grid[0] * grid[1]).sum())
        found.append(tuple(sizes))
    return tuple(found)
