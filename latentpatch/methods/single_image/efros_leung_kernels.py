"""Window search of Efros & Leung's texture synthesis, compiled by Numba; :mod:`.efros_leung` calls it."""

from __future__ import annotations

import numpy as np

from ...runs.system import njit

__all__ = ["find_windows"]

_compiled = njit()
_FIRST = 8  # neighbors that are compared with a whole row of windows; their weighted sum fits into int32


@_compiled
def find_windows(planes, begins, widths, rows, columns, allowed, down, right, weights, wanted, hints, tolerance, found):
    """Find the windows whose weighted squared difference exceeds the smallest by at most a part of it.

    Args:
        planes: int32 ``(C, pixels)``, all sources one after the other.
        begins, widths: int64 ``(S,)``, first pixel and width of each source.
        rows, columns: int64 ``(S,)``, numbers of windows in each source.
        allowed: bool ``(windows,)``, whether a window may be used.
        down, right: int64 ``(K,)``, place of each neighbor in the window, the heaviest first.
        weights: int64 ``(K,)``, from 1 to 1024.
        wanted: int32 ``(K, C)``, the neighbors' levels.
        hints: int64 ``(n,)``, numbers of windows that may be near; they save time and change nothing.
        tolerance: at least 0.
        found: int64 ``(windows,)``, is overwritten with the windows found, in order.

    Returns:
        How many were found, and the smallest cost.
    """
    channels, neighbors = planes.shape[0], len(weights)
    best = np.int64(2) ** 62
    for number in hints:
        if allowed[number]:
            source, first = 0, number
            while first >= rows[source] * columns[source]:
                first -= rows[source] * columns[source]
                source += 1
            step = widths[source]
            base = begins[source] + first // columns[source] * step + first % columns[source]
            cost = _rest(planes, base, step, down, right, weights, wanted, 0, np.int64(0), best)
            best = min(best, cost)
    early = min(_FIRST, neighbors)
    costs = np.empty(len(found), np.int64)
    count, number = 0, 0
    for source in range(len(begins)):
        step, wide = widths[source], columns[source]
        sums = np.empty(wide, np.int32)
        for row in range(rows[source]):
            base = begins[source] + row * step
            sums[:] = 0
            for k in range(early):
                at = base + down[k] * step + right[k]
                weight = np.int32(weights[k])
                for channel in range(channels):
                    level = wanted[k, channel]
                    line = planes[channel, at : at + wide]
                    for column in range(wide):
                        # Numba's products of int32 are int64; cut back, they stay in the registers' short lanes.
                        difference = np.int32(line[column] - level)
                        sums[column] += np.int32(weight * np.int32(difference * difference))
            for column in range(wide):
                bound = best * (1.0 + tolerance)
                if sums[column] <= bound and allowed[number + column]:
                    cost = _rest(
                        planes, base + column, step, down, right, weights, wanted, early, np.int64(sums[column]), bound
                    )
                    if cost <= bound:
                        best = min(best, cost)
                        costs[count] = cost
                        found[count] = number + column
                        count += 1
            number += wide
    kept = 0
    for i in range(count):
        if costs[i] <= best * (1.0 + tolerance):
            found[kept] = found[i]
            kept += 1
    return kept, best


@_compiled
def _rest(planes, base, step, down, right, weights, wanted, first, cost, bound):
    """Return the cost with that of the neighbors from ``first`` on added; early where it exceeds the bound."""
    for k in range(first, len(weights)):
        if cost > bound:
            break
        at = base + down[k] * step + right[k]
        squared = np.int64(0)
        for channel in range(planes.shape[0]):
            difference = np.int64(planes[channel, at] - wanted[k, channel])
            squared += difference * difference
        cost += weights[k] * squared
    return cost
