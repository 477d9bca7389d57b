"""A scale's schedule, told in units: squares of cells that are compared and copied as one.

Where patches and blocks are made of whole squares, a distance to a square is one number instead of one a cell.
A plan also says, once for all images, which rows of squares a search has in sight, so that its inner loop
decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .schedule import Scale

__all__ = ["Plan", "Run", "Step", "Strip", "Write", "make_plan"]

Span = tuple[int, int]  # first, last (exclusive)


class Run(NamedTuple):
    """Units ``first`` to ``last`` (exclusive) of a row."""

    row: int
    first: int
    last: int


class Write(NamedTuple):
    """Units a step copies.

    Attributes:
        run: which.
        scored: whether they are compared later without coming into sight anew.
        summed: whether they are compared next, by the rows now in sight.
        replaces: whether some of them held values before.
    """

    run: Run
    scored: bool
    summed: bool
    replaces: bool


class Strip(NamedTuple):
    """What changes when the search moves to other rows.

    Attributes:
        clear: slots of rows that come into sight and are in part empty when they are summed.
        known: units that hold values in the rows that come into sight.
        slots: slots of the rows in sight that hold values.
        span: the columns compared until the rows change again.
    """

    clear: set[int]
    known: tuple[Run, ...]
    slots: tuple[int, ...]
    span: Span


class Step(NamedTuple):
    """A place, in units.

    Attributes:
        strip: set where the rows compared are others than before.
        columns: the columns compared; None at a blind place.
        writes: what is copied.
    """

    strip: Strip | None
    columns: Span | None
    writes: tuple[Write, ...]


@dataclass(frozen=True)
class Plan:
    """Steps of a scale.

    Attributes:
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit.
        shape: ``(rows, columns)`` of units; those at the border may reach beyond the grid.
        depth: rows of units that are in sight at once; row i takes slot ``i % depth`` of a ring.
        reach: rows of units that a step writes, at most, but for blind ones.
        steps: the places in order.
        writers: ``(h, w)`` the step that writes a cell last; -1 where none does.
    """

    size: tuple[int, int]
    side: int
    shape: tuple[int, int]
    depth: int
    reach: int
    steps: tuple[Step, ...]
    writers: npt.NDArray[np.int64]


class _Place(NamedTuple):
    rows: Span
    columns: Span
    runs: tuple[Run, ...]
    blind: bool


@lru_cache(maxsize=128)
def make_plan(scale: Scale) -> Plan:
    """Plan a scale."""
    side, (height, width) = scale.unit, scale.size
    shape = (-(-height // side), -(-width // side))
    held = scale.known[::side, ::side].copy()
    places = _in_units(scale, shape[1])
    upcoming = _upcoming(places)
    seen = [place.rows for place in places if not place.blind]
    # A raster never looks back beyond its patch; other orders may look anywhere.
    scrolls = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(seen))
    depth = max((last - first for first, last in seen), default=1) if scrolls else shape[0]
    steps = []
    rows: Span = (0, 0)
    kept: Span = (0, 0)  # rows with scores in the ring
    empty: dict[int, set[int]] = {}  # rows that came into sight empty, and what was cleared then
    for number, place in enumerate(places):
        strip = None
        if not place.blind and place.rows != rows:
            rows = place.rows
            before, kept = kept, rows if scrolls else (0, shape[0])
            entering = range(max(before[1], kept[0]), kept[1])
            for row in range(*rows):
                # A raster completes a row before it is summed again.
                cleared = empty.pop(row, None)
                if cleared is not None and not held[row].all():
                    cleared.add(row % depth)
            clear = {row % depth for row in entering if held[row].any() and not held[row].all()}
            empty.update({row: clear for row in entering if not held[row].any()})
            strip = Strip(
                clear,
                tuple(run for row in entering for run in _runs(row, held[row].nonzero()[0])),
                tuple(row % depth for row in range(*rows) if held[row].any()),
                _span(places[number:], rows),
            )
        writes = []
        for run in place.runs:
            units = held[run.row, run.first : run.last]
            scored = upcoming[number] is not None and kept[0] <= run.row < kept[1]
            summed = scored and upcoming[number] == rows and rows[0] <= run.row < rows[1]
            writes.append(Write(run, scored, summed, bool(units.any())))
            units[:] = True
        steps.append(Step(strip, None if place.blind else place.columns, tuple(writes)))
    reach = max((len({run.row for run in place.runs}) for place in places if not place.blind), default=1)
    return Plan(scale.size, side, shape, depth, reach, tuple(steps), _writers(scale))


def _in_units(scale: Scale, width: int) -> list[_Place]:
    side = scale.unit
    places = []
    for place in scale.places:
        top, bottom, left, right = place.window
        rows, columns = np.divmod(np.array(place.cells), scale.size[1])
        rows, columns = np.divmod(np.unique(rows // side * width + columns // side), width)
        runs = tuple(run for row in np.unique(rows) for run in _runs(int(row), columns[rows == row]))
        window_rows, window_columns = (top // side, -(-bottom // side)), (left // side, -(-right // side))
        places.append(_Place(window_rows, window_columns, runs, place.blind))
    return places


def _runs(row: int, columns: npt.NDArray[np.intp]) -> list[Run]:
    """Ascending columns as runs of neighbours."""
    groups = groupby(enumerate(columns.tolist()), lambda pair: pair[1] - pair[0])
    runs = [[column for _, column in group] for _, group in groups]
    return [Run(row, run[0], run[-1] + 1) for run in runs]


def _upcoming(places: list[_Place]) -> list[Span | None]:
    """The rows that are compared next after each place; None where nothing is."""
    following: Span | None = None
    upcoming = []
    for place in reversed(places):
        upcoming.append(following)
        following = following if place.blind else place.rows
    return upcoming[::-1]


def _span(places: list[_Place], rows: Span) -> Span:
    """Columns compared up to the first place that looks at other rows."""
    first, last = places[0].columns
    for place in places:
        if place.blind:
            continue
        if place.rows != rows:
            break
        first, last = min(first, place.columns[0]), max(last, place.columns[1])
    return first, last


def _writers(scale: Scale) -> npt.NDArray[np.int64]:
    writers = np.full(scale.size, -1, dtype=np.int64)
    for number, place in enumerate(scale.places):
        writers.ravel()[list(place.cells)] = number
    return writers
