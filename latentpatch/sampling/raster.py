"""The multi-scale raster sampler of LatentPatch (Samuth et al., ICIP 2023, section 2, step 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import check_noise, check_reference
from .keys import exact_dtype, resize_keys
from .plan import Plan, make_plan
from .schedule import BoolArray, RasterSettings, Scale, raster_schedule
from .search import Scores, WindowScores, sum_dtype
from .sources import PreparedSources, cut, longest, paste, score_bound
from .waves import Rings, WavePlan, WaveScores, make_waves

__all__ = ["raster", "raster_steps"]

Plans = Sequence[Plan | WavePlan]

#: Bound in bytes on the scores kept at a time.
MAX_MEMORY = 1 << 29

#: Bound on the elements of the sources that a wave is compared with.
MAX_READ = 1 << 18

#: Blocks of a wave that this has to allow: narrower waves are not faster than going place by place.
MIN_WAVE = 8


def raster_steps(
    grid: tuple[int, int],
    settings: RasterSettings | None = None,
    reference: bool = False,
    mask: Tensor | None = None,
) -> int:
    """Uniforms the sampler takes for one image.

    Arguments and errors are those of :func:`~latentpatch.sampling.schedule.raster_schedule`.
    """
    scales = raster_schedule(grid, settings or RasterSettings(), reference, _on_host(mask))
    return sum(len(scale.places) for scale in scales)


@torch.no_grad()
def raster(
    keys: Tensor | PreparedSources,
    noise: Tensor,
    settings: RasterSettings | None = None,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    memory: int = MAX_MEMORY,
    backend: str | None = None,
) -> Tensor:
    """Grow index maps block by block, each copied from one of the k sources whose patch at the same
    place is nearest to what is there already.

    An image's cells are compared with the sources' once, when they are written; a patch's distance is a sum of those
    results. Arithmetic is exact (:mod:`.search`), ties go to the lower source, so an image depends on its own noise
    alone: not on its batch, the device, the number of threads or the bound on memory.

    Args:
        keys: ``(B, h, w, r)`` int16 sources; or those with what earlier searches prepared, which this one then spares.
        noise: ``(N, steps)`` uniforms in [0, 1), ``steps`` from :func:`raster_steps`; numbers outside count
            as the nearest inside.
        settings: defaults where None.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys that fill the grid beforehand.
        mask: ``(h, w)`` bool, True where cells are to be sampled, the others being the reference's:
            inpainting. Cells outside it get index -1.
        memory: bound in bytes on the scores kept at a time: images go in groups that keep it, of one at least (16 in
            Triton).
        backend: ``torch`` or ``triton`` (:mod:`.gpu`); where None, Triton on GPUs where it is installed and can do
            what is asked.

    Returns:
        ``(N, h, w)`` int64: which source each cell comes from.

    Raises:
        ValueError: where shapes, settings and bank do not go together, keys are too long, or the backend is unknown
            or cannot do it.
    """
    if backend not in (None, "torch", "triton"):
        raise ValueError(f"backend {backend!r}: torch or triton is expected")
    if backend == "triton" and not _triton_installed():
        raise ValueError("backend 'triton': Triton is not installed")
    settings = settings or RasterSettings()
    bank = keys.keys if isinstance(keys, PreparedSources) else keys
    _, height, width, depth = bank.shape
    settings.check_sources(keys.total if isinstance(keys, PreparedSources) else len(keys))
    if mask is not None and reference is None:
        raise ValueError("mask: a reference is expected with it, to give the cells that are kept")
    scales = raster_schedule((height, width), settings, reference is not None, _on_host(mask))
    steps = sum(len(scale.places) for scale in scales)
    check_noise(noise, steps)
    check_reference(reference, bank, len(noise))

    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(bank)
    # Upsampling may lengthen keys by rounding each component by half a unit, at a scale and then at the next.
    norm = max(sources.norm, 0 if reference is None else longest(reference)) + isqrt(depth) + 1
    if _in_triton(backend, sources, scales, settings, norm):
        from . import gpu  # needs Triton

        return gpu.grow(sources, noise, settings, reference, scales, memory=memory, keep=mask is None)
    plans = _plans(sources, scales, settings, causal=mask is None)
    sums = sum_dtype(settings.patch_size, norm)
    group = max(1, memory // (max(plan.units_kept for plan in plans) * max(1, sources.most) * sums.itemsize))
    group = -(-len(noise) // max(1, -(-len(noise) // group)))  # as many groups, but even
    parts = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    # Autocast would round the integers.
    with torch.autocast(noise.device.type, enabled=False):
        for first in range(0, len(noise), max(1, group)):
            images = slice(first, first + group)
            given = reference if reference is None or len(reference) == 1 else reference[images]
            parts.append(_grow(sources, noise[images], settings, given, scales, plans, norm))
    return torch.cat(parts)


def _grow(
    sources: PreparedSources,
    noise: Tensor,
    settings: RasterSettings,
    reference: Tensor | None,
    scales: Sequence[Scale],
    plans: Plans,
    norm: int,
) -> Tensor:
    """Index maps of some images, coarse to fine. -> (N, h, w)"""
    compare = _comparison(sources, plans, len(noise), settings.patch_size, norm)
    images, depth = len(noise), sources.keys.shape[3]
    grid: Tensor | None = None  # N x h x w x r keys of the images so far
    index = torch.empty(0)
    taken = 0
    for scale, plan in zip(scales, plans, strict=True):
        given = None if reference is None else resize_keys(reference, scale.size, norm).expand(images, -1, -1, -1)
        if grid is None:
            grid = sources.keys.new_zeros((images, *scale.size, depth)) if given is None else given
        else:
            grid = resize_keys(grid, scale.size, norm)
            if given is not None and not scale.fill.all():
                grid = torch.where(_column(scale.fill, grid.device), grid, given)
        scores = compare(plan, cut(grid, plan.side))
        picks = _scan(scores, noise[:, taken : taken + len(scale.places)], settings.neighbours)
        taken += len(scale.places)
        if scale is not scales[-1]:
            grid = paste(scores.queries(), scale.size, plan.side)
        else:
            index = picks[:, torch.from_numpy(plan.writers).to(picks.device)]
    return index


def _comparison(
    sources: PreparedSources, plans: Plans, images: int, patch_size: int, norm: int
) -> Callable[[Any, Tensor], Scores]:
    """Makes a scale's scores from its plan and the units that the images hold beforehand."""
    largest = plans[-1]
    exact, sums = exact_dtype(score_bound(largest.side, norm)), sum_dtype(patch_size, norm)
    if not isinstance(largest, WavePlan):
        return lambda plan, queries: WindowScores(sources, plan, queries, exact, sums)
    length, device = largest.side**2 * sources.keys.shape[3], sources.keys.device
    rings = Rings(largest, images, len(sources.keys), length, exact, sums, device)
    return lambda plan, queries: WaveScores(sources, plan, queries, rings)


