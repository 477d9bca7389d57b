"""Sinkhorn's iteration on a CPU, compiled by Numba; :mod:`.transport` calls it."""

from __future__ import annotations

import numpy as np

from ..runs.system import njit

__all__ = ["iterate"]

_compiled = njit(fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")

_LEAST, _MOST = np.float32(1e-25), np.float32(1e25)  # limits of sums and factors, whose products stay finite


@_compiled
def iterate(kernel, factors, queries, keys, firsts, rounds):
    """Multiply the columns of a kernel by factors until its parts have their masses; return the finished rounds.

    They are fewer than ``rounds`` where a number leaves the range of float32: then put the factors into the kernel.
    After no round the factors are as they were.

    Args:
        kernel: ``(Q, K)`` float32, positive or 0, the largest of each row 1.
        factors: ``(K,)`` float32, of the columns; are changed.
        queries, keys: ``(Q,)`` and ``(K,)`` float32 masses.
        firsts: ``(G,)`` int64, first key of each group that has to have its mass, or None where each key has.
        rounds: iterations.
    """
    sums = np.empty(len(keys), np.float32)
    for done in range(rounds):
        sums[:] = 0
        for i in range(len(queries)):
            row = kernel[i]
            total = np.float32(0)
            for j in range(len(keys)):
                total += row[j] * factors[j]
            share = queries[i] / total
            for j in range(len(keys)):
                sums[j] += row[j] * share
        if firsts is not None:
            _match_groups(sums, factors, keys, firsts)
        elif sums.min() < _LEAST:
            return done
        else:
            for j in range(len(keys)):
                factors[j] = keys[j] / sums[j]
        if factors.min() < _LEAST or factors.max() > _MOST:
            return done + 1
    return rounds


@_compiled
def _match_groups(sums, factors, keys, firsts):
    """Multiply the factors of each group by the one that gives it its mass."""
    for g in range(len(firsts)):
        end = firsts[g + 1] if g + 1 < len(firsts) else len(keys)
        mass, used = np.float32(0), np.float32(1e-30)
        for j in range(firsts[g], end):
            mass += keys[j]
            used += sums[j] * factors[j]
        for j in range(firsts[g], end):
            factors[j] *= mass / used
