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
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ....ops.noise import draw
from ..settings import RasterSettings
from .keys import Resize, exact_dtype
from .prepared import PreparedSources, cut, paste, score_bound
from .schedule import Scale, UnitPlace, places_in_units
from .torch_loops import PreparedUnits, Units, each, places_together, put, split_places, sum_windows

__all__ = ["Level", "Scanned", "State", "TorchSearch", "level_fillers", "make_levels", "scan_parts", "visit_levels"]


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


class State(NamedTuple):
    """A scan on its way.

    Attributes:
        scores: ``(units + 1, N, B)`` what each unit holds, compared with the sources there; zeros for the unit beyond.
        held: ``(units + 1, N, K)`` keys that the images hold.
        picked: ``(units + 1, N)`` int64 source of each unit, -1 where none was copied yet.
    """

    scores: Tensor
    held: Tensor
    picked: Tensor


def make_levels(scale: Scale) -> list[Level]:
    """Return the levels of a scale, each after those that it depends on."""
    places = places_in_units(scale)
    # The patch that an empty grid begins with is larger than the blocks that follow.
    first = 0 if scale.known.all() else 1
    return [_level(places, numbers, scale.units) for numbers in [[0]][:first] + _levels(places, first)]


def _level(places: Sequence[UnitPlace], numbers: Sequence[int], units: int) -> Level:
    """Return places of some numbers as a level."""
    chosen = [places[number] for number in numbers]
    width = max(1, *(len(place.window) for place in chosen))
    return Level(
        torch.tensor(numbers),
        torch.tensor([[*place.window, *[units] * (width - len(place.window))] for place in chosen]),
        torch.tensor([[place.blind] for place in chosen]),
        torch.tensor([unit for place in chosen for unit in place.block]),
        torch.tensor([writer for writer, place in enumerate(chosen) for _ in place.block]),
    )


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


def visit_levels(
    units: Units,
    levels: Sequence[Level] | Level,
    begun: State,
    ranks: Tensor,
    anyone: Tensor,
    nearest: Callable[[Tensor, int], Tensor],
    neighbours: int,
    together: int = 1,
) -> State:
    """Do all places of some levels.

    Args:
        units: the sources.
        levels: list of levels, or all of them stacked.
        begun: state to begin with.
        ranks: ``(places, N)`` which of the nearest sources is copied.
        anyone: ``(places, N)`` which of all sources is copied at a blind place.
        nearest: ``(scores (M, B), k) -> (M, k)`` the nearest sources in order.
        neighbours: number of nearest sources, k.
        together: most places that are compared at a time, where this is not traced.
    """

    def visit(state: tuple[Tensor, ...], step: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (scores, held, picked), level = state, Level(*step)

        def choose(some: slice) -> Tensor:
            total = sum_windows(scores, level.windows[some])
            near = nearest(total.flatten(0, 1), neighbours).unflatten(0, total.shape[:2])
            numbers = level.places[some]
            picks = near.gather(2, ranks[numbers][:, :, None])[:, :, 0]
            return torch.where(level.blind[some].to(picks.device), anyone[numbers], picks)

        picks = split_places(choose, level.places.shape[0], together)[level.writers]
        keys = units.pick(level.written, picks)
        scores = units.compare(scores, level.written, keys)
        return scores, put(held, level.written, keys), put(picked, level.written, picks)

    return State(*each(visit, tuple(begun), levels))


class Scanned(NamedTuple):
    """What a scan found.

    Attributes:
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit.
        state: after the last place.
    """

    size: tuple[int, int]
    side: int
    state: State

    def grid(self) -> Tensor:
        """Return the keys the images hold: ``(N, h, w, r)`` int16."""
        return self._paste(self.state.held[:-1].transpose(1, 2).to(torch.int16))

    def picks(self) -> Tensor:
        """Return the source of each cell, -1 for none: ``(N, h, w)`` int64."""
        cells = self.state.picked[:-1, None].expand(-1, self.side * self.side, -1)
        return self._paste(cells)[..., 0].contiguous()

    def _paste(self, units: Tensor) -> Tensor:
        """Return units ``(units, K, N)`` as grids ``(N, h, w, r)``."""
        shape = -(-self.size[0] // self.side), -(-self.size[1] // self.side)
        return paste(units.unflatten(0, shape), self.size, self.side)


class TorchSearch:
    """Visit the places of scales in torch.

    Args:
        sources: the sources.
        settings: of the sampler.
        sums: integers that hold sums of scores over windows.
        norm: bound on the norms of all keys.
        causal: whether the schedule may be met again.
    """

    def __init__(
        self, sources: PreparedSources, settings: RasterSettings, sums: torch.dtype, norm: int, causal: bool
    ) -> None:
        self.sources, self.sums, self.norm = sources, sums, norm
        self.neighbours, self.step = settings.neighbors, settings.step
        # A mask's scales are made for one call: in the cache they would only push out others.
        self.parts = scan_parts if causal else scan_parts.__wrapped__
        self.room = torch.empty(0, dtype=sums)  # for scores: memory that was used already is faster than new

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images brought to another size: ``(N, h, w, r)`` -> ``(N, h', w', r)``."""
        resized: Tensor = Resize((keys.shape[1], keys.shape[2]), size, keys.device)(keys)
        return resized

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> Scanned:
        """Visit all places of a scale: keys ``(N, h, w, r)`` held beforehand, and uniforms ``(N, places)``."""
        side, images, count = scale.unit, len(grid), len(self.sources.keys)
        exact = exact_dtype(score_bound(side, self.norm))
        units = PreparedUnits(self.sources, scale.size, side, exact, rows=self.step // side)
        shape = scale.units + 1, images, count
        if len(self.room) < prod(shape):
            self.room = torch.empty(prod(shape), dtype=self.sums, device=grid.device)
        scores = self.room[: prod(shape)].view(shape)
        scores[-1] = 0
        held = pad(cut(grid, side).flatten(0, 1).transpose(1, 2).to(units.exact), (0, 0, 0, 0, 0, 1))
        state = State(scores, held, torch.full(shape[:2], -1, device=grid.device))
        ranks, anyone = (draw(uniforms, choices).t() for choices in (self.neighbours, self.sources.total))
        together = places_together(images * self.sources.most)
        for known, levels in self.parts(scale, units.vectors is not None):
            state = state._replace(scores=units.compare(state.scores, known, state.held[known]))
            state = visit_levels(
                units, levels, state, ranks, anyone, self.sources.nearest, self.neighbours, together
            )  # fmt: skip
        return Scanned(scale.size, side, state)


@lru_cache(maxsize=128)
def scan_parts(scale: Scale, in_levels: bool) -> list[tuple[Tensor, list[Level]]]:
    """Return the parts of an eager scan: units that hold something and are compared first, and levels of places.

    Args:
        scale: the scale.
        in_levels: whether all places are done by levels. Otherwise they are done one by one, and rows of units are
            compared where a window first reaches them, so that units are visited row by row.
    """
    columns = -(-scale.size[1] // scale.unit)
    known = torch.from_numpy(scale.known[:: scale.unit, :: scale.unit].ravel().nonzero()[0])
    if in_levels:
        return [(known, make_levels(scale))]
    places, parts, rows = places_in_units(scale), [], 0
    for number, place in enumerate(places):
        last = max(rows, max((*place.window, *place.block)) // columns + 1)
        new = known[(known >= rows * columns) & (known < last * columns)]
        parts.append((new, [_level(places, [number], scale.units)]))
        rows = last
    return parts
