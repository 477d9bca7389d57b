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

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, comb, floor, prod

import numpy as np
import torch
from torch import Tensor

from . import cpu
from .allotment import CANDIDATES, ROUNDS
from .checks import check_integer, check_noise, check_number, check_real, check_reference
from .donors import SUBSET_STEPS, barred_pictures, start_sources
from .keys import exact_dtype
from .raster import MAX_MEMORY
from .resynthesis_plan import blocks_of, waves
from .sources import PreparedSources, longest, score_bound
from .torch_loops import PreparedUnits, draw
from .torch_resynthesis import Rules, Step, Tables, least_energy, make_tables, resynthesize

__all__ = ["ResynthesisSettings", "resynthesis", "resynthesis_steps"]

_MAX_COST = 100  # so that sums of scores and costs stay within their integers
_SHARE = 0.3  # of a picture that one source gives at most, where there are sources enough
_START_SHARE = 0.25  # the same where the one that is started with gives, too
_FEW = 1.5  # times an even share, where there are few
_PICTURES = 1000  # that sources should make
_NEIGHBOURS = 3  # where one would make too few
_LEAST = 4  # sources of a subset that is a share of them
_ENOUGH = 2  # times as many as fill a picture, likewise


@dataclass(frozen=True)
class ResynthesisSettings:
    """Settings of resynthesis; the paper's symbol in parentheses.

    Attributes:
        patch_size: side of the compared patches in cells (omega); odd, so that blocks of one cell lie in their middle.
        stride: side of the copied blocks in cells (w).
        neighbours: how many nearest sources a block is drawn from in the first sweep (k); later ones take the nearest.
            More of them make more pictures, with more seams. None for 1; where sources are so few that starts and
            subsets make fewer than a thousand pictures, for 3 or all.
        sweeps: how often every block is visited.
        max_share: share of the cells one source, with its variants, gives at most; None for 0.3, 0.25 where the source
            that is started with gives, too, or 1.5 times an even share where there are few sources.
        draws: sources drawn to start with, of which the one farthest from the mean of all is taken. With one, pictures
            tend to the middle of the sources; two make up for it.
        keep_start: whether the source that is started with may give patches, too.
        subset: sources drawn for each picture that alone may give patches, the one it starts with among them where it
            may: a number of them, or as a floating point number a share, 1.0 for all; but of those four, and twice as
            many as fill a picture by ``max_share``. The fewer, the more do pictures of the same start differ.
        symmetric: whether a block and its mirror image in the grid, left and right exchanged, are compared and copied
            together. Each side is compared with, and copied from, the same side of the source, so that things need not
            be symmetric for it.
        switch_cost: what it costs to take a block from a source that none of the cells around it comes from, as part of
            the mean squared distance of a cell of the sources to the mean of all.
        use_cost: what each cell that a source gave already, before the blocks that are visited together, adds to the
            cost of its next, likewise: the more, the more evenly the sources are used.
        best_of: pictures that are made for one, of which the one with the least energy is kept: the distances of all
            its patches to those they were copied from.
    """

    patch_size: int = 5
    stride: int = 1
    neighbours: int | None = None
    sweeps: int = 2
    max_share: float | None = None
    draws: int = 2
    keep_start: bool = False
    subset: float = 0.5
    symmetric: bool = True
    switch_cost: float = 0.0
    use_cost: float = 0.0
    best_of: int = 1

    def __post_init__(self) -> None:
        for name in ("patch_size", "stride", "sweeps", "draws", "best_of"):
            check_integer(name, getattr(self, name), 1)
        if self.neighbours is not None:
            check_integer("neighbours", self.neighbours, 1)
        if self.stride > self.patch_size:
            raise ValueError(f"stride {self.stride}: at most patch_size {self.patch_size} is expected")
        for name in ("keep_start", "symmetric"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} {getattr(self, name)!r}: True or False is expected")
        if self.max_share is not None and not 0 < check_real("max_share", self.max_share) <= 1:
            raise ValueError(f"max_share {self.max_share}: more than 0 and at most 1 is expected")
        if not isinstance(self.subset, float):
            check_integer("subset", self.subset, 1)
        elif not 0 < self.subset <= 1:
            raise ValueError(
                f"subset {self.subset}: a number of sources, or a share above 0 and at most 1.0 is expected"
            )
        for name in ("switch_cost", "use_cost"):
            check_number(name, getattr(self, name), 0, _MAX_COST)

    def givers(self, count: int, reference: bool) -> int:
        """How many of the sources may give patches to a picture."""
        able = count if reference or self.keep_start else count - 1
        if not isinstance(self.subset, float):
            return min(able, self.subset)
        enough = 0 if self.max_share is None else ceil(_ENOUGH / self.max_share)
        return min(able, max(ceil(self.subset * able), enough, _LEAST))

    def resolved(self, count: int, reference: bool) -> ResynthesisSettings:
        """These settings with the neighbours, the largest share and the subset in force for a number of sources."""
        givers = max(1, self.givers(count, reference))
        share = self.max_share
        if share is None:
            share = min(1.0, max(_START_SHARE if self.keep_start and not reference else _SHARE, _FEW / givers))
        neighbours = self.neighbours or self._neighbours(count, givers, reference)
        return replace(self, neighbours=neighbours, max_share=share, subset=givers)

    def _neighbours(self, count: int, givers: int, reference: bool) -> int:
        """As few as make pictures enough."""
        starts, others = (1, count) if reference else (count, count - 1)
        drawn = givers - 1 if self.keep_start and not reference else givers
        return 1 if starts * comb(others, drawn) >= _PICTURES else min(_NEIGHBOURS, givers)

    def check_sources(self, count: int, reference: bool = False) -> None:
        """Refuse what takes more sources than there are.

        Raises:
            ValueError: where ``neighbours`` exceeds the sources that may give patches, or none may.
        """
        givers = self.givers(count, reference)
        beside = "" if reference or self.keep_start else " beside the one it starts with"
        if givers < 1:
            raise ValueError(f"sources: at least 1{beside} is expected, got {count} in all")
        if self.neighbours is not None and self.neighbours > givers:
            raise ValueError(f"neighbours {self.neighbours}: at most {givers} (sources{beside}) is expected")


