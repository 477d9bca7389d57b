"""The order in which resynthesis visits the blocks of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import floor, prod

import numpy as np
import numpy.typing as npt

from ....errors import SettingError
from ..donors import SUBSET_STEPS
from ..settings import ResynthesisSettings

__all__ = ["Wave", "blocks_of", "capacity", "resynthesis_steps", "waves"]


@dataclass(frozen=True)
class Wave:
    """Blocks that do not see each other, resampled together.

    Attributes:
        cells: ``(blocks, w^2)`` flat cells that are written, or twice as many where blocks are pairs; the number of
            cells of the grid where a block is cut.
        windows: ``(blocks, omega^2)`` flat cells that are compared, likewise; of pairs those in the middle count twice.
        around: ``(blocks, 4 w)`` flat cells that touch a block's sides, likewise.
        places: ``(blocks,)`` number of each block in the order of visits.
        size: cells of the grid that are written.
    """

    cells: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    around: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    size: int


@lru_cache(maxsize=64)
def waves(grid: tuple[int, int], patch_size: int, stride: int, symmetric: bool) -> tuple[Wave, ...]:
    """A sweep, as far as blocks see what was written, told in waves of blocks that do not see each other.

    A block sees those before it as they are after this sweep, and those after it as they were. They are visited row by
    row, from left to right, or in pairs from both sides to the middle. Each belongs to the first wave that leaves this
    as it is.
    """
    before = (patch_size - stride + 1) // 2
    area = grid[0] * grid[1]
    rows, columns = blocks_of(grid, stride, symmetric)
    written, read = np.zeros(area + 1, dtype=int), np.zeros(area + 1, dtype=int)  # the wave after that which last did
    found: list[list[tuple[list[int], list[int], list[int], int]]] = []
    for place, (row, column) in enumerate(product(range(rows), range(columns))):
        top, left = row * stride, column * stride
        block = _flat(grid, top, left, stride)
        window = _flat(grid, top - before, left - before, patch_size)
        if symmetric:
            block = [cell if cell % grid[1] < _width(grid, symmetric) else area for cell in block]
            other = [_mirrored(grid, cell) for cell in block]
            block += [area if cell in block else cell for cell in other]  # the middle column is its own image
            window += [_mirrored(grid, cell) for cell in window]
        ring = _around(grid, block, 4 * stride * (2 if symmetric else 1))
        seen = [cell for cell in window + ring if cell < area]
        inside = [cell for cell in block if cell < area]
        # What is read together with what replaces it is read before.
        number = int(max(written[seen].max(), written[inside].max(), read[inside].max() - 1))
        written[inside] = number + 1
        read[seen] = np.maximum(read[seen], number + 1)
        found.extend([] for _ in range(number + 1 - len(found)))
        found[number].append((block, window, ring, place))
    result = []
    for members in found:
        cells, windows, around, places = (np.array(part) for part in zip(*members, strict=True))
        result.append(Wave(cells, windows, around, places, int((cells < area).sum())))
    return tuple(result)


def blocks_of(grid: tuple[int, int], stride: int, symmetric: bool) -> tuple[int, int]:
    """Rows and columns of blocks, or of pairs of them."""
    return -(-grid[0] // stride), -(-_width(grid, symmetric) // stride)


def _width(grid: tuple[int, int], symmetric: bool) -> int:
    """Columns of the grid that blocks begin in: of pairs the left half, with the column in the middle."""
    return -(-grid[1] // 2) if symmetric else grid[1]


def _mirrored(grid: tuple[int, int], cell: int) -> int:
    """The flat cell that a mirror shows a flat cell at, left and right exchanged."""
    height, width = grid
    return cell if cell == height * width else cell - cell % width + width - 1 - cell % width


def _around(grid: tuple[int, int], block: list[int], most: int) -> list[int]:
    """Flat cells that touch the sides of a block's, and the number of cells to make them so many."""
    height, width = grid
    inside = {divmod(cell, width) for cell in block if cell < height * width}
    steps = (-1, 0), (1, 0), (0, -1), (0, 1)
    ring = {(row + down, column + right) for row, column in inside for down, right in steps} - inside
    found = sorted(row * width + column for row, column in ring if 0 <= row < height and 0 <= column < width)
    return found + [height * width] * (most - len(found))


def _flat(grid: tuple[int, int], top: int, left: int, side: int) -> list[int]:
    """Flat cells of a square, the number of cells for those beyond the grid."""
    height, width = grid
    return [
        row * width + column if 0 <= row < height and 0 <= column < width else height * width
        for row in range(top, top + side)
        for column in range(left, left + side)
    ]


def resynthesis_steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool = False) -> int:
    """Uniforms the sampler takes for one image.

    Raises:
        ValueError: where a patch, which is cut at the border, would cover the grid from any place in it.
    """
    most = 2 * min(grid) - 1
    if settings.patch_size > most:
        shape = f"{grid[0]}x{grid[1]}"
        raise SettingError("patch_size", settings.patch_size, f"at most {most}, which covers the {shape} grid")
    return settings.best_of * _steps(grid, settings, reference)


def _steps(grid: tuple[int, int], settings: ResynthesisSettings, reference: bool) -> int:
    """Uniforms for one of the pictures that are made for one."""
    blocks = prod(blocks_of(grid, settings.stride, settings.symmetric))
    return blocks + SUBSET_STEPS + (0 if reference else settings.start_candidates)


def capacity(settings: ResynthesisSettings, grid: tuple[int, int], count: int, given: bool) -> int:
    """Cells one source gives at most.

    Raises:
        ValueError: where the sources could then not fill the grid.
    """
    assert settings.max_share is not None
    area, givers = grid[0] * grid[1], settings.num_donors(count, given)
    limit = floor(settings.max_share * area)
    most = max(wave.size for wave in waves(grid, settings.patch_size, settings.stride, settings.symmetric))
    # Before a wave is written, all but its cells are taken, and each source's room must hold the whole wave.
    if limit < area and givers * (limit - most + 1) <= area - most:
        least = min(1.0, (-(-(area - most + 1) // givers) + most) / area)
        raise SettingError(
            "max_share", settings.max_share, f"at least {least:.3g}, so that {givers} sources can fill an image"
        )
    return limit
