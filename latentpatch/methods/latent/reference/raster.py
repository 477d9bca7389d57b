"""The multi-scale raster sampler of LatentPatch (ICIP 2023, section 2, step 3), with loops and exact fractions.

From a coarse grid to the finest, the sampler goes through the blocks of a grid row by row. At each block it compares
the patch that ends there, as far as cells have values, with the patch at the same place in every source, and copies the
block from one of the k nearest. The result, brought to the next size, is what the next grid begins with.

With a mask only some cells are filled (inpainting). Patches are then centered on the blocks, and the block that is best
surrounded comes next, as in exemplar-based inpainting (Criminisi et al. 2004, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, floor

import numpy as np

from .sources import BoolArray, IntArray, draw, offset_costs

__all__ = ["interpolate", "raster"]

HALF = Fraction(1, 2)
Size = tuple[int, int]


def raster(
    keys: IntArray,  # (B, h, w, r)
    uniforms: Sequence[float],  # 1 a place, and 1 for the first patch of an empty grid; scale by scale
    *,
    patch_size: int = 6,  # omega
    stride: int | None = None,  # w
    neighbors: int = 3,  # k
    scales: int | None = None,  # S
    start_size: int | None = None,  # s_1
    reference: IntArray | None = None,  # (h, w, r), fills the grid beforehand
    mask: BoolArray | None = None,  # (h, w), True where cells are filled; the others are the reference's
    squared_offsets: IntArray | None = None,  # (B,) cells that each source is moved by, squared
    offset_cost: float = 0.0,
) -> IntArray:
    """Return the source of each cell of one picture, ``(h, w)``; -1 outside the mask."""
    height, width, depth = keys.shape[1:]
    stride = stride or max(1, floor(Fraction(patch_size, 3) + HALF))
    scales = scales or (5 if reference is None else 1)
    costs = offset_costs(keys, squared_offsets, offset_cost)
    numbers = iter(uniforms)
    canvas = np.zeros((1, 1, depth), dtype=np.int64) if reference is None else reference
    is_empty = reference is None
    index = np.empty(0, dtype=np.int64)
    for number, size in enumerate(grid_sizes((height, width), scales, start_size)):
        sources = interpolate(keys, size)
        canvas = interpolate(canvas, size).copy()
        fill = np.ones(size, dtype=bool) if mask is None else shrink_mask(mask, size)
        known = np.full(size, not is_empty)  # cells that have values
        if mask is not None and reference is not None:
            canvas = np.where(fill[:, :, None], canvas, interpolate(reference, size))
            known = ~fill if number == 0 else known
        index = fill_grid(canvas, known, fill, sources, costs, numbers, patch_size, stride, neighbors, mask is not None)
        is_empty = False
    assert next(numbers, None) is None, "uniforms must be as many as there are draws"
    return index


def grid_sizes(grid: Size, scales: int, start_size: int | None) -> list[Size]:
    """Return the sizes of the grids, coarse to fine: s_i = s_1 + (M - s_1)(i - 1)/(S - 1) on each side, rounded."""
    if scales == 1:
        return [grid]
    ratio = Fraction(10, 16) if start_size is None else Fraction(start_size, min(grid))
    starts = [max(1, floor(side * ratio + HALF)) for side in grid]
    return [
        (rows, columns)
        for rows, columns in zip(
            *(
                [floor(start + Fraction((side - start) * i, scales - 1) + HALF) for i in range(scales)]
                for side, start in zip(grid, starts, strict=True)
            ),
            strict=True,
        )
    ]


def fill_grid(
    canvas: IntArray,  # (h, w, r), changed
    known: BoolArray,  # (h, w), changed
    fill: BoolArray,  # (h, w), cells that may be written
    sources: IntArray,  # (B, h, w, r)
    costs: IntArray,  # (B,) of each compared cell
    numbers: Iterator[float],
    patch_size: int,
    stride: int,
    neighbors: int,
    has_mask: bool,
) -> IntArray:
    """Visit the blocks of a grid of one size and return the source of each cell, ``(h, w)``."""
    height, width = known.shape
    index = np.full((height, width), -1)

    def copy(source: int, top: int, left: int, side: int) -> None:
        block = np.zeros_like(fill)
        block[top : top + side, left : left + side] = True
        block &= fill
        canvas[block], index[block], known[block] = sources[source][block], source, True

    # Without a mask, the patch ends where the block does. With one, the block is in the middle of its patch.
    before = (patch_size - stride + 1) // 2 if has_mask else patch_size - stride

    def window(block: Size) -> tuple[slice, slice]:
        (first, last), (left, right) = ((max(0, at - before), at - before + patch_size) for at in block)
        return slice(first, last), slice(left, right)

    def known_share(block: Size) -> Fraction:
        inside = known[window(block)]
        return Fraction(int(inside.sum()), inside.size)

    was_complete = bool(known.all())
    if not was_complete and not has_mask:
        copy(draw(next(numbers), len(sources)), 0, 0, patch_size)  # nothing is known: a whole patch of any source
    blocks = [(top, left) for top in range(0, height, stride) for left in range(0, width, stride)]
    blocks = [(top, left) for top, left in blocks if fill[top : top + stride, left : left + stride].any()]
    while blocks:
        block = max(blocks, key=known_share) if has_mask else blocks[0]  # the first in the raster among equals
        blocks.remove(block)
        top, left = block
        if not has_mask and not was_complete and known[top : top + stride, left : left + stride].all():
            continue  # the first patch covers it
        seen = known[window(block)]
        if seen.any():
            # (B, cells, r) against (cells, r)
            rows, columns = window(block)
            difference = sources[:, rows, columns][:, seen] - canvas[rows, columns][seen]
            distances = (difference**2).sum((1, 2)) + int(seen.sum()) * costs
            ranking = sorted(range(len(sources)), key=lambda source: (distances[source], source))[:neighbors]
        else:
            ranking = list(range(len(sources)))  # all are equally near
        copy(ranking[draw(next(numbers), len(ranking))], top, left, stride)
    return index


def interpolate(grids: IntArray, size: Size) -> IntArray:
    """Bring grids ``(..., h, w, r)`` to another size by bilinear interpolation, rounded half up.

    Cell i of n covers the interval from i/n to (i + 1)/n of a side, and its value lies in the middle of it.
    """
    height, width = grids.shape[-3:-1]
    result = np.empty((*grids.shape[:-3], *size, grids.shape[-1]), dtype=np.int64)
    scale = 4 * size[0] * size[1]  # weights are multiples of 1 / (2 h') and 1 / (2 w')
    for row, column in np.ndindex(*size):
        (y0, y1, down), (x0, x1, right) = _between(row, height, size[0]), _between(column, width, size[1])
        corners = [
            (y0, x0, (1 - down) * (1 - right)),
            (y0, x1, (1 - down) * right),
            (y1, x0, down * (1 - right)),
            (y1, x1, down * right),
        ]
        total = sum(grids[..., y, x, :] * int(weight * scale) for y, x, weight in corners)
        result[..., row, column, :] = (2 * total + scale) // (2 * scale)  # floor(total / scale + 1/2)
    return result


def _between(cell: int, old: int, new: int) -> tuple[int, int, Fraction]:
    """Return the old cells before and after the middle of a new one, and the weight of the latter."""
    position = min(max((cell + HALF) * old / new - HALF, Fraction(0)), Fraction(old - 1))
    first = floor(position)
    return first, min(first + 1, old - 1), position - first


def shrink_mask(mask: BoolArray, size: Size) -> BoolArray:
    """Return the cells of a grid of another size that overlap a cell of a mask: ``size`` bool."""
    result = np.zeros(size, dtype=bool)
    for row, column in np.ndindex(*size):
        rows, columns = (
            slice(floor(Fraction(cell * old, new)), ceil(Fraction((cell + 1) * old, new)))
            for cell, old, new in zip((row, column), mask.shape, size, strict=True)
        )
        result[row, column] = mask[rows, columns].any()
    return result