def _scan(scores: Scores, uniforms: Tensor, neighbours: int) -> Tensor:
    """Visit all places of a scale. -> (N, places) picked sources, -1 beyond"""
    sources, images = scores.sources, len(uniforms)
    order = torch.tensor([place for step in scores.plan.steps for place in step.places], device=uniforms.device)
    ranks, blind = (draw(uniforms, choices).t()[order] for choices in (neighbours, sources.total))
    picks = ranks.new_empty((len(order), images))
    first = 0
    for step in scores.plan.steps:
        here = slice(first, first + len(step.places))
        first = here.stop
        sums = scores.sum(step)
        if sums is None:
            picks[here] = blind[here]
        else:
            ordered = sources.nearest(sums, neighbours)
            torch.gather(ordered, 1, ranks[here].view(-1, 1), out=picks[here].view(-1, 1))
        scores.write(step, picks[here])
    result = ranks.new_full((images, len(order) + 1), -1)
    result[:, order] = picks.t()
    return result


def _plans(sources: PreparedSources, scales: Sequence[Scale], settings: RasterSettings, causal: bool) -> Plans:
    """By waves where some blocks of all sources fit into a core's cache together, else place by place."""
    if not causal:
        # A mask's scales are made for one call: in the cache they would only push out others.
        return [make_plan.__wrapped__(scale) for scale in scales]
    side = scales[0].unit
    units = (settings.step // side) ** 2
    width = MAX_READ // (sources.most * units * (side * side * sources.keys.shape[3] + 1))
    if width >= MIN_WAVE:
        return [make_waves(scale, settings.patch_size, settings.step, width) for scale in scales]
    return [make_plan(scale) for scale in scales]


def draw(uniforms: Tensor, choices: int) -> Tensor:
    """floor(u * choices), kept below ``choices`` where rounding or u = 1 would reach it."""
    return (uniforms.double() * choices).long().clamp(0, choices - 1)


def _in_triton(
    backend: str | None, sources: PreparedSources, scales: Sequence[Scale], settings: RasterSettings, norm: int
) -> bool:
    """Whether the search is Triton's.

    Raises:
        ValueError: where it is told to be, and cannot.
    """
    if backend == "torch" or (backend is None and not (sources.keys.is_cuda and _triton_installed())):
        return False
    from . import gpu  # needs Triton

    obstacle = gpu.obstacle(sources, scales, settings, norm)
    if backend is None:
        return obstacle is None and gpu.agrees(sources.keys.device)
    if obstacle is not None:
        raise ValueError(f"backend 'triton': {obstacle}")
    return True


@lru_cache(maxsize=1)
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _column(cells: BoolArray, device: torch.device) -> Tensor:
    """(h, w) on the host -> (h, w, 1) on the device."""
    return torch.from_numpy(cells)[:, :, None].to(device)


def _on_host(mask: Tensor | None) -> BoolArray | None:
    return None if mask is None else np.asarray(mask.detach().cpu().numpy(), dtype=bool)
