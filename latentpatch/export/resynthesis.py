"""Resynthesis as a module to be traced into a graph: :mod:`latentpatch.sampling.torch_resynthesis`."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from ..sampling.donors import SUBSET_STEPS, barred_pictures, start_sources
from ..sampling.keys import KEY_NORM
from ..sampling.resynthesis import ResynthesisSettings, resynthesis_steps, rules_of
from ..sampling.resynthesis_plan import waves
from ..sampling.sources import PreparedSources, score_bound
from ..sampling.torch_loops import draw
from ..sampling.torch_resynthesis import Step, Tables, least_energy, make_tables, resynthesize, step_fillers
from .buffers import Steps, UnitBuffers

__all__ = ["TraceableResynthesis"]


class TraceableResynthesis(nn.Module):
    """``noise (N, steps) -> index map (N, h, w)``; with a reference, ``noise, its keys (N, h, w, r) -> index map``.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or those with what searches prepared.
        settings: of the sampler.
        reference: whether there is one.

    Raises:
        ValueError: where settings and sources do not go together, or are too many for 64-bit integers.
    """

    distances: Tensor
    starts: Tensor | None
    groups: Tensor
    numbers: Tensor
    cells: Tensor
    windows: Tensor
    sizes: Tensor
    writers: Tensor

    def __init__(self, keys: Tensor | PreparedSources, settings: ResynthesisSettings, reference: bool = False) -> None:
        super().__init__()
        sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
        self.count, height, width, depth = sources.keys.shape
        self.pictures, self.grid = sources.pictures, (height, width)
        self.settings = settings = settings.resolved(self.pictures, reference)
        settings.check_sources(self.pictures, reference)
        self.steps = resynthesis_steps(self.grid, settings, reference)
        norm = max(sources.norm, KEY_NORM + isqrt(depth) // 2 + 1 if reference else 0)
        self.rules = rules_of(sources, settings, norm, reference)
        if self.rules.excluded * self.count >= 1 << 63:
            raise ValueError(
                f"{self.count} sources with patch_size {settings.patch_size}: more than 64-bit integers count"
            )
        self.sums = torch.int32 if self.rules.excluded < 1 << 31 else torch.int64
        exact = torch.float32 if score_bound(1, norm) <= 1 << 24 else torch.float64
        self.units = UnitBuffers(sources, self.grid, 1, exact)
        plan, area = waves(self.grid, settings.patch_size, settings.stride, settings.symmetric), height * width
        tables, steps = make_tables(plan, area, self.rules.limit)
        self.loop = Steps(steps, step_fillers(area))
        for name in ("windows", "sizes", "writers"):
            self.register_buffer(name, getattr(tables, name))
        if not reference:
            self.register_buffer("distances", sources.distances)
            self.register_buffer("starts", sources.starts)
        self.register_buffer("groups", sources.groups)
        self.register_buffer("numbers", torch.arange(self.pictures))
        self.register_buffer("cells", torch.arange(area))

    def forward(self, noise: Tensor, reference: Tensor | None = None) -> Tensor:
        settings, tried = self.settings, self.settings.best_of
        uniforms = noise.double().clamp(0, 1).unflatten(1, (tried, -1)).flatten(0, 1)
        units, first = self.units(), None
        if reference is None:
            drawn, uniforms = uniforms.split([settings.draws, self.steps // tried - settings.draws], 1)
            start = start_sources(drawn, self.distances, self.starts)
            held = units.pick(self.cells, start.expand(len(self.cells), -1))
            first = self.groups[start]
        else:
            held = reference.repeat_interleave(tried, 0).flatten(1, 2).movedim(1, 0).to(units.vectors.dtype)
        givers = settings.givers(self.pictures, reference is not None)
        barred = barred_pictures(first, uniforms, self.numbers, givers, settings.keep_start)
        empty = uniforms.new_zeros((len(self.cells) + 1, uniforms.shape[0], self.count), dtype=self.sums)
        ranks = draw(uniforms[:, SUBSET_STEPS:], self.rules.neighbours).T
        tables, steps = Tables(self.windows, self.sizes, self.writers), Step(*self.loop())
        index = resynthesize(units, held, empty, barred, ranks, self.groups, self.pictures, tables, steps, self.rules)
        maps = index.T.unflatten(1, self.grid)
        return least_energy(units, maps, tried, settings.patch_size, settings.stride, settings.symmetric)
