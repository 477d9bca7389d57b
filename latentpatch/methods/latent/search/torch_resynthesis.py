"""Resynthesis in torch, in eager mode and in graphs.

Memory holds the scores of single cells, |y|^2 - 2 x.y, for all cells and sources: see :mod:`.torch_raster`. One more
cell stands for all cells beyond the grid; its scores are zero, and its source is null: the number of sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....ops.nearest import nearest
from ....runs.interruption import checkpoint
from ..settings import ResynthesisSettings
from .assignment import CANDIDATES, assign
from .bands import band_cuts, capacity
from .prepared import PreparedSources, cell_detail, score_bound
from .resynthesis_schedule import Wave
from .torch_loops import Units, add_at, each, is_exporting, places_together, put, split_places, sum_windows

__all__ = ["Rules", "Step", "Tables", "least_energy", "make_tables", "resynthesize", "rules_of", "step_fillers"]


class Rules(NamedTuple):
    """Limits and costs of a resynthesis.

    Attributes:
        sweeps: number of visits to every block.
        neighbors: number of nearest sources a block is drawn from in the first sweep.
        candidates: number of candidate pictures of a block in the initial assignment.
        limit: capacity of a picture in cells.
        switch_cost: addition to the score of sources that no cell around a block comes from.
        reuse_cost: addition to the score of a source for each cell that its picture gives already.
        excluded_score: score larger than any other, for excluded sources.
        cuts: row of blocks at which each band but the first begins.
    """

    sweeps: int
    neighbors: int
    candidates: int
    limit: int
    switch_cost: int
    reuse_cost: int
    excluded_score: int
    cuts: tuple[int, ...]

    @property
    def bands(self) -> int:
        """The number of bands."""
        return len(self.cuts) + 1


def rules_of(sources: PreparedSources, settings: ResynthesisSettings, norm: int, has_reference: bool) -> Rules:
    """Return the limits and costs of settings for a bank.

    Args:
        sources: the sources.
        settings: resolved settings.
        norm: bound on the norms of all keys.
        has_reference: True where images start with a reference.

    Raises:
        SettingError: where donors of the capacity could not fill the grid.
    """
    height, width = sources.keys.shape[1:3]
    donors, bands = settings.num_donors(sources.pictures, has_reference), settings.bands
    assert bands is not None
    cuts: tuple[int, ...] = ()
    if bands > 1:
        detail = cell_detail(sources.mean, int(settings.unit))
        cuts = band_cuts(detail.sum(1).tolist(), settings.step, bands)
    costs = settings.switch_cost, settings.reuse_cost
    switch, use = (round(cost * sources.spread) if cost else 0 for cost in costs)
    bound = score_bound(settings.window, norm) * (2 if settings.symmetric else 1)
    return Rules(
        settings.sweeps,
        settings.neighbors or 1,
        min(CANDIDATES, donors // (len(cuts) + 1)),
        capacity(settings, (height, width), donors, cuts),
        switch,
        use,
        bound + switch + use * height * width,
        cuts,
    )


class Step(NamedTuple):
    """The M blocks of a wave, with the cells that they compare and write.

    Attributes:
        places: ``(M,)`` number of each block in the order of visits.
        first: ``(M,)`` the first cell of each block.
        windows: ``(M, V)`` cells that are compared.
        around: ``(M, R)`` cells that touch a block.
        written: ``(T,)`` cells that are written.
        writers: ``(T,)`` position, among the M blocks, of the block that writes each cell.
        room: ``(1,)`` most cells that a picture may give already and still have room for the whole wave.
        bands: ``(M,)`` band of each block.
    """

    places: Tensor
    first: Tensor
    windows: Tensor
    around: Tensor
    written: Tensor
    writers: Tensor
    room: Tensor
    bands: Tensor


class Tables(NamedTuple):
    """The blocks of a sweep.

    Attributes:
        windows: ``(P, V)`` cells in which each block is compared, blocks in the order of visits.
        sizes: ``(P,)`` number of cells of each block.
        writers: ``(cells,)`` block of each cell.
        bands: ``(P,)`` band of each block.
    """

    windows: Tensor
    sizes: Tensor
    writers: Tensor
    bands: Tensor


def make_tables(plan: Sequence[Wave], area: int, limit: int, bands: Sequence[int]) -> tuple[Tables, list[Step]]:
    """Return the blocks and waves of a sweep.

    Args:
        plan: the waves.
        area: cells of the grid.
        limit: capacity of a picture in cells.
        bands: of all blocks, in the order of visits: see :func:`.bands.bands_of`.
    """
    steps, band_of = [], torch.tensor(bands)
    blocks = sum(len(wave.places) for wave in plan)
    windows = torch.empty((blocks, plan[0].windows.shape[1]), dtype=torch.int64)
    sizes, owners = torch.zeros(blocks, dtype=torch.int64), torch.zeros(area, dtype=torch.int64)
    for wave in plan:
        cells, places = torch.from_numpy(wave.cells), torch.from_numpy(wave.places)
        writers, positions = (cells < area).nonzero(as_tuple=True)
        written = cells[writers, positions]
        step = Step(
            places,
            cells[:, 0],
            torch.from_numpy(wave.windows),
            torch.from_numpy(wave.around),
            written,
            writers,
            torch.tensor([limit - wave.size]),
            band_of[places],
        )
        steps.append(step)
        windows[places], sizes[places], owners[written] = step.windows, (cells < area).sum(1), places[writers]
    return Tables(windows, sizes, owners, band_of), steps


def step_fillers(area: int) -> tuple[int, ...]:
    """Return the padding value of each field of a step; padded blocks and writes have no effect."""
    return 0, area, area, area, area, 0, 0, 0


def resynthesize(
    units: Units,
    start: Tensor,
    empty: Tensor,
    donor_bands: Tensor | None,
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
        start: ``(cells, N, K)`` initial keys of the images.
        empty: ``(cells + 1, N, B)`` integer buffer for scores; zeros for the last cell.
        donor_bands: ``(N, pictures)`` int64, band that each picture gives to, -1 for none; None where all are donors.
        ranks: ``(blocks, N)`` rank, among the nearest sources, of the source to copy in the first sweep.
        groups: ``(B,)`` int64 picture of each source; sources of one picture are augmentations of it.
        pictures: number of pictures.
        tables: the blocks, on the device of the scores.
        steps: the waves, as a list, or all of them stacked, on that device, too.
        rules: limits and costs.

    Returns:
        ``(cells, N)`` int64 source of each cell.
    """
    search = _Search(donor_bands, groups, pictures, rules, empty.shape[2])
    cells = torch.arange(empty.shape[0] - 1, device=start.device)
    scores = units.compare(empty, cells, start)
    picked = search.assign(scores, tables)
    keys = units.pick(cells, picked.clamp(max=search.count - 1))
    scores = units.compare(scores, cells, torch.where((picked < search.count)[:, :, None], keys, start))
    usage = torch.zeros((empty.shape[1], pictures + 1), dtype=torch.int32, device=start.device)
    usage = add_at(usage, search.groups[picked.T], 1)
    index = F.pad(picked, (0, 0, 0, 1), value=search.count)
    state = search.sweep(units, (scores, index, usage), steps, ranks)
    if rules.sweeps > 1:
        state = search.sweep(units, state, _repeated(steps, rules.sweeps - 1), None)
    return state[1][:-1]


