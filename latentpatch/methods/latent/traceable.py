"""Samplers as modules for tracing: :mod:`.search.torch_raster` and :mod:`.search.torch_resynthesis` in graphs."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor, nn

from ...ops.nearest import nearest
from ...ops.noise import draw
from .donors import SUBSET_STEPS, barred_pictures, start_sources
from .search.keys import KEY_NORM, Resize
from .search.prepared import PreparedSources, cut, score_bound, sum_dtype
from .search.resynthesis_schedule import resynthesis_steps, waves
from .search.schedule import Scale, raster_schedule
from .search.torch_loops import TensorUnits, put, stack
from .search.torch_raster import Level, Scanned, State, level_fillers, make_levels, visit_levels
from .search.torch_resynthesis import Step, Tables, least_energy, make_tables, resynthesize, rules_of, step_fillers
from .settings import RasterSettings, ResynthesisSettings

__all__ = ["TraceableRaster", "TraceableResynthesis"]


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
            _ScaleSearch(sources, scale, old, settings.neighbors, norm, sums)
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
            candidates = settings.start_candidates
            drawn, uniforms = uniforms.split([candidates, self.steps // tried - candidates], 1)
            start = start_sources(drawn, self.distances, self.starts)
            held = units.pick(self.cells, start.expand(len(self.cells), -1))
            first = self.groups[start]
        else:
            held = reference.repeat_interleave(tried, 0).flatten(1, 2).movedim(1, 0).to(units.vectors.dtype)
        givers = settings.num_donors(self.pictures, reference is not None)
        barred = barred_pictures(first, uniforms, self.numbers, givers, settings.allow_start_as_donor)
        empty = uniforms.new_zeros((len(self.cells) + 1, uniforms.shape[0], self.count), dtype=self.sums)
        ranks = draw(uniforms[:, SUBSET_STEPS:], self.rules.neighbours).T
        tables, steps = Tables(self.windows, self.sizes, self.writers), Step(*self.loop())
        index = resynthesize(units, held, empty, barred, ranks, self.groups, self.pictures, tables, steps, self.rules)
        maps = index.T.unflatten(1, self.grid)
        return least_energy(units, maps, tried, settings.patch_size, settings.stride, settings.symmetric)


class UnitBuffers(nn.Module):
    """Units of all sources, and one more, of zeros, that stands for what is beyond the grid.

    Args:
        sources: the sources.
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit.
        exact: floating point type that holds all scores.
    """

    vectors: Tensor
    norms: Tensor

    def __init__(self, sources: PreparedSources, size: tuple[int, int], side: int, exact: torch.dtype) -> None:
        super().__init__()
        self.exact = exact
        for name, part in sources.units(size, side)._asdict().items():
            flat = part.flatten(0, 1)
            self.register_buffer(name, torch.cat([flat, torch.zeros_like(flat[:1])]))
        self.norms = self.norms.to(exact)

    def forward(self) -> TensorUnits:
        """Return the units as a search takes them."""
        return TensorUnits(self.vectors.to(self.exact), self.norms)


class Steps(nn.Module):
    """The steps of a loop, stacked: see :func:`~latentpatch.methods.latent.search.torch_loops.stack`."""

    def __init__(self, steps: Sequence[Sequence[Tensor]], fillers: Sequence[int]) -> None:
        super().__init__()
        for number, field in enumerate(stack(steps, fillers)):
            self.register_buffer(str(number), field)

    def forward(self) -> tuple[Tensor, ...]:
        """Return the fields of the steps."""
        return tuple(self.buffers())
