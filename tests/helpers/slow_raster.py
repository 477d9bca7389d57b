"""The sampler of LatentPatch, section 2, step 3, with plain loops and exact fractions.

Written from the paper's text, not from the package: no tensors, no shared code. Keys are nested lists
``keys[b][y][x]`` of r integers.
"""

from __future__ import annotations

import math
from fractions import Fraction

Grid = list[list[list[int]]]


def interpolate(grid: Grid, height: int, width: int) -> Grid:
    """Bilinear interpolation with half-pixel centres, each value rounded to the nearest integer, half up."""
    old_height, old_width, depth = len(grid), len(grid[0]), len(grid[0][0])
    result = []
    for y in range(height):
        row = []
        for x in range(width):
            fy = min(max((y + Fraction(1, 2)) * old_height / height - Fraction(1, 2), 0), old_height - 1)
            fx = min(max((x + Fraction(1, 2)) * old_width / width - Fraction(1, 2), 0), old_width - 1)
            y0, x0 = math.floor(fy), math.floor(fx)
            y1, x1 = min(y0 + 1, old_height - 1), min(x0 + 1, old_width - 1)
            wy, wx = fy - y0, fx - x0
            cell = []
            for c in range(depth):
                top = grid[y0][x0][c] * (1 - wx) + grid[y0][x1][c] * wx
                bottom = grid[y1][x0][c] * (1 - wx) + grid[y1][x1][c] * wx
                cell.append(math.floor(top * (1 - wy) + bottom * wy + Fraction(1, 2)))
            row.append(cell)
        result.append(row)
    return result


def block_cells(top: int, left: int, step: int, h: int, w: int) -> list[tuple[int, int]]:
    """Cells of a block, clipped at the border."""
    return [(y, x) for y in range(top, min(top + step, h)) for x in range(left, min(left + step, w))]


def window_cells(top: int, left: int, step: int, patch: int, before: int, h: int, w: int) -> list[tuple[int, int]]:
    """Cells of the patch whose last cell, without a mask, is the block's last, clipped at the border."""
    first_y, first_x = top + step - 1 - before, left + step - 1 - before
    return [
        (y, x)
        for y in range(first_y, first_y + patch)
        for x in range(first_x, first_x + patch)
        if 0 <= y < h and 0 <= x < w
    ]


def overlaps(mask: list[list[bool]], y: int, x: int, h: int, w: int) -> bool:
    """Whether cell (y, x) of a grid of h x w covers any part of a masked cell."""
    height, width = len(mask), len(mask[0])
    return any(
        mask[v][u]
        and Fraction(v, height) < Fraction(y + 1, h)
        and Fraction(v + 1, height) > Fraction(y, h)
        and Fraction(u, width) < Fraction(x + 1, w)
        and Fraction(u + 1, width) > Fraction(x, w)
        for v in range(height)
        for u in range(width)
    )


def slow_raster(
    keys: list[Grid],
    uniforms: list[float],
    patch: int,
    neighbours: int,
    scales: int,
    stride: int | None = None,
    start: int | None = None,
    reference: Grid | None = None,
    mask: list[list[bool]] | None = None,
) -> list[list[int]]:
    """One image: the source of each cell of the finest grid, -1 where the mask keeps the reference.

    With a mask (True where cells are to be filled), patches are centred on the blocks, and the block that is
    best surrounded comes next.
    """
    height, width = len(keys[0]), len(keys[0][0])
    step = stride or max(1, math.floor(Fraction(patch, 3) + Fraction(1, 2)))
    ratio = Fraction(10, 16) if start is None else Fraction(start, min(height, width))
    draws = iter(uniforms)
    grid: Grid | None = None
    index: list[list[int]] = []
    for scale in range(1, scales + 1):
        size = []
        for side in (height, width):
            first = math.floor(side * ratio + Fraction(1, 2))
            if scales == 1:
                size.append(side)
            else:
                size.append(math.floor(first + Fraction((side - first) * (scale - 1), scales - 1) + Fraction(1, 2)))
        h, w = size
        sources = [interpolate(source, h, w) for source in keys]
        if scale == 1:
            grid = interpolate(reference, h, w) if reference is not None else None
        else:
            grid = interpolate(grid, h, w)
        known = [[grid is not None] * w for _ in range(h)]
        hole = [[mask is None or overlaps(mask, y, x, h, w) for x in range(w)] for y in range(h)]
        if mask is not None:
            given = interpolate(reference, h, w)
            grid = [[grid[y][x] if hole[y][x] else given[y][x] for x in range(w)] for y in range(h)]
            if scale == 1:
                known = [[not hole[y][x] for x in range(w)] for y in range(h)]
        if grid is None:
            grid = [[[0] * len(keys[0][0][0]) for _ in range(w)] for _ in range(h)]
        index = [[-1] * w for _ in range(h)]

        def copy(b: int, rows: range, columns: range) -> None:
            for y in rows:
                for x in columns:
                    if not hole[y][x]:  # noqa: B023
                        continue
                    grid[y][x] = sources[b][y][x]  # noqa: B023
                    index[y][x] = b  # noqa: B023
                    known[y][x] = True  # noqa: B023

        complete = all(all(row) for row in known)
        if not complete and mask is None:
            copy(int(next(draws) * len(keys)), range(min(patch, h)), range(min(patch, w)))
        before = patch - 1 if mask is None else step - 1 + (patch - step + 1) // 2
        blocks = [(top, left) for top in range(0, h, step) for left in range(0, w, step)]
        if mask is not None:
            blocks = [(t, le) for t, le in blocks if any(hole[y][x] for y, x in block_cells(t, le, step, h, w))]
        while blocks:

            def share(place: tuple[int, int]) -> Fraction:
                cells = window_cells(*place, step, patch, before, h, w)  # noqa: B023
                return Fraction(sum(known[y][x] for y, x in cells), len(cells))  # noqa: B023

            # max() takes the first of equals, which is the first in raster order.
            top, left = blocks[0] if mask is None else max(blocks, key=share)
            blocks.remove((top, left))
            rows, columns = range(top, min(top + step, h)), range(left, min(left + step, w))
            if mask is None and not complete and all(known[y][x] for y in rows for x in columns):
                continue
            ranking = []
            compared = False
            for b, source in enumerate(sources):
                distance = 0
                for y, x in window_cells(top, left, step, patch, before, h, w):
                    if known[y][x]:
                        compared = True
                        distance += sum((p - q) ** 2 for p, q in zip(grid[y][x], source[y][x], strict=True))
                ranking.append((distance, b))
            ranking.sort()
            # Where nothing is known, all sources are equally near.
            nearest = ranking[:neighbours] if compared else ranking
            copy(nearest[int(next(draws) * len(nearest))][1], rows, columns)
    assert next(draws, None) is None, "not all uniforms were used"
    return index
