"""The multi-scale raster sampler of LatentPatch (Samuth et al., ICIP 2023, section 2, step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from .keys import resize_keys
from .plan import Plan, make_plan
from .schedule import BoolArray, RasterSettings, Scale, raster_schedule
from .search import WindowScores, bytes_an_image, nearest, sum_dtype
from .sources import PreparedSources, cut, longest, paste

__all__ = ["raster", "raster_steps"]

#: Bound in bytes on the scores kept at a time.
MAX_MEMORY = 1 << 29


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
    count, height, width, depth = bank.shape
    settings.check_sources(count)
    if mask is not None and reference is None:
        raise ValueError("mask: a reference is expected with it, to give the cells that are kept")
    scales = raster_schedule((height, width), settings, reference is not None, _on_host(mask))
    steps = sum(len(scale.places) for scale in scales)
    if noise.ndim != 2 or noise.shape[1] != steps:
        raise ValueError(f"noise: shape (N, {steps}) is expected, got {tuple(noise.shape)}")
    if reference is not None and (reference.shape[1:] != bank.shape[1:] or reference.shape[0] not in (1, len(noise))):
        raise ValueError(
            f"reference: shape (1 or {len(noise)}, {', '.join(map(str, bank.shape[1:]))}) is expected, "
            f"got {tuple(reference.shape)}"
        )

    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(bank)
    # Upsampling may lengthen keys by rounding each component by half a unit, at a scale and then at the next.
    norm = max(sources.norm, 0 if reference is None else longest(reference)) + isqrt(depth) + 1
    # A mask's scales are made for one call: in the cache they would only push out others.
    plan_of = make_plan if mask is None else make_plan.__wrapped__
    plans = [plan_of(scale) for scale in scales]
    if backend == "triton" or (backend is None and bank.is_cuda and _triton_installed()):
        from . import gpu  # needs Triton

        obstacle = gpu.obstacle(sources, scales, settings, norm)
        if obstacle is None and (backend == "triton" or gpu.agrees(bank.device)):
            keep, writers = mask is None, plans[-1].writers
            return gpu.grow(sources, noise, settings, reference, scales, writers, memory=memory, keep=keep)
        if backend == "triton":
            raise ValueError(f"backend 'triton': {obstacle}")
    sums = sum_dtype(settings.patch_size, norm)
    group = max(1, memory // max(bytes_an_image(plan, count, sums) for plan in plans))
    parts = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    # Autocast would round the integers.
    with torch.autocast(noise.device.type, enabled=False):
        for first in range(0, len(noise), group):
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
    plans: Sequence[Plan],
    norm: int,
) -> Tensor:
    """Index maps of some images, coarse to fine. -> (N, h, w)"""
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
        scores = WindowScores(sources, plan, cut(grid, plan.side), norm, settings.patch_size)
        picks = _scan(scores, noise[:, taken : taken + len(plan.steps)], settings.neighbours)
        taken += len(plan.steps)
        if scale is not scales[-1]:
            grid = paste(scores.queries(), scale.size, plan.side)
        else:
            index = picks[:, torch.from_numpy(plan.writers).to(picks.device)]
    return index


def _scan(scores: WindowScores, uniforms: Tensor, neighbours: int) -> Tensor:
    """Visit all places of a scale. -> (N, places) picked sources, -1 beyond"""
    count = scores.total.shape[1]
    ranks, blind = draw(uniforms, neighbours), draw(uniforms, count)
    picks = ranks.new_full((len(uniforms), uniforms.shape[1] + 1), -1)
    for number, step in enumerate(scores.plan.steps):
        if step.strip:
            scores.move(step.strip)
        if step.columns:
            ordered = nearest(scores.sum(step), neighbours)
            picked = ordered.gather(1, ranks[:, number : number + 1])[:, 0]
        else:
            picked = blind[:, number]
        picks[:, number] = picked
        scores.write(step, picked)
    return picks


def draw(uniforms: Tensor, choices: int) -> Tensor:
    """floor(u * choices), kept below ``choices`` where rounding or u = 1 would reach it."""
    return (uniforms.double() * choices).long().clamp(0, choices - 1)


@lru_cache(maxsize=1)
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _column(cells: BoolArray, device: torch.device) -> Tensor:
    """(h, w) on the host -> (h, w, 1) on the device."""
    return torch.from_numpy(cells)[:, :, None].to(device)


def _on_host(mask: Tensor | None) -> BoolArray | None:
    return None if mask is None else np.asarray(mask.detach().cpu().numpy(), dtype=bool)
