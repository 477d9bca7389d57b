"""Entropic optimal transport between two sets of vectors: soft assignments that use all keys alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["transport_weights"]


def transport_weights(costs: Tensor, rounds: int, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the weights of keys for queries by Sinkhorn's iteration, in logarithms (Cuturi, 2013).

    All queries weigh the same, and so do all keys. NumPy computes on one thread: the result does not depend on the
    number of threads.

    Args:
        costs: ``(Q, K)`` float32, in units of the entropy's factor.
        rounds: iterations; with 0, the weights are ``softmax(start - costs)``.
        start: ``(K,)`` potentials of the keys, of a similar problem; 0 by default.

    Returns:
        ``(Q, K)`` weights, whose rows sum to 1 and whose columns to about ``Q / K``, and ``(K,)`` potentials.
    """
    logits = -costs.cpu().numpy()
    logits -= logits.max(1, keepdims=True)
    queries, keys = logits.shape
    potentials = np.zeros(keys, np.float32) if start is None else start.cpu().numpy()
    for _ in range(rounds):
        mass = _log_sums(logits + potentials, 1)
        potentials = np.float32(np.log(queries / keys)) - _log_sums(logits - mass, 0)[0]
    logits += potentials
    logits -= logits.max(1, keepdims=True)
    weights = np.exp(logits, out=logits)
    weights /= weights.sum(1, keepdims=True)
    return torch.from_numpy(weights).to(costs.device), torch.from_numpy(potentials).to(costs.device)


def _log_sums(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the logarithms of the sums of exponentials along an axis, which stays; ``values`` are overwritten."""
    largest = values.max(axis, keepdims=True)
    values -= largest
    sums: np.ndarray = np.log(np.exp(values, out=values).sum(axis, keepdims=True)) + largest
    return sums
