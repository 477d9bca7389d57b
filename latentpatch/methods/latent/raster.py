"""The multi-scale raster sampler of LatentPatch (Samuth et al., ICIP 2023, section 2, step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from math import isqrt, prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...ops.noise import draw
from ...validation import check_noise, check_reference
from ..base import Context, Sampler
from .search import numba_backend as cpu
from .search.prepared import MAX_MEMORY, PreparedSources, longest, sum_dtype
from .search.schedule import BoolArray, Scale, raster_schedule
from .search.torch_raster import TorchSearch
from .settings import RasterSettings
from .traceable import TraceableRaster

__all__ = ["Raster", "RasterSettings", "raster", "raster_steps"]

BACKENDS = ("torch", "triton", "numba")

#: Grid sizes, coarse to fine, where a region is filled and the settings leave them open.
INPAINTING_SCALES = 3

#: Cost of comparing a cell with the sources when it is written, in compared window cells; measured.
CELL_WORK = 64


def raster_steps(
    grid: tuple[int, int],
    settings: RasterSettings | None = None,
    reference: bool = False,
    mask: Tensor | None = None,
) -> int:
    """Uniforms the sampler takes for one image.

    Arguments and errors are those of :func:`~latentpatch.methods.latent.search.schedule.raster_schedule`.
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
    results. Arithmetic is exact (:mod:`.search.torch_raster`), ties go to the lower source, so an image depends on its
    own noise alone: not on its batch, the device, the number of threads or the bound on memory.

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
        backend: ``torch``, ``triton`` (:mod:`.search.triton_backend`) or ``numba`` (:mod:`.search.numba_backend`);
            where None, Triton on GPUs and Numba on CPUs where it is installed and can do what is asked.

    Returns:
        ``(N, h, w)`` int64: which source each cell comes from.

    Raises:
        ValueError: where shapes, settings and bank do not go together, keys are too long, or the backend is unknown
            or cannot do it.
    """
    cpu.check_backend(backend, BACKENDS)
    if backend == "triton" and not _triton_installed():
        raise ValueError("backend 'triton': Triton is not installed")
    settings = settings or RasterSettings()
    bank = keys.keys if isinstance(keys, PreparedSources) else keys
    _, height, width, depth = bank.shape
    settings.check_sources(keys.total if isinstance(keys, PreparedSources) else len(keys))
    if mask is not None and reference is None:
        raise SettingError("reference", None, "there with a mask, to give the cells that are kept")
    scales = raster_schedule((height, width), settings, reference is not None, _on_host(mask))
    steps = sum(len(scale.places) for scale in scales)
    check_noise(noise, steps)
    check_reference(reference, bank, len(noise))

    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(bank)
    # Upsampling may lengthen keys by rounding each component by half a unit, at a scale and then at the next.
    norm = max(sources.norm, 0 if reference is None else longest(reference)) + isqrt(depth) + 1
    if _in_triton(backend, sources, scales, settings, norm):
        from .search import triton_backend as gpu  # needs Triton

        return gpu.grow(sources, noise, settings, reference, scales, memory=memory, keep=mask is None)
    search: Search
    sums, kept = sum_dtype(settings.patch_size, norm), max(scale.units for scale in scales)
    if cpu.is_chosen(backend, sources, settings.neighbors, {(scale.size, scale.unit) for scale in scales}):
        search = _NumbaSearch(sources, settings, norm, kept, causal=mask is None)
    else:
        kept += 2  # zeros beyond the last, and sums
        search = TorchSearch(sources, settings, sums, norm, causal=mask is None)
    group = max(1, memory // (kept * max(1, sources.most) * sums.itemsize))
    group = -(-len(noise) // max(1, -(-len(noise) // group)))  # as many groups, but even
    parts = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    # Autocast would round the integers.
    with torch.autocast(noise.device.type, enabled=False):
        for first in range(0, len(noise), max(1, group)):
            images = slice(first, first + group)
            given = reference if reference is None or len(reference) == 1 else reference[images]
            parts.append(_grow(sources, noise[images], given, scales, search))
    return torch.cat(parts)


class Raster(Sampler):
    """Grow an image block by block, coarse to fine, in raster order: the sampler of the LatentPatch paper."""

    name = "raster"
    Settings = RasterSettings
    inputs = ("bank", "reference", "mask")
    accepts_reference = accepts_mask = True
    is_shardable = is_exportable = True

    def resolve(self, settings: RasterSettings, context: Context) -> RasterSettings:
        if context.mask is not None:  # so that large regions hold together
            settings = replace(settings, scales=settings.scales or INPAINTING_SCALES)
        return settings.resolved(context.has_reference)

    def validate(self, settings: RasterSettings, context: Context) -> None:
        super().validate(settings, context)
        settings.check_sources(context.num_sources)

    def noise_dim(self, settings: RasterSettings, context: Context) -> int:
        return raster_steps(context.grid, settings, context.has_reference, context.mask)

    def work(self, settings: RasterSettings, context: Context) -> int:
        scales = raster_schedule(context.grid, settings, context.has_reference, _on_host(context.mask))
        return sum(prod(scale.size) * CELL_WORK + len(scale.places) * settings.patch_size**2 for scale in scales)

    def sample(
        self,
        sources: PreparedSources,
        noise: Tensor,
        settings: RasterSettings,
        reference: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return raster(sources, noise, settings, reference, mask)

    def traceable(self, sources: PreparedSources, settings: RasterSettings, has_reference: bool) -> nn.Module:
        return TraceableRaster(sources, settings, has_reference)


def _grow(
    sources: PreparedSources,
    noise: Tensor,
    reference: Tensor | None,
    scales: Sequence[Scale],
    search: Search,
) -> Tensor:
    """Index maps of some images, coarse to fine. -> (N, h, w)"""
    images, depth = len(noise), sources.keys.shape[3]
    grid: Tensor | None = None  # N x h x w x r keys of the images so far
    index = torch.empty(0)
    taken = 0
    for level, scale in enumerate(scales):
        given = None if reference is None else search.resize(reference, scale.size).expand(images, -1, -1, -1)
        if grid is None:
            grid = sources.keys.new_zeros((images, *scale.size, depth)) if given is None else given
        else:
            grid = search.resize(grid, scale.size)
            if given is not None and not scale.fill.all():
                grid = torch.where(_column(scale.fill, grid.device), grid, given)
        found = search.scan(level, scale, grid, noise[:, taken : taken + len(scale.places)])
        taken += len(scale.places)
        if scale is not scales[-1]:
            grid = found.grid()
        else:
            index = found.picks()
    return index


class Found(Protocol):
    """What a scan found."""

    def grid(self) -> Tensor:
        """The keys the images hold: ``(N, h, w, r)`` int16."""

    def picks(self) -> Tensor:
        """The source of each cell, -1 for none: ``(N, h, w)`` int64."""


class Search(Protocol):
    """How a scale's places are visited."""

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """Images brought to another size: ``(N, h, w, r)`` -> ``(N, h', w', r)``."""

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> Found:
        """Visit them, with ``(N, h, w, r)`` keys that the images hold beforehand and ``(N, places)`` uniforms."""


