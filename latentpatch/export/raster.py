"""The raster sampler in plain operations on whole tensors, to be traced into a graph.

Places of a scan that do not look at each other's blocks form a level and are done at once: in a raster those on a
diagonal of the grid. A scale is then one loop over levels, whose body is the same for all of them; which units of cells
are compared and written is in tables. What a unit holds is compared with the sources when it is written, and the scores
of a window are a sum of those results, as in :mod:`latentpatch.methods.latent.search.window_scores`, by whose bounds
all numbers are integers that are held exactly. Index maps are those of :func:`latentpatch.methods.latent.raster`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..methods.latent.search.keys import KEY_NORM, interpolation_weights, resize_keys
from ..methods.latent.search.prepared import cut, longest, score_bound
from ..methods.latent.search.schedule import Scale, raster_schedule
from ..methods.latent.settings import RasterSettings
from .loops import draw, each, ranked

__all__ = ["TraceableRaster"]


class TraceableRaster(nn.Module):
    """``noise (N, steps) -> index map (N, h, w)``; with a reference, ``noise, its keys (N, h, w, r) -> index map``.

    Args:
        keys: ``(B, h, w, r)`` int16 sources.
        settings: of the sampler.
        reference: whether there is one.

    Raises:
        ValueError: where settings and sources do not go together, or are too many for 64-bit integers.
    """

    def __init__(self, keys: Tensor, settings: RasterSettings, reference: bool = False) -> None:
        super().__init__()
        count, height, width, depth = keys.shape
        settings.check_sources(count)
        # Interpolation rounds each component by half a unit, at a scale and then at the next.
        norm = (KEY_NORM if reference else longest(keys)) + 2 * isqrt(depth) + 2
        if score_bound(settings.patch_size, norm) * count >= 1 << 63:
            raise ValueError(f"{count} sources with patch_size {settings.patch_size}: more than 64-bit integers count")
        scales = raster_schedule((height, width), settings, reference)
        before = [(height, width), *(scale.size for scale in scales)]
        self.scales = nn.ModuleList(
            _ScaleSearch(keys, scale, old, settings.neighbors, norm) for scale, old in zip(scales, before, strict=False)
        )
        self.places = [len(scale.places) for scale in scales]
        self.steps = sum(self.places)

    def forward(self, noise: Tensor, reference: Tensor | None = None) -> Tensor:
        parts = noise.double().clamp(0, 1).split(self.places, 1)
        grid, index = reference, noise
        for uniforms, scale in zip(parts, self.scales, strict=True):
            index, grid = scale(uniforms, grid)
        return index


class _Level(NamedTuple):
    """What the places of a level compare and write; of L levels with a leading dimension.

    Attributes:
        places: ``(M,)`` their numbers in the scan, padded by one beyond the last.
        windows: ``(M, V)`` units that are compared, padded by a unit beyond the last.
        blocks: ``(M, W)`` units that are written, padded likewise.
        blind: ``(M, 1)`` whether nothing is known in the window.
        ranks: ``(M, N)`` which of the nearest sources is wanted.
        anyone: ``(M, N)`` which of all sources is wanted at a blind place.
    """

    places: Tensor
    windows: Tensor
    blocks: Tensor
    blind: Tensor
    ranks: Tensor
    anyone: Tensor


class _Tables(nn.Module):
    """The levels of a scan, as tensors ``(L, M, ...)``."""

    places: Tensor
    windows: Tensor
    blocks: Tensor
    blind: Tensor

    def __init__(self, places: Sequence[_Place], levels: Sequence[Sequence[int]], units: int) -> None:
        super().__init__()
        self.levels = len(levels)
        chosen = [[places[number] for number in level] for level in levels]
        numbers = _padded([[[number] for number in level] for level in levels], len(places))
        self.register_buffer("places", numbers.flatten(1))
        self.register_buffer("windows", _padded([[place.window for place in level] for level in chosen], units))
        self.register_buffer("blocks", _padded([[place.block for place in level] for level in chosen], units))
        self.register_buffer("blind", _padded([[[place.blind] for place in level] for level in chosen], 0).bool())

    def of(self, ranks: Tensor, anyone: Tensor) -> _Level:
        """With the draws of the images, ``(places, N)``."""
        drawn = self.places.clamp(max=len(ranks) - 1)
        return _Level(self.places, self.windows, self.blocks, self.blind, ranks[drawn], anyone[drawn])


class _ScaleSearch(nn.Module):
    """One size of the grid, which is filled from one of another size, or empty."""

    sources: Tensor
    down: Tensor
    across: Tensor
    writers: Tensor
    cells: Tensor

    def __init__(self, keys: Tensor, scale: Scale, before: tuple[int, int], neighbours: int, norm: int) -> None:
        super().__init__()
        self.size, self.side, self.before = scale.size, scale.unit, before
        self.count, self.neighbours = len(keys), neighbours
        bound = score_bound(self.side, norm)
        self.exact = torch.float32 if bound <= 1 << 24 else torch.float64
        self.scored = torch.int32 if bound < 1 << 31 else torch.int64
        units = cut(resize_keys(keys, scale.size), self.side).flatten(0, 1).transpose(1, 2)
        self.register_buffer("sources", torch.cat([units, torch.zeros_like(units[:1])]))  # (U + 1, B, K) int16
        self.register_buffer("down", interpolation_weights(before[0], scale.size[0]).clone())
        self.register_buffer("across", interpolation_weights(before[1], scale.size[1]).clone())
        places = _in_units(scale)
        # The patch that an empty grid begins with is larger than the blocks that follow.
        self.begun = bool(scale.known.all())
        first = [] if self.begun else [[0]]
        others = _levels(places, len(first))
        self.first = _Tables(places, first, len(units))
        self.others = _Tables(places, others, len(units))
        self.register_buffer("writers", _writers(scale))
        self.register_buffer("cells", _cells(scale))

    def forward(self, uniforms: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(N, places)`` and the former grid's keys, or None -> index map ``(N, h, w)``, and this grid's keys."""
        draws = draw(uniforms.T, self.neighbours), draw(uniforms.T, self.count)
        sources = self.sources.to(self.exact)
        norms = sources.square().sum(2)[:, None]

        def compared(vectors: Tensor, units: Tensor | slice) -> Tensor:
            """(n, N, K) -> scores (n, N, B)"""
            products = torch.baddbmm(norms[units], vectors, sources[units].transpose(1, 2), alpha=-2)
            return products.to(self.scored)

        def visit(state: tuple[Tensor, Tensor], tables: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            """Do the places of a level. State: scores (U + 1, N, B), picked sources (places + 1, N)."""
            (scores, picked), level = state, _Level(*tables)
            picks = torch.where(level.blind, level.anyone, self._nearest(scores, level))
            blocks = level.blocks.flatten()
            written = picks.repeat_interleave(level.blocks.shape[1], 0)
            vectors = sources.flatten(0, 1)[blocks[:, None] * self.count + written]
            return scores.index_put((blocks,), compared(vectors, blocks)), picked.index_put((level.places,), picks)

        if self.begun and grid is not None:
            held = cut(self._resized(grid), self.side).flatten(0, 1).transpose(1, 2)
            scores = compared(held.to(self.exact), slice(-1))
            scores = torch.cat([scores, torch.zeros_like(scores[:1])])
        else:
            empty = uniforms.new_zeros((len(sources), uniforms.shape[0], self.count))  # len() would fix N
            scores = empty.to(self.scored)
        state = scores, uniforms.new_zeros((uniforms.shape[1] + 1, uniforms.shape[0]), dtype=torch.int64)
        if self.first.levels:
            state = visit(state, tuple(table[0] for table in self.first.of(*draws)))
        if self.others.levels:
            state = each(visit, state, tuple(self.others.of(*draws)))
        index = state[1][self.writers].movedim(-1, 0)
        return index, self._keys_at(index)

    def _nearest(self, scores: Tensor, level: _Level) -> Tensor:
        """The sources of the ranks, ``(M, N)``."""
        windows = scores[level.windows.flatten()].unflatten(0, level.windows.shape)
        near = ranked(windows.sum(1, dtype=torch.int64)).topk(self.neighbours, 2, largest=False).values
        result: Tensor = near.gather(2, level.ranks[:, :, None])[:, :, 0].remainder(self.count)
        return result

    def _resized(self, grid: Tensor) -> Tensor:
        """What :func:`~latentpatch.methods.latent.search.keys.resize_keys` makes, in float64."""
        if self.size == self.before:
            return grid.double()
        denominator = 4 * self.size[0] * self.size[1]
        sums = torch.einsum("yi,nijr->nyjr", self.down, grid.double())
        sums = torch.einsum("xj,nyjr->nyxr", self.across, sums)
        return (2 * sums + denominator).div(2 * denominator).floor()

    def _keys_at(self, index: Tensor) -> Tensor:
        """(N, h, w) -> (N, h, w, r) int16"""
        area = self.side * self.side
        cells = self.sources.flatten(0, 1).unflatten(1, (area, -1)).flatten(0, 1)
        unit, inside = self.cells
        result: Tensor = cells[(unit * self.count + index) * area + inside]
        return result


class _Place(NamedTuple):
    """What is compared and what is written, as numbers of units."""

    window: tuple[int, ...]
    block: tuple[int, ...]
    blind: bool


def _in_units(scale: Scale) -> list[_Place]:
    side, width = scale.unit, -(-scale.size[1] // scale.unit)
    places = []
    for place in scale.places:
        top, bottom, left, right = place.window
        rows, columns = range(top // side, -(-bottom // side)), range(left // side, -(-right // side))
        window = tuple(row * width + column for row in rows for column in columns)
        block = {cell // scale.size[1] // side * width + cell % scale.size[1] // side for cell in place.cells}
        places.append(_Place(window, tuple(sorted(block)), place.blind))
    return places


def _levels(places: Sequence[_Place], done: int) -> list[list[int]]:
    """Numbers of the places that are not done, each after those that it, or that wait for it to, look at or write."""
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


def _padded(rows: Sequence[Sequence[Sequence[int]]], filler: int) -> Tensor:
    """(levels, places, numbers) int64, as long as the longest."""
    longest_level = max((len(level) for level in rows), default=0)
    longest_place = max((len(numbers) for level in rows for numbers in level), default=0)
    table = torch.full((len(rows), longest_level, longest_place), filler)
    for i, level in enumerate(rows):
        for j, numbers in enumerate(level):
            table[i, j, : len(numbers)] = torch.tensor(numbers)
    return table


def _writers(scale: Scale) -> Tensor:
    """``(h, w)`` of each cell the place that writes it last."""
    writers = torch.full((scale.size[0] * scale.size[1],), -1)
    for number, place in enumerate(scale.places):
        writers[list(place.cells)] = number
    return writers.view(scale.size)


def _cells(scale: Scale) -> Tensor:
    """``(2, h, w)``: of each cell the unit it lies in, and where in that."""
    side, width = scale.unit, -(-scale.size[1] // scale.unit)
    y, x = torch.arange(scale.size[0])[:, None], torch.arange(scale.size[1])
    return torch.stack([y // side * width + x // side, y % side * side + x % side])
