"""The schedule of the raster sampler: its places and their order (LatentPatch, section 2, step 3).

A schedule depends on sizes, settings and masks alone, and is made on the host before the first distance is computed. A
sampler visits the places of a schedule and consumes one uniform of its noise at each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....errors import SettingError
from ..settings import RasterSettings

__all__ = [
    "Place",
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
class Place:
    """One step of a scan.

    Attributes:
        cells: flat indices (row * width + column) of the cells to write.
        window: ``(top, bottom, left, right)``, end-exclusive: the patch to compare.
        blind: whether no cell of the window has a value yet, so that any source may be drawn.
    """

    cells: tuple[int, ...]
    window: tuple[int, int, int, int]
    blind: bool


@dataclass(frozen=True, eq=False)
class Scale:
    """A grid size and its places, in order. Scales compare by identity, so that plans can be cached by them.

    Attributes:
        size: cells ``(h, w)`` of the grid.
        places: the steps of the scan.
        known: ``(h, w)`` cells that have values before the scan.
        fill: ``(h, w)`` cells the scan writes.
        unit: side in cells of the largest squares that tile every block, every patch and the known cells, but for cuts
            at the border.
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
    """Return grid sizes, coarse to fine: s_i = floor(s_1 + (M - s_1)(i - 1)/(S - 1) + 1/2) on each side.

    Raises:
        SettingError: where the start size exceeds the grid.
    """
    shorter = min(grid)
    if start_size is not None and start_size > shorter:
        raise SettingError(
            "start_size", start_size, f"at most {shorter} (shorter side of the {grid[0]}x{grid[1]} grid)"
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
    """Return the places of a raster scan, left to right, top to bottom.

    At a cell x, the block of ``stride x stride`` cells that ends at x is copied, by comparing the patch whose
    bottom-right cell is x, clipped at the border.

    Args:
        size: cells of the grid.
        known: ``(h, w)``, all True for a grid with values, all False for an empty one. In an empty grid a whole patch
            is placed first, top left, and the blocks that it covers are not visited.
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
    """Return the places that fill a region, each compared by a patch centred on its block.

    The block with the largest share of known cells in its patch comes first, as in exemplar-based inpainting
    (Criminisi, Perez and Toyama 2004); ties go in raster order. Where the patch cannot be centred, the odd row and
    column lie before the block.

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
    """Return all places of all scales.

    Args:
        grid: cells of the finest grid.
        settings: patch size, stride, scales and start size.
        reference: whether a reference fills the grid beforehand.
        mask: ``(h, w)`` cells to fill, the others being those of the reference (inpainting); None for all.

    Raises:
        SettingError: where the patch exceeds the coarsest grid, or the mask is misshapen or empty.
    """
    settings = settings.in_cells(grid)
    if mask is None:
        return _schedule(grid, settings, reference)
    if mask.shape != grid:
        raise SettingError("mask", tuple(mask.shape), f"of shape {grid}")
    if not mask.any():
        raise SettingError("mask", "one that selects none", "one that selects at least one cell of the latent grid")
    return _masked_schedule(grid, settings, reference, mask.tobytes())


# Cached because a call needs it twice: for the number of uniforms and for the places.
@lru_cache(maxsize=4)
def _masked_schedule(
    grid: tuple[int, int], settings: RasterSettings, reference: bool, selected: bytes
) -> tuple[Scale, ...]:
    mask = np.frombuffer(selected, dtype=bool).reshape(grid)
    scales = []
    for level, size in enumerate(_sizes(grid, settings, reference)):
        fill = shrink_mask(mask, size)
        known = ~fill if level == 0 else np.ones(size, dtype=bool)
        places = surrounded_places(size, settings.window, settings.step, known, fill)
        scales.append(Scale(size, tuple(places), known, fill))
    return tuple(scales)


def shrink_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """Return the cells of a coarser (or equal) grid that overlap a selected cell."""
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        edges = [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        mask = np.stack([np.take(mask, range(a, b), axis=axis).any(axis=axis) for a, b in edges], axis=axis)
    return mask


@lru_cache(maxsize=64)
def _schedule(grid: tuple[int, int], settings: RasterSettings, reference: bool) -> tuple[Scale, ...]:
    scales = []
    for level, size in enumerate(_sizes(grid, settings, reference)):
        known = np.full(size, reference or level > 0)
        places = causal_places(size, settings.window, settings.step, known)
        # Patches begin and end where blocks do, or a patch's side before.
        unit = gcd(settings.window, settings.step)
        scales.append(Scale(size, tuple(places), known, np.ones(size, dtype=bool), unit))
    return tuple(scales)


def _sizes(grid: tuple[int, int], settings: RasterSettings, reference: bool) -> list[tuple[int, int]]:
    sizes = scale_sizes(grid, settings.num_scales(reference), settings.start_size)
    if settings.window > min(sizes[0]):
        coarsest = f"{sizes[0][0]}x{sizes[0][1]}"
        raise SettingError(
            "patch_size",
            settings.window,
            f"at most {min(sizes[0])} (shorter side of the coarsest grid, {coarsest})",
        )
    return sizes


def _box(size: tuple[int, int], top: int, left: int, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rows, columns = np.meshgrid(
        np.arange(top, min(top + side, size[0])), np.arange(left, min(left + side, size[1])), indexing="ij"
    )
    return rows.ravel(), columns.ravel()


def _place(block: tuple[npt.NDArray[np.intp], ...], window: tuple[int, int, int, int], written: BoolArray) -> Place:
    """Return the place of a block and mark its cells as written."""
    top, bottom, left, right = (int(edge) for edge in window)
    blind = not written[top:bottom, left:right].any()
    written[block] = True
    cells = tuple(int(c) for c in np.ravel_multi_index(block, written.shape))
    return Place(cells, (top, bottom, left, right), blind)
