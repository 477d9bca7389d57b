"""Selection of the k smallest of many integers; ties go to the lower position."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest", "smallest_ranks"]

_GROUP_SIZE = 64  # sources whose minimum is compared first, where there are many


def nearest(scores: Tensor, count: int) -> Tensor:
    """Return the sources of the smallest scores, in order; the lower source comes first among equals.

    Args:
        scores: ``(N, B)`` integers.
        count: how many, at most B.

    Returns:
        ``(N, count)`` int64.
    """
    return smallest_ranks(scores, count, scores.shape[1]).remainder_(scores.shape[1])


def smallest_ranks(scores: Tensor, count: int, total: int, first: int = 0) -> Tensor:
    """Return the smallest ranks ``score * total + source``; no two are equal, so ties go to the lower source.

    Args:
        scores: ``(N, B)`` integers.
        count: how many, at most B.
        total: more than any source's number.
        first: number of the first source; the others follow.

    Returns:
        ``(N, count)`` int64, the smallest in order.
    """
    size, device = scores.shape[1], scores.device
    groups = size // _GROUP_SIZE
    if groups < max(4 * count, 32):
        return _smallest(scores, torch.arange(first, first + size, device=device), total, count)
    # Select the `count` groups with the smallest minima, the lower among equals. Each has a source that ranks before
    # all sources of the groups left out: a smaller score, or an equal one and a lower number. So the nearest sources
    # are in these groups, or among those left over at the end.
    end = groups * _GROUP_SIZE
    grouped = scores[:, :end].unflatten(1, (groups, _GROUP_SIZE))
    ranks = _smallest(grouped.amin(2), torch.arange(groups, device=device), groups, count)
    selected = ranks.remainder_(groups)[:, :, None]
    inside = torch.arange(first, first + _GROUP_SIZE, device=device)
    candidates = (selected * _GROUP_SIZE + inside).flatten(1)
    found = grouped.gather(1, selected.expand(-1, -1, _GROUP_SIZE)).flatten(1)
    if end < size:
        rest = torch.arange(first + end, first + size, device=device).expand(len(scores), -1)
        candidates, found = torch.cat([candidates, rest], 1), torch.cat([found, scores[:, end:]], 1)
    return _smallest(found, candidates, total, count)


def _smallest(scores: Tensor, sources: Tensor, total: int, count: int) -> Tensor:
    # Compilers of graphs may multiply integers of 32 bits before they widen them.
    return torch.add(sources, scores.long(), alpha=total).topk(count, dim=1, largest=False, sorted=True).values
