"""The k smallest of many integers, ties to the lower place."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest", "smallest_ranks"]

_GROUP = 64  # sources a minimum is taken of, where there are many


def nearest(scores: Tensor, count: int) -> Tensor:
    """The sources of the smallest scores, in order; the lower source first among equals.

    Args:
        scores: ``(N, B)`` integers.
        count: how many, at most B.

    Returns:
        ``(N, count)`` int64.
    """
    return smallest_ranks(scores, count, scores.shape[1]).remainder_(scores.shape[1])


def smallest_ranks(scores: Tensor, count: int, total: int, first: int = 0) -> Tensor:
    """Score and source in one number, ``score * total + source``: no two are equal, and ties go to the lower source.

    Args:
        scores: ``(N, B)`` integers.
        count: how many, at most B.
        total: more than any source's number.
        first: number of the first source; the others follow.

    Returns:
        ``(N, count)`` int64, the smallest in order.
    """
    held, device = scores.shape[1], scores.device
    groups = held // _GROUP
    if groups < max(4 * count, 32):
        return _smallest(scores, torch.arange(first, first + held, device=device), total, count)
    # Take the `count` groups of neighbours with the smallest minima, the lower among equals. Each of them has a source
    # that comes before all sources of the groups not taken: one of a smaller score, or of an equal one and a
    # lower number. So the nearest are among theirs and those left over at the end.
    end = groups * _GROUP
    grouped = scores[:, :end].unflatten(1, (groups, _GROUP))
    ranks = _smallest(grouped.amin(2), torch.arange(groups, device=device), groups, count)
    taken = ranks.remainder_(groups)[:, :, None]
    inside = torch.arange(first, first + _GROUP, device=device)
    candidates = (taken * _GROUP + inside).flatten(1)
    found = grouped.gather(1, taken.expand(-1, -1, _GROUP)).flatten(1)
    if end < held:
        rest = torch.arange(first + end, first + held, device=device).expand(len(scores), -1)
        candidates, found = torch.cat([candidates, rest], 1), torch.cat([found, scores[:, end:]], 1)
    return _smallest(found, candidates, total, count)


def _smallest(scores: Tensor, sources: Tensor, total: int, count: int) -> Tensor:
    # Compilers of graphs may multiply integers of 32 bits before they are made longer.
    return torch.add(sources, scores.long(), alpha=total).topk(count, dim=1, largest=False, sorted=True).values
