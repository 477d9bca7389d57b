"""The raster sampler in torch, in eager mode and in graphs.

Independent places of a scan form a level and are visited together: in a raster, the places on a diagonal of the grid.
The keys of a unit are compared with the sources once, when the unit is written; the score of a window is a sum of those
results.

The score of a unit's query x and a source y is |y|^2 - 2 x.y: the squared distance less |x|^2, which is the same for
all sources. Keys are integers. If no key is longer than R, the partial sums of the products of a unit of c cells stay
within c R^2 + 2 c R^2 in any order (Cauchy-Schwarz). Float32 holds all integers up to 2^24, so scores are exact for
units of two by two cells up to R = 1182; a bank bounds its own keys by 1024. Larger bounds use float64, and so do
settings of torch that compute float32 matrix products from rounded factors. Sums over a window are integers.
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
from .keys import exact_dtype, resize_keys
from .prepared import PreparedSources, cut, paste, score_bound
from .schedule import Scale, UnitPlace, places_in_units
from .torch_loops import PreparedUnits, Units, each, places_together, put, split_places, sum_windows

__all__ = ["Level", "Scanned", "State", "TorchSearch", "level_fillers", "make_levels", "scan_parts", "visit_levels"]


class Level(NamedTuple):
    """The M places of a level, with the units that they compare and write.

    Attributes:
        places: ``(M,)`` number of each place in the scan.
        windows: ``(M, V)`` units that are compared, padded by the unit after the last, whose scores are zero.
        blind: ``(M, 1)`` bool, True where the window has no keys yet.
        written: ``(T,)`` units that are written.
        writers: ``(T,)`` position, among the M places, of the place that writes each unit.
    """

    places: Tensor
    windows: Tensor
    blind: Tensor
    written: Tensor
    writers: Tensor


class State(NamedTuple):
    """State of a scan.

    Attributes:
        scores: ``(units + 1, N, B)`` scores of each unit's keys and all sources; zeros for the unit after the last.
        keys: ``(units + 1, N, K)`` keys of the images.
        picked: ``(units + 1, N)`` int64 source of each unit, -1 before one is copied.
    """

    scores: Tensor
    keys: Tensor
    picked: Tensor


def make_levels(scale: Scale) -> list[Level]:
    """Return the levels of a scale; each level comes after the levels that it depends on."""
    places = places_in_units(scale)
    # The first patch of an empty grid is larger than the blocks, so it is a level of its own.
    first = 0 if scale.known.all() else 1
    return [_level(places, numbers, scale.units) for numbers in [[0]][:first] + _levels(places, first)]


def _level(places: Sequence[UnitPlace], numbers: Sequence[int], units: int) -> Level:
    """Return the places of the listed numbers as a level."""
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
    """Return the padding value of each field of a level; padded places and writes have no effect."""
    return 0, units, 0, units, 0


def _levels(places: Sequence[UnitPlace], done: int) -> list[list[int]]:
    """Return the numbers of the places from ``done`` on, grouped in levels.

    A place comes after the places that write units it compares or writes, and not before places that compare its units.
    """
    # Both dictionaries have units as keys: the last level that wrote a unit, and the last that compared it.
    written: dict[int, int] = {}
    compared: dict[int, int] = {}
    levels: list[list[int]] = []
    for number, place in enumerate(places[done:], done):
        after = [written.get(unit, -1) for unit in (*place.window, *place.block)]
        after += [compared.get(unit, -1) for unit in place.block]
        level = max(after) + 1
        levels += [[]] if level == len(levels) else []
        levels[level].append(number)
        compared.update({unit: max(level, compared.get(unit, -1)) for unit in place.window})
        written.update(dict.fromkeys(place.block, level))
    return levels


def visit_levels(
    units: Units,
    levels: Sequence[Level] | Level,
    begun: State,
    ranks: Tensor,
    guesses: Tensor,
    nearest: Callable[[Tensor, int], Tensor],
    neighbors: int,
    together: int = 1,
) -> State:
    """Visit all places of some levels and return the final state.

    Args:
        units: the sources.
        levels: list of levels, or all of them stacked.
        begun: initial state.
        ranks: ``(places, N)`` rank, among the nearest sources, of the source to copy.
        guesses: ``(places, N)`` source to copy at a blind place.
        nearest: ``(scores (M, B), k) -> (M, k)`` function that returns the nearest sources in order.
        neighbors: number of nearest sources, k.
        together: largest number of places that the eager mode compares at a time.
    """

    def visit(state: tuple[Tensor, ...], step: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (scores, keys, picked), level = state, Level(*step)

        def choose(some: slice) -> Tensor:
            total = sum_windows(scores, level.windows[some])
            near = nearest(total.flatten(0, 1), neighbors).unflatten(0, total.shape[:2])
            numbers = level.places[some]
            picks = near.gather(2, ranks[numbers][:, :, None])[:, :, 0]
            return torch.where(level.blind[some].to(picks.device), guesses[numbers], picks)

        picks = split_places(choose, level.places.shape[0], together)[level.writers]
        copied = units.pick(level.written, picks)
        scores = units.compare(scores, level.written, copied)
        return scores, put(keys, level.written, copied), put(picked, level.written, picks)

    return State(*each(visit, tuple(begun), levels))


class Scanned(NamedTuple):
    """Result of a scan.

    Attributes:
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit.
        state: state after the last place.
    """

    size: tuple[int, int]
    side: int
    state: State

    def grid(self) -> Tensor:
        """Return the keys of the images: ``(N, h, w, r)`` int16."""
        return self._paste(self.state.keys[:-1].transpose(1, 2).to(torch.int16))

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
        settings: settings of the sampler.
        sums: integer type that holds sums of scores over windows.
        norm: bound on the norms of all keys.
        causal: True where other calls have the same schedule, so that it is cached.
    """

    def __init__(
        self, sources: PreparedSources, settings: RasterSettings, sums: torch.dtype, norm: int, causal: bool
    ) -> None:
        self.sources, self.sums, self.norm = sources, sums, norm
        self.neighbors, self.step = settings.neighbors, settings.step
        # The scales of a mask serve one call; in the cache they would only evict others.
        self.parts = scan_parts if causal else scan_parts.__wrapped__
        # A score buffer that scales share: reused memory is faster than new memory.
        self.buffer = torch.empty(0, dtype=sums)

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """Return keys resized to another grid: ``(N, h, w, r)`` -> ``(N, h', w', r)``."""
        return resize_keys(keys, size)

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> Scanned:
        """Visit all places of a scale, with initial keys ``(N, h, w, r)`` and uniforms ``(N, places)``."""
        side, images, count = scale.unit, len(grid), len(self.sources.keys)
        exact = exact_dtype(score_bound(side, self.norm))
        units = PreparedUnits(self.sources, scale.size, side, exact, rows=self.step // side)
        shape = scale.units + 1, images, count
        if len(self.buffer) < prod(shape):
            self.buffer = torch.empty(prod(shape), dtype=self.sums, device=grid.device)
        scores = self.buffer[: prod(shape)].view(shape)
        scores[-1] = 0
        keys = pad(cut(grid, side).flatten(0, 1).transpose(1, 2).to(units.exact), (0, 0, 0, 0, 0, 1))
        state = State(scores, keys, torch.full(shape[:2], -1, device=grid.device))
        ranks, guesses = (draw(uniforms, choices).t() for choices in (self.neighbors, self.sources.total))
        together = places_together(images * self.sources.most, self.sources.keys.device)
        for filled, levels in self.parts(scale, units.vectors is not None):
            state = state._replace(scores=units.compare(state.scores, filled, state.keys[filled]))
            state = visit_levels(
                units, levels, state, ranks, guesses, self.sources.nearest, self.neighbors, together
            )  # fmt: skip
        return Scanned(scale.size, side, state)


@lru_cache(maxsize=128)
def scan_parts(scale: Scale, in_levels: bool) -> list[tuple[Tensor, list[Level]]]:
    """Return the parts of an eager scan: filled units to compare first, then levels of places.

    Args:
        scale: the scale.
        in_levels: True to visit places by levels. Otherwise places are visited one by one, and filled units are
            compared when a window first reaches their row, so that units are visited row by row.
    """
    columns = -(-scale.size[1] // scale.unit)
    filled = torch.from_numpy(scale.known[:: scale.unit, :: scale.unit].ravel().nonzero()[0])
    if in_levels:
        return [(filled, make_levels(scale))]
    places, parts, rows = places_in_units(scale), [], 0
    for number, place in enumerate(places):
        last = max(rows, max((*place.window, *place.block)) // columns + 1)
        new = filled[(filled >= rows * columns) & (filled < last * columns)]
        parts.append((new, [_level(places, [number], scale.units)]))
        rows = last
    return parts
