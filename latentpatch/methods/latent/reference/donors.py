"""Start and donors of resynthesis: how many pictures may give cells, how much each gives, and which they are."""

from __future__ import annotations

from math import ceil, comb

import numpy as np

from .bands import default_bands
from .sources import IntArray, draw, mean_key

__all__ = ["check_donors", "default_neighbors", "default_share", "donor_count", "draw_donors", "draw_start"]


def donor_count(
    total: int,
    donors: float | None,
    max_share: float | None,
    bands: int | None,
    start_donates: bool,
    has_reference: bool,
) -> tuple[int, int]:
    """Return the number of pictures that may give cells, out of all, and the number of bands.

    The setting ``donors`` is a number, or up to 1 a share of the eligible pictures. Of a share there are four at least,
    or eight for each of several bands, and for each band twice as many as fill a picture when each gives
    ``max_share``. Without the setting the share is a half; for several bands there are sixteen each, unless these are
    more than three quarters of the pictures.
    """
    eligible = total if start_donates or has_reference else total - 1
    bands = bands or default_bands(eligible, donors, max_share)
    if donors is None or donors <= 1:
        least = 4 if bands == 1 else 8 * bands
        if bands > 1 and donors is None:
            least = max(least, min(16 * bands, ceil(0.75 * eligible)))
        filling = 0 if max_share is None else ceil(min(eligible, bands * 2 / max_share))
        donors = max(ceil((donors or 0.5) * eligible), least, filling)
    return min(eligible, int(donors)), bands


def default_share(num_donors: int, start_donates: bool) -> float:
    """Return 0.3, or 0.25 where the start gives cells, too; one and a half even shares where donors are few."""
    return min(1.0, max(0.25 if start_donates else 0.3, 1.5 / max(1, num_donors)))


def default_neighbors(total: int, num_donors: int, bands: int, start_donates: bool, has_reference: bool) -> int:
    """Return 1, or up to 3 where starts and donors combine to fewer than a thousand pictures."""
    if has_reference:
        combinations = comb(total, num_donors)
    else:
        combinations = total * comb(total - 1, max(0, num_donors - start_donates))
    return 1 if combinations >= 1000 else min(3, max(1, num_donors // bands))


def check_donors(num_donors: int, bands: int, neighbors: int, capacity: int, waves: list[list[int]]) -> None:
    """Refuse settings that may leave a place without any donor.

    A place needs a donor of its band with room for all cells of its wave, while the other cells of the band have
    theirs.

    Args:
        num_donors: of all bands.
        bands: as the settings have it.
        neighbors: as the settings have it.
        capacity: cells that one donor gives at most.
        waves: ``waves x bands``, cells that each wave writes in each band.

    Raises:
        ValueError: where donors or their capacity are too few.
    """
    if num_donors < bands:
        raise ValueError(f"bands must be at most {num_donors}, got {bands}")
    if num_donors // bands < neighbors:
        raise ValueError(f"donors must be at least {neighbors * bands}, got {num_donors}")
    totals = [sum(cells) for cells in zip(*waves, strict=True)]
    if capacity >= sum(totals):
        return
    group = num_donors // len(totals)
    for in_bands in waves:
        for cells, total in zip(in_bands, totals, strict=True):
            if cells and group * max(0, capacity - sum(in_bands) + 1) <= total - cells:
                raise ValueError(f"max_share must be larger, got {capacity} cells for each of {num_donors} donors")


def draw_start(keys: IntArray, eligible: IntArray, uniforms: list[float]) -> int:
    """Draw candidates and return the one farthest from the mean of all sources, the first among equals.

    A single draw would make pictures that tend to the middle of the sources.
    """
    mean = mean_key(keys)
    candidates = [int(eligible[draw(uniform, len(eligible))]) for uniform in uniforms]
    return max(candidates, key=lambda source: int(((keys[source] - mean) ** 2).sum()))


def draw_donors(uniform: float, total: int, num_donors: int, first: int | None, start_donates: bool) -> IntArray:
    """Draw pictures without replacement from one uniform: ``(num_donors,)``.

    The uniform selects one of 2^24 permutations of the pictures. Each sorts them by integers that look random: two
    rounds of x^5 modulo the prime 2^31 - 1, which no device rounds. The picture ``first``, of the start, comes before
    all others, or is left out.
    """
    stream, prime = draw(uniform, 2**24), 2**31 - 1

    def rank(picture: int) -> tuple[int, int]:
        once = pow(stream * 1_618_033 + picture * 271_828_183 + 1, 5, prime)
        return pow(once + stream * 141_421_356 + picture * 577_215_664, 5, prime), picture

    order = sorted((picture for picture in range(total) if picture != first), key=rank)
    if first is not None and start_donates:
        order.insert(0, first)
    return np.array(order[:num_donors], dtype=np.int64)
