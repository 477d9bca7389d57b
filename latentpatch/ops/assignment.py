"""Exact assignment: a key of its own for each query, at the least total cost (the Hungarian method's problem).

Queries are added one by one, each along the shortest augmenting path in the reduced costs (Jonker & Volgenant, 1987;
Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Trans. Aerosp. Electron. Syst. 2016). Time grows
with the cube of the size: a second or two for 1,000 queries. For more, :mod:`.transport` is an approximation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError

__all__ = ["assign"]


def assign(costs: Tensor) -> Tensor:
    """Return the key of each query, none used twice, such that the sum of the costs is the least.

    Args:
        costs: ``(Q, K)``, finite; Q is at most K.

    Returns:
        ``(Q,)`` int64.

    Raises:
        SettingError: for more queries than keys, or costs that are not finite.
    """
    table = costs.detach().cpu().double().numpy()
    queries, keys = table.shape
    if queries > keys:
        raise SettingError("costs", tuple(table.shape), "of at least as many keys as queries")
    if not np.isfinite(table).all():
        raise SettingError("costs", "infinite or NaN", "finite")
    # Prices of keys and gains of queries: costs - gains - prices is nowhere below 0, and 0 for each assigned pair.
    prices = table.min(0) if queries == keys and keys else np.zeros(keys)
    gains = (table - prices).min(1) if queries else np.zeros(0)
    owners, chosen = np.full(keys, -1), np.full(queries, -1)
    for query in range(queries):
        key = int((table[query] - prices).argmin())
        if owners[key] < 0:
            owners[key], chosen[query] = query, key
    for query in np.flatnonzero(chosen < 0).tolist():
        _augment(table, prices, gains, owners, chosen, query)
    return torch.from_numpy(chosen)


def _augment(
    table: np.ndarray, prices: np.ndarray, gains: np.ndarray, owners: np.ndarray, chosen: np.ndarray, query: int
) -> None:
    """Assign one more query along the shortest path to a free key (Dijkstra); the arrays are changed in place."""
    keys = len(prices)
    lengths, before = np.full(keys, np.inf), np.full(keys, -1)
    open_lengths, is_open = np.full(keys, np.inf), np.ones(keys, bool)
    current, length = query, 0.0
    while True:
        through = table[current] - prices + (length - gains[current])
        is_nearer = is_open & (through < lengths)
        lengths[is_nearer] = open_lengths[is_nearer] = through[is_nearer]
        before[is_nearer] = current
        key = int(open_lengths.argmin())
        length, is_open[key], open_lengths[key] = lengths[key], False, np.inf
        if owners[key] < 0:
            break
        current = owners[key]
    gains[query] += length
    passed = np.flatnonzero(~is_open & (owners >= 0))
    gains[owners[passed]] += length - lengths[passed]
    prices[passed] -= length - lengths[passed]
    while True:
        owner = before[key]
        owners[key] = owner
        chosen[owner], key = key, chosen[owner]
        if owner == query:
            return
