"""The multi-scale raster sampler of LatentPatch (Samuth et al., ICIP 2023, section 2, step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt, prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import MissingDependencyError, SettingError
from ...ops.noise import draw
from ...runs.system import can_import
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

#: Default number of grid sizes, coarse to fine, for inpainting.
INPAINTING_SCALES = 3

#: Measured cost of comparing a cell with the sources when it is written, in compared window cells.
CELL_WORK = 64


def raster_steps(
    grid: tuple[int, int],
    settings: RasterSettings | None = None,
    reference: bool = False,
    mask: Tensor | None = None,
) -> int:
    """Return the number of uniforms that one image consumes.

    Arguments and errors are documented at :func:`~latentpatch.methods.latent.search.schedule.raster_schedule`.
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
    """Grow index maps block by block, each block from one of the k nearest sources.

    The nearest sources are those whose patch at the same place is nearest to the cells of the image that are filled.
    Each cell is compared with the sources once, when it is written; the distance of a patch is a sum of those results.
    Arithmetic is exact (:mod:`.search.torch_raster`) and ties go to the lower source, so an image depends only on its
    own noise: not on its batch, the device, the number of threads or the bound on memory.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or prepared sources, which save work that earlier searches have done.
        noise: ``(N, steps)`` uniforms in [0, 1), ``steps`` from :func:`raster_steps`; numbers outside
            are clamped.
        settings: settings of the sampler; None for the defaults.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 initial keys of the grid.
        mask: ``(h, w)`` bool for inpainting: cells where it is True are sampled, all others keep the reference and get
            index -1.
        memory: bound in bytes on the scores in memory: images are processed in groups within it, of at least one image
            (16 in Triton).
        backend: ``torch``, ``triton`` (:mod:`.search.triton_backend`) or ``numba`` (:mod:`.search.numba_backend`);
            None for Triton on GPUs and Numba on CPUs, where it is installed and supports the search, else torch.

    Returns:
        ``(N, h, w)`` int64: source of each cell.

    Raises:
        ValueError: where shapes, settings and bank are inconsistent, keys are too long, or the backend is unknown or
            does not support the search.
        MissingDependencyError: for ``triton`` where it is not installed.
    """
    cpu.check_backend(backend, BACKENDS)
    if backend == "triton" and not can_import("triton"):
        raise MissingDependencyError("triton", "triton", "the backend triton")
    bank = keys.keys if isinstance(keys, PreparedSources) else keys
    _, height, width, depth = bank.shape
    settings = (settings or RasterSettings()).in_cells((height, width))
    settings.check_sources(keys.total if isinstance(keys, PreparedSources) else len(keys))
    if mask is not None and reference is None:
        raise SettingError("reference", None, "set where there is a mask, for the cells outside it")
    scales = raster_schedule((height, width), settings, reference is not None, _on_host(mask))
    steps = sum(len(scale.places) for scale in scales)
    check_noise(noise, steps)
    check_reference(reference, bank, len(noise))

    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(bank)
    # Resizing rounds each component by up to half a unit at each of two scales, which may lengthen keys.
    norm = max(sources.norm, 0 if reference is None else longest(reference)) + isqrt(depth) + 1
    if _in_triton(backend, sources, scales, settings, norm):
        from .search import triton_backend as gpu  # needs Triton

        return gpu.grow(sources, noise, settings, reference, scales, memory=memory, keep=mask is None)
    search: Search
    sums, num_units = sum_dtype(settings.window, norm), max(scale.units for scale in scales)
    if cpu.is_chosen(backend, sources, settings.neighbors, {(scale.size, scale.unit) for scale in scales}):
        search = _NumbaSearch(sources, settings, norm, num_units, causal=mask is None)
    else:
        num_units += 2  # Scores have one more unit of zeros, and sums have the size of a unit.
        search = TorchSearch(sources, settings, sums, norm, causal=mask is None)
    group = max(1, memory // (num_units * max(1, sources.most) * sums.itemsize))
    group = -(-len(noise) // max(1, -(-len(noise) // group)))  # Groups get equal sizes.
    parts = [torch.zeros((0, height, width), dtype=torch.int64, device=noise.device)]
    # Autocast would round integers in matrix products.
    with torch.autocast(noise.device.type, enabled=False):
        for first in range(0, len(noise), max(1, group)):
            images = slice(first, first + group)
            own = reference if reference is None or len(reference) == 1 else reference[images]
            parts.append(_grow(sources, noise[images], own, scales, search))
    return torch.cat(parts)


class Raster(Sampler):
    """Grow an image block by block, coarse to fine, in raster order: the sampler of the LatentPatch paper."""

    name = "raster"
    Settings = RasterSettings
    accepts_reference = accepts_mask = True
    is_shardable = is_exportable = True

    def resolve(self, settings: RasterSettings, context: Context) -> RasterSettings:
        if context.mask is not None:  # Coarse scales make large regions consistent.
            settings = replace(settings, scales=settings.scales or INPAINTING_SCALES)
        return settings.in_cells(context.grid).resolved(context.has_reference)

    def validate(self, settings: RasterSettings, context: Context) -> None:
        super().validate(settings, context)
        settings.check_sources(context.num_sources)

    def noise_dim(self, settings: RasterSettings, context: Context) -> int:
        return raster_steps(context.grid, settings, context.has_reference, context.mask)

    def work(self, settings: RasterSettings, context: Context) -> int:
        settings = settings.in_cells(context.grid)
        scales = raster_schedule(context.grid, settings, context.has_reference, _on_host(context.mask))
        return sum(prod(scale.size) * CELL_WORK + len(scale.places) * settings.window**2 for scale in scales)

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
    """Return index maps ``(N, h, w)`` of one group of images, sampled from coarse to fine."""
    images, depth = len(noise), sources.keys.shape[3]
    grid: Tensor | None = None  # Keys (N, h, w, r) of the images at the last scale.
    index = torch.empty(0)
    first = 0
    for level, scale in enumerate(scales):
        resized = None if reference is None else search.resize(reference, scale.size).expand(images, -1, -1, -1)
        if grid is None:
            grid = sources.keys.new_zeros((images, *scale.size, depth)) if resized is None else resized
        else:
            grid = search.resize(grid, scale.size)
            if resized is not None and not scale.fill.all():
                grid = torch.where(_column(scale.fill, grid.device), grid, resized)
        result = search.scan(level, scale, grid, noise[:, first : first + len(scale.places)])
        first += len(scale.places)
        if scale is not scales[-1]:
            grid = result.grid()
        else:
            index = result.picks()
    return index


class ScanResult(Protocol):
    """Result of a scan over the places of one scale."""

    def grid(self) -> Tensor:
        """Return the keys of the images: ``(N, h, w, r)`` int16."""

    def picks(self) -> Tensor:
        """Return the source of each cell, -1 for none: ``(N, h, w)`` int64."""


class Search(Protocol):
    """Backend that visits the places of scales."""

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """Return keys resized to another grid: ``(N, h, w, r)`` -> ``(N, h', w', r)``."""

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> ScanResult:
        """Visit the places of a scale, with initial keys ``(N, h, w, r)`` and uniforms ``(N, places)``."""


class _NumbaSearch:
    """Visit places one by one in compiled loops of Numba."""

    def __init__(self, sources: PreparedSources, settings: RasterSettings, norm: int, units: int, causal: bool) -> None:
        self.sources, self.settings, self.norm, self.units = sources, settings, norm, units
        self.sums = sum_dtype(settings.window, norm)
        # The scales of a mask serve one call; in the cache they would only evict others.
        self.walk = cpu.scale_walk if causal else cpu.scale_walk.__wrapped__
        self.buffer = cpu.score_buffer(0, self.sums)  # All scales share the score buffer.

    def resize(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        return cpu.resize(keys, size)

    def scan(self, level: int, scale: Scale, grid: Tensor, uniforms: Tensor) -> ScanResult:
        neighbors = self.settings.neighbors
        scores = len(grid) * self.units * len(self.sources.keys)
        if len(self.buffer) < scores:
            self.buffer = cpu.score_buffer(scores, self.sums)
        scan = cpu.Scan(
            self.sources, scale.size, scale.unit, grid, scale.known, self.norm, self.sums, buffer=self.buffer
        )  # fmt: skip
        guesses = draw(uniforms, self.sources.total)
        scan.run(self.walk(scale), draw(uniforms, neighbors), guesses, neighbors)
        return scan


def _in_triton(
    backend: str | None, sources: PreparedSources, scales: Sequence[Scale], settings: RasterSettings, norm: int
) -> bool:
    """Return True where Triton does the search.

    Raises:
        ValueError: where the backend ``triton`` is requested and does not support the search.
    """
    if backend in ("torch", "numba") or (backend is None and not (sources.keys.is_cuda and can_import("triton"))):
        return False
    from .search import triton_backend as gpu  # needs Triton

    obstacle = gpu.obstacle(sources, scales, settings, norm)
    if backend is None:
        return obstacle is None and gpu.agrees(sources.keys.device)
    if obstacle is not None:
        raise SettingError("backend", backend, f"another one here ({obstacle})")
    return True


def _column(cells: BoolArray, device: torch.device) -> Tensor:
    """Return cells ``(h, w)`` as a tensor ``(h, w, 1)`` on a device."""
    return torch.from_numpy(cells)[:, :, None].to(device)


def _on_host(mask: Tensor | None) -> BoolArray | None:
    """Return a mask as a NumPy array."""
    return None if mask is None else np.asarray(mask.detach().cpu().numpy(), dtype=bool)
