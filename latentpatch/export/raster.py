"""The raster sampler as a module to be traced into a graph: :mod:`latentpatch.sampling.torch_raster` for each scale."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from ..sampling.keys import KEY_NORM, Resize
from ..sampling.nearest import nearest
from ..sampling.schedule import RasterSettings, Scale, raster_schedule
from ..sampling.sources import PreparedSources, cut, score_bound, sum_dtype
from ..sampling.torch_loops import draw, put
from ..sampling.torch_raster import Level, Scanned, State, level_fillers, make_levels, visit_levels
from .buffers import Steps, UnitBuffers

__all__ = ["TraceableRaster"]


class TraceableRaster(nn.Module):
    """``noise (N, steps) -> index map (N, h, w)``; with a reference, ``noise, its keys (N, h, w, r) -> index map``.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or those with what searches prepared.
        settings: of the sampler.
        reference: whether there is one.

    Raises:
        ValueError: where settings and sources do not go together, or are too many for 64-bit integers.
    """

    def __init__(self, keys: Tensor | PreparedSources, settings: RasterSettings, reference: bool = False) -> None:
        super().__init__()
        sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
        count, height, width, depth = sources.keys.shape
        settings.check_sources(count)
        norm = max(sources.norm, KEY_NORM + isqrt(depth) // 2 + 1 if reference else 0) + isqrt(depth) + 1
        if score_bound(settings.patch_size, norm) * count >= 1 << 63:
            raise ValueError(f"{count} sources with patch_size {settings.patch_size}: more than 64-bit integers count")
        sums = sum_dtype(settings.patch_size, norm)
        scales = raster_schedule((height, width), settings, reference)
        before = [(height, width), *(scale.size for scale in scales)]
        self.scales = nn.ModuleList(
            _ScaleSearch(sources, scale, old, settings.neighbours, norm, sums)
            for scale, old in zip(scales, before, strict=False)
        )
        self.places = [len(scale.places) for scale in scales]
        self.steps = sum(self.places)

    def forward(self, noise: Tensor, reference: Tensor | None = None) -> Tensor:
        parts = noise.double().clamp(0, 1).split(self.places, 1)
        grid, index = reference, noise
        for uniforms, scale in zip(parts, self.scales, strict=True):
            index, grid = scale(uniforms, grid)
        return index


class _ScaleSearch(nn.Module):
    """One size of the grid, which is filled from one of another size, or empty."""

    all_units: Tensor

    def __init__(
        self,
        sources: PreparedSources,
        scale: Scale,
        before: tuple[int, int],
        neighbours: int,
        norm: int,
        sums: torch.dtype,
    ) -> None:
        super().__init__()
        self.size, self.side, self.count, self.neighbours = scale.size, scale.unit, len(sources.keys), neighbours
        self.sums = sums
        exact = torch.float32 if score_bound(self.side, norm) <= 1 << 24 else torch.float64
        self.units = UnitBuffers(sources, scale.size, self.side, exact)
        self.register_buffer("all_units", torch.arange(scale.units))
        # The patch that an empty grid begins with is larger than the blocks that follow: it is not part of their loop.
        self.begun = bool(scale.known.all())
        levels, first = make_levels(scale), 0 if self.begun else 1
        parts = [part for part in (levels[:first], levels[first:]) if part]
        self.resize = Resize(before, scale.size)
        self.loops = nn.ModuleList(Steps(part, level_fillers(scale.units)) for part in parts)

    def forward(self, uniforms: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(N, places)`` and the former grid's keys, or None -> index map ``(N, h, w)``, and this grid's keys."""
        units, size = self.units(), (len(self.all_units) + 1, uniforms.shape[0])
        scores = uniforms.new_zeros((*size, self.count), dtype=self.sums)
        held = units.vectors.new_zeros((*size, units.vectors.shape[1]))
        if self.begun and grid is not None:
            keys = cut(self.resize(grid).to(held.dtype), self.side).flatten(0, 1).transpose(1, 2)
            scores, held = units.compare(scores, self.all_units, keys), put(held, self.all_units, keys)
        state = State(scores, held, uniforms.new_full(size, -1, dtype=torch.int64))
        ranks, anyone = draw(uniforms, self.neighbours).T, draw(uniforms, self.count).T
        for steps in self.loops:
            state = visit_levels(units, Level(*steps()), state, ranks, anyone, nearest, self.neighbours)
        found = Scanned(self.size, self.side, state)
        return found.picks(), found.grid()
