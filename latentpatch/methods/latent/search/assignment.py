"""Initial assignment of the blocks of a grid to donors, each of which has a capacity.

A greedy assignment in the order of visits uses up the capacity of the best donor half-way down an image. The blocks
below then get other donors, which shows as a seam across the face. The assignment here looks at all blocks together: a
donor keeps the blocks that lose most without it, and a rejected block proposes to its next best candidate.

This is the transportation problem, solved by the regrets of Vogel's approximation (Reinfeld and Vogel 1958) in rounds
of deferred acceptance (Gale and Shapley 1962): every block proposes to its best candidate that has not rejected it yet,
and a donor with more proposals than capacity rejects the blocks that lose least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .torch_loops import each, is_exporting

__all__ = ["CANDIDATES", "ROUNDS", "assign"]

#: Number of candidates that each block may propose to, one after the other.
CANDIDATES = 8
#: Number of rounds of proposals. Blocks that are rejected in the last round stay unassigned until the first sweep.
ROUNDS = 16


def assign(costs: Tensor, candidates: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """Assign each block to one of its candidates, so that no candidate gives more than its capacity.

    Args:
        costs: ``(N, P, M)`` integers, ascending in M.
        candidates: ``(N, P, M)`` int64 from 0 to ``count - 1``; the candidates of a block are distinct.
        sizes: ``(P,)`` int64 number of cells of each block.
        limit: capacity of each candidate in cells.
        count: number of all candidates.

    Returns:
        ``(N, P)`` int64 positions from 0 to M - 1, or -1 where a block was rejected in the last round.
    """
    regrets = _regrets_of(costs)
    proposals = torch.zeros_like(candidates[:, :, 0])
    if is_exporting():

        def one_round(proposals: Tensor, _: tuple[Tensor, ...]) -> Tensor:
            return _propose(candidates, regrets, proposals, sizes, limit, count)

        proposals = each(one_round, proposals, (sizes.new_zeros(ROUNDS),))
    else:
        for _ in range(ROUNDS):
            next_proposals = _propose(candidates, regrets, proposals, sizes, limit, count)
            if proposals.device.type == "cpu" and torch.equal(proposals, next_proposals):
                break
            proposals = next_proposals
    return _finalize(candidates, regrets, proposals, sizes, limit, count)


def _regrets_of(costs: Tensor) -> Tensor:
    """Return the cost of a rejection by each candidate ``(N, P, M)``; the last one's exceeds all others."""
    most = (costs[:, :, -1:] - costs[:, :, :1]).amax(1, keepdim=True) + 1
    return torch.cat([costs[:, :, 1:] - costs[:, :, :-1], most.expand_as(costs[:, :, :1])], 2)


def _propose(candidates: Tensor, regrets: Tensor, proposals: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """Return the proposals of the next round ``(N, P)``; after its last candidate a block repeats it."""
    rejected = _rejected(candidates, regrets, proposals, sizes, limit, count)
    return (proposals + rejected).clamp(max=candidates.shape[2] - 1)


def _finalize(candidates: Tensor, regrets: Tensor, proposals: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """Return the proposals ``(N, P)`` with -1 in place of those that are still rejected."""
    return torch.where(_rejected(candidates, regrets, proposals, sizes, limit, count), -1, proposals)


def _rejected(candidates: Tensor, regrets: Tensor, proposals: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """Return the blocks that their candidates reject: ``(N, P)`` bool.

    A candidate accepts blocks in the order of their regrets, the first among equals, until one does not fit; it rejects
    that one and all after it.
    """
    donors, regret = (values.gather(2, proposals[:, :, None])[:, :, 0].long() for values in (candidates, regrets))
    # The keys of both sorts are distinct, so that the order is the same on every device.
    places = proposals.shape[1]
    numbers = torch.arange(places, device=proposals.device)
    by_regret = (places - 1 - (regret * places + numbers.flip(0)).topk(places, dim=1).values).remainder(places)
    ranks = donors.gather(1, by_regret) * places + numbers
    order = by_regret.gather(1, ranks.topk(places, dim=1, largest=False).values.remainder(places))
    totals = sizes[order].cumsum(1)
    demands = torch.zeros_like(donors[:, :1]).expand(-1, count).scatter_add(1, donors, sizes.expand_as(donors))
    # Subtracting the demands on candidates with lower numbers leaves each candidate's own running total.
    before = (demands.cumsum(1) - demands).gather(1, donors.gather(1, order))
    return torch.zeros_like(donors, dtype=torch.bool).scatter(1, order, totals - before > limit)