def resynthesis_steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool = False) -> int:
    """Uniforms the sampler takes for one image.

    Raises:
        ValueError: where a patch, which is cut at the border, would cover the grid from any place in it.
    """
    most = 2 * min(grid) - 1
    if settings.patch_size > most:
        raise ValueError(
            f"patch_size {settings.patch_size}: at most {most} is expected: that covers the {grid[0]}x{grid[1]} grid "
            "from any place"
        )
    return settings.best_of * _steps(grid, settings, reference)


def _steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool) -> int:
    """Uniforms for one of the pictures that are made for one."""
    blocks = prod(blocks_of(grid, settings.stride, settings.symmetric))
    return blocks + SUBSET_STEPS + (0 if reference else settings.draws)


@torch.no_grad()
def resynthesis(
    keys: Tensor | PreparedSources,
    noise: Tensor,
    settings: ResynthesisSettings | None = None,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
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
        mask: none is taken.
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
    if mask is not None:
        raise ValueError("mask: resynthesis takes none; the raster sampler does")
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
    norm = max(sources.norm, 0 if reference is None else longest(reference))
    rules = rules_of(sources, settings, norm, given)
    compiled = cpu.chosen(backend, sources, rules.neighbours, [((height, width), 1)])
    sums = torch.int32 if rules.excluded < 1 << 31 else torch.int64
    units = PreparedUnits(sources, (height, width), 1, exact_dtype(score_bound(1, norm)))
    group = max(1, memory // (sums.itemsize * (height * width + 2) * len(bank)))
    maps = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    tried = settings.best_of
    noise = noise.reshape(len(noise) * tried, steps // tried)
    # Autocast would round the integers.
    with torch.autocast(noise.device.type, enabled=False):
        for some in torch.arange(len(noise), device=noise.device).split(group) if len(noise) else ():
            uniforms = noise[some]
            if reference is None:
                first = start_sources(uniforms[:, : settings.draws], sources.distances, sources.starts)
                start, uniforms = bank[first], uniforms[:, settings.draws :]
            else:
                first, start = None, reference.expand(len(noise) // tried, -1, -1, -1)[some // tried]
            first = None if first is None else sources.groups[first]
            barred = barred_pictures(
                first,
                uniforms,
                torch.arange(count, device=noise.device),
                settings.givers(count, given),
                settings.keep_start,
            )
            uniforms = uniforms[:, SUBSET_STEPS:]
            if compiled:
                maps.append(_compiled(sources, start, barred, norm, settings, rules, sums, uniforms))
            else:
                maps.append(_in_torch(sources, units, start, barred, settings, rules, sums, uniforms))
        return least_energy(units, torch.cat(maps), tried, settings.patch_size, settings.stride, settings.symmetric)


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
    costs = settings.switch_cost, settings.use_cost
    switch, use = (round(cost * sources.spread) if cost else 0 for cost in costs)
    bound = score_bound(settings.patch_size, norm) * (2 if settings.symmetric else 1)
    return Rules(
        settings.sweeps,
        settings.neighbours or 1,
        min(CANDIDATES, settings.givers(sources.pictures, given)),
        _limit(settings, (height, width), sources.pictures, given),
        switch,
        use,
        bound + switch + use * height * width,
    )


def _in_torch(
    sources: PreparedSources,
    units: PreparedUnits,
    start: Tensor,
    barred: Tensor | None,
    settings: ResynthesisSettings,
    rules: Rules,
    sums: torch.dtype,
    uniforms: Tensor,
) -> Tensor:
    """All sweeps in torch. -> (N, h, w)"""
    size = start.shape[1], start.shape[2]
    held = start.flatten(1, 2).transpose(0, 1).to(units.exact)
    room = torch.empty((len(held) + 1, len(start), len(sources.keys)), dtype=sums, device=start.device)
    room[-1] = 0
    tables, steps = _tables(size, settings.patch_size, settings.stride, settings.symmetric, rules.limit)
    ranks = draw(uniforms, rules.neighbours).T
    index = resynthesize(units, held, room, barred, ranks, sources.groups, sources.pictures, tables, steps, rules)
    maps: Tensor = index.T.unflatten(1, size)
    return maps.contiguous()


@lru_cache(maxsize=64)
def _tables(
    size: tuple[int, int], patch_size: int, stride: int, symmetric: bool, limit: int
) -> tuple[Tables, list[Step]]:
    return make_tables(waves(size, patch_size, stride, symmetric), size[0] * size[1], limit)


def _compiled(
    sources: PreparedSources,
    start: Tensor,
    barred: Tensor | None,
    norm: int,
    settings: ResynthesisSettings,
    rules: Rules,
    sums: torch.dtype,
    uniforms: Tensor,
) -> Tensor:
    """All sweeps in Numba. -> (N, h, w)"""
    size = start.shape[1], start.shape[2]
    known = np.ones(size, dtype=bool)
    scan = cpu.Scan(
        sources,
        size,
        1,
        start,
        known,
        norm,
        sums,
        rules.limit,
        barred,
        switch_cost=rules.switch_cost,
        use_cost=rules.use_cost,
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
    area, givers = grid[0] * grid[1], settings.givers(count, given)
    limit = floor(settings.max_share * area)
    most = max(wave.size for wave in waves(grid, settings.patch_size, settings.stride, settings.symmetric))
    # Before a wave is written, all but its cells are taken, and each source's room must hold the whole wave.
    if limit < area and givers * (limit - most + 1) <= area - most:
        least = min(1.0, (-(-(area - most + 1) // givers) + most) / area)
        raise ValueError(
            f"max_share {settings.max_share:g}: at least {least:.3g} is expected, so that {givers} sources can fill "
            "a picture"
        )
    return limit
