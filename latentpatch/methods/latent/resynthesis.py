"""Resynthesis: rebuild a random source, or a reference, from patches of other sources.

The raster sampler determines the layout of an image by the patches that happen to fit at its seams. Resynthesis starts
with a random source, whose layout is consistent, and replaces it by patches of donors: a random subset of the other
sources, drawn for each image. First every block is assigned to the donor whose patch is nearest there, within the
capacity of each donor (:mod:`.search.assignment`). Then sweeps over the grid replace every block by the block of the
donor whose patch around it is nearest, as in the iterations of Kwatra et al. (2005) and of GPNN (Granot et al. 2022),
but only with patches at the same place. The start source is no donor, or a donor with the same capacity as others.
Augmentations of a picture count as one source.

The left and right sides of a face must agree: both eyes have glasses, or none has. A patch does not reach the other
side. So a block and its mirror image are compared and copied as one pair, from the sides to the middle.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ...ops.noise import draw
from ...validation import check_noise, check_reference
from ..base import Context, Sampler, window_size
from .donors import SUBSET_STEPS, donor_bands, start_sources
from .search import numba_backend as cpu
from .search.assignment import ROUNDS
from .search.bands import bands_of
from .search.keys import exact_dtype
from .search.prepared import MAX_MEMORY, PreparedSources, longest, score_bound
from .search.resynthesis_schedule import resynthesis_steps, waves
from .search.torch_loops import PreparedUnits
from .search.torch_resynthesis import Rules, Step, Tables, least_energy, make_tables, resynthesize, rules_of
from .settings import ResynthesisSettings
from .traceable import TraceableResynthesis

__all__ = ["Resynthesis", "ResynthesisSettings", "resynthesis", "resynthesis_steps"]

#: Measured cost of a cell apart from its windows, in compared window cells.
CELL_WORK = 128
#: Measured cost of a window cell in the energy of an image, in compared window cells.
ENERGY_WORK = 8


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
    """Rebuild a random source, or a reference, from patches of other sources.

    Arithmetic is exact and ties go to the lower source: an image depends only on its own noise.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or prepared sources, which earlier searches have filled.
        noise: ``(N, steps)`` uniforms in [0, 1), ``steps`` from :func:`resynthesis_steps`.
        settings: settings of the sampler; None for the defaults.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys to start with instead of a source.
        memory: bound in bytes on the scores in memory: images are processed in groups within it, of at least one image.
        backend: ``torch`` or ``numba`` (:mod:`.search.numba_backend`); None for Numba on CPUs where it is installed and
            supports the search, else torch.

    Returns:
        ``(N, h, w)`` int64: source of each cell.

    Raises:
        ValueError: where shapes, settings and bank are inconsistent, keys are too long, or the backend is unknown or
            does not support the search.
    """
    cpu.check_backend(backend, ("torch", "numba"))
    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
    bank = sources.keys
    height, width = bank.shape[1:3]
    count = sources.pictures
    has_reference = reference is not None
    settings = (settings or ResynthesisSettings()).in_cells((height, width)).resolved(count, has_reference)
    settings.check_sources(count, has_reference)
    steps = resynthesis_steps((height, width), settings, has_reference)
    check_noise(noise, steps)
    check_reference(reference, bank, len(noise))
    norm = max(sources.norm, 0 if reference is None else longest(reference))
    rules = rules_of(sources, settings, norm, has_reference)
    is_compiled = cpu.is_chosen(backend, sources, rules.neighbors, [((height, width), 1)])
    sums = torch.int32 if rules.excluded_score < 1 << 31 else torch.int64
    units = PreparedUnits(sources, (height, width), 1, exact_dtype(score_bound(1, norm)))
    group = max(1, memory // (sums.itemsize * (height * width + 2) * len(bank)))
    maps = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    tried = settings.best_of
    noise = noise.reshape(len(noise) * tried, steps // tried)
    # Autocast would round integers in matrix products.
    with torch.autocast(noise.device.type, enabled=False):
        for images in torch.arange(len(noise), device=noise.device).split(group) if len(noise) else ():
            uniforms = noise[images]
            if reference is None:
                first = start_sources(uniforms[:, : settings.start_candidates], sources.distances, sources.starts)
                start, uniforms = bank[first], uniforms[:, settings.start_candidates :]
            else:
                first, start = None, reference.expand(len(noise) // tried, -1, -1, -1)[images // tried]
            first = None if first is None else sources.groups[first]
            donors = donor_bands(
                first,
                uniforms,
                torch.arange(count, device=noise.device),
                settings.num_donors(count, has_reference),
                settings.allow_start_as_donor,
                rules.bands,
            )
            uniforms = uniforms[:, SUBSET_STEPS:]
            if is_compiled:
                maps.append(_compiled(sources, start, donors, norm, settings, rules, sums, uniforms))
            else:
                maps.append(_in_torch(sources, units, start, donors, settings, rules, sums, uniforms))
        return least_energy(units, torch.cat(maps), tried, settings.window, settings.step, settings.symmetric)


class Resynthesis(Sampler):
    """Rebuild a randomly drawn source, or a reference, from patches of the other sources."""

    name = "resynthesis"
    Settings = ResynthesisSettings
    accepts_reference = True
    is_exportable = True
    default_decoding = "blend"

    def resolve(self, settings: ResynthesisSettings, context: Context) -> ResynthesisSettings:
        return settings.in_cells(context.grid).resolved(context.num_sources, context.has_reference)

    def validate(self, settings: ResynthesisSettings, context: Context) -> None:
        super().validate(settings, context)
        settings.check_sources(context.num_sources, context.has_reference)

    def noise_dim(self, settings: ResynthesisSettings, context: Context) -> int:
        return resynthesis_steps(context.grid, settings, context.has_reference, context.num_sources)

    def work(self, settings: ResynthesisSettings, context: Context) -> int:
        (height, width), settings = context.grid, settings.in_cells(context.grid)
        stride, window = settings.step, window_size(context.grid, settings.window)
        blocks = -(-height // stride) * -(-width // stride)
        cell = CELL_WORK + (ENERGY_WORK * window if settings.best_of > 1 else 0)
        # The initial assignment compares as many cells as a sweep.
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
    donors: Tensor | None,
    settings: ResynthesisSettings,
    rules: Rules,
    sums: torch.dtype,
    uniforms: Tensor,
) -> Tensor:
    """Return index maps ``(N, h, w)`` of one group of images, computed in torch."""
    size = start.shape[1], start.shape[2]
    keys = start.flatten(1, 2).transpose(0, 1).to(units.exact)
    empty = torch.empty((len(keys) + 1, len(start), len(sources.keys)), dtype=sums, device=start.device)
    empty[-1] = 0
    shape = size, settings.window, settings.step, settings.symmetric
    tables, steps = _tables(*shape, rules.limit, rules.cuts, start.device)
    ranks = draw(uniforms, rules.neighbors).T
    index = resynthesize(units, keys, empty, donors, ranks, sources.groups, sources.pictures, tables, steps, rules)
    maps: Tensor = index.T.unflatten(1, size)
    return maps.contiguous()


@lru_cache(maxsize=64)
def _tables(
    size: tuple[int, int],
    patch_size: int,
    stride: int,
    symmetric: bool,
    limit: int,
    cuts: tuple[int, ...],
    device: torch.device,
) -> tuple[Tables, list[Step]]:
    bands = bands_of(size, stride, symmetric, cuts)
    tables, steps = make_tables(waves(size, patch_size, stride, symmetric), size[0] * size[1], limit, bands)
    return Tables(*(field.to(device) for field in tables)), [
        Step(*(field.to(device) for field in step)) for step in steps
    ]


def _compiled(
    sources: PreparedSources,
    start: Tensor,
    donors: Tensor | None,
    norm: int,
    settings: ResynthesisSettings,
    rules: Rules,
    sums: torch.dtype,
    uniforms: Tensor,
) -> Tensor:
    """Return index maps ``(N, h, w)`` of one group of images, computed in Numba."""
    size = start.shape[1], start.shape[2]
    filled = np.ones(size, dtype=bool)
    scan = cpu.Scan(
        sources,
        size,
        1,
        start,
        filled,
        norm,
        sums,
        rules.limit,
        donors,
        switch_cost=rules.switch_cost,
        reuse_cost=rules.reuse_cost,
    )
    walk, order = _walk(size, settings.window, settings.step, settings.symmetric, rules.cuts)
    scan.allot(walk, order, rules.candidates, ROUNDS)
    ranks = draw(uniforms, rules.neighbors)[:, order]
    for sweep in range(settings.sweeps):
        scan.run(walk, ranks, ranks, rules.neighbors if sweep == 0 else 1)
    return scan.picks()


@lru_cache(maxsize=64)
def _walk(
    grid: tuple[int, int], patch_size: int, stride: int, symmetric: bool, cuts: tuple[int, ...]
) -> tuple[cpu.Walk, Tensor]:
    """Return a sweep for Numba, and the number of each block in the order of the sweep."""
    plan = waves(grid, patch_size, stride, symmetric)
    area, bands = grid[0] * grid[1], bands_of(grid, stride, symmetric, cuts)
    steps = [
        [
            cpu.Place(
                window[window < area].tolist(),
                cells[cells < area].tolist(),
                around[around < area].tolist(),
                band=bands[place],
            )
            for window, cells, around, place in zip(wave.windows, wave.cells, wave.around, wave.places, strict=True)
        ]
        for wave in plan
    ]
    return cpu.walk_of(steps), torch.from_numpy(np.concatenate([wave.places for wave in plan]))
