"""A scale's schedule, told in units: squares of cells that are compared and copied as one.

Where patches and blocks are made of whole squares, a distance to a square is one number instead of one a cell.
A plan also says, once for all images, what each step has to compare, so that the inner loop of a search decides
nothing: a unit is compared with the sources when a window first covers it, and again when it was written to since.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .schedule import BoolArray, Scale

__all__ = ["Plan", "Run", "Step", "Strip", "last_writers", "make_plan"]

Span = tuple[int, int]  # first, last (exclusive)
Unit = tuple[int, int]  # row, column


class Run(NamedTuple):
    """Units ``first`` to ``last`` (exclusive) of a row."""

    row: int
    first: int
    last: int


class Strip(NamedTuple):
    """What changes when the search moves to other rows.

    Attributes:
        clear: slots of the ring that are emptied, for rows that come into sight and are summed while in part empty.
        compared: units to compare in the rows that stay in sight.
        slots: slots of the rows in sight that hold scores.
        span: the columns that windows cover until the rows change again.
    """

    clear: set[int]
    compared: tuple[Run, ...]
    slots: tuple[int, ...]
    span: Span


class Step(NamedTuple):
    """A place, in units.

    Attributes:
        places: its number in the schedule.
        strip: set where the rows in sight are others than before.
        columns: the columns of the window; None at a blind place.
        compared: units to compare.
        added: those of them whose scores stay.
        passing: those that hold values until this step overwrites them.
        writes: units that are copied.
        withdrawn: units whose former scores are to leave the sums over the rows in sight.
    """

    places: tuple[int]
    strip: Strip | None
    columns: Span | None
    compared: tuple[Run, ...]
    added: tuple[Unit, ...]
    passing: tuple[Unit, ...]
    writes: tuple[Run, ...]
    withdrawn: tuple[Unit, ...]


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

    @property
    def units_kept(self) -> int:
        """Units whose scores, or sums of them, are kept at a time."""
        return (self.depth + 1) * self.shape[1]


class _Place(NamedTuple):
    rows: Span
    columns: Span
    runs: tuple[Run, ...]
    blind: bool


@lru_cache(maxsize=128)
def make_plan(scale: Scale) -> Plan:
    """Plan a scale."""
    height, width = scale.size
    shape = (-(-height // scale.unit), -(-width // scale.unit))
    places = _in_units(scale, shape[1])
    seen = [place.rows for place in places if not place.blind]
    # A raster never looks back beyond its patch; other orders may look anywhere.
    scrolls = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(seen))
    depth = max((last - first for first, last in seen), default=1) if scrolls else shape[0]
    reach = max((len({run.row for run in place.runs}) for place in places if not place.blind), default=1)
    planner = _Planner(scale.known[:: scale.unit, :: scale.unit].copy(), depth)
    steps = tuple(planner.step(number, place, places[number:]) for number, place in enumerate(places))
    return Plan(scale.size, scale.unit, shape, depth, reach, steps, last_writers(scale))


class _Planner:
    """What is known, compared and in sight while a scan goes on."""

    def __init__(self, held: BoolArray, depth: int) -> None:
        self.held = held
        self.depth = depth
        self.scored = np.zeros_like(held)  # has scores, of what it holds now
        self.rows: Span = (0, 0)
        self.cleared: dict[int, set[int]] = {}  # of every row seen so far, the slots emptied when it came into sight

    def step(self, number: int, place: _Place, places: list[_Place]) -> Step:
        """Plan the first of the places that are left."""
        strip, columns, missing = None, None, np.zeros_like(self.held)
        writes = np.zeros_like(self.held)
        for run in place.runs:
            writes[run.row, run.first : run.last] = True
        if not place.blind:
            if place.rows != self.rows:
                strip = self._strip(place.rows, _span(places, place.rows))
            columns = place.columns
            missing[slice(*place.rows), slice(*columns)] = True
            missing &= self.held & ~self.scored
        self.scored |= missing & ~writes
        withdrawn = writes & self.scored
        withdrawn[: self.rows[0]] = withdrawn[self.rows[1] :] = False
        self.held |= writes
        self.scored &= ~writes
        added, passing = _units(missing & ~writes), _units(missing & writes)
        return Step((number,), strip, columns, _all_runs(missing), added, passing, place.runs, _units(withdrawn))

    def _strip(self, rows: Span, span: Span) -> Strip:
        self.rows = rows
        staying = [row for row in range(*rows) if row in self.cleared]
        inside = slice(*span)
        compared = np.zeros_like(self.held)
        compared[staying, inside] = (self.held & ~self.scored)[staying, inside]
        self.scored |= compared
        slots = []
        for row in staying:
            if self.scored[row].any():
                slots.append(row % self.depth)
                if not self.scored[row, inside].all():
                    self.cleared[row].add(row % self.depth)
        clear: set[int] = set()
        self.cleared.update({row: clear for row in range(*rows) if row not in self.cleared})
        return Strip(clear, _all_runs(compared), tuple(slots), span)


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


def _units(units: BoolArray) -> tuple[Unit, ...]:
    return tuple((int(row), int(column)) for row, column in zip(*units.nonzero(), strict=True))


def _all_runs(units: BoolArray) -> tuple[Run, ...]:
    return tuple(run for row in units.any(1).nonzero()[0] for run in _runs(int(row), units[row].nonzero()[0]))


def _runs(row: int, columns: npt.NDArray[np.intp]) -> list[Run]:
    """Ascending columns as runs of neighbours."""
    groups = groupby(enumerate(columns.tolist()), lambda pair: pair[1] - pair[0])
    runs = [[column for _, column in group] for _, group in groups]
    return [Run(row, run[0], run[-1] + 1) for run in runs]


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


def last_writers(scale: Scale) -> npt.NDArray[np.int64]:
    """``(h, w)`` the place that writes a cell last; -1 where none does."""
    writers = np.full(scale.size, -1, dtype=np.int64)
    for number, place in enumerate(scale.places):
        writers.ravel()[list(place.cells)] = number
    return writers