class _NumbaSearch:
    """Place by place, compiled."""

    def __init__(self, sources: PreparedSources, settings: RasterSettings, norm: int, units: int, causal: bool) -> None:
        self.sources, self.settings, self.norm, self.units = sources, settings, norm, units
        self.sums = sum_dtype(settings.patch_size, norm)
        # A mask's scales are made for one call: in the cache they would only push out others.
        self.walk = cpu.scale_walk if causal else cpu.scale_walk.__wrapped__
        self.room = cpu.score_buffer(0, self.sums)  # that scales share

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        return cpu.resize(keys, size)

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> Found:
        neighbours = self.settings.neighbors
        scores = len(grid) * self.units * len(self.sources.keys)
        if len(self.room) < scores:
            self.room = cpu.score_buffer(scores, self.sums)
        scan = cpu.Scan(
            self.sources, scale.size, scale.unit, grid, scale.known, self.norm, self.sums, buffer=self.room
        )  # fmt: skip
        guesses = draw(uniforms, self.sources.total)
        scan.run(self.walk(scale), draw(uniforms, neighbours), guesses, neighbours)
        return scan


def _in_triton(
    backend: str | None, sources: PreparedSources, scales: Sequence[Scale], settings: RasterSettings, norm: int
) -> bool:
    """Whether the search is Triton's.

    Raises:
        ValueError: where it is told to be, and cannot.
    """
    if backend in ("torch", "numba") or (backend is None and not (sources.keys.is_cuda and _triton_installed())):
        return False
    from .search import triton_backend as gpu  # needs Triton

    obstacle = gpu.obstacle(sources, scales, settings, norm)
    if backend is None:
        return obstacle is None and gpu.agrees(sources.keys.device)
    if obstacle is not None:
        raise SettingError("backend", backend, f"another one here ({obstacle})")
    return True


@lru_cache(maxsize=1)
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _column(cells: BoolArray, device: torch.device) -> Tensor:
    """(h, w) on the host -> (h, w, 1) on the device."""
    return torch.from_numpy(cells)[:, :, None].to(device)


def _on_host(mask: Tensor | None) -> BoolArray | None:
    return None if mask is None else np.asarray(mask.detach().cpu().numpy(), dtype=bool)
