"""Resynthesis in torch, eagerly and in graphs.

Scores of single cells, |y|^2 - 2 x.y, are kept for all cells and sources: see :mod:`.torch_raster`. Beyond the grid
lies one more cell, whose scores are zero and whose source is nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....ops.nearest import nearest
from ..settings import ResynthesisSettings
from .assignment import CANDIDATES, allot
from .prepared import PreparedSources, score_bound
from .resynthesis_schedule import Wave, capacity
from .torch_loops import Units, add_at, each, places_together, put, split_places, sum_windows

__all__ = ["Rules", "Step", "Tables", "least_energy", "make_tables", "resynthesize", "rules_of", "step_fillers"]


class Rules(NamedTuple):
    """What limits and costs there are.

    Attributes:
        sweeps: how often every block is visited.
        neighbours: number of nearest sources a block is drawn from in the first sweep.
        candidates: number of pictures that a block may be assigned to beforehand.
        limit: cells a picture gives at most.
        switch_cost: added to the score of sources that none of the cells around a block comes from.
        use_cost: added to the score of a source for each cell its picture gave.
        excluded: a score larger than any other, for sources that may not give.
    """

    sweeps: int
    neighbours: int
    candidates: int
    limit: int
    switch_cost: int
    use_cost: int
    excluded: int


def rules_of(sources: PreparedSources, settings: ResynthesisSettings, norm: int, given: bool) -> Rules:
    """Return limits and costs.

    Args:
        sources: the sources.
        settings: resolved.
        norm: bound on the norms of all keys.
        given: whether a reference is given.

    Raises:
        ValueError: where the sources could not fill the grid.
    """
    height, width = sources.keys.shape[1:3]
    costs = settings.switch_cost, settings.reuse_cost
    switch, use = (round(cost * sources.spread) if cost else 0 for cost in costs)
    bound = score_bound(settings.patch_size, norm) * (2 if settings.symmetric else 1)
    return Rules(
        settings.sweeps,
        settings.neighbors or 1,
        min(CANDIDATES, settings.num_donors(sources.pictures, given)),
        capacity(settings, (height, width), sources.pictures, given),
        switch,
        use,
        bound + switch + use * height * width,
    )


class Step(NamedTuple):
    """What the M blocks of a wave compare and write.

    Attributes:
        places: ``(M,)`` number of each block in the order of visits.
        first: ``(M,)`` the first cell of each block.
        windows: ``(M, V)`` cells that are compared.
        around: ``(M, R)`` cells that touch a block.
        written: ``(T,)`` cells that are written.
        writers: ``(T,)`` which of the M blocks writes each.
        room: ``(1,)`` cells a picture may have given so that it may still give all of the wave.
    """

    places: Tensor
    first: Tensor
    windows: Tensor
    around: Tensor
    written: Tensor
    writers: Tensor
    room: Tensor


class Tables(NamedTuple):
    """The blocks of a sweep.

    Attributes:
        windows: ``(P, V)`` cells that each block is compared in, blocks in the order of visits.
        sizes: ``(P,)`` number of cells of each block.
        writers: ``(cells,)`` the block that each cell is part of.
    """

    windows: Tensor
    sizes: Tensor
    writers: Tensor


def make_tables(plan: Sequence[Wave], area: int, limit: int) -> tuple[Tables, list[Step]]:
    """Return the blocks and the waves of a sweep over a grid of so many cells, of which a picture gives a limit."""
    steps = []
    blocks = sum(len(wave.places) for wave in plan)
    windows = torch.empty((blocks, plan[0].windows.shape[1]), dtype=torch.int64)
    sizes, owners = torch.zeros(blocks, dtype=torch.int64), torch.zeros(area, dtype=torch.int64)
    for wave in plan:
        cells, places = torch.from_numpy(wave.cells), torch.from_numpy(wave.places)
        writers, columns = (cells < area).nonzero(as_tuple=True)
        written = cells[writers, columns]
        step = Step(
            places,
            cells[:, 0],
            torch.from_numpy(wave.windows),
            torch.from_numpy(wave.around),
            written,
            writers,
            torch.tensor([limit - wave.size]),
        )
        steps.append(step)
        windows[places], sizes[places], owners[written] = step.windows, (cells < area).sum(1), places[writers]
    return Tables(windows, sizes, owners), steps


def step_fillers(area: int) -> tuple[int, ...]:
    """Return what pads each field of steps, so that more blocks and writes change nothing."""
    return 0, area, area, area, area, 0, 0


def resynthesize(
    units: Units,
    start: Tensor,
    empty: Tensor,
    barred: Tensor | None,
    ranks: Tensor,
    groups: Tensor,
    pictures: int,
    tables: Tables,
    steps: Sequence[Step] | Step,
    rules: Rules,
) -> Tensor:
    """Rebuild images from sources: assign all blocks, then sweep over them.

    Args:
        units: the sources; a unit is a cell.
        start: ``(cells, N, K)`` keys that the images start with.
        empty: ``(cells + 1, N, B)`` integers to hold scores; zeros for the last cell.
        barred: ``(N, pictures)`` bool, pictures that give nothing; None for none.
        ranks: ``(blocks, N)`` which of the nearest sources is copied in the first sweep.
        groups: ``(B,)`` int64 number of the picture that each source is a variant of.
        pictures: number of pictures.
        tables: the blocks.
        steps: the waves, as a list, or all of them stacked.
        rules: limits and costs.

    Returns:
        ``(cells, N)`` int64 sources.
    """
    search = _Search(barred, groups, pictures, rules, empty.shape[2])
    cells = torch.arange(empty.shape[0] - 1, device=start.device)
    scores = units.compare(empty, cells, start)
    picked = search.assign(scores, tables)
    keys = units.pick(cells, picked.clamp(max=search.count - 1))
    scores = units.compare(scores, cells, torch.where((picked < search.count)[:, :, None], keys, start))
    given = torch.zeros((empty.shape[1], pictures + 1), dtype=torch.int32, device=start.device)
    given = add_at(given, search.groups[picked.T], 1)
    index = F.pad(picked, (0, 0, 0, 1), value=search.count)
    state = search.sweep(units, (scores, index, given), steps, ranks)
    if rules.sweeps > 1:
        state = search.sweep(units, state, _repeated(steps, rules.sweeps - 1), None)
    return state[1][:-1]


def _repeated(steps: Sequence[Step] | Step, times: int) -> Sequence[Step] | Step:
    """Return steps several times, one after the other."""
    return Step(*(torch.cat([field] * times) for field in steps)) if isinstance(steps, Step) else [*steps] * times


class _Search:
    """Which source each block takes. Nobody is the number of sources, or of pictures."""

    def __init__(self, barred: Tensor | None, groups: Tensor, pictures: int, rules: Rules, count: int) -> None:
        self.barred, self.pictures, self.rules, self.count = barred, pictures, rules, count
        self.groups = F.pad(groups, (0, 1), value=pictures)

    def _together(self, scores: Tensor) -> int:
        """Return how many blocks are compared at a time; in graphs all are."""
        return 1 if torch.compiler.is_exporting() else places_together(scores[0].numel())

    def _of_sources(self, of_pictures: Tensor) -> Tensor:
        """Return what is known of pictures ``(N, pictures)`` for each source ``(N, B)``."""
        return of_pictures if self.pictures == self.count else of_pictures[:, self.groups[:-1]]

    def assign(self, scores: Tensor, tables: Tables) -> Tensor:
        """Return sources ``(cells, N)`` for images that are compared as they start, see :mod:`.assignment`."""

        def best(some: slice) -> Tensor:
            total = sum_windows(scores, tables.windows[some], many=True)
            if self.barred is not None:
                total = total.masked_fill_(self._of_sources(self.barred), self.rules.excluded)
            return self._best_of_pictures(total)

        ranks = split_places(best, tables.windows.shape[0], self._together(scores)).transpose(0, 1)
        costs, sources = ranks.div(self.count, rounding_mode="floor"), ranks.remainder(self.count)
        asked = allot(costs, self.groups[sources], tables.sizes.to(ranks.device), self.rules.limit, self.pictures)
        picks = sources.gather(2, asked.clamp(min=0)[:, :, None])[:, :, 0]
        picks = torch.where(asked < 0, self.count, picks)
        return picks[:, tables.writers].T

    def _best_of_pictures(self, total: Tensor) -> Tensor:
        """Return the nearest sources by scores ``(M, N, B)``, no two of a picture, as ``score * B + source``:
        ``(M, N, candidates)`` in order.
        """
        ranks = total.long() * self.count + torch.arange(self.count, device=total.device)
        if self.pictures < self.count:
            best = torch.full_like(ranks[:, :, : self.pictures], torch.iinfo(torch.int64).max)
            ranks = best.scatter_reduce(2, self.groups[:-1].expand_as(ranks), ranks, "amin")
        return ranks.topk(self.rules.candidates, dim=2, largest=False, sorted=True).values

    def sweep(
        self, units: Units, state: tuple[Tensor, ...], steps: Sequence[Step] | Step, ranks: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Replace every block by the nearest source's, or by one of the nearest.

        Args:
            units: the sources.
            state: scores ``(cells + 1, N, B)``, sources ``(cells + 1, N)``, and how many cells each picture has given,
                ``(N, pictures + 1)``.
            steps: the waves.
            ranks: ``(blocks, N)`` which of the nearest sources each block takes; None for the nearest.
        """
        area = state[1].shape[0] - 1

        def visit(state: tuple[Tensor, ...], fields: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (scores, index, given), step = state, Step(*fields)
            given = add_at(given, self.groups[index[step.written].T], -1)
            barred = given[:, :-1] > step.room.to(given.device)
            if self.barred is not None:
                barred = barred | self.barred
            barred, costs = self._of_sources(barred), self._costs(given, scores.dtype)

            def choose(some: slice) -> Tensor:
                total = sum_windows(scores, step.windows[some])
                if costs is not None:
                    total += costs
                if self.rules.switch_cost:
                    total -= self.rules.switch_cost * self._beside(index[step.around[some]]).to(total.dtype)
                own = index[step.first[some]][:, :, None]
                return self._nearest(total, barred, own, None if ranks is None else ranks[step.places[some]])

            picks = split_places(choose, step.places.shape[0], self._together(scores))[step.writers]
            scores = units.compare(scores, step.written, units.pick(step.written, picks))
            # A cell beyond the grid stays nobody's: graphs write there what pads their tables.
            picks = torch.where((step.written < area).to(picks.device)[:, None], picks, self.count)
            return scores, put(index, step.written, picks), add_at(given, self.groups[picks.T], 1)

        swept: tuple[Tensor, ...] = each(visit, state, steps)
        return swept

    def _costs(self, given: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return what it costs that pictures gave much already: ``(N, B)``."""
        return self._of_sources(self.rules.use_cost * given[:, :-1].to(dtype)) if self.rules.use_cost else None

    def _beside(self, sources: Tensor) -> Tensor:
        """Return which sources cells around blocks come from: ``(M, R, N)`` -> ``(M, N, B)`` bool."""
        sources = sources.movedim(1, 2)
        beside = sources.new_zeros((*sources.shape[:2], self.count + 1), dtype=torch.bool)
        return beside.scatter(2, sources, True)[:, :, :-1]

    def _nearest(self, total: Tensor, barred: Tensor, own: Tensor, ranks: Tensor | None) -> Tensor:
        """Return the nearest sources ``(M, N)``, or those of some ranks ``(M, N)``.

        Args:
            total: ``(M, N, B)`` scores; changed.
            barred: ``(N, B)`` bool, sources that may not give.
            own: ``(M, N, 1)`` the source of each block, which it may keep: that gives no more than before.
            ranks: from 0 on.
        """
        inside = own.clamp(max=self.count - 1)
        kept = total.gather(2, inside)
        total = total.masked_fill_(barred, self.rules.excluded)
        total = total.scatter_(2, inside, torch.where(own < self.count, kept, total.gather(2, inside)))
        if ranks is None:
            picks: Tensor = nearest(total.flatten(0, 1), 1).view(total.shape[:2])
            return picks
        near = nearest(total.flatten(0, 1), self.rules.neighbours).unflatten(0, total.shape[:2])
        free = (total < self.rules.excluded).sum(2)
        picks = near.gather(2, torch.minimum(ranks, free - 1)[:, :, None])[:, :, 0]
        return picks


def least_energy(units: Units, maps: Tensor, tried: int, patch_size: int, stride: int, symmetric: bool) -> Tensor:
    """Return of every ``tried`` index maps ``(N tried, h, w)`` the one with the least energy: ``(N, h, w)``.

    The energy of a map is the squared distances of all cells' patches to those of their sources, added up; the first
    map is taken among equals.
    """
    if tried == 1:
        return maps
    if torch.compiler.is_exporting():
        energies = _energy(units, maps, patch_size, stride, symmetric)
    else:
        energies = torch.cat([_energy(units, some, patch_size, stride, symmetric) for some in maps.split(64)])
    order = torch.arange(tried, device=maps.device)
    best = (energies.unflatten(0, (-1, tried)) * tried + order).argmin(1)
    grouped = maps.unflatten(0, (-1, tried))
    places = best[:, None, None, None].expand(-1, 1, *maps.shape[1:])
    kept: Tensor = grouped.gather(1, places)[:, 0]
    return kept


def _energy(units: Units, maps: Tensor, patch_size: int, stride: int, symmetric: bool) -> Tensor:
    """Return the energy of index maps ``(N, h, w)``: ``(N,)`` int64."""
    height, width = maps.shape[1:]
    numbers = torch.arange(height * width).view(height, width)
    index = maps.flatten(1).T
    held = units.pick(numbers.flatten(), index)
    before, after = (patch_size - stride + 1) // 2, (patch_size - stride) // 2
    total = torch.zeros_like(index[0])
    for down, right in product(range(-before, after + 1), repeat=2):
        # A cell's source, as it is that far off, against what the image holds there.
        here = numbers[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)].flatten()
        there = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
        for seen in (numbers, numbers.flip(1))[: 2 if symmetric else 1]:
            off = seen[there].flatten()
            total = total + (units.pick(off, index[here]) - held[off]).square().sum((0, 2), dtype=torch.int64)
    return total
