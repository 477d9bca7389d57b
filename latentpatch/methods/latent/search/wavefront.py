"""Many places at a time: the raster sampler's scan by diagonals.

A patch never looks beyond the block that is copied at it, neither to the right nor below. Blocks along a diagonal
that leads down and to the left so do not see each other: they are compared, found and copied as one, with the result
of one after the other. Of n x n blocks that is 2 n - 1 waves instead of n^2 places.

What a block holds is compared when its turn comes, and again right after it was copied, while the sources are in a
cache. Of the scores, and of their sums along the rows of each window, only those of a few diagonals are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .plan import last_writers
from .prepared import PreparedSources
from .schedule import Scale
from .window_scores import Scores, add_up

__all__ = ["Rings", "Wave", "WavePlan", "WaveScores", "make_waves"]

Span = tuple[int, int]  # first, last (exclusive)


class Wave(NamedTuple):
    """Blocks along a diagonal, the upper right one first.

    Attributes:
        places: their numbers in the schedule.
        diagonal: row and column of each of them, in blocks, added up.
        rows: of the blocks.
        entered: diagonals, or parts of them, whose turn begins: ``(diagonal, rows)``.
        blind: nothing is known there.
        patch: a whole patch is copied instead of a block, which is where an empty grid begins.
    """

    places: tuple[int, ...]
    diagonal: int
    rows: Span
    entered: tuple[tuple[int, Span], ...]
    blind: bool
    patch: bool


@dataclass(frozen=True)
class WavePlan:
    """Waves of a scale.

    Attributes:
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit: both blocks and patches are made of whole ones.
        shape: ``(rows, columns)`` of units; those at the border may reach beyond the grid.
        blocks: ``(rows, columns)`` of blocks.
        block: units along a side of a block.
        window: units along a side of a patch.
        held: ``(rows, columns)`` of units from the upper left on that hold something when the second wave begins.
        steps: the waves in order.
        writers: ``(h, w)`` the place that writes a cell last.
    """

    size: tuple[int, int]
    side: int
    shape: tuple[int, int]
    blocks: tuple[int, int]
    block: int
    window: int
    held: tuple[int, int]
    steps: tuple[Wave, ...]
    writers: npt.NDArray[np.int64]

    @property
    def depth(self) -> int:
        """Diagonals that a window reaches over, along a row or a column."""
        return -(-self.window // self.block)

    @property
    def units_kept(self) -> int:
        """Units whose scores, or sums of them, are kept at a time."""
        rows = self.blocks[0]
        return self.depth * self.block * (rows * self.block + rows + self.depth) + 2 * min(self.blocks)

    def reached(self) -> list[tuple[int, int]]:
        """What a window covers along a row or a column: ``(blocks back, unit of the block)`` of each unit."""
        units = range(self.block - self.window, self.block)
        return [(-(unit // self.block), unit % self.block) for unit in units]

    def unit(self, diagonal: int, row: int, down: int, right: int) -> tuple[int, int]:
        """Row and column of a unit of a block."""
        return self.block * row + down, self.block * (diagonal - row) + right

    def rows_within(self, limits: tuple[int, int], diagonal: int, rows: Span, down: int, right: int) -> Span:
        """Those of some blocks along a diagonal whose unit ``(down, right)`` lies within some rows and columns."""
        last_row, last_column = (
            -(-(limit - unit) // self.block) for limit, unit in zip(limits, (down, right), strict=True)
        )
        return max(rows[0], diagonal - last_column + 1), min(rows[1], last_row)


@lru_cache(maxsize=128)
def make_waves(scale: Scale, patch_size: int, stride: int, width: int) -> WavePlan:
    """Order the places of a scale of :func:`~latentpatch.methods.latent.search.schedule.causal_places` by waves.

    Args:
        scale: the scale.
        patch_size: side of the patches.
        stride: side of the blocks.
        width: blocks in a wave, at most.
    """
    side, window = scale.unit, patch_size // scale.unit
    shape, blocks = (_covering(scale.size, length) for length in (side, stride))
    corners = [divmod(place.cells[0], scale.size[1]) for place in scale.places]
    places = {(top // stride, left // stride): number for number, (top, left) in enumerate(corners)}
    waves = []
    seen = 0
    filled = bool(scale.known.all())
    if not filled:
        waves.append(Wave((places.pop((0, 0)),), 0, (0, 1), (), blind=True, patch=True))
    for diagonal, found in groupby(sorted(places, key=lambda block: (sum(block), block)), key=sum):
        for rows in _runs([row for row, _ in found], width):
            numbers = tuple(places[row, diagonal - row] for row in range(*rows))
            # Of an empty grid some blocks were written with the first patch, and have no place of their own.
            entered = [(diagonal, rows)] if filled else [(d, _rows_of(d, blocks)) for d in range(seen, diagonal + 1)]
            seen = diagonal + 1
            blind = scale.places[numbers[0]].blind  # where patches are no larger than blocks
            waves.append(Wave(numbers, diagonal, rows, tuple(entered), blind, patch=False))
    return WavePlan(
        size=scale.size,
        side=side,
        shape=shape,
        blocks=blocks,
        block=stride // side,
        window=window,
        held=shape if filled else (window, window),
        steps=tuple(waves),
        writers=last_writers(scale),
    )


def _covering(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns of squares that cover a grid."""
    return -(-size[0] // side), -(-size[1] // side)


def _rows_of(diagonal: int, blocks: tuple[int, int]) -> Span:
    """Rows of the blocks along a diagonal."""
    return max(0, diagonal - blocks[1] + 1), min(blocks[0], diagonal + 1)


def _runs(rows: list[int], longest: int) -> Iterator[Span]:
    """Ascending numbers as runs of neighbours."""
    first = rows[0]
    for row, following in zip(rows, [*rows[1:], -1], strict=True):
        if following != row + 1 or following - first == longest:
            yield first, row + 1
            first = following


class Rings:
    """Where scores are kept, for all scales of a search: memory that was used already is faster than new.

    Diagonal d takes slot ``d % depth`` of two rings: ``scores`` of every unit of its blocks, by the block's row, and
    ``rows``, the sums of them along each row of units over the columns of the block's window.

    Args:
        plan: of the largest scale.
        images: N.
        count: sources.
        length: numbers in a unit, K.
        exact: type of scores as they are computed.
        sums: type of them and of their sums as they are kept.
        device: where to.
    """

    def __init__(
        self,
        plan: WavePlan,
        images: int,
        count: int,
        length: int,
        exact: torch.dtype,
        sums: torch.dtype,
        device: torch.device,
    ) -> None:
        block, rows, at_once, many = plan.block, plan.blocks[0], min(plan.blocks), images * count
        self.scores = torch.empty((plan.depth, rows, block, block, many), dtype=sums, device=device)
        self.rows = torch.empty((plan.depth, plan.depth + rows, block, many), dtype=sums, device=device)
        self.totals = torch.empty((at_once, many), dtype=sums, device=device)
        # Of each unit of a block the sources that were used last.
        self.ready = torch.empty((block * block, at_once, length + 1, count), dtype=exact, device=device)


class WaveScores(Scores):
    """Scores of many places at a time, for the diagonals in sight.

    Args:
        sources: B of them here.
        plan: of the scale.
        queries: ``(rows, columns, K, N)`` keys the images hold beforehand, as units; anything where nothing is held.
        rings: to be used, for a plan at least as large.
    """

    plan: WavePlan

    def __init__(self, sources: PreparedSources, plan: WavePlan, queries: Tensor, rings: Rings) -> None:
        self.plan, self.sources = plan, sources
        self.length, images = queries.shape[2:]
        self.units = sources.units(plan.size, plan.side)
        self.scores, self.rows, self.totals, self.ready = rings.scores, rings.rows, rings.totals, rings.ready
        # Above and to the left of the grid all is zero.
        self.scores.zero_()
        self.rows.zero_()
        self.held = [((0, 0), 0)] * len(self.ready)  # units that are ready
        self.factors = queries.new_ones((*plan.shape, self.length + 1, images), dtype=self.ready.dtype)
        torch.mul(queries, -2.0, out=self.factors[:, :, : self.length])
        self.reached = plan.reached()

    def sum(self, wave: Wave) -> Tensor | None:
        for diagonal, rows in wave.entered:
            self._enter(diagonal, rows)
        if wave.blind:
            return None
        terms = [self._row_sums(wave.diagonal - back, wave.rows, back)[:, unit] for back, unit in self.reached]
        totals = add_up(terms, self.totals[: len(wave.places)])
        return totals.view(len(totals) * self.factors.shape[3], len(self.sources.keys))

    def write(self, wave: Wave, picks: Tensor) -> None:
        plan = self.plan
        side = plan.window if wave.patch else plan.block
        for down, right in product(range(side), repeat=2):
            first, last = plan.rows_within(plan.shape, wave.diagonal, wave.rows, down, right)
            if first < last:
                corner = plan.unit(wave.diagonal, first, down, right)
                vectors = _diagonal(self.units.vectors, corner, plan.block, last - first)
                picked = self.sources.pick(vectors, picks[first - wave.rows[0] : last - wave.rows[0]])
                factors = _diagonal(self.factors, corner, plan.block, last - first)
                torch.mul(picked, -2.0, out=factors[:, : self.length])
        if not wave.patch and wave is not plan.steps[-1]:
            self._compare(wave.diagonal, wave.rows, plan.shape)

    def _enter(self, diagonal: int, rows: Span) -> None:
        """Compare what blocks of a diagonal hold before their turn."""
        plan = self.plan
        if plan.held != plan.shape or plan.shape[1] % plan.block:
            self.scores[diagonal % plan.depth, slice(*rows)] = 0
        self._compare(diagonal, rows, plan.held)

    def _compare(self, diagonal: int, rows: Span, limits: tuple[int, int]) -> None:
        """Compare the units of some blocks that lie within limits, and sum along their rows."""
        plan, slot = self.plan, self.scores[diagonal % self.plan.depth]
        for down, right in product(range(plan.block), repeat=2):
            first, last = plan.rows_within(limits, diagonal, rows, down, right)
            if first < last:
                corner = plan.unit(diagonal, first, down, right)
                factors = _diagonal(self.factors, corner, plan.block, last - first)
                vectors = self._ready(down * plan.block + right, corner, last - first)
                found = torch.bmm(factors.transpose(1, 2), vectors)
                slot[first:last, down, right] = found.flatten(1)
        terms = [self.scores[(diagonal - back) % plan.depth, slice(*rows), :, unit] for back, unit in self.reached]
        add_up(terms, self._row_sums(diagonal, rows))

    def _row_sums(self, diagonal: int, rows: Span, above: int = 0) -> Tensor:
        """Sums of the blocks that lie above some rows: ``(blocks, units of a block, N B)``."""
        start = self.plan.depth - above
        return self.rows[diagonal % self.plan.depth, start + rows[0] : start + rows[1]]

    def _ready(self, slot: int, corner: tuple[int, int], count: int) -> Tensor:
        """Units along a diagonal, ready to be multiplied: ``(count, K + 1, B)``."""
        ready = self.ready[slot, :count]
        if self.held[slot] != (corner, count):
            ready[:, : self.length] = _diagonal(self.units.vectors, corner, self.plan.block, count)
            ready[:, self.length :] = _diagonal(self.units.norms, corner, self.plan.block, count)
            self.held[slot] = corner, count
        return ready


def _diagonal(units: Tensor, corner: tuple[int, int], step: int, count: int) -> Tensor:
    """Every ``step``-th unit down and to the left of one: ``(rows, columns, ...)`` -> ``(count, ...)``."""
    down, right, *inner = units.stride()
    offset = units.storage_offset() + corner[0] * down + corner[1] * right
    return units.as_strided((count, *units.shape[2:]), (step * (down - right), *inner), offset)
