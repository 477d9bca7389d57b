"""Arithmetic that several of the reference samplers share: draws, and figures of all sources together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BoolArray", "IntArray", "draw", "mean_key", "mean_squared_distance", "offset_costs"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def draw(uniform: float, choices: int) -> int:
    """Return one of the numbers from 0 to ``choices - 1``, all equally likely for a uniform in [0, 1)."""
    return min(max(int(float(uniform) * choices), 0), choices - 1)


def mean_key(keys: IntArray) -> IntArray:
    """Return the mean of sources ``(B, h, w, r)``, each number rounded half up: ``(h, w, r)``."""
    count = len(keys)
    mean: IntArray = (2 * keys.sum(0) + count) // (2 * count)
    return mean


def mean_squared_distance(keys: IntArray) -> float:
    """Return the squared distance of a cell of a source to the mean source, averaged over ``(B, h, w)`` cells.

    Costs are set in this unit, so that a setting means the same for all banks.
    """
    count, height, width, _ = keys.shape
    total = int(((keys - mean_key(keys)) ** 2).sum())
    return total / int(count * height * width)


def offset_costs(keys: IntArray, squared_offsets: IntArray | None, offset_cost: float) -> IntArray:
    """Return the cost of each source for being moved: ``(B,)``, added to the squared distance of each compared cell.

    An augmentation of a bank may hold copies of a picture that are moved by some cells. A copy that is moved far costs
    more, so that one that is moved less wins where both fit. The product is rounded to 32-bit floating point.
    """
    if squared_offsets is None:
        return np.zeros(len(keys), dtype=np.int64)
    one_cell = np.float32(offset_cost * mean_squared_distance(keys))
    costs: IntArray = np.rint(squared_offsets.astype(np.float32) * one_cell).astype(np.int64)
    return costs
