"""The raster sampler in torch, eagerly and in graphs.

Places of a scan that do not depend on each other form a level and are done together: in a raster those on a diagonal
of the grid. What a unit holds is compared with the sources once, when it is written, and the scores of a window are a
sum of those results.

A unit's query x and source y are compared by the score |y|^2 - 2 x.y: the squared distance less |x|^2, which is the
same for all sources. Keys are integers, and where none is longer than R, the products of a unit of c cells, added up in
any order and partially, stay within c R^2 + 2 c R^2 (Cauchy-Schwarz). Up to 2^24 float32 holds all integers, so that
scores are exact: for units of two by two cells up to R = 1182, and a bank leaves its own keys at 1024. Beyond that
float64 is taken, and also where matrix products of float32 are set to be computed from rounded factors. Sums over a
window are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .keys import Resize, exact_dtype
from .schedule import Scale, UnitPlace, places_in_units
from .sources import PreparedSources, cut, paste, score_bound
from .torch_loops import PreparedUnits, Units, draw, each, put, split_places, sum_windows

__all__ = [
    "Level",
    "Scores",
    "TorchSearch",
    "begin",
    "kept_levels",
    "level_fillers",
    "make_levels",
    "to_map",
    "visit_levels",
]


class Level(NamedTuple):
    """What the M places of a level compare and write.

    Attributes:
        places: ``(M,)`` their numbers in the scan.
        windows: ``(M, V)`` units that are compared, padded by the unit beyond the last, whose scores are zero.
        blind: ``(M, 1)`` bool, whether nothing is known in the window.
        written: ``(T,)`` units that are written.
        writers: ``(T,)`` which of the M places writes each.
    """

    places: Tensor
    windows: Tensor
    blind: Tensor
    written: Tensor
    writers: Tensor


class Scores(NamedTuple):
    """A scan on its way.

    Attributes:
        scores: ``(units + 1, N, B)`` what each unit holds, compared with the sources there; zero where nothing is held.
        picked: ``(units + 1, N)`` int64 source of each unit, -1 where none was copied yet.
    """

    scores: Tensor
    picked: Tensor


def make_levels(scale: Scale) -> list[Level]:
    """Return the levels of a scale, each after those that it depends on."""
    places, units = places_in_units(scale), scale.units
    # The patch that an empty grid begins with is larger than the blocks that follow.
    first = 0 if scale.known.all() else 1
    levels = [[0]][:first] + _levels(places, first)
    result = []
    for level in levels:
        chosen = [places[number] for number in level]
        width = max(1, *(len(place.window) for place in chosen))
        windows = [[*place.window, *[units] * (width - len(place.window))] for place in chosen]
        writers = [number for number, place in enumerate(chosen) for _ in place.block]
        result.append(
            Level(
                torch.tensor(level),
                torch.tensor(windows),
                torch.tensor([[place.blind] for place in chosen]),
                torch.tensor([unit for place in chosen for unit in place.block]),
                torch.tensor(writers),
            )
        )
    return result


kept_levels = lru_cache(maxsize=128)(make_levels)


def level_fillers(units: int) -> tuple[int, ...]:
    """Return what pads each field of levels, so that more places and writes change nothing."""
    return 0, units, 0, units, 0


def _levels(places: Sequence[UnitPlace], done: int) -> list[list[int]]:
    """Return numbers of the places from ``done`` on, in levels.

    A place comes after those that write what it compares or writes, and not before those that compare what it writes.
    """
    written: dict[int, int] = {}  # by unit, the last level that wrote to it, and that looked at it
    looked: dict[int, int] = {}
    levels: list[list[int]] = []
    for number, place in enumerate(places[done:], done):
        after = [written.get(unit, -1) for unit in (*place.window, *place.block)]
        after += [looked.get(unit, -1) for unit in place.block]
        level = max(after) + 1
        levels += [[]] if level == len(levels) else []
        levels[level].append(number)
        looked.update({unit: max(level, looked.get(unit, -1)) for unit in place.window})
        written.update(dict.fromkeys(place.block, level))
    return levels


def begin(units: Units, held: Tensor | None, known: Tensor, empty: Tensor) -> Scores:
    """Return scores of what images hold before a scan.

    Args:
        units: the sources.
        held: ``(units, N, K)`` keys; None for an empty grid.
        known: units that hold something.
        empty: ``(units + 1, N, B)``; anything but zeros for the last unit.
    """
    scores = empty if held is None else units.compare(empty, known, held)
    return Scores(scores, empty.new_full((empty.shape[0], empty.shape[1]), -1, dtype=torch.int64))


def visit_levels(
    units: Units,
    levels: Sequence[Level] | Level,
    begun: Scores,
    ranks: Tensor,
    anyone: Tensor,
    nearest: Callable[[Tensor, int], Tensor],
    neighbours: int,
) -> Scores:
    """Do all places of some levels.

    Args:
        units: the sources.
        levels: list of levels, or all of them stacked.
        begun: scores to begin with.
        ranks: ``(places, N)`` which of the nearest sources is copied.
        anyone: ``(places, N)`` which of all sources is copied at a blind place.
        nearest: ``(scores (M, B), k) -> (M, k)`` the nearest sources in order.
        neighbours: number of nearest sources, k.
    """

    def visit(state: tuple[Tensor, Tensor], step: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        (scores, picked), level = state, Level(*step)

        def choose(some: slice) -> Tensor:
            total = sum_windows(scores, level.windows[some])
            near = nearest(total.flatten(0, 1), neighbours).unflatten(0, total.shape[:2])
            numbers = level.places[some]
            picks = near.gather(2, ranks[numbers][:, :, None])[:, :, 0]
            return torch.where(level.blind[some].to(picks.device), anyone[numbers], picks)

        picks = split_places(choose, level.places.shape[0], scores[0].numel())[level.writers]
        scores = units.compare(scores, level.written, units.pick(level.written, picks))
        return scores, put(picked, level.written, picks)

    return Scores(*each(visit, tuple(begun), levels))


def to_map(index: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Return the index map ``(N, h, w)`` of sources of units ``(units, N)``."""
    shape = -(-size[0] // side), -(-size[1] // side)
    cells = index.unflatten(0, shape)[:, :, None].expand(-1, -1, side * side, -1)
    return paste(cells, size, side)[..., 0]


class TorchSearch:
    """Visit the places of scales in torch, level by level.

    Args:
        sources: the sources.
        neighbours: number of nearest sources that are drawn from.
        sums: integers that hold sums of scores over windows.
        norm: bound on the norms of all keys.
        causal: whether the schedule may be met again.
    """

    def __init__(self, sources: PreparedSources, neighbours: int, sums: torch.dtype, norm: int, causal: bool) -> None:
        self.sources, self.neighbours, self.sums, self.norm = sources, neighbours, sums, norm
        # A mask's scales are made for one call: in the cache they would only push out others.
        self.levels = kept_levels if causal else make_levels
        self.room = torch.empty(0, dtype=sums)  # for scores: memory that was used already is faster than new

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images brought to another size: ``(N, h, w, r)`` -> ``(N, h', w', r)``."""
        resized: Tensor = Resize((keys.shape[1], keys.shape[2]), size, keys.device)(keys)
        return resized

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> Scanned:
        """Visit all places of a scale: keys ``(N, h, w, r)`` held beforehand, and uniforms ``(N, places)``."""
        side, images, count = scale.unit, len(grid), len(self.sources.keys)
        units = PreparedUnits(self.sources, scale.size, side, exact_dtype(score_bound(side, self.norm)))
        known = torch.from_numpy(scale.known[::side, ::side].ravel().nonzero()[0])
        held = cut(grid, side).flatten(0, 1).transpose(1, 2)
        shape = scale.units + 1, images, count
        if len(self.room) < shape[0] * images * count:
            self.room = torch.empty(shape[0] * images * count, dtype=self.sums, device=grid.device)
        empty = self.room[: shape[0] * images * count].view(shape)
        empty[-1] = 0
        begun = begin(units, held[known].to(units.exact), known, empty)
        ranks, anyone = (draw(uniforms, choices).t() for choices in (self.neighbours, self.sources.total))
        found = visit_levels(
            units, self.levels(scale), begun, ranks, anyone, self.sources.nearest, self.neighbours
        )  # fmt: skip
        return Scanned(scale, units, held, found.picked[:-1])


class Scanned(NamedTuple):
    """What a scan found.

    Attributes:
        scale: the scale.
        units: the sources.
        held: ``(units, N, K)`` keys the images held beforehand.
        picked: ``(units, N)`` source of each unit, -1 where none was copied.
    """

    scale: Scale
    units: PreparedUnits
    held: Tensor
    picked: Tensor

    def grid(self) -> Tensor:
        """Return the keys the images hold: ``(N, h, w, r)`` int16."""
        size, side = self.scale.size, self.scale.unit
        keys = self.held.to(torch.int16)
        filled = torch.from_numpy(self.scale.fill[::side, ::side].ravel().nonzero()[0])
        keys = keys.index_copy(0, filled.to(keys.device), self.units.pick(filled, self.picked[filled]).to(keys.dtype))
        shape = -(-size[0] // side), -(-size[1] // side)
        return paste(keys.unflatten(0, shape).transpose(2, 3), size, side)

    def picks(self) -> Tensor:
        """Return the source of each cell, -1 for none: ``(N, h, w)`` int64."""
        return to_map(self.picked, self.scale.size, self.scale.unit).contiguous()
