"""Resynthesis: a source that is drawn at random is made again from patches of other sources.

The source at the start says what belongs together; the donors, some of the others, provide the cells:

1. Draw the start and the donors (:mod:`.donors`).
2. Deal the donors to bands of rows (:mod:`.bands`). Assign to each place the donor of its band whose patch is nearest
   to the start's, as far as shares allow (:mod:`.assignment`).
3. Sweep over the grid: replace every block by that of the donor whose patch around it is nearest to the patch that the
   picture has now. This is the iteration of Kwatra et al. (2005, section 3) and of GPNN (Granot et al. 2022, section
   3), for patches at the same place in all sources as in LatentPatch (ICIP 2023, section 2).

Shares: no picture gives more cells than its capacity. Augmentations of a picture (its mirror image, copies moved by
some cells) are sources of their own, but their cells count for the one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import NamedTuple

import numpy as np

from .assignment import NUM_CANDIDATES, assign
from .bands import band_of_rows
from .donors import check_donors, default_neighbors, default_share, donor_count, draw_donors, draw_start
from .places import Place, places_of, waves_of
from .sources import BoolArray, IntArray, draw, mean_squared_distance, offset_costs

__all__ = ["energy", "resynthesis"]


class Rules(NamedTuple):
    """B sources of ``area = h * w`` cells, and the rules by which places choose among them."""

    keys: IntArray  # (B, area, r)
    pictures: IntArray  # (B,) number of the picture that each source is an augmentation of
    costs: IntArray  # (B,) cost of each compared cell of an augmentation
    capacity: int  # cells that a picture gives at most
    switch: int  # cost of a source that no cell around the block comes from
    reuse: int  # cost of a source for each cell that its picture gave before

    def distances(self, canvas: IntArray, window: list[int]) -> IntArray:
        """Compare a window of a canvas ``(area, r)`` with those of all sources: ``(B,)``."""
        squares = (self.keys[:, window] - canvas[window]) ** 2
        total: IntArray = squares.sum((1, 2)) + len(window) * self.costs
        return total

    def paint(self, canvas: IntArray, index: IntArray) -> None:
        """Copy cells to a canvas from the sources of an index map ``(area,)``; -1 leaves a cell as it is."""
        cells = np.flatnonzero(index >= 0)
        canvas[cells] = self.keys[index[cells], cells]


def resynthesis(
    keys: IntArray,  # (B, h, w, r)
    uniforms: Sequence[float],  # best_of times: start_candidates (0 with a reference), 1 for the donors, 1 a place
    *,
    patch_size: int = 5,
    stride: int = 1,
    neighbors: int | None = None,
    sweeps: int = 2,
    max_share: float | None = None,
    start_candidates: int | None = None,
    allow_start_as_donor: bool = False,
    donors: float | None = None,
    bands: int | None = None,
    unit: int = 1,
    symmetric: bool = True,
    switch_cost: float = 0.0,
    reuse_cost: float = 0.0,
    best_of: int = 1,
    reference: IntArray | None = None,  # (h, w, r), takes the place of the source at the start
    pictures: IntArray | None = None,  # (B,)
    squared_offsets: IntArray | None = None,  # (B,) cells that each source is moved by, squared
    offset_cost: float = 0.0,
) -> IntArray:
    """Return the source of each cell of one picture, ``(h, w)``.

    Raises:
        ValueError: where the donors are too few for the settings.
    """
    count, height, width, depth = keys.shape
    area = height * width
    pictures = np.arange(count) if pictures is None else pictures
    places = places_of(height, width, patch_size, stride, symmetric)
    waves = waves_of(places)

    # Settings that depend on the number of pictures.
    total, has_reference = int(pictures.max()) + 1, reference is not None
    num_donors, bands = donor_count(total, donors, max_share, bands, allow_start_as_donor, has_reference)
    max_share = max_share or default_share(num_donors, allow_start_as_donor and not has_reference)
    start_candidates = start_candidates or (4 if total >= 25 else 2)
    neighbors = neighbors or default_neighbors(total, num_donors, bands, allow_start_as_donor, has_reference)
    spread = mean_squared_distance(keys) if switch_cost or reuse_cost else 0.0
    rules = Rules(
        keys.reshape(count, area, depth),
        pictures,
        offset_costs(keys, squared_offsets, offset_cost),
        capacity=floor(max_share * area),
        switch=round(switch_cost * spread),
        reuse=round(reuse_cost * spread),
    )
    rows = band_of_rows(keys, stride, bands, unit)
    band_of = [int(rows[place.cells[0] // width // stride]) for place in places]
    num_bands = max(band_of) + 1
    in_bands = [
        [sum(len(places[p].cells) for p in wave if band_of[p] == b) for b in range(num_bands)] for wave in waves
    ]
    check_donors(num_donors, bands, neighbors, rules.capacity, in_bands)
    can_start = np.arange(count) if squared_offsets is None else np.flatnonzero(squared_offsets == 0)

    tries = []
    for part in np.split(np.asarray(uniforms, dtype=float), best_of):
        # 1. The start and the donors.
        if reference is None:
            first = draw_start(keys, can_start, part[:start_candidates].tolist())
            canvas, first_picture = rules.keys[first].copy(), int(pictures[first])
            part = part[start_candidates:]
        else:
            canvas, first_picture = reference.reshape(area, depth).copy(), None
        chosen = draw_donors(part[0], total, num_donors, first_picture, allow_start_as_donor)
        is_donor = np.array([np.isin(pictures, chosen[band::num_bands]) for band in band_of])  # (places, B)
        # 2. The assignment.
        index = _assigned(rules, canvas, places, is_donor)  # (area,)
        rules.paint(canvas, index)
        # 3. The sweeps. The first draws from several neighbors, so that pictures differ; others take the nearest.
        ranks = [draw(uniform, neighbors) for uniform in part[1:]]
        assert len(ranks) == len(places), "uniforms must be as many as there are draws"
        for sweep in range(sweeps):
            for wave in waves:
                wave_cells = _cells(places, wave)
                rankings = [
                    _ranking(rules, canvas, index, places[number], wave_cells, is_donor[number]) for number in wave
                ]
                for number, ranking in zip(wave, rankings, strict=True):
                    rank = ranks[number] if sweep == 0 else 0
                    index[places[number].cells] = ranking[min(rank, len(ranking) - 1)]
                rules.paint(canvas, index)
        tries.append(index.reshape(height, width))
    if best_of == 1:
        return tries[0]
    return min(tries, key=lambda index: energy(index, keys, patch_size, stride, symmetric))  # the first among equals


def _cells(places: list[Place], wave: list[int]) -> list[int]:
    return [cell for number in wave for cell in places[number].cells]


def _assigned(rules: Rules, canvas: IntArray, places: list[Place], is_donor: BoolArray) -> IntArray:
    """Assign a source to each place: ``(area,)``, -1 where no donor had room.

    A place asks each picture once, by the nearest of its augmentations.
    """
    rankings = []
    for place, may_give in zip(places, is_donor, strict=True):
        distances = rules.distances(canvas, place.window)
        nearest: dict[int, int] = {}  # source by picture, the nearest first
        for source in sorted(np.flatnonzero(may_give), key=lambda source: (distances[source], source)):
            nearest.setdefault(int(rules.pictures[source]), int(source))
        rankings.append([(int(distances[source]), source) for source in nearest.values()][:NUM_CANDIDATES])
    fewest = min(map(len, rankings))
    rankings = [ranking[:fewest] for ranking in rankings]
    positions = assign(
        [[distance for distance, _ in ranking] for ranking in rankings],
        [[int(rules.pictures[source]) for _, source in ranking] for ranking in rankings],
        [len(place.cells) for place in places],
        rules.capacity,
    )
    index = np.full(len(canvas), -1)
    for place, ranking, position in zip(places, rankings, positions, strict=True):
        if position is not None:
            index[place.cells] = ranking[position][1]
    return index


def _ranking(
    rules: Rules, canvas: IntArray, index: IntArray, place: Place, wave_cells: list[int], is_donor: BoolArray
) -> list[int]:
    """Return the sources that a place may copy, the nearest first, the lower source among equals."""
    # The cells of the wave are given back before its places choose.
    sources = np.delete(index, wave_cells)
    given = np.bincount(rules.pictures[sources[sources >= 0]], minlength=rules.pictures.max() + 1)[rules.pictures]
    is_around = np.isin(np.arange(len(rules.keys)), index[place.ring])
    costs = rules.distances(canvas, place.window) + rules.reuse * given + rules.switch * ~is_around
    allowed = is_donor & (given + len(wave_cells) <= rules.capacity)  # (B,), with room for the whole wave
    own = index[place.cells[0]]
    if own >= 0:
        allowed[own] = True  # a block that keeps its source takes no more than before
    return sorted(np.flatnonzero(allowed).tolist(), key=lambda source: (costs[source], source))


def energy(index: IntArray, keys: IntArray, patch_size: int, stride: int, symmetric: bool) -> int:
    """Return the squared distances of all patches of a picture to those they were copied from, added up.

    The patch of a cell has the margins around it that the window of a place has around its block. Both images of a
    mirrored pair count.
    """
    height, width = index.shape
    canvas = keys[index, np.arange(height)[:, None], np.arange(width)]
    before, after = (patch_size - stride + 1) // 2, (patch_size - stride) // 2
    total = 0
    for row, column in np.ndindex(height, width):
        window = slice(max(0, row - before), row + after + 1), slice(max(0, column - before), column + after + 1)
        difference = keys[index[row, column]] - canvas  # (h, w, r)
        total += int((difference[window] ** 2).sum())
        if symmetric:
            total += int((difference[:, ::-1][window] ** 2).sum())
    return total
