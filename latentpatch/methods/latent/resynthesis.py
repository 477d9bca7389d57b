"""A source made again from the others, patch by patch: recombination that keeps what holds a picture together.

The raster sampler decides the whole of a picture by what happens to fit at its seams. Here a source drawn at random
says what belongs together. Some of the others, drawn anew for each picture, make it again: first each place is given to
the source whose patch is nearest there, as far as shares allow (:mod:`.allotment`); then sweeps over the grid replace
every block by that of the source whose patch around it is nearest, with all surroundings in place, as in the iterations
of Kwatra et al. (2005) and of GPNN (Granot et al. 2022), but for patches at the same place. The first source itself
gives nothing, or a share like others. Variants of a picture count as one source in this.

What belongs together is often left and right: both eyes have glasses, or none has. A patch knows nothing of the other
side. So a block and the one where a mirror would show it are compared and copied as one, from the sides to the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import floor, prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...ops.nearest import nearest
from ...ops.noise import draw
from ...validation import check_noise, check_reference
from ..base import Context, Sampler, window_size
from .search import numba_backend as cpu
from .search.assignment import CANDIDATES, ROUNDS, allot
from .search.keys import exact_dtype
from .search.prepared import MAX_MEMORY, PreparedSources, longest, score_bound
from .settings import ResynthesisSettings

__all__ = ["Resynthesis", "ResynthesisSettings", "resynthesis", "resynthesis_steps"]

CELL_WORK = 128  # cost of a cell besides its windows, in compared window cells; measured
ENERGY_WORK = 8  # cost of a window cell of an image's energy, in compared window cells; measured
SUBSET_STEPS = 1  # uniforms that a picture's subset is drawn with
_STREAMS = 1 << 24  # as many as floating point numbers of 32 bits tell apart
_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class Wave:
    """Blocks that do not see each other, resampled together.

    Attributes:
        cells: ``(blocks, w^2)`` flat cells that are written, or twice as many where blocks are pairs; the number of
            cells of the grid where a block is cut.
        windows: ``(blocks, omega^2)`` flat cells that are compared, likewise; of pairs those in the middle count twice.
        around: ``(blocks, 4 w)`` flat cells that touch a block's sides, likewise.
        places: ``(blocks,)`` number of each block in the order of visits.
        size: cells of the grid that are written.
    """

    cells: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    around: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    size: int


@lru_cache(maxsize=64)
def waves(grid: tuple[int, int], patch_size: int, stride: int, symmetric: bool) -> tuple[Wave, ...]:
    """A sweep, as far as blocks see what was written, told in waves of blocks that do not see each other.

    A block sees those before it as they are after this sweep, and those after it as they were. They are visited row by
    row, from left to right, or in pairs from both sides to the middle. Each belongs to the first wave that leaves this
    as it is.
    """
    before = (patch_size - stride + 1) // 2
    area = grid[0] * grid[1]
    rows, columns = _blocks(grid, stride, symmetric)
    written, read = np.zeros(area + 1, dtype=int), np.zeros(area + 1, dtype=int)  # the wave after that which last did
    found: list[list[tuple[list[int], list[int], list[int], int]]] = []
    for place, (row, column) in enumerate(product(range(rows), range(columns))):
        top, left = row * stride, column * stride
        block = _flat(grid, top, left, stride)
        window = _flat(grid, top - before, left - before, patch_size)
        if symmetric:
            block = [cell if cell % grid[1] < _width(grid, symmetric) else area for cell in block]
            other = [_mirrored(grid, cell) for cell in block]
            block += [area if cell in block else cell for cell in other]  # the middle column is its own image
            window += [_mirrored(grid, cell) for cell in window]
        ring = _around(grid, block, 4 * stride * (2 if symmetric else 1))
        seen = [cell for cell in window + ring if cell < area]
        inside = [cell for cell in block if cell < area]
        # What is read together with what replaces it is read before.
        number = int(max(written[seen].max(), written[inside].max(), read[inside].max() - 1))
        written[inside] = number + 1
        read[seen] = np.maximum(read[seen], number + 1)
        found.extend([] for _ in range(number + 1 - len(found)))
        found[number].append((block, window, ring, place))
    result = []
    for members in found:
        cells, windows, around, places = (np.array(part) for part in zip(*members, strict=True))
        result.append(Wave(cells, windows, around, places, int((cells < area).sum())))
    return tuple(result)


def tables(plan: tuple[Wave, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ``cells`` and ``windows`` of all blocks, in the order of visits."""
    order = np.argsort(np.concatenate([wave.places for wave in plan]))
    return np.concatenate([wave.cells for wave in plan])[order], np.concatenate([wave.windows for wave in plan])[order]


