"""Stable radix sort of rows of float32 numbers, and transport between sorted rows, compiled by Numba.

:mod:`.wasserstein` calls them. Rows are divided among threads; the result does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..runs.system import njit
from ..runs.threads import run_in_threads

__all__ = ["order_rows", "transport_rows"]

_compiled = njit()
_BITS = 11  # of a digit: three digits hold a float32, and the counters of a digit fit into the first cache
_MASK = np.uint32((1 << _BITS) - 1)
_FEWEST_PER_THREAD = 1 << 16  # numbers; below, a thread costs more than it saves

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def order_rows(values: Floats, threads: int) -> Integers:
    """Return the positions that sort each row, equal values in their order; -0 counts as 0.

    Args:
        values: ``(rows, n)``, contiguous, without NaN, n below 2^31.
        threads: largest number of threads.
    """
    order = np.empty(values.shape, np.int64)
    _divide(lambda a, b: _order(values[a:b], order[a:b]), len(values), values.size, threads)
    return order


def transport_rows(
    values: Floats, targets: Floats, left: Integers, right: Integers, mass: Floats, threads: int
) -> tuple[npt.NDArray[np.float64], Floats]:
    """Return each row's transport cost to its targets, and the gradient of the cost in the values.

    Args:
        values: ``(rows, n)``, as for :func:`order_rows`.
        targets: ``(rows, m)``, sorted.
        left, right, mass: the transport between n and m sorted values, in order.
        threads: largest number of threads.

    Returns:
        ``(rows,)`` and ``(rows, n)``.
    """
    cost, gradient = np.empty(len(values)), np.empty(values.shape, np.float32)
    _divide(
        lambda a, b: _transport(values[a:b], targets[a:b], left, right, mass, cost[a:b], gradient[a:b]),
        len(values),
        values.size,
        threads,
    )
    return cost, gradient


def _divide(work: Callable[[int, int], object], rows: int, size: int, threads: int) -> None:
    """Call ``work`` with the bounds of parts of the rows, a thread each."""
    parts = max(1, min(threads, rows, size // _FEWEST_PER_THREAD))
    bounds = [rows * i // parts for i in range(parts + 1)]
    run_in_threads([partial(work, first, last) for first, last in pairwise(bounds)])


@_compiled
def _order(values, order):
    """Write the order of each row of ``values (rows, n)`` to ``order (rows, n)``."""
    size = values.shape[1]
    buffers = np.empty((2, size), np.uint32)
    places = np.empty((2, size), np.int32)
    for row in range(len(values)):
        _sort(values[row], buffers, places)
        for i in range(size):
            order[row, i] = places[1, i]


@_compiled
def _transport(values, targets, left, right, mass, cost, gradient):
    """Write ``cost (rows,)`` and ``gradient (rows, n)``, see :func:`transport_rows`."""
    size = values.shape[1]
    buffers = np.empty((2, size), np.uint32)
    places = np.empty((2, size), np.int32)
    equal = size == targets.shape[1]
    share = np.float32(1) / np.float32(size)
    for row in range(len(values)):
        _sort(values[row], buffers, places)
        total = 0.0
        if equal:
            for rank in range(size):
                i = places[1, rank]
                step = values[row, i] - targets[row, rank]
                total += abs(step)
                gradient[row, i] = share if step > 0 else (-share if step < 0 else np.float32(0))
            cost[row] = total / size
            continue
        gradient[row] = 0
        for k in range(len(mass)):
            i = places[1, left[k]]
            step = values[row, i] - targets[row, right[k]]
            total += abs(step) * mass[k]
            gradient[row, i] += mass[k] if step > 0 else (-mass[k] if step < 0 else np.float32(0))
        cost[row] = total


@_compiled
def _sort(values, keys, places):
    """Leave the order of ``values (n,)`` in ``places[1]``; ``keys`` and ``places`` are ``(2, n)`` buffers."""
    size = len(values)
    # Bits of floats sort as integers once negative ones are inverted and positive ones get the highest bit.
    bits = (values + np.float32(0)).view(np.uint32)
    counts = np.zeros((3, 1 << _BITS), np.int32)
    for i in range(size):
        key = bits[i]
        key ^= np.uint32(0xFFFFFFFF) if key >> np.uint32(31) else np.uint32(0x80000000)
        keys[0, i] = key
        counts[0, key & _MASK] += 1
        counts[1, key >> np.uint32(_BITS) & _MASK] += 1
        counts[2, key >> np.uint32(2 * _BITS)] += 1
    for digit in range(3):
        first = 0
        for value in range(1 << _BITS):
            count = counts[digit, value]
            counts[digit, value] = first
            first += count
    for i in range(size):
        value = keys[0, i] & _MASK
        place = counts[0, value]
        counts[0, value] = place + 1
        keys[1, place] = keys[0, i]
        places[1, place] = i
    for i in range(size):
        value = keys[1, i] >> np.uint32(_BITS) & _MASK
        place = counts[1, value]
        counts[1, value] = place + 1
        keys[0, place] = keys[1, i]
        places[0, place] = places[1, i]
    for i in range(size):
        value = keys[0, i] >> np.uint32(2 * _BITS)
        place = counts[2, value]
        counts[2, value] = place + 1
        places[1, place] = places[0, i]
