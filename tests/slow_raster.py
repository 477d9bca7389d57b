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


def slow_raster(
    keys: list[Grid],
    uniforms: list[float],
    patch: int,
    neighbours: int,
    scales: int,
    stride: int | None = None,
    start: int | None = None,
    reference: Grid | None = None,
) -> list[list[int]]:
    """One image: the source of each cell of the finest grid."""
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
        if grid is None:
            grid = [[[0] * len(keys[0][0][0]) for _ in range(w)] for _ in range(h)]
        index = [[-1] * w for _ in range(h)]

        def copy(b: int, rows: range, columns: range) -> None:
            for y in rows:
                for x in columns:
                    grid[y][x] = sources[b][y][x]  # noqa: B023
                    index[y][x] = b  # noqa: B023
                    known[y][x] = True  # noqa: B023

        complete = known[0][0]
        if not complete:
            copy(int(next(draws) * len(keys)), range(min(patch, h)), range(min(patch, w)))
        for top in range(0, h, step):
            for left in range(0, w, step):
                rows, columns = range(top, min(top + step, h)), range(left, min(left + step, w))
                if not complete and all(known[y][x] for y in rows for x in columns):
                    continue
                ranking = []
                compared = False
                for b, source in enumerate(sources):
                    distance = 0
                    for i in range(patch):
                        for j in range(patch):
                            y, x = top + step - 1 - i, left + step - 1 - j
                            if 0 <= y < h and 0 <= x < w and known[y][x]:
                                compared = True
                                distance += sum((p - q) ** 2 for p, q in zip(grid[y][x], source[y][x], strict=True))
                    ranking.append((distance, b))
                ranking.sort()
                # Where nothing is known, all sources are equally near.
                nearest = ranking[:neighbours] if compared else ranking
                copy(nearest[int(next(draws) * len(nearest))][1], rows, columns)
    assert next(draws, None) is None, "not all uniforms were used"
    return index
