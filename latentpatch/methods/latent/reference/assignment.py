"""Assignment of donors to places when no donor may give more than its capacity.

Copied one after the other, places use up the donor that fits best half-way down a picture, and the rest has to do with
others: a seam appears. So all places are looked at together, and a donor gives where it would be missed most.

This is the transportation problem. The algorithm is deferred acceptance (Gale and Shapley 1962) in rounds: every place
asks a donor, and a donor that is asked for more than its capacity rejects the places that lose least. What a place
loses is its regret, as in Vogel's approximation (Reinfeld and Vogel 1958): the cost of its next candidate less that of
this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import inf

__all__ = ["NUM_CANDIDATES", "NUM_ROUNDS", "assign"]

#: Donors that a place may ask, the nearest first.
NUM_CANDIDATES = 8
#: Rounds after which places that are still rejected stay without a donor.
NUM_ROUNDS = 16


def assign(
    costs: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], sizes: Sequence[int], capacity: int
) -> list[int | None]:
    """Choose one candidate for each of P places.

    Args:
        costs: ``P x M``, what each candidate costs; ascending in a row.
        candidates: ``P x M``, numbers of donors, all different in a row.
        sizes: ``P``, cells of a place.
        capacity: cells that one donor gives at most.

    Returns:
        The position of the chosen candidate in each row; None where the place was rejected in the last round.
    """
    last = len(costs[0]) - 1
    asked = [0] * len(costs)  # every place asks its nearest donor first
    for _ in range(NUM_ROUNDS):
        for place in rejected_places(costs, candidates, sizes, capacity, asked):
            asked[place] = min(asked[place] + 1, last)  # the last candidate is asked again and again
    rejected = rejected_places(costs, candidates, sizes, capacity, asked)
    return [None if place in rejected else asked[place] for place in range(len(costs))]


def rejected_places(
    costs: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    sizes: Sequence[int],
    capacity: int,
    asked: Sequence[int],
) -> set[int]:
    """Return the places that are rejected by the donors they ask now."""

    def regret(place: int) -> float:
        now, row = asked[place], costs[place]
        return row[now + 1] - row[now] if now + 1 < len(row) else inf  # without the last one there is nothing

    asking = defaultdict(list)  # places by donor
    for place, position in enumerate(asked):
        asking[candidates[place][position]].append(place)
    rejected = set()
    for places in asking.values():
        demand = 0
        # The largest regret comes first, the lower place among equals. Once a place does not fit, none after it does.
        for place in sorted(places, key=lambda place: (-regret(place), place)):
            demand += sizes[place]
            if demand > capacity:
                rejected.add(place)
    return rejected
