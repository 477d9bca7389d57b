"""What each source gives of a picture, settled before anything is copied.

No source may give more than a share. Given out in the order of visits, the share of the source that fits best is used
up half-way down a picture, and what follows must do with others: a seam across the face. So the places are looked at
together, and a source gives where it would be missed most: a place that has to do without it takes the next best.

This is the transportation problem, solved by the regrets of Vogel's approximation (Reinfeld and Vogel 1958) in rounds
of deferred acceptance (Gale and Shapley 1962): all places ask for the best source they still may ask for, and a source
that is asked for too much turns away those that lose least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .torch_loops import each

__all__ = ["CANDIDATES", "ROUNDS", "allot"]

#: Sources each place may ask for, one after the other.
CANDIDATES = 8
#: How often they ask. Who is turned away then takes part in the sweeps with nothing.
ROUNDS = 16


def allot(costs: Tensor, candidates: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """Which of its candidates each place takes, so that none gives more than a limit.

    Args:
        costs: ``(N, P, M)`` integers, ascending in M.
        candidates: ``(N, P, M)`` int64 from 0 to ``count - 1``, all of a place different.
        sizes: ``(P,)`` int64, what a place takes of a candidate.
        limit: what a candidate gives at most.
        count: of candidates in all.

    Returns:
        ``(N, P)`` int64, each from 0 to M - 1, or -1 where a place was turned away to the last.
    """
    regrets = _regrets_of(costs)
    asked = torch.zeros_like(candidates[:, :, 0])
    if torch.compiler.is_exporting():

        def one_round(asked: Tensor, _: tuple[Tensor, ...]) -> Tensor:
            return _ask(candidates, regrets, asked, sizes, limit, count)

        asked = each(one_round, asked, (sizes.new_zeros(ROUNDS),))
    else:
        for _ in range(ROUNDS):
            next_asked = _ask(candidates, regrets, asked, sizes, limit, count)
            if asked.device.type == "cpu" and torch.equal(asked, next_asked):
                break
            asked = next_asked
    # After the last round those that are turned away get nothing.
    return torch.where(_turned_away(candidates, regrets, asked, sizes, limit, count), -1, asked)


def _regrets_of(costs: Tensor) -> Tensor:
    """What it costs to be turned away by each candidate ``(N, P, M)``: by the last one, more than by any other."""
    most = (costs[:, :, -1:] - costs[:, :, :1]).amax(1, keepdim=True) + 1
    return torch.cat([costs[:, :, 1:] - costs[:, :, :-1], most.expand_as(costs[:, :, :1])], 2)


def _ask(candidates: Tensor, regrets: Tensor, asked: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """A round: which candidate each place asks next, ``(N, P)``; the last one again where there is no other."""
    away = _turned_away(candidates, regrets, asked, sizes, limit, count)
    return (asked + away).clamp(max=candidates.shape[2] - 1)


def _turned_away(candidates: Tensor, regrets: Tensor, asked: Tensor, sizes: Tensor, limit: int, count: int) -> Tensor:
    """Whether a place is too much for the candidate it asks: ``(N, P)`` bool.

    Each gives to those that would lose most, among equals to the first, until one does not fit; none after it does.
    """
    wanted, regret = (given.gather(2, asked[:, :, None])[:, :, 0].long() for given in (candidates, regrets))
    # Numbers that are all different, so that the order is the same everywhere.
    places = asked.shape[1]
    numbers = torch.arange(places, device=asked.device)
    by_regret = (places - 1 - (regret * places + numbers.flip(0)).topk(places, dim=1).values).remainder(places)
    ranks = wanted.gather(1, by_regret) * places + numbers
    order = by_regret.gather(1, ranks.topk(places, dim=1, largest=False).values.remainder(places))
    taken = sizes[order].cumsum(1)
    demands = torch.zeros_like(wanted[:, :1]).expand(-1, count).scatter_add(1, wanted, sizes.expand_as(wanted))
    before = (demands.cumsum(1) - demands).gather(1, wanted.gather(1, order))  # of the candidates with lower numbers
    return torch.zeros_like(wanted, dtype=torch.bool).scatter(1, order, taken - before > limit)
