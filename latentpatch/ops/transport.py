"""Entropic optimal transport between two sets of vectors: soft assignments that use all keys alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..runs.system import has_numba

__all__ = ["transport_weights"]


def transport_weights(
    costs: Tensor,
    rounds: int,
    masses: tuple[Tensor, Tensor] | None = None,
    start: Tensor | None = None,
    groups: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weights of keys for queries by Sinkhorn's iteration, in logarithms (Cuturi, 2013).

    One thread computes: the result does not depend on the number of threads. With Numba the iterations multiply numbers
    where float32 has room for them; else, and without Numba, they are in logarithms. The results differ in last digits.

    Args:
        costs: ``(Q, K)`` float32, in units of the entropy's factor.
        rounds: iterations; with 0, the weights are ``softmax(start - costs)``.
        masses: of the queries, ``(Q,)``, and of the keys, ``(K,)``, positive; the same for all by default.
        start: ``(K,)`` potentials of the keys, of a similar problem; 0 by default.
        groups: numbers of keys of each group, in order, where only the groups have to be used by their masses.

    Returns:
        ``(Q, K)`` weights and ``(K,)`` potentials. Rows of weights sum to 1. Columns of weights times the queries'
        masses sum to about the masses of the keys, as parts of the whole.
    """
    logits = -costs.cpu().numpy()
    logits -= logits.max(1, keepdims=True)
    queries, keys = (np.zeros(n, np.float32) for n in logits.shape)
    if masses is not None:
        queries, keys = (np.log(each.cpu().numpy()) for each in masses)
    potentials = np.zeros_like(keys) if start is None else start.cpu().numpy().copy()
    keys = keys - np.log(np.exp(keys).sum()) + np.log(np.exp(queries).sum())
    firsts = None if groups is None else np.cumsum([0, *groups[:-1]])
    buffer, iterate, done = np.empty_like(logits), _loops(), 0
    while done < rounds:
        finished = 0
        if iterate is not None:
            factors = np.ones_like(keys)
            _exponentials(np.add(logits, potentials, out=buffer))
            finished = iterate(buffer, factors, np.exp(queries), np.exp(keys), firsts, rounds - done)
            potentials += np.log(factors)
        if not finished:
            potentials = _round(logits, queries, keys, potentials, firsts, buffer)
        done += max(1, finished)
    logits += potentials
    weights = _exponentials(logits)
    weights /= weights.sum(1, keepdims=True)
    return torch.from_numpy(weights).to(costs.device), torch.from_numpy(potentials).to(costs.device)


def _loops() -> Callable[..., int] | None:
    """Return the compiled iteration, which needs an eighth of the time, or None without Numba."""
    if not has_numba():
        return None
    from .transport_kernels import iterate

    return iterate


def _round(
    logits: np.ndarray, queries: np.ndarray, keys: np.ndarray, potentials: np.ndarray, firsts: np.ndarray | None,
    buffer: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the potentials after an iteration in logarithms, whose numbers have any size."""
    sums = _log_sums(np.add(logits, potentials, out=buffer), 1)
    if firsts is None:
        changed: np.ndarray = keys - _log_sums(np.subtract(logits, sums - queries[:, None], out=buffer), 0)[0]
        return changed
    used = np.exp(logits + potentials - sums + queries[:, None]).sum(0)
    change = np.log(np.add.reduceat(np.exp(keys), firsts) / np.maximum(np.add.reduceat(used, firsts), 1e-30))
    return potentials + np.repeat(change, np.diff([*firsts, len(keys)])).astype(np.float32)


def _exponentials(values: np.ndarray) -> np.ndarray:
    """Return exponentials, the largest of each row 1, in place of the values."""
    values -= values.max(1, keepdims=True)
    np.exp(values, out=values)
    return values


def _log_sums(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the logarithms of the sums of exponentials along an axis, which stays; ``values`` are overwritten."""
    largest = values.max(axis, keepdims=True)
    values -= largest
    sums: np.ndarray = np.log(np.exp(values, out=values).sum(axis, keepdims=True)) + largest
    return sums
