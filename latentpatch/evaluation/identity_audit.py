"""Audit of pictures by identity: which are more like one source than chance makes pictures of others."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import comb, exp, isfinite, log
from typing import Any

from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer
from .identity import low_percentile, percentile_rank

__all__ = ["FALSE_ALARM", "IdentityAudit", "audit_identity", "chance_of_as_many", "single_limit"]

#: Chance that pictures of others fail together, and that any of them fails alone: 1 % in all.
FALSE_ALARM = 0.005

_MIN_REFERENCE = 5  # distances


@dataclass(frozen=True)
class IdentityAudit:
    """Result of :func:`audit_identity` for N pictures.

    Attributes:
        distance: ``(N,)`` float64, to the nearest source.
        is_alike: ``(N,)`` bool, whether the picture is nearer than the 1st percentile of the reference.
        is_single: ``(N,)`` bool, whether the picture alone is nearer than chance gives.
        alike_limit: the 1st percentile of the reference.
        single_limit: distance below which a single picture fails.
        most_by_chance: number of pictures below the 1st percentile from which on the audit fails, less 1.
        chance: probability of as many pictures below it, were they of others.
    """

    distance: Tensor
    is_alike: Tensor
    is_single: Tensor
    alike_limit: float
    single_limit: float
    most_by_chance: int
    chance: float

    @property
    def too_many(self) -> bool:
        """True if more pictures are alike than chance gives."""
        return int(self.is_alike.sum()) > self.most_by_chance

    def failures(self, names: list[str]) -> list[dict[str, Any]]:
        """Return what fails, each with its picture's name, or None for all pictures together."""
        found: list[dict[str, Any]] = []
        count = len(self.distance)
        if self.too_many:
            share, limit = int(self.is_alike.sum()) / count, self.most_by_chance / count
            found.append({"file": None, "figure": "identity_alike", "value": round(share, 4), "limit": round(limit, 4)})
        for i in self.is_single.nonzero().flatten().tolist():
            value, limit = round(float(self.distance[i]), 4), round(self.single_limit, 4)
            found.append({"file": names[i], "figure": "identity_distance", "value": value, "limit": limit})
        return found

    def record(self) -> dict[str, Any]:
        """Return the figures as JSON holds them."""
        return {
            "alike": int(self.is_alike.sum()),
            "alike_limit": round(self.alike_limit, 6),
            "most_by_chance": self.most_by_chance,
            "chance": self.chance,
            "single_limit": round(self.single_limit, 6),
        }


def audit_identity(distance: Tensor, reference: Tensor, limit: float | None = None) -> IdentityAudit:
    """Compare pictures' distances to the nearest source with those of pictures that are of nobody among the sources.

    Pictures fail together where more of them lie below the reference's 1st percentile than ranks give by chance. A
    picture fails alone below a limit that the tail of the reference puts no picture under, or where its descriptor is a
    source's.

    Args:
        distance: ``(N,)`` of pictures to the nearest source.
        reference: ``(M,)``, M at least 5, of held-out pictures to the nearest source, or of sources to the nearest
            other.
        limit: distance below which a picture fails alone, in place of the one from the reference.

    Raises:
        SettingError: for too few distances, a reference without spread, or a limit below 0.
    """
    check_integer("reference", len(reference), _MIN_REFERENCE)
    check_integer("pictures", len(distance), 1)
    if limit is not None and not (isfinite(limit) and limit >= 0):
        raise SettingError("identity_limit", limit, "at least 0")
    if not float(reference.max()):
        raise SettingError("identity", "equal descriptors of different pictures", "different for others")
    below = low_percentile(reference)
    is_alike = distance < below
    rank, counts = percentile_rank(len(reference)), (len(distance), len(reference))
    # Chances fall with the number: the first that is small enough comes after the most that chance gives.
    first = bisect_left(
        range(len(distance) + 1), True, key=lambda k: chance_of_as_many(k, *counts, rank) <= FALSE_ALARM
    )
    single = single_limit(reference, len(distance)) if limit is None else limit
    chance = chance_of_as_many(int(is_alike.sum()), *counts, rank)
    is_single = (distance < single) | (distance == 0)
    return IdentityAudit(distance, is_alike, is_single, below, single, first - 1, chance)


def chance_of_as_many(count: int, pictures: int, reference: int, rank: int) -> float:
    """Return the chance that ``count`` pictures or more lie below the reference's value of a rank, were all of a kind.

    Among the ``count + rank - 1`` least of all values there are then fewer of the reference than ``rank``: a tail of
    the hypergeometric distribution, exact whatever the distances' distribution.

    Args:
        count: number of pictures below.
        pictures, reference: numbers of pictures and of reference distances.
        rank: from 1, of the reference's value.
    """
    if not count:
        return 1.0
    drawn = count + rank - 1
    ways = sum(comb(reference, i) * comb(pictures, drawn - i) for i in range(rank) if drawn - i <= pictures)
    return ways / comb(pictures + reference, drawn)


def single_limit(reference: Tensor, pictures: int) -> float:
    """Return the distance below which one of so many pictures lies by a chance of 0.5 %, were they of others.

    Distances to the nearest of many follow the law of least values that are bounded below, Weibull's. The logarithm of
    its quantile at p is m + s log(-log(1 - p)). Here m and s are set by the reference's median and 1st percentile.

    Args:
        reference: ``(M,)`` distances.
        pictures: number of pictures that share the chance.

    Returns:
        The limit; 0 where the 1st percentile is 0.
    """
    rank = percentile_rank(len(reference))
    middle, low = float(reference.double().median()), low_percentile(reference)
    at_middle, at_low, at_limit = (
        log(-log(1 - p)) for p in (0.5, rank / (len(reference) + 1), FALSE_ALARM / max(1, pictures))
    )
    if not low:
        return 0.0
    scale = log(middle / low) / (at_middle - at_low)
    return middle * exp(scale * (at_limit - at_middle))
