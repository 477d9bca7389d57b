"""Traceable modules of the samplers raster and resynthesis."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...ops.nearest import nearest
from ...ops.noise import draw
from .donors import SUBSET_STEPS, donor_bands, start_sources
from .search.bands import bands_of
from .search.keys import KEY_NORM, Resize
from .search.prepared import PreparedSources, cut, score_bound, sum_dtype
from .search.resynthesis_schedule import resynthesis_steps, waves
from .search.schedule import Scale, raster_schedule
from .search.torch_loops import TensorUnits, put, stack
from .search.torch_raster import Level, Scanned, State, level_fillers, make_levels, visit_levels
from .search.torch_resynthesis import Step, Tables, least_energy, make_tables, resynthesize, rules_of, step_fillers
from .settings import RasterSettings, ResynthesisSettings

__all__ = ["TraceableRaster", "TraceableResynthesis"]


def _norm_bound(sources: PreparedSources, has_reference: bool) -> int:
    """Return a bound on the norms of all keys; those of a reference are rounded to :data:`KEY_NORM`."""
    return max(sources.norm, KEY_NORM + isqrt(sources.keys.shape[3]) // 2 + 1 if has_reference else 0)


def _check_scores(bound: int, count: int, patch_size: int) -> None:
    """Refuse scores that leave no room for the number of a source in 64 bits.

    Raises:
        SettingError: naming ``patch_size``.
    """
    if bound * count >= 1 << 63:
        raise SettingError("patch_size", patch_size, f"smaller for {count} sources and 64-bit scores")


class TraceableRaster(nn.Module):
    """Raster sampler from noise ``(N, steps)`` to index maps ``(N, h, w)``.

    With a reference, the second input is its keys ``(N, h, w, r)``.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or prepared sources.
        settings: settings of the sampler.
        reference: True where the module takes a reference.

    Raises:
        SettingError: where settings do not fit the sources, or scores need more than 64 bits.
    """

    def __init__(self, keys: Tensor | PreparedSources, settings: RasterSettings, reference: bool = False) -> None:
        super().__init__()
        sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
        count, height, width, depth = sources.keys.shape
        settings = settings.in_cells((height, width))
        settings.check_sources(count)
        norm = _norm_bound(sources, reference) + isqrt(depth) + 1
        _check_scores(score_bound(settings.window, norm), count, settings.window)
        sums = sum_dtype(settings.window, norm)
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
    """Search at one grid size, from the resized grid of the scale before or an empty grid."""

    all_units: Tensor

    def __init__(
        self,
        sources: PreparedSources,
        scale: Scale,
        before: tuple[int, int],
        neighbors: int,
        norm: int,
        sums: torch.dtype,
    ) -> None:
        super().__init__()
        self.size, self.side, self.count, self.neighbors = scale.size, scale.unit, len(sources.keys), neighbors
        self.sums = sums
        exact = torch.float32 if score_bound(self.side, norm) <= 1 << 24 else torch.float64
        self.units = UnitBuffers(sources, scale.size, self.side, exact)
        self.register_buffer("all_units", torch.arange(scale.units))
        # The first patch of an empty grid is larger than the blocks, so it is not part of their loop.
        self.is_filled = bool(scale.known.all())
        levels, first = make_levels(scale), 0 if self.is_filled else 1
        parts = [part for part in (levels[:first], levels[first:]) if part]
        self.resize = Resize(before, scale.size)
        self.loops = nn.ModuleList(Steps(part, level_fillers(scale.units)) for part in parts)

    def forward(self, uniforms: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return index maps and keys for uniforms ``(N, places)`` and the keys of the scale before."""
        units, size = self.units(), (len(self.all_units) + 1, uniforms.shape[0])
        scores = uniforms.new_zeros((*size, self.count), dtype=self.sums)
        keys = units.vectors.new_zeros((*size, units.vectors.shape[1]))
        if self.is_filled and grid is not None:
            filled = cut(self.resize(grid).to(keys.dtype), self.side).flatten(0, 1).transpose(1, 2)
            scores, keys = units.compare(scores, self.all_units, filled), put(keys, self.all_units, filled)
        state = State(scores, keys, uniforms.new_full(size, -1, dtype=torch.int64))
        ranks, guesses = draw(uniforms, self.neighbors).T, draw(uniforms, self.count).T
        for steps in self.loops:
            state = visit_levels(units, Level(*steps()), state, ranks, guesses, nearest, self.neighbors)
        result = Scanned(self.size, self.side, state)
        return result.picks(), result.grid()


