"""Exact nearest neighbors among vectors, in blocks of bounded memory; ties go to the lower position.

Scores are squared Euclidean distances. They are exact, whatever the block, the number of threads or the device, where
the vectors hold integers whose squared norms stay below 2^24, such as those of :func:`levels` for patches of up to
1,024 numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SettingError

__all__ = ["BLOCK_BYTES", "Nearest", "completeness_weights", "least_distances", "levels", "nearest_vectors"]

#: Memory of the scores that are computed at a time, in bytes.
BLOCK_BYTES = 64 << 20


class Nearest(NamedTuple):
    """Nearest neighbors.

    Attributes:
        positions: ``(Q, k)`` int64 positions among the keys, nearest first.
        scores: ``(Q, k)`` float32, their scores.
    """

    positions: Tensor
    scores: Tensor


def levels(images: Tensor) -> Tensor:
    """Return pictures in [0, 1] as the integers of 8 bits, centered: float32 from -128 to 127."""
    return images.clamp(0, 1).mul(255).round_().sub_(128)


def _blocks(queries: Tensor, keys: Tensor, block_bytes: int) -> int:
    return max(1, block_bytes // (4 * max(1, len(keys))))


def _distances(block: Tensor, keys: Tensor, norms: Tensor) -> Tensor:
    """Return squared distances ``(b, K)``."""
    scores = torch.mm(block, keys.T).mul_(-2).add_(norms)
    return scores.add_(block.square().sum(1, keepdim=True)).clamp_(min=0)


def nearest_vectors(
    queries: Tensor,
    keys: Tensor,
    k: int = 1,
    weights: Tensor | None = None,
    block_bytes: int = BLOCK_BYTES,
    costs: Tensor | None = None,
) -> Nearest:
    """Return the k keys of the smallest scores for each query.

    Args:
        queries: ``(Q, d)`` float32.
        keys: ``(K, d)`` float32.
        k: how many, at most K.
        weights: ``(K,)`` positive factors of each key's scores; infinity excludes a key.
        block_bytes: memory for scores; it bounds the memory and does not change the result.
        costs: ``(Q, K)``, added to the scores.

    Raises:
        SettingError: for more neighbors than keys.
    """
    if not 1 <= k <= len(keys):
        raise SettingError("k", k, f"from 1 to {len(keys)}, the number of keys")
    norms, index, scores = keys.square().sum(1), [], []
    excluded = None if weights is None or not bool(weights.isinf().any()) else weights.isinf()
    size = _blocks(queries, keys, block_bytes)
    for number, block in enumerate(queries.split(size)):
        found = _distances(block, keys, norms)
        if weights is not None:
            found = found.mul_(weights)  # excluded keys may be NaN here
            if excluded is not None:
                found.masked_fill_(excluded, torch.inf)
        if costs is not None:
            found += costs[number * size : number * size + len(block)]
        if k == 1:
            best, at = found.min(1, keepdim=True)
            if found.device.type != "cpu":  # the first of equals, as on CPUs
                at = (found == best).to(torch.uint8).argmax(1, keepdim=True)
        else:
            best, at = (each[:, :k] for each in found.sort(dim=1, stable=True))
        index.append(at)
        scores.append(best)
    return Nearest(torch.cat(index), torch.cat(scores))


def least_distances(queries: Tensor, keys: Tensor, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """Return the squared distance of each key to its nearest query: ``(K,)`` float32."""
    norms = keys.square().sum(1)
    least = torch.full((len(keys),), torch.inf, device=keys.device)
    for block in queries.split(_blocks(queries, keys, block_bytes)):
        torch.minimum(least, _distances(block, keys, norms).amin(0), out=least)
    return least


def completeness_weights(least: Tensor, alpha: float) -> Tensor:
    """Return the weights of GPNN's scores: a key that is near no query yet is preferred.

    Args:
        least: distance of each key to its nearest query.
        alpha: added to the distance; infinity stands for no preference.

    Returns:
        ``1 / (alpha + least)``, scaled so that the largest is 1; float32. The scale changes no choice.
    """
    if alpha == float("inf"):
        return torch.ones_like(least)
    weights = 1 / (least + alpha)
    return weights / weights.max()