def _repeated(steps: Sequence[Step] | Step, times: int) -> Sequence[Step] | Step:
    """Return the steps repeated a number of times."""
    return Step(*(torch.cat([field] * times) for field in steps)) if isinstance(steps, Step) else [*steps] * times


class _Search:
    """Choice of a source for each block.

    The number of sources stands for the null source, and the number of pictures for the null picture.
    """

    def __init__(self, donor_bands: Tensor | None, groups: Tensor, pictures: int, rules: Rules, count: int) -> None:
        self.donor_bands, self.pictures, self.rules, self.count = donor_bands, pictures, rules, count
        self.groups = F.pad(groups, (0, 1), value=pictures)

    def _together(self, scores: Tensor) -> int:
        """Return the number of blocks to compare at a time; graphs compare all and ignore it."""
        return 1 if is_exporting() else places_together(scores[0].numel(), scores.device)

    def _of_sources(self, of_pictures: Tensor) -> Tensor:
        """Return values of pictures ``(..., pictures)`` expanded to their sources ``(..., B)``."""
        return of_pictures if self.pictures == self.count else of_pictures.index_select(-1, self.groups[:-1])

    def _no_donors(self, bands: Tensor) -> Tensor | None:
        """Return the sources that give nothing to blocks of bands ``(M,)``: ``(M, N, B)``, or ``(N, B)`` for one band.

        None where all sources are donors.
        """
        if self.donor_bands is None:
            return None
        if self.rules.bands == 1:
            return self._of_sources(self.donor_bands) < 0
        return self._of_sources(self.donor_bands) != bands[:, None, None]

    def assign(self, scores: Tensor, tables: Tables) -> Tensor:
        """Return the initial assignment ``(cells, N)`` of cells to sources by :mod:`.assignment`."""

        def best(part: slice) -> Tensor:
            total = sum_windows(scores, tables.windows[part], are_many=True)
            if (excluded := self._no_donors(tables.bands[part])) is not None:
                total = total.masked_fill_(excluded, self.rules.excluded_score)
            return self._best_of_pictures(total)

        ranks = split_places(best, tables.windows.shape[0], self._together(scores)).transpose(0, 1)
        costs, sources = ranks.div(self.count, rounding_mode="floor"), ranks.remainder(self.count)
        chosen = assign(costs, self.groups[sources], tables.sizes, self.rules.limit, self.pictures)
        picks = sources.gather(2, chosen.clamp(min=0)[:, :, None])[:, :, 0]
        picks = torch.where(chosen < 0, self.count, picks)
        return picks[:, tables.writers].T

    def _best_of_pictures(self, total: Tensor) -> Tensor:
        """Return the nearest sources of distinct pictures by scores ``(M, N, B)``.

        The result ``(M, N, candidates)`` holds ``score * B + source`` in ascending order.
        """
        ranks = total.long() * self.count + torch.arange(self.count, device=total.device)
        if self.pictures < self.count:
            best = torch.full_like(ranks[:, :, : self.pictures], torch.iinfo(torch.int64).max)
            ranks = best.scatter_reduce(2, self.groups[:-1].expand_as(ranks), ranks, "amin")
        return ranks.topk(self.rules.candidates, dim=2, largest=False, sorted=True).values

    def sweep(
        self, units: Units, state: tuple[Tensor, ...], steps: Sequence[Step] | Step, ranks: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Replace every block by the block of the nearest source, or of one of the nearest.

        Args:
            units: the sources.
            state: scores ``(cells + 1, N, B)``, sources ``(cells + 1, N)``, and the number of cells from each picture
                ``(N, pictures + 1)``.
            steps: the waves.
            ranks: ``(blocks, N)`` rank of the source to copy among the nearest; None for the nearest.
        """
        area = state[1].shape[0] - 1

        def visit(state: tuple[Tensor, ...], fields: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (scores, index, usage), step = state, Step(*fields)
            usage = add_at(usage, self.groups[index[step.written].T], -1)
            full = self._of_sources(usage[:, :-1] > step.room)
            costs = self._costs(usage, scores.dtype)

            def choose(part: slice) -> Tensor:
                total = sum_windows(scores, step.windows[part])
                if costs is not None:
                    total += costs
                if self.rules.switch_cost:
                    total -= self.rules.switch_cost * self._beside(index[step.around[part]]).to(total.dtype)
                own = index[step.first[part]][:, :, None]
                no_donors = self._no_donors(step.bands[part])
                excluded = full if no_donors is None else full | no_donors
                return self._nearest(total, excluded, own, None if ranks is None else ranks[step.places[part]])

            picks = split_places(choose, step.places.shape[0], self._together(scores))[step.writers]
            scores = units.compare(scores, step.written, units.pick(step.written, picks))
            # The padding of stacked steps writes to the cell beyond the grid, which keeps the null source.
            picks = torch.where((step.written < area)[:, None], picks, self.count)
            return scores, put(index, step.written, picks), add_at(usage, self.groups[picks.T], 1)

        swept: tuple[Tensor, ...] = each(visit, state, steps)
        return swept

    def _costs(self, usage: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return the cost of each source for the cells that its picture gives already ``(N, B)``."""
        return self._of_sources(self.rules.reuse_cost * usage[:, :-1].to(dtype)) if self.rules.reuse_cost else None

    def _beside(self, sources: Tensor) -> Tensor:
        """Return a mask ``(M, N, B)`` of the sources ``(M, R, N)`` of the cells around blocks."""
        sources = sources.movedim(1, 2)
        beside = sources.new_zeros((*sources.shape[:2], self.count + 1), dtype=torch.bool)
        return beside.scatter(2, sources, True)[:, :, :-1]

    def _nearest(self, total: Tensor, excluded: Tensor, own: Tensor, ranks: Tensor | None) -> Tensor:
        """Return the nearest sources ``(M, N)``, or the sources of the ranks ``(M, N)``.

        Args:
            total: ``(M, N, B)`` scores, which are changed in place.
            excluded: ``(N, B)`` or ``(M, N, B)`` bool, sources that the block must not take.
            own: ``(M, N, 1)`` source of each block, which stays allowed because keeping it uses no more cells.
            ranks: ranks from 0 on; None for the nearest.
        """
        inside = own.clamp(max=self.count - 1)
        own_score = total.gather(2, inside)
        total = total.masked_fill_(excluded, self.rules.excluded_score)
        total = total.scatter_(2, inside, torch.where(own < self.count, own_score, total.gather(2, inside)))
        if ranks is None:
            picks: Tensor = nearest(total.flatten(0, 1), 1).view(total.shape[:2])
            return picks
        near = nearest(total.flatten(0, 1), self.rules.neighbors).unflatten(0, total.shape[:2])
        free = (total < self.rules.excluded_score).sum(2)
        picks = near.gather(2, torch.minimum(ranks, free - 1)[:, :, None])[:, :, 0]
        return picks


def least_energy(units: Units, maps: Tensor, tried: int, patch_size: int, stride: int, symmetric: bool) -> Tensor:
    """Return the index map of least energy ``(N, h, w)`` of every ``tried`` maps ``(N tried, h, w)``.

    The energy of a map is the sum, over all cells, of the squared distance between the cell's patch and its source's
    patch. Ties go to the first map.
    """
    if tried == 1:
        return maps
    if is_exporting():
        energies = _energy(units, maps, patch_size, stride, symmetric)
    else:
        parts = []
        for part in maps.split(64):
            checkpoint()
            parts.append(_energy(units, part, patch_size, stride, symmetric))
        energies = torch.cat(parts)
    order = torch.arange(tried, device=maps.device)
    best = (energies.unflatten(0, (-1, tried)) * tried + order).argmin(1)
    grouped = maps.unflatten(0, (-1, tried))
    places = best[:, None, None, None].expand(-1, 1, *maps.shape[1:])
    chosen: Tensor = grouped.gather(1, places)[:, 0]
    return chosen


def _energy(units: Units, maps: Tensor, patch_size: int, stride: int, symmetric: bool) -> Tensor:
    """Return the energy of index maps ``(N, h, w)``: ``(N,)`` int64."""
    height, width = maps.shape[1:]
    numbers = torch.arange(height * width).view(height, width)
    index = maps.flatten(1).T
    keys = units.pick(numbers.flatten(), index)
    before, after = (patch_size - stride + 1) // 2, (patch_size - stride) // 2
    total = torch.zeros_like(index[0])
    for down, right in product(range(-before, after + 1), repeat=2):
        # The source of a cell is compared with the image at this offset from the cell.
        here = numbers[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)].flatten()
        there = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
        for cells in (numbers, numbers.flip(1))[: 2 if symmetric else 1]:
            compared = cells[there].flatten()
            total = total + (units.pick(compared, index[here]) - keys[compared]).square().sum((0, 2), dtype=torch.int64)
    return total
