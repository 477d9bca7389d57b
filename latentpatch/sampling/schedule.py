"""Where and in which order the raster sampler works (LatentPatch, section 2, step 3).

Everything here is decided by sizes, settings and masks alone, on the host, before the first distance
is computed: a sampler walks the places of a schedule and takes one uniform of its noise at each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .checks import check_integer

__all__ = [
    "Place",
    "RasterSettings",
    "Scale",
    "UnitPlace",
    "causal_places",
    "last_writers",
    "places_in_units",
    "raster_schedule",
    "scale_sizes",
    "surrounded_places",
]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RasterSettings:
    """Settings of the raster sampler; the paper's symbol in parentheses.

    Attributes:
        patch_size: side of the compared patches in cells (omega).
        stride: side of the copied blocks in cells (w); None for floor(patch_size / 3 + 1/2), at least 1.
        neighbours: how many nearest sources the copied one is drawn from (k).
        scales: number of grid sizes, coarse to fine (S); None for 5, or 1 where there is a reference
            (3 where :meth:`LatentPatch.inpaint` fills a region of one).
        start_size: shorter side of the coarsest grid in cells (s_1); None for 10/16 of the grid's.
    """

    patch_size: int = 6
    stride: int | None = None
    neighbours: int = 3
    scales: int | None = None
    start_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("patch_size", "stride", "neighbours", "scales", "start_size"):
            value = getattr(self, name)
            if value is None and name not in ("patch_size", "neighbours"):
                continue
            check_integer(name, value, 1)
        if self.stride is not None and self.stride > self.patch_size:
            raise ValueError(f"stride {self.stride}: at most patch_size {self.patch_size} is expected")

    @property
    def step(self) -> int:
        """The stride in force."""
        return self.stride if self.stride is not None else max(1, (2 * self.patch_size + 3) // 6)

    def check_sources(self, count: int) -> None:
        """Refuse to draw from more neighbours than there are sources.

        Raises:
            ValueError: where ``neighbours`` exceeds ``count``.
        """
        if self.neighbours > count:
            raise ValueError(f"neighbours {self.neighbours}: at most {count} (number of sources) is expected")

    def resolved(self, reference: bool) -> RasterSettings:
        """These settings with what they leave open filled in, but for the start size, which depends on the grid."""
        return replace(self, stride=self.step, scales=self.scale_count(reference))

    def scale_count(self, reference: bool) -> int:
        """The number of scales in force, with a reference or without."""
        return self.scales if self.scales is not None else (1 if reference else 5)


@dataclass(frozen=True)
class Place:
    """One step of a scan.

    Attributes:
        cells: flat indices (row * width + column) of the cells that are written.
        window: ``(top, bottom, left, right)``, end-exclusive: the patch that is compared.
        blind: nothing is known within the window, so any source may be drawn.
    """

    cells: tuple[int, ...]
    window: tuple[int, int, int, int]
    blind: bool


@dataclass(frozen=True, eq=False)
class Scale:
    """A grid size and the places visited at it, in order. Equal to itself only, so that plans may be kept by it.

    Attributes:
        size: cells ``(h, w)`` of the grid.
        places: the steps of the scan.
        known: ``(h, w)`` cells that hold values before the scan.
        fill: ``(h, w)`` cells the scan writes.
        unit: side of the largest squares that every block, every patch and what is known beforehand are made of,
            but for cuts at the border.
    """

    size: tuple[int, int]
    places: tuple[Place, ...]
    known: BoolArray
    fill: BoolArray
    unit: int = 1

    @property
    def units(self) -> int:
        """Number of units that cover the grid; those at the border may reach beyond it."""
        return -(-self.size[0] // self.unit) * -(-self.size[1] // self.unit)


class UnitPlace(NamedTuple):
    """A step of a scan, told in units, which are numbered row by row.

    Attributes:
        window: units that are compared, as far as they are known at that step.
        block: units that are written.
        blind: whether nothing is known within the window.
    """

    window: tuple[int, ...]
    block: tuple[int, ...]
    blind: bool


def places_in_units(scale: Scale) -> list[UnitPlace]:
    """Return the places of a scale, in order."""
    side, columns = scale.unit, -(-scale.size[1] // scale.unit)
    known = scale.known[::side, ::side].copy()
    units = np.arange(known.size).reshape(known.shape)
    places = []
    for place in scale.places:
        top, bottom, left, right = (-(-edge // side) for edge in place.window)
        window = units[top:bottom, left:right][known[top:bottom, left:right]]
        rows, cells = np.divmod(np.array(place.cells), scale.size[1])
        block = np.unique(rows // side * columns + cells // side)
        known.flat[block] = True
        places.append(UnitPlace(tuple(window.tolist()), tuple(block.tolist()), place.blind))
    return places


def last_writers(scale: Scale) -> npt.NDArray[np.int64]:
    """Return the place that writes each cell last, ``(h, w)``; -1 where none does."""
    writers = np.full(scale.size, -1, dtype=np.int64)
    for number, place in enumerate(scale.places):
        writers.ravel()[list(place.cells)] = number
    return writers


def scale_sizes(grid: tuple[int, int], scales: int, start_size: int | None = None) -> list[tuple[int, int]]:
    """Grid sizes, coarse to fine: s_i = floor(s_1 + (M - s_1)(i - 1)/(S - 1) + 1/2) on each side.

    Raises:
        ValueError: where the start size exceeds the grid.
    """
    shorter = min(grid)
    if start_size is not None and start_size > shorter:
        raise ValueError(
            f"start_size {start_size}: at most {shorter} (shorter side of the {grid[0]}x{grid[1]} grid) is expected"
        )
    if scales == 1:
        return [grid]
    numerator, denominator = (10, 16) if start_size is None else (start_size, shorter)
    sides = []
    for side in grid:
        first = max(1, (2 * side * numerator + denominator) // (2 * denominator))
        steps = scales - 1
        sides.append([(2 * (first * steps + (side - first) * i) + steps) // (2 * steps) for i in range(scales)])
    return list(zip(*sides, strict=True))


def causal_places(size: tuple[int, int], patch_size: int, stride: int, known: BoolArray) -> list[Place]:
    """Left to right, top to bottom: blocks of ``stride x stride`` cells that end at x are copied, by
    comparing the patch whose bottom-right cell is x, clipped at the border.

    Args:
        size: cells of the grid.
        known: ``(h, w)``: True everywhere where the grid is filled beforehand. All False for an empty
            grid: a whole patch is then placed top left first, and blocks it covers are not visited.
    """
    height, width = size
    filled = bool(known.all())
    written = known.copy()
    places = []
    if not filled:
        places.append(
            _place(_box(size, 0, 0, patch_size), (0, min(patch_size, height), 0, min(patch_size, width)), written)
        )
    for top in range(0, height, stride):
        for left in range(0, width, stride):
            block = _box(size, top, left, stride)
            if not filled and written[block].all():
                continue
            bottom, right = min(top + stride, height), min(left + stride, width)
            window = (max(0, top + stride - patch_size), bottom, max(0, left + stride - patch_size), right)
            places.append(_place(block, window, written))
    return places


def surrounded_places(
    size: tuple[int, int], patch_size: int, stride: int, known: BoolArray, fill: BoolArray
) -> list[Place]:
    """Blocks of the cells to fill, each compared by a patch centred on it, the best-surrounded first.

    Where the patch cannot be centred, the odd row and column lie before the block.

    Working inwards from what is known is the order of exemplar-based inpainting (Criminisi, Perez and
    Toyama 2004); ties go in raster order.

    Args:
        known: ``(h, w)`` cells with values beforehand.
        fill: ``(h, w)`` cells to write; others are left alone.
    """
    height, width = size
    written = known.copy()
    margin = patch_size - stride
    waiting = []
    for top in range(0, height, stride):
        for left in range(0, width, stride):
            if fill[_box(size, top, left, stride)].any():
                waiting.append((top, left))
    windows = np.array(
        [
            (
                max(0, top - (margin + 1) // 2),
                min(height, top + stride + margin // 2),
                max(0, left - (margin + 1) // 2),
                min(width, left + stride + margin // 2),
            )
            for top, left in waiting
        ]
    )
    shares = np.array([written[t:b, le:r].mean() for t, b, le, r in windows])
    places = []
    for _ in waiting:
        best = int(np.argmax(shares))
        shares[best] = -1  # done
        top, left = waiting[best]
        block = np.zeros(size, dtype=bool)
        block[_box(size, top, left, stride)] = True
        window = windows[best]
        places.append(_place(np.nonzero(block & fill), (window[0], window[1], window[2], window[3]), written))
        near = (windows[:, 0] < top + stride) & (windows[:, 1] > top)
        near &= (windows[:, 2] < left + stride) & (windows[:, 3] > left) & (shares >= 0)
        for other in np.nonzero(near)[0]:
            t, b, le, r = windows[other]
            shares[other] = written[t:b, le:r].mean()
    return places


def raster_schedule(
    grid: tuple[int, int], settings: RasterSettings, reference: bool = False, mask: BoolArray | None = None
) -> tuple[Scale, ...]:
    """All places of all scales.

    Args:
        grid: cells of the finest grid.
        settings: patch size, stride, scales and start size.
        reference: whether a reference fills the grid beforehand.
        mask: ``(h, w)`` cells to fill, the others being given by the reference (inpainting); None for all.

    Raises:
        ValueError: where the patch exceeds the coarsest grid, or the mask is misshapen or empty.
    """
    if mask is None:
        return _schedule(grid, settings, reference)
    if mask.shape != grid:
        raise ValueError(f"mask: {grid[0]}x{grid[1]} cells are expected, got {'x'.join(map(str, mask.shape))}")
    if not mask.any():
        raise ValueError("mask: it selects no cell of the latent grid; at least one is expected")
    return _masked_schedule(grid, settings, reference, mask.tobytes())


# A call asks twice, for the number of places and for the places.
@lru_cache(maxsize=4)
def _masked_schedule(
    grid: tuple[int, int], settings: RasterSettings, reference: bool, selected: bytes
) -> tuple[Scale, ...]:
    mask = np.frombuffer(selected, dtype=bool).reshape(grid)
    scales = []
    for level, size in enumerate(_sizes(grid, settings, reference)):
        fill = shrink_mask(mask, size)
        known = ~fill if level == 0 else np.ones(size, dtype=bool)
        places = surrounded_places(size, settings.patch_size, settings.step, known, fill)
        scales.append(Scale(size, tuple(places), known, fill))
    return tuple(scales)


def shrink_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """Cells of a coarser (or equal) grid that overlap a selected cell."""
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        edges = [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        mask = np.stack([np.take(mask, range(a, b), axis=axis).any(axis=axis) for a, b in edges], axis=axis)
    return mask


@lru_cache(maxsize=64)
def _schedule(grid: tuple[int, int], settings: RasterSettings, reference: bool) -> tuple[Scale, ...]:
    scales = []
    for level, size in enumerate(_sizes(grid, settings, reference)):
        known = np.full(size, reference or level > 0)
        places = causal_places(size, settings.patch_size, settings.step, known)
        # Patches begin and end where blocks do, or a patch's side before that.
        unit = gcd(settings.patch_size, settings.step)
        scales.append(Scale(size, tuple(places), known, np.ones(size, dtype=bool), unit))
    return tuple(scales)


def _sizes(grid: tuple[int, int], settings: RasterSettings, reference: bool) -> list[tuple[int, int]]:
    sizes = scale_sizes(grid, settings.scale_count(reference), settings.start_size)
    if settings.patch_size > min(sizes[0]):
        raise ValueError(
            f"patch_size {settings.patch_size}: at most {min(sizes[0])} (shorter side of the coarsest grid, "
            f"{sizes[0][0]}x{sizes[0][1]}) is expected"
        )
    return sizes


def _box(size: tuple[int, int], top: int, left: int, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rows, columns = np.meshgrid(
        np.arange(top, min(top + side, size[0])), np.arange(left, min(left + side, size[1])), indexing="ij"
    )
    return rows.ravel(), columns.ravel()


def _place(block: tuple[npt.NDArray[np.intp], ...], window: tuple[int, int, int, int], written: BoolArray) -> Place:
    """Record a step and mark its cells as written."""
    top, bottom, left, right = (int(edge) for edge in window)
    blind = not written[top:bottom, left:right].any()
    written[block] = True
    cells = tuple(int(c) for c in np.ravel_multi_index(block, written.shape))
    return Place(cells, (top, bottom, left, right), blind)
