"""Schedule of resynthesis: the order in which a sweep visits the blocks of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from ....errors import SettingError
from ..donors import SUBSET_STEPS
from ..settings import ResynthesisSettings

__all__ = ["Wave", "blocks_of", "resynthesis_steps", "waves"]


@dataclass(frozen=True)
class Wave:
    """A set of independent blocks that are replaced together.

    Entries beyond the grid, in blocks and windows that the border cuts, are the number of cells of the grid.

    Attributes:
        cells: ``(blocks, w^2)`` flat cells that are written; twice as many columns where blocks are pairs.
        windows: ``(blocks, omega^2)`` flat cells that are compared; twice as many columns for pairs, whose cells in the
            middle count twice.
        around: ``(blocks, 4 w)`` flat cells that touch a block's sides; twice as many columns for pairs.
        places: ``(blocks,)`` number of each block in the order of visits.
        size: number of cells of the grid that are written.
    """

    cells: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    around: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    size: int


@lru_cache(maxsize=64)
def waves(grid: tuple[int, int], patch_size: int, stride: int, symmetric: bool) -> tuple[Wave, ...]:
    """Return the waves of a sweep, each a set of independent blocks.

    The waves have the result of visiting blocks one by one: row by row, from left to right, or in pairs from both sides
    to the middle. A block reads earlier blocks as this sweep left them, and later ones as they were before. Each block
    belongs to the first wave that keeps this order.
    """
    before = (patch_size - stride + 1) // 2
    area = grid[0] * grid[1]
    rows, columns = blocks_of(grid, stride, symmetric)
    # Each cell has the number of the wave after the one that last wrote it, and after the one that last read it.
    written, read = np.zeros(area + 1, dtype=int), np.zeros(area + 1, dtype=int)
    members_of: list[list[tuple[list[int], list[int], list[int], int]]] = []
    for place, (row, column) in enumerate(product(range(rows), range(columns))):
        top, left = row * stride, column * stride
        block = _flat(grid, top, left, stride)
        window = _flat(grid, top - before, left - before, patch_size)
        if symmetric:
            block = [cell if cell % grid[1] < _width(grid, symmetric) else area for cell in block]
            other = [_mirrored(grid, cell) for cell in block]
            block += [area if cell in block else cell for cell in other]  # The middle column mirrors itself.
            window += [_mirrored(grid, cell) for cell in window]
        ring = _around(grid, block, 4 * stride * (2 if symmetric else 1))
        compared = [cell for cell in window + ring if cell < area]
        inside = [cell for cell in block if cell < area]
        # A wave reads all cells before it writes any, so that one wave may read a cell and replace it.
        number = int(max(written[compared].max(), written[inside].max(), read[inside].max() - 1))
        written[inside] = number + 1
        read[compared] = np.maximum(read[compared], number + 1)
        members_of.extend([] for _ in range(number + 1 - len(members_of)))
        members_of[number].append((block, window, ring, place))
    result = []
    for members in members_of:
        cells, windows, around, places = (np.array(part) for part in zip(*members, strict=True))
        result.append(Wave(cells, windows, around, places, int((cells < area).sum())))
    return tuple(result)


def blocks_of(grid: tuple[int, int], stride: int, symmetric: bool) -> tuple[int, int]:
    """Return the numbers of rows and columns of blocks, or of pairs of blocks."""
    return -(-grid[0] // stride), -(-_width(grid, symmetric) // stride)


def _width(grid: tuple[int, int], symmetric: bool) -> int:
    """Return the number of columns in which blocks begin; pairs begin in the left half and the middle."""
    return -(-grid[1] // 2) if symmetric else grid[1]


def _mirrored(grid: tuple[int, int], cell: int) -> int:
    """Return the flat cell at the mirrored position of a flat cell, left and right exchanged."""
    height, width = grid
    return cell if cell == height * width else cell - cell % width + width - 1 - cell % width


def _around(grid: tuple[int, int], block: list[int], most: int) -> list[int]:
    """Return the flat cells that touch a block's sides, padded by the number of cells of the grid."""
    height, width = grid
    inside = {divmod(cell, width) for cell in block if cell < height * width}
    steps = (-1, 0), (1, 0), (0, -1), (0, 1)
    ring = {(row + down, column + right) for row, column in inside for down, right in steps} - inside
    cells = sorted(row * width + column for row, column in ring if 0 <= row < height and 0 <= column < width)
    return cells + [height * width] * (most - len(cells))


def _flat(grid: tuple[int, int], top: int, left: int, side: int) -> list[int]:
    """Return the flat cells of a square; cells beyond the grid are the number of cells of the grid."""
    height, width = grid
    return [
        row * width + column if 0 <= row < height and 0 <= column < width else height * width
        for row in range(top, top + side)
        for column in range(left, left + side)
    ]


def resynthesis_steps(
    grid: tuple[int, int], settings: ResynthesisSettings, reference: bool = False, num_sources: int = 0
) -> int:
    """Return the number of uniforms that one image consumes.

    Args:
        grid: height and width in cells.
        settings: of the sampler.
        reference: whether a reference takes the place of the start.
        num_sources: a group as one; it decides where the settings leave the candidates for the start to it.

    Raises:
        SettingError: where a patch, which the border cuts, would cover the whole grid from every place.
    """
    settings, most = settings.in_cells(grid), 2 * min(grid) - 1
    if settings.window > most:
        shape = f"{grid[0]}x{grid[1]}"
        raise SettingError("patch_size", settings.patch_size, f"at most {most}, which covers the {shape} grid")
    return settings.best_of * _steps(grid, settings, reference, num_sources)


def _steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool, num_sources: int) -> int:
    """Return the number of uniforms of one candidate image; ``best_of`` candidates are made for an image."""
    blocks = prod(blocks_of(grid, settings.step, settings.symmetric))
    return blocks + SUBSET_STEPS + (0 if reference else settings.num_candidates(num_sources))
