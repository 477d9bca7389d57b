"""Places that resynthesis visits, and the order it visits them in. Cells are numbers ``row * width + column``."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Place", "places_of", "waves_of"]


class Place(NamedTuple):
    """A block of cells, or a mirrored pair of blocks, left and right.

    Attributes:
        cells: that are copied.
        window: that are compared. The windows of a pair overlap in the middle; a cell of both counts twice.
        ring: that touch a side of the copied cells.
    """

    cells: list[int]
    window: list[int]
    ring: list[int]


def places_of(height: int, width: int, patch_size: int, stride: int, symmetric: bool) -> list[Place]:
    """Return all places row by row, from left to right; pairs from the sides to the middle.

    Blocks have ``stride x stride`` cells, windows ``patch_size x patch_size`` with the block in the middle; where it
    cannot be, the odd row and column lie before the block. Both are cut at the border of the grid.
    """
    before = (patch_size - stride + 1) // 2
    columns = (width + 1) // 2 if symmetric else width  # a pair begins in the left half, the middle column included

    def square(top: int, left: int, side: int, end: int) -> list[int]:
        rows = range(max(0, top), min(top + side, height))
        return [row * width + column for row in rows for column in range(max(0, left), min(left + side, end))]

    def mirrored(cell: int) -> int:
        return cell - cell % width + (width - 1 - cell % width)

    places = []
    for top in range(0, height, stride):
        for left in range(0, columns, stride):
            cells = square(top, left, stride, columns)
            window = square(top - before, left - before, patch_size, width)
            if symmetric:
                cells += [mirrored(cell) for cell in cells if mirrored(cell) not in cells]
                window += [mirrored(cell) for cell in window]
            ring = {other for cell in cells for other in _touching(cell, height, width)} - set(cells)
            places.append(Place(cells, window, sorted(ring)))
    return places


def waves_of(places: list[Place]) -> list[list[int]]:
    """Group places that are visited together: numbers of places by wave.

    A wave chooses for all its places before it writes any. The pictures are those of one place after the other, but
    for costs and shares, which go by what sources gave before the wave. A place belongs to the earliest wave that

    - comes after the waves of all earlier places whose cells it sees or writes, and
    - does not come before the wave of an earlier place that sees the cells it writes.
    """
    numbers: list[int] = []  # the wave of each place
    for later in places:
        number = 0
        for earlier, its_number in zip(places, numbers, strict=False):
            if not set(earlier.cells).isdisjoint([*later.cells, *later.window, *later.ring]):
                number = max(number, its_number + 1)
            elif not set(later.cells).isdisjoint([*earlier.window, *earlier.ring]):
                number = max(number, its_number)
        numbers.append(number)
    return [[place for place, its in enumerate(numbers) if its == wave] for wave in range(max(numbers) + 1)]


def _touching(cell: int, height: int, width: int) -> list[int]:
    row, column = divmod(cell, width)
    neighbors = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [y * width + x for y, x in neighbors if 0 <= y < height and 0 <= x < width]