def _blocks(grid: tuple[int, int], stride: int, symmetric: bool) -> tuple[int, int]:
    """Rows and columns of blocks, or of pairs of them."""
    return -(-grid[0] // stride), -(-_width(grid, symmetric) // stride)


def _width(grid: tuple[int, int], symmetric: bool) -> int:
    """Columns of the grid that blocks begin in: of pairs the left half, with the column in the middle."""
    return -(-grid[1] // 2) if symmetric else grid[1]


def _mirrored(grid: tuple[int, int], cell: int) -> int:
    """The flat cell that a mirror shows a flat cell at, left and right exchanged."""
    height, width = grid
    return cell if cell == height * width else cell - cell % width + width - 1 - cell % width


def plan_of(settings: ResynthesisSettings, grid: tuple[int, int]) -> tuple[Wave, ...]:
    """The :func:`waves` of a sweep."""
    return waves(grid, settings.patch_size, settings.stride, settings.symmetric)


def _around(grid: tuple[int, int], block: list[int], most: int) -> list[int]:
    """Flat cells that touch the sides of a block's, and the number of cells to make them so many."""
    height, width = grid
    inside = {divmod(cell, width) for cell in block if cell < height * width}
    steps = (-1, 0), (1, 0), (0, -1), (0, 1)
    ring = {(row + down, column + right) for row, column in inside for down, right in steps} - inside
    found = sorted(row * width + column for row, column in ring if 0 <= row < height and 0 <= column < width)
    return found + [height * width] * (most - len(found))


def _flat(grid: tuple[int, int], top: int, left: int, side: int) -> list[int]:
    """Flat cells of a square, the number of cells for those beyond the grid."""
    height, width = grid
    return [
        row * width + column if 0 <= row < height and 0 <= column < width else height * width
        for row in range(top, top + side)
        for column in range(left, left + side)
    ]


def resynthesis_steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool = False) -> int:
    """Uniforms the sampler takes for one image.

    Raises:
        ValueError: where a patch, which is cut at the border, would cover the grid from any place in it.
    """
    most = 2 * min(grid) - 1
    if settings.patch_size > most:
        shape = f"{grid[0]}x{grid[1]}"
        raise SettingError("patch_size", settings.patch_size, f"at most {most}, which covers the {shape} grid")
    return settings.best_of * _steps(grid, settings, reference)


def _steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool) -> int:
    """Uniforms for one of the pictures that are made for one."""
    blocks = prod(_blocks(grid, settings.stride, settings.symmetric))
    return blocks + SUBSET_STEPS + (0 if reference else settings.start_candidates)


