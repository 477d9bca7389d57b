"""Resynthesis in plain operations on whole tensors, to be traced into a graph.

The waves of all sweeps are one loop, whose body is the same for all of them; which cells a wave compares and writes
is in tables, padded to the widest. Beyond the grid lies one more cell, where all sources are zero: what is
compared with it or written to it changes nothing. All numbers are integers that are held exactly, and index maps are
those of :func:`latentpatch.methods.latent.resynthesis`.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..methods.latent.resynthesis import (
    SUBSET_STEPS,
    ResynthesisSettings,
    Wave,
    _limit,
    barred_pictures,
    plan_of,
    resynthesis_steps,
    tables,
    window_bound,
)
from ..methods.latent.search.assignment import CANDIDATES, ROUNDS, ask, regrets_of, settled
from ..methods.latent.search.keys import KEY_NORM
from ..methods.latent.search.prepared import PreparedSources, longest, score_bound
from .loops import draw, each, ranked

__all__ = ["TraceableResynthesis"]


class _Wave(NamedTuple):
    """A wave of M blocks in a sweep; of L waves with a leading dimension.

    Attributes:
        cells: ``(M, w^2)`` flat cells that are written.
        windows: ``(M, omega^2)`` flat cells that are compared, or twice as many.
        ranks: ``(M, N)`` which of the nearest sources is wanted.
        room: ``(1,)`` cells a source may have given so that it may still give all of the wave.
    """

    cells: Tensor
    windows: Tensor
    ranks: Tensor
    room: Tensor


class _Grid(NamedTuple):
    """Images on their way.

    Attributes:
        scores: ``(cells + 1, N, B)`` integers: each cell compared with the sources there.
        picked: ``(cells + 1, N)`` int64 sources, B where none has given.
        given: ``(N, B + 1)`` int32, how many cells each source has given.
    """

    scores: Tensor
    picked: Tensor
    given: Tensor


class TraceableResynthesis(nn.Module):
    """``noise (N, steps) -> index map (N, h, w)``; with a reference, ``noise, its keys (N, h, w, r) -> index map``.

    Args:
        keys: ``(B, h, w, r)`` int16 sources.
        settings: of the sampler.
        reference: whether there is one.

    Raises:
        ValueError: where settings and sources do not go together, or are too many for 64-bit integers.
    """

    sources: Tensor
    distances: Tensor
    cells: Tensor
    windows: Tensor
    places: Tensor
    first: Tensor
    room: Tensor
    all_cells: Tensor
    all_windows: Tensor
    numbers: Tensor

    def __init__(self, keys: Tensor, settings: ResynthesisSettings, reference: bool = False) -> None:
        super().__init__()
        self.count, *size, depth = keys.shape
        grid = self.grid = size[0], size[1]
        self.settings = settings = settings.resolved(self.count, reference)
        for name, usual in (("switch_cost", 0), ("use_cost", 0), ("best_of", 1)):
            if getattr(settings, name) != usual:
                raise ValueError(f"{name} {getattr(settings, name)}: cannot be exported; {usual} is expected")
        settings.check_sources(self.count, reference)
        self.steps = resynthesis_steps(grid, settings, reference)
        norm = max(longest(keys), KEY_NORM + isqrt(depth) // 2 + 1 if reference else 0)
        self.barred = window_bound(settings, norm)
        if self.barred * self.count >= 1 << 63:
            raise ValueError(
                f"{self.count} sources with patch_size {settings.patch_size}: more than 64-bit integers count"
            )
        self.exact = torch.float32 if score_bound(1, norm) <= 1 << 24 else torch.float64
        self.sums = torch.int32 if self.barred < 1 << 31 else torch.int64
        beyond = torch.zeros(1, self.count, depth, dtype=keys.dtype)
        self.register_buffer("sources", torch.cat([keys.flatten(1, 2).movedim(0, 1), beyond]))  # (A + 1, B, r) int16
        if not reference:
            mean = PreparedSources(keys).mean
            distances = torch.cat([(part.long() - mean).square().flatten(1).sum(1) for part in keys.split(64)])
            self.register_buffer("distances", distances)
        self.register_buffer("numbers", torch.arange(self.count))
        self.limit = _limit(settings, grid, self.count, reference)
        self.candidates = min(CANDIDATES, settings.num_donors(self.count, reference))
        plan = plan_of(settings, grid)
        for name, table in zip(("all_cells", "all_windows"), tables(plan), strict=True):
            self.register_buffer(name, torch.from_numpy(table))
        self._tabulate(plan, self.limit)

    def _tabulate(self, plan: tuple[Wave, ...], limit: int) -> None:
        """The waves of all sweeps as tensors ``(L, M, ...)``."""
        area, sweeps = self.grid[0] * self.grid[1], self.settings.sweeps
        most = max(len(wave.cells) for wave in plan)

        def table(parts: list[np.ndarray], filler: int) -> Tensor:
            rows = [np.pad(part, ((0, most - len(part)), (0, 0)), constant_values=filler) for part in parts]
            return torch.from_numpy(np.stack(rows)).repeat(sweeps, 1, 1)

        self.register_buffer("cells", table([wave.cells for wave in plan], area))
        self.register_buffer("windows", table([wave.windows for wave in plan], area))
        self.register_buffer("places", table([wave.places[:, None] for wave in plan], 0)[:, :, 0])
        self.register_buffer("first", (torch.arange(sweeps * len(plan)) < len(plan))[:, None, None])
        self.register_buffer("room", torch.tensor([limit - wave.size for wave in plan]).repeat(sweeps)[:, None])

    def forward(self, noise: Tensor, reference: Tensor | None = None) -> Tensor:
        uniforms = noise.double().clamp(0, 1)
        starts = None
        if reference is None:
            drawn, uniforms = uniforms.split(
                [self.settings.start_candidates, self.steps - self.settings.start_candidates], 1
            )
            starts = self._start(drawn)
            held = F.embedding(starts, self.sources.movedim(1, 0).flatten(1)).unflatten(1, self.sources.shape[::2])
            held = held.movedim(1, 0)
        else:
            held = F.pad(reference.to(self.exact).flatten(1, 2).movedim(1, 0), (0, 0, 0, 0, 0, 1))
        barred = barred_pictures(starts, uniforms, self.numbers, self.settings)
        grid = self._sweep(held, uniforms[:, SUBSET_STEPS:], barred)
        index: Tensor = grid.picked[:-1].movedim(1, 0).unflatten(1, self.grid)
        return index

    def _start(self, uniforms: Tensor) -> Tensor:
        """The sources to start with, ``(N,)``: of those drawn the farthest from the mean, the first among equals."""
        drawn = draw(uniforms, self.count)
        order = torch.arange(self.settings.start_candidates, device=drawn.device)
        farthest = (self.distances[drawn] * self.settings.start_candidates - order).argmax(1, keepdim=True)
        return drawn.gather(1, farthest)[:, 0]

    def _sweep(self, held: Tensor, uniforms: Tensor, closed: Tensor | None) -> _Grid:
        """All waves. ``(cells + 1, N, r)`` keys, ``(N, places)`` and the sources ``(N, B)`` that give nothing."""
        assert self.settings.neighbors is not None
        neighbours, sources = self.settings.neighbors, self.sources.to(self.exact)
        norms = sources.square().sum(2)[:, None]  # (A + 1, 1, B)
        beyond = len(sources) - 1

        def compared(keys: Tensor, cells: Tensor | slice) -> Tensor:
            """(n, N, r) -> scores (n, N, B)"""
            vectors = sources[cells]
            return torch.baddbmm(norms[cells], keys.to(self.exact), vectors.transpose(1, 2), alpha=-2).to(self.sums)

        def visit(grid: tuple[Tensor, ...], wave: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            scores, picked, given = grid
            cells, windows, ranks, room = wave
            blocks, written = windows.shape[0], cells.flatten()
            before = picked[written].movedim(1, 0)
            own = picked[cells[:, 0]][:, :, None]
            given = given.scatter_add(1, before, torch.full_like(before, -1, dtype=given.dtype))
            barred = given[:, :-1] > room
            if closed is not None:
                barred = barred | closed
            total = scores[windows.flatten()].unflatten(0, (blocks, -1)).sum(1, dtype=self.sums)
            # A block may keep its source. Nobody's is one more column.
            shut = F.pad(barred.expand_as(total), (0, 1)).scatter(2, own, torch.zeros_like(own, dtype=torch.bool))
            total = total.masked_fill(shut[:, :, :-1], self.barred)
            near = ranked(total).topk(neighbours, 2, largest=False).values
            free = (~shut[:, :, :-1]).sum(2)
            wanted = torch.minimum(ranks, free - 1)[:, :, None]
            picks = near.gather(2, wanted)[:, :, 0].remainder(self.count)
            picks = picks.repeat_interleave(cells.shape[1], 0)
            keys = sources.flatten(0, 1)[written[:, None] * self.count + picks]
            scores = scores.index_put((written,), compared(keys, written))
            picks = torch.where(written[:, None] < beyond, picks, self.count)
            given = given.scatter_add(1, picks.movedim(1, 0), torch.ones_like(before, dtype=given.dtype))
            return scores, picked.index_put((written,), picks), given

        ranks = torch.where(self.first, draw(uniforms.movedim(1, 0), neighbours)[self.places], 0)
        picked = self._allotted(compared(held, slice(None)), closed)
        keys = sources.flatten(0, 1)[torch.arange(beyond + 1)[:, None] * self.count + picked.clamp(max=self.count - 1)]
        keys = torch.where(picked[:, :, None] < self.count, keys, held.to(self.exact))
        taken = picked[:-1].movedim(1, 0)
        given = uniforms.new_zeros((uniforms.shape[0], self.count + 1), dtype=torch.int32)
        given = given.scatter_add(1, taken, torch.ones_like(taken, dtype=given.dtype))
        begun = _Grid(compared(keys, slice(None)), picked, given)
        return _Grid(*each(visit, tuple(begun), tuple(_Wave(self.cells, self.windows, ranks, self.room))))

    def _allotted(self, scores: Tensor, closed: Tensor | None) -> Tensor:
        """What each source gives before the sweeps: scores ``(cells + 1, N, B)`` of the picture that is started with,
        and the sources that give nothing -> ``(cells + 1, N)`` sources, B where none gives.
        """
        nothing = torch.zeros_like(scores[self.all_windows[:, 0]])
        total = each(lambda total, cells: total + scores[cells[0]], nothing, (self.all_windows.T,))
        total = total.movedim(1, 0)  # N x P x B
        if closed is not None:
            total = total.masked_fill(closed[:, None], self.barred)
        best = ranked(total).topk(self.candidates, 2, largest=False).values
        costs, candidates = best.div(self.count, rounding_mode="floor"), best.remainder(self.count)
        regrets, sizes = regrets_of(costs), (self.all_cells < len(self.sources) - 1).sum(1)

        def one_round(asked: Tensor, _: tuple[Tensor, ...]) -> Tensor:
            return ask(candidates, regrets, asked, sizes, self.limit, self.count)

        asked = each(one_round, torch.zeros_like(candidates[:, :, 0]), (sizes.new_zeros(ROUNDS),))
        asked = settled(candidates, regrets, asked, sizes, self.limit, self.count)[:, :, None]
        picks = torch.where(asked < 0, self.count, candidates.gather(2, asked.clamp(min=0)))[:, :, 0].movedim(1, 0)
        everywhere = picks.repeat_interleave(self.all_cells.shape[1], 0)
        nobody = torch.full_like(scores[:, :, 0], self.count, dtype=torch.int64)
        picked = nobody.index_put((self.all_cells.flatten(),), everywhere)
        return torch.cat([picked[:-1], nobody[:1]])
