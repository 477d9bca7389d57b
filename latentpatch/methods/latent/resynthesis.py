"""A source made again from the others, patch by patch: recombination that keeps what holds a picture together.

The raster sampler decides the whole of a picture by what happens to fit at its seams. Here a source drawn at random
says what belongs together. Some of the others, drawn anew for each picture, make it again: first each place is given to
the source whose patch is nearest there, as far as shares allow (:mod:`.search.assignment`); then sweeps over the grid
replace every block by that of the source whose patch around it is nearest, with all surroundings in place, as in the
iterations of Kwatra et al. (2005) and of GPNN (Granot et al. 2022), but for patches at the same place. The first source
itself gives nothing, or a share like others. Variants of a picture count as one source in this.

What belongs together is often left and right: both eyes have glasses, or none has. A patch knows nothing of the other
side. So a block and the one where a mirror would show it are compared and copied as one, from the sides to the middle.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ...ops.noise import draw
from ...validation import check_noise, check_reference
from ..base import Context, Sampler, window_size
from .donors import SUBSET_STEPS, barred_pictures, start_sources
from .search import numba_backend as cpu
from .search.assignment import ROUNDS
from .search.keys import exact_dtype
from .search.prepared import MAX_MEMORY, PreparedSources, longest, score_bound
from .search.resynthesis_schedule import resynthesis_steps, waves
from .search.torch_loops import PreparedUnits
from .search.torch_resynthesis import Rules, Step, Tables, least_energy, make_tables, resynthesize, rules_of
from .settings import ResynthesisSettings
from .traceable import TraceableResynthesis

__all__ = ["Resynthesis", "ResynthesisSettings", "resynthesis", "resynthesis_steps"]

CELL_WORK = 128  # cost of a cell besides its windows, in compared window cells; measured
ENERGY_WORK = 8  # cost of a window cell of an image's energy, in compared window cells; measured


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
        backend: ``torch`` or ``numba`` (:mod:`.search.numba_backend`); where None, Numba on CPUs where it is installed
            and can do what is asked.

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
    norm = max(sources.norm, 0 if reference is None else longest(reference))
    rules = rules_of(sources, settings, norm, given)
    compiled = cpu.is_chosen(backend, sources, rules.neighbours, [((height, width), 1)])
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
                first = start_sources(uniforms[:, : settings.start_candidates], sources.distances, sources.starts)
                start, uniforms = bank[first], uniforms[:, settings.start_candidates :]
            else:
                first, start = None, reference.expand(len(noise) // tried, -1, -1, -1)[some // tried]
            first = None if first is None else sources.groups[first]
            barred = barred_pictures(
                first,
                uniforms,
                torch.arange(count, device=noise.device),
                settings.num_donors(count, given),
                settings.allow_start_as_donor,
            )
            uniforms = uniforms[:, SUBSET_STEPS:]
            if compiled:
                maps.append(_compiled(sources, start, barred, norm, settings, rules, sums, uniforms))
            else:
                maps.append(_in_torch(sources, units, start, barred, settings, rules, sums, uniforms))
        return least_energy(units, torch.cat(maps), tried, settings.patch_size, settings.stride, settings.symmetric)


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
        return TraceableResynthesis(sources, settings, has_reference)


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
        reuse_cost=rules.use_cost,
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