class TraceableResynthesis(nn.Module):
    """Resynthesis sampler from noise ``(N, steps)`` to index maps ``(N, h, w)``.

    With a reference, the second input is its keys ``(N, h, w, r)``.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or prepared sources.
        settings: settings of the sampler.
        reference: True where the module takes a reference.

    Raises:
        SettingError: where settings do not fit the sources, or scores need more than 64 bits.
    """

    distances: Tensor
    starts: Tensor | None
    groups: Tensor
    numbers: Tensor
    cells: Tensor
    windows: Tensor
    sizes: Tensor
    writers: Tensor
    bands: Tensor

    def __init__(self, keys: Tensor | PreparedSources, settings: ResynthesisSettings, reference: bool = False) -> None:
        super().__init__()
        sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
        self.count, height, width = sources.keys.shape[:3]
        self.pictures, self.grid = sources.pictures, (height, width)
        self.settings = settings = settings.in_cells(self.grid).resolved(self.pictures, reference)
        settings.check_sources(self.pictures, reference)
        self.steps = resynthesis_steps(self.grid, settings, reference)
        norm = _norm_bound(sources, reference)
        self.rules = rules_of(sources, settings, norm, reference)
        _check_scores(self.rules.excluded_score, self.count, settings.window)
        self.sums = torch.int32 if self.rules.excluded_score < 1 << 31 else torch.int64
        exact = torch.float32 if score_bound(1, norm) <= 1 << 24 else torch.float64
        self.units = UnitBuffers(sources, self.grid, 1, exact)
        plan, area = waves(self.grid, settings.window, settings.step, settings.symmetric), height * width
        bands = bands_of(self.grid, settings.step, settings.symmetric, self.rules.cuts)
        tables, steps = make_tables(plan, area, self.rules.limit, bands)
        self.loop = Steps(steps, step_fillers(area))
        for name in Tables._fields:
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
            candidates = settings.num_candidates(self.pictures)
            drawn, uniforms = uniforms.split([candidates, self.steps // tried - candidates], 1)
            start = start_sources(drawn, self.distances, self.starts)
            keys = units.pick(self.cells, start.expand(len(self.cells), -1))
            first = self.groups[start]
        else:
            keys = reference.repeat_interleave(tried, 0).flatten(1, 2).movedim(1, 0).to(units.vectors.dtype)
            # Changes nothing, but without it ONNX Runtime joins the transposition with the product that follows, and
            # divides by zero there where there are no images.
            keys = keys.clamp(-KEY_NORM, KEY_NORM)
        num_donors = settings.num_donors(self.pictures, reference is not None)
        donors = donor_bands(first, uniforms, self.numbers, num_donors, settings.allow_start_as_donor, self.rules.bands)
        empty = uniforms.new_zeros((len(self.cells) + 1, uniforms.shape[0], self.count), dtype=self.sums)
        ranks = draw(uniforms[:, SUBSET_STEPS:], self.rules.neighbors).T
        tables, steps = Tables(self.windows, self.sizes, self.writers, self.bands), Step(*self.loop())
        index = resynthesize(units, keys, empty, donors, ranks, self.groups, self.pictures, tables, steps, self.rules)
        maps = index.T.unflatten(1, self.grid)
        return least_energy(units, maps, tried, settings.window, settings.step, settings.symmetric)


class UnitBuffers(nn.Module):
    """Buffers of the units of all sources, with a unit of zeros at the end for all cells beyond the grid.

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
        """Return the units in the form of a search."""
        return TensorUnits(self.vectors.to(self.exact), self.norms)


class Steps(nn.Module):
    """Buffers of the steps of a loop, stacked by :func:`.search.torch_loops.stack`."""

    def __init__(self, steps: Sequence[Sequence[Tensor]], fillers: Sequence[int]) -> None:
        super().__init__()
        for number, field in enumerate(stack(steps, fillers)):
            self.register_buffer(str(number), field)

    def forward(self) -> tuple[Tensor, ...]:
        """Return the fields of the steps."""
        return tuple(self.buffers())