@torch.no_grad()
def resynthesis(
    keys: Tensor | PreparedSources,
    noise: Tensor,
    settings: ResynthesisSettings | None = None,
    reference: Tensor | None = None,
    *,
    memory: int = MAX_MEMORY,
    backend: str | None = None,
) -> Tensor:
    """Make a random source, or a reference, again from patches of the (other) sources.

    Arithmetic is exact and ties go to the lower source: an image depends on its own noise alone.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or those with what earlier searches prepared.
        noise: ``(N, steps)`` uniforms in [0, 1), ``steps`` from :func:`resynthesis_steps`.
        settings: defaults where None.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys to start with instead of a source.
        memory: bound in bytes on the scores kept at a time: images go in groups that keep it, of one at least.
        backend: ``torch`` or ``numba`` (:mod:`.cpu`); where None, Numba on CPUs where it is installed and can do what
            is asked.

    Returns:
        ``(N, h, w)`` int64: which source each cell comes from.

    Raises:
        ValueError: where shapes, settings and bank do not go together, keys are too long, or the backend is unknown
            or cannot do it.
    """
    cpu.check_backend(backend, ("torch", "numba"))
    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
    bank = sources.keys
    height, width = bank.shape[1:3]
    count = sources.pictures
    given = reference is not None
    settings = (settings or ResynthesisSettings()).resolved(count, given)
    settings.check_sources(count, given)
    steps = resynthesis_steps((height, width), settings, given)
    check_noise(noise, steps)
    check_reference(reference, bank, len(noise))
    rules = _Rules(
        settings,
        settings.neighbors or 1,
        min(CANDIDATES, settings.num_donors(count, given)),
        _limit(settings, (height, width), count, given),
        *_costs(sources, settings),
    )
    norm = max(sources.norm, 0 if reference is None else longest(reference))
    compiled = cpu.chosen(backend, sources, rules.neighbours, [((height, width), 1)])
    sums = _sums(rules, norm, height * width)
    group = max(1, memory // (sums.itemsize * (height * width + 2) * len(bank)))
    maps = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    tried = settings.best_of
    noise = noise.reshape(len(noise) * tried, steps // tried)
    # Autocast would round the integers.
    with torch.autocast(noise.device.type, enabled=False):
        for some in torch.arange(len(noise), device=noise.device).split(group) if len(noise) else ():
            uniforms = noise[some]
            if reference is None:
                first = _start(sources, uniforms[:, : settings.start_candidates])
                start, uniforms = bank[first], uniforms[:, settings.start_candidates :]
            else:
                first, start = None, reference.expand(len(noise) // tried, -1, -1, -1)[some // tried]
            first = None if first is None else sources.groups[first]
            barred = barred_pictures(first, uniforms, torch.arange(count, device=noise.device), settings)
            uniforms = uniforms[:, SUBSET_STEPS:]
            if compiled:
                maps.append(_compiled(sources, start, barred, norm, rules, sums, uniforms))
            else:
                maps.append(_Sweeps(sources, start, barred, norm, sums, rules).run(uniforms))
        return _least_energy(torch.cat(maps), bank, settings)


class Resynthesis(Sampler):
    """Rebuild a randomly drawn source, or a reference, from patches of the other sources."""

    name = "resynthesis"
    Settings = ResynthesisSettings
    inputs = ("bank", "reference")
    accepts_reference = True
    is_exportable = True
    default_decoding = "blend"

    def resolve(self, settings: ResynthesisSettings, context: Context) -> ResynthesisSettings:
        return settings.resolved(context.num_sources, context.has_reference)

    def validate(self, settings: ResynthesisSettings, context: Context) -> None:
        super().validate(settings, context)
        settings.check_sources(context.num_sources, context.has_reference)

    def noise_dim(self, settings: ResynthesisSettings, context: Context) -> int:
        return resynthesis_steps(context.grid, settings, context.has_reference)

    def work(self, settings: ResynthesisSettings, context: Context) -> int:
        (height, width), stride = context.grid, settings.stride
        window = window_size(context.grid, settings.patch_size)
        blocks = -(-height // stride) * -(-width // stride)
        cell = CELL_WORK + (ENERGY_WORK * window if settings.best_of > 1 else 0)
        # The assignment compares as much as a sweep.
        return round(settings.best_of * (height * width * cell + blocks * window * (settings.sweeps + 1)))

    def sample(
        self,
        sources: PreparedSources,
        noise: Tensor,
        settings: ResynthesisSettings,
        reference: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return resynthesis(sources, noise, settings, reference)

    def traceable(self, sources: PreparedSources, settings: ResynthesisSettings, has_reference: bool) -> nn.Module:
        from ...export.resynthesis import TraceableResynthesis

        if sources.pictures < len(sources.keys):
            raise SettingError("sources", "augmented copies", "neither mirrored nor moved, to export resynthesis")
        return TraceableResynthesis(sources.keys, settings, has_reference)


class _Rules(NamedTuple):
    """Settings, with what follows from them and the sources in keys' units."""

    settings: ResynthesisSettings
    neighbours: int
    candidates: int
    limit: int  # cells one source gives at most
    switch: int
    use: int


def _costs(sources: PreparedSources, settings: ResynthesisSettings) -> tuple[int, int]:
    """Of a switch and of a use, as squared distances."""
    if not settings.switch_cost and not settings.reuse_cost:
        return 0, 0
    return round(settings.switch_cost * sources.spread), round(settings.reuse_cost * sources.spread)


def window_bound(settings: ResynthesisSettings, norm: int) -> int:
    """On the magnitude of scores over all that a block is compared in: see :func:`~.sources.score_bound`."""
    return score_bound(settings.patch_size, norm) * (2 if settings.symmetric else 1)


def _sums(rules: _Rules, norm: int, area: int) -> torch.dtype:
    """The integers that hold sums of scores over windows, and costs."""
    most = window_bound(rules.settings, norm) + rules.switch + rules.use * area
    return torch.int32 if most < 1 << 31 else torch.int64


def _least_energy(maps: Tensor, bank: Tensor, settings: ResynthesisSettings) -> Tensor:
    """Of every ``best_of`` index maps the one with the least energy, the first among equals. -> (N, h, w)"""
    if settings.best_of == 1 or not len(maps):
        return maps
    energies = torch.cat([_energy(some, bank, settings) for some in maps.split(64)])
    energies = energies.view(-1, settings.best_of)
    ordered = energies * settings.best_of + torch.arange(settings.best_of, device=maps.device)
    best: Tensor = maps.unflatten(0, energies.shape)[torch.arange(len(energies), device=maps.device), ordered.argmin(1)]
    return best


def _energy(maps: Tensor, bank: Tensor, settings: ResynthesisSettings) -> Tensor:
    """Squared distances of all cells' patches to those of their sources, added up. -> (N,) int64"""
    height, width = maps.shape[1:]
    rows, columns = torch.arange(height, device=maps.device)[:, None], torch.arange(width, device=maps.device)
    held = bank[maps, rows, columns].int()
    before, after = (settings.patch_size - settings.stride + 1) // 2, (settings.patch_size - settings.stride) // 2
    total = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    sides = [(columns, held), (columns.flip(0), held.flip(2))][: 2 if settings.symmetric else 1]
    for down, right in product(range(-before, after + 1), repeat=2):
        # A cell's source, as it is that far off, against what the picture holds there.
        here = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
        there = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
        for across, shown in sides:
            own = bank[maps[:, here[0], here[1]], rows[there[0]], across[there[1]]].int()
            total += (own - shown[:, there[0], there[1]]).square().sum((1, 2, 3))
    return total


def _compiled(
    sources: PreparedSources,
    start: Tensor,
    barred: Tensor | None,
    norm: int,
    rules: _Rules,
    sums: torch.dtype,
    uniforms: Tensor,
) -> Tensor:
    """All sweeps in Numba. -> (N, h, w)"""
    settings, size = rules.settings, (start.shape[1], start.shape[2])
    known = np.ones(size, dtype=bool)
    scan = cpu.Scan(
        sources, size, 1, start, known, norm, sums, rules.limit, barred, switch_cost=rules.switch, use_cost=rules.use
    )
    walk, order = _walk(size, settings.patch_size, settings.stride, settings.symmetric)
    scan.allot(walk, order, rules.candidates, ROUNDS)
    ranks = draw(uniforms, rules.neighbours)[:, order]
    for sweep in range(settings.sweeps):
        scan.run(walk, ranks, ranks, rules.neighbours if sweep == 0 else 1)
    return scan.picks()


@lru_cache(maxsize=64)
def _walk(grid: tuple[int, int], patch_size: int, stride: int, symmetric: bool) -> tuple[cpu.Walk, Tensor]:
    """A sweep, and which of the blocks, in the order of visits, it takes after another."""
    plan = waves(grid, patch_size, stride, symmetric)
    area = grid[0] * grid[1]
    found = [
        [
            cpu.Place(window[window < area].tolist(), cells[cells < area].tolist(), around[around < area].tolist())
            for window, cells, around in zip(wave.windows, wave.cells, wave.around, strict=True)
        ]
        for wave in plan
    ]
    return cpu.walk_of(found), torch.from_numpy(np.concatenate([wave.places for wave in plan]))


def _limit(settings: ResynthesisSettings, grid: tuple[int, int], count: int, given: bool) -> int:
    """Cells one source gives at most.

    Raises:
        ValueError: where the sources could then not fill the grid.
    """
    assert settings.max_share is not None
    area, givers = grid[0] * grid[1], settings.num_donors(count, given)
    limit = floor(settings.max_share * area)
    most = max(wave.size for wave in plan_of(settings, grid))
    # Before a wave is written, all but its cells are taken, and each source's room must hold the whole wave.
    if limit < area and givers * (limit - most + 1) <= area - most:
        least = min(1.0, (-(-(area - most + 1) // givers) + most) / area)
        raise SettingError(
            "max_share", settings.max_share, f"at least {least:.3g}, so that {givers} sources can fill an image"
        )
    return limit


def _start(sources: PreparedSources, uniforms: Tensor) -> Tensor:
    """The sources to start with: of some drawn uniformly from those not moved, the farthest from the mean of all.
    -> (N,) int64
    """
    bank = sources.keys
    drawn = draw(uniforms, len(bank)) if sources.starts is None else sources.starts[draw(uniforms, len(sources.starts))]
    if drawn.shape[1] == 1:
        return drawn[:, 0]
    used, where = drawn.unique(return_inverse=True)
    distances = torch.cat([(bank[some].long() - sources.mean).square().flatten(1).sum(1) for some in used.split(64)])
    farthest = (distances[where] * drawn.shape[1] - torch.arange(drawn.shape[1], device=drawn.device)).argmax(1)
    return drawn.gather(1, farthest[:, None])[:, 0]  # the first drawn among equals


def barred_pictures(
    first: Tensor | None, uniforms: Tensor, numbers: Tensor, settings: ResynthesisSettings
) -> Tensor | None:
    """Which pictures give nothing: ``(N, B)`` bool, None where all may give.

    Args:
        first: ``(N,)`` those that are started with.
        uniforms: ``(N, SUBSET_STEPS)`` to draw the others with; there may be more.
        numbers: ``(B,)`` int64, those of all pictures, from 0 on. In a graph they must be data: AOTInductor multiplies
            numbers that it counts up itself in 32 bits.
        settings: whether that which is started with gives, and how many do.
    """
    count = numbers.shape[0]
    givers = settings.num_donors(count, first is None)
    if givers == count:
        return None
    images = uniforms.shape[0]  # len would be one number in a graph
    ranks = _shuffled(draw(uniforms[:, :1], _STREAMS), numbers) * count + numbers
    if first is not None:
        ranks = ranks.scatter(1, first[:, None], -1 if settings.allow_start_as_donor else _PRIME * count)
    giving = ranks.topk(givers, dim=1, largest=False).indices
    return uniforms.new_ones((images, count), dtype=torch.bool).scatter(1, giving, False)


def _shuffled(stream: Tensor, numbers: Tensor) -> Tensor:
    """Numbers that look random, for each stream others, all from 0 to a prime less one.

    Two rounds of x^5, which permutes them, in integers of 64 bits: the same on every device, and in graphs.
    """
    once = _fifth_power(stream * 1_618_033 + numbers * 271_828_183 + 1)
    return _fifth_power(once + stream * 141_421_356 + numbers * 577_215_664)


def _fifth_power(x: Tensor) -> Tensor:
    x = x % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME


class _Sweeps:
    """Some images on their way.

    Scores of single cells, |y|^2 - 2 x.y, are kept for all cells and sources; a row of zeros stands for what is
    beyond the grid.
    """

    def __init__(
        self,
        sources: PreparedSources,
        start: Tensor,
        barred: Tensor | None,
        norm: int,
        sums: torch.dtype,
        rules: _Rules,
    ) -> None:
        bank = sources.keys
        self.count, self.height, self.width = bank.shape[:3]
        self.images, self.area = len(start), self.height * self.width
        self.rules, self.settings, self.barred = rules, rules.settings, barred
        self.exact = exact_dtype(score_bound(1, norm))
        # More than any window's.
        self.beyond = window_bound(self.settings, norm) + rules.switch + rules.use * self.area
        self.bank, self.costs, self.pictures = bank, sources.costs, sources.pictures
        nobody = sources.groups.new_full((1,), sources.pictures)
        self.groups = torch.cat([sources.groups, nobody])  # the last for the index -1
        self.scores = torch.zeros((self.area + 1, self.images, self.count), dtype=sums, device=bank.device)
        for row in torch.arange(self.area, device=bank.device).split(self.width):
            self._compare(row, start[:, row[0] // self.width].transpose(0, 1))
        self.index = torch.full((self.area + 1, self.images), -1, dtype=torch.int64, device=bank.device)
        # Of each picture, by all its variants; last, those that no source gave.
        self.given = torch.zeros((self.images, self.pictures + 1), dtype=torch.int32, device=bank.device)
        self._allot(start)

    def run(self, uniforms: Tensor) -> Tensor:
        """All sweeps. -> (N, h, w)"""
        ranks = draw(uniforms, self.rules.neighbours)
        plan = plan_of(self.settings, (self.height, self.width))
        for sweep in range(self.settings.sweeps):
            for wave in plan:
                self._resample(wave, ranks[:, wave.places] if sweep == 0 else None)
        return self.index[:-1].T.reshape(self.images, self.height, self.width).contiguous()

    def _allot(self, start: Tensor) -> None:
        """Fill the grid with what each source gives of the picture ``(N, h, w, r)`` that is started with."""
        device, size = self.scores.device, (self.height, self.width)
        cells, windows = (torch.from_numpy(table).to(device) for table in tables(plan_of(self.settings, size)))
        ranks = torch.cat([self._best_of_pictures(some) for some in windows.split(max(1, len(windows) // 8))], 1)
        costs, sources = ranks.div(self.count, rounding_mode="floor"), ranks.remainder(self.count)
        sizes = (cells < self.area).sum(1)
        asked = allot(costs, self.groups[sources], sizes, self.rules.limit, self.pictures)
        picks = torch.where(asked < 0, asked, sources.gather(2, asked.clamp(min=0)[:, :, None])[:, :, 0])
        self.index[cells.flatten()] = picks.T.repeat_interleave(cells.shape[1], 0)
        self.index[-1] = -1
        index = self.index[:-1].T
        self.given.scatter_add_(1, self.groups[index], torch.ones_like(index, dtype=torch.int32))
        for row in torch.arange(self.area, device=device).split(self.width):
            picked, wanted = self.index[row], start[:, row[0] // self.width].transpose(0, 1)
            held = self._keys(picked.clamp(min=0), row)
            self._compare(row, torch.where(picked[:, :, None] < 0, wanted, held))

    def _best_of_pictures(self, windows: Tensor) -> Tensor:
        """Of windows ``(P, cells)`` the nearest sources, no two of a picture, as ``score * B + source``: ``(N, P, M)``
        in order.
        """
        total = self._windows(windows).transpose(0, 1)
        if self.barred is not None:
            total.masked_fill_(self.barred[:, None, self.groups[:-1]], self.beyond)
        ranks = total.long() * self.count + torch.arange(self.count, device=total.device)
        if self.pictures < self.count:
            best = ranks.new_full((*ranks.shape[:2], self.pictures), torch.iinfo(torch.int64).max)
            ranks = best.scatter_reduce(2, self.groups[:-1].expand_as(ranks), ranks, "amin")
        return ranks.topk(self.rules.candidates, dim=2, largest=False, sorted=True).values

    def _resample(self, wave: Wave, ranks: Tensor | None) -> None:
        """Replace the blocks of a wave, each by one of the nearest: their ranks are ``(N, blocks)``."""
        device = self.scores.device
        cells = torch.from_numpy(wave.cells).to(device)
        blocks = len(cells)
        total = self._windows(torch.from_numpy(wave.windows).to(device))
        own = self.index[cells[:, 0]][:, :, None]
        self._withdraw(cells)
        self._add_costs(total, torch.from_numpy(wave.around).to(device))
        barred = self.given[:, :-1] > self.rules.limit - wave.size
        if self.barred is not None:
            barred |= self.barred
        barred = barred[:, self.groups[:-1]]
        # A block may keep its source: that gives no more than before.
        kept = total.gather(2, own.clamp(min=0))
        total.masked_fill_(barred, self.beyond)
        total.scatter_(2, own.clamp(min=0), torch.where(own < 0, total.gather(2, own.clamp(min=0)), kept))
        flat = total.view(blocks * self.images, self.count)
        if ranks is None:
            picks = nearest(flat, 1)[:, 0].view(blocks, self.images)
        else:
            ordered = nearest(flat, self.rules.neighbours).view(blocks, self.images, -1)
            free = (total < self.beyond).sum(2)
            picks = ordered.gather(2, torch.minimum(ranks.T, free - 1)[:, :, None])[:, :, 0]
        self._write(cells, picks)

    def _windows(self, windows: Tensor) -> Tensor:
        """Sums of the cells' scores: ``(blocks, omega^2)`` -> ``(blocks, N, B)``."""
        total = self.scores[windows[:, 0]]
        for column in windows.T[1:]:
            total += self.scores[column]
        return total

    def _add_costs(self, total: Tensor, around: Tensor) -> None:
        """What it costs that sources gave much already, less what is spared where cells around have the same source."""
        if self.rules.use:
            total += self.rules.use * self.given[:, self.groups[:-1]].to(total.dtype)
        if self.rules.switch:
            sources = self.index[around].movedim(1, 2)  # blocks x N x cells
            beside = torch.zeros((*total.shape[:2], self.count + 1), dtype=torch.bool, device=total.device)
            beside.scatter_(2, sources % (self.count + 1), True)
            total -= self.rules.switch * beside[:, :, : self.count].to(total.dtype)

    def _withdraw(self, cells: Tensor) -> None:
        """Forget what the cells hold."""
        before = self.index[cells.flatten()].T  # N x cells, -1 where no source gave it
        self.given.scatter_add_(1, self.groups[before], torch.full_like(before, -1, dtype=torch.int32))

    def _write(self, cells: Tensor, picks: Tensor) -> None:
        """Copy blocks ``(blocks, w^2)`` from the picked sources ``(blocks, N)``."""
        picked = picks[:, None].expand(-1, cells.shape[1], -1).flatten(0, 1)
        inside = cells.flatten() < self.area
        cells, picked = cells.flatten()[inside], picked[inside]
        self.index[cells] = picked
        self.given.scatter_add_(1, self.groups[picked.T], torch.ones_like(picked.T, dtype=torch.int32))
        self._compare(cells, self._keys(picked, cells))

    def _keys(self, picked: Tensor, cells: Tensor) -> Tensor:
        """What sources ``(cells, N)`` hold there: ``(cells, N, r)``."""
        rows, columns = cells // self.width, cells % self.width
        return self.bank[picked, rows[:, None], columns[:, None]]

    def _compare(self, cells: Tensor, held: Tensor) -> None:
        """Compare what cells hold, ``(cells, N, r)``, with all sources there."""
        rows, columns = cells // self.width, cells % self.width
        sources = self.bank[:, rows, columns].movedim(0, 2).to(self.exact)  # cells x r x B
        norms = sources.square().sum(1, keepdim=True)
        if self.costs is not None:
            norms += self.costs
        scores = torch.baddbmm(norms, held.to(self.exact), sources, alpha=-2)
        self.scores[cells] = scores.to(self.scores.dtype)
