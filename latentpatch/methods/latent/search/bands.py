"""Bands: parts of the grid, one above the other, that take their patches from different sources.

A source that fits well at the eyes fits well at the nose, too, and one recognizes the person although most of the grid
is from others. So each band has its own group of donors. The bands have equal amounts of detail of the mean source
(:attr:`~.prepared.PreparedSources.detail`): what all sources have in common at the same place is what tells them
apart there. It is found in the bank alone, whatever the pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....errors import SettingError
from .resynthesis_schedule import Wave

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


def bands_of(places: Sequence[int], columns: int, cuts: Sequence[int]) -> list[int]:
    """Return the band of each place.

    Args:
        places: numbers of places, row by row.
        columns: places in a row.
        cuts: see :func:`band_cuts`.
    """
    return [sum(place // columns >= cut for cut in cuts) for place in places]


def capacity(
    limit: int, area: int, donors: int, plan: Sequence[Wave], columns: int, cuts: Sequence[int], share: float
) -> int:
    """Return the capacity of each source: the most cells that it gives to an image.

    Args:
        limit: cells that the share allows.
        area: cells of the grid.
        donors: number of donors.
        plan: waves of a sweep.
        columns: places in a row.
        cuts: see :func:`band_cuts`.
        share: the share, for the message.

    Raises:
        SettingError: where donors of this capacity could not fill the grid.
    """
    if limit >= area:
        return limit
    sizes = [[0] * (len(cuts) + 1) for _ in plan]  # cells of each wave in each band
    for wave, in_bands in zip(plan, sizes, strict=True):
        for band, cells in zip(bands_of(wave.places.tolist(), columns, cuts), wave.cells, strict=True):
            in_bands[band] += int((cells < area).sum())
    group = donors // len(sizes[0])  # of the smallest group
    least = 0
    for band in range(len(cuts) + 1):
        total = sum(in_bands[band] for in_bands in sizes)
        for in_bands in sizes:
            # Before a wave is written, all other cells of a band may have sources of its group, one of which must have
            # room for the whole wave.
            if in_bands[band] and group * (limit - sum(in_bands) + 1) <= total - in_bands[band]:
                least = max(least, -(-(total - in_bands[band] + 1) // group) + sum(in_bands))
    if least:
        within = f" within each of {len(cuts) + 1} bands" if cuts else ""
        least_share = min(1.0, least / area)
        raise SettingError(
            "max_share", share, f"at least {least_share:.3g}, so that {donors} sources can fill an image{within}"
        )
    return limit
