"""Identity figures: are pictures more like single sources than pictures of others are, by a descriptor of identity?

Sources, held-out pictures and generated pictures are described by vectors (:mod:`.descriptors`). Distances to the
nearest source are compared: those of generated pictures with those of held-out pictures, which are of nobody among the
sources. The membership attack (Webster et al., This Person (Probably) Exists, 2021) turns this round: it has the
generated pictures alone, and guesses by the distance to the nearest of them which people were sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer
from .bootstrap import bootstrap
from .figures import Figure, mean_figure

__all__ = [
    "PERCENTILE",
    "Identity",
    "checked_limits",
    "low_percentile",
    "membership_auc",
    "nearest",
    "nearest_others",
    "percentile_rank",
]

#: The part of the held-out distances that lies below the limit of alikeness.
PERCENTILE = 0.01

_CHUNK = 512  # rows of a distance matrix in float64 at a time
_MAX_PEOPLE = 1000  # sources, and held-out pictures, of the membership attack
_HALVES = 20  # random halves of the held-out pictures that are the attack's baseline
_BOUND = 0.025  # probability beyond each end of an interval


def checked_limits(below: Sequence[float]) -> list[float]:
    """Return distances below which shares are counted, each once, in rising order.

    Raises:
        SettingError: for one that is not above 0.
    """
    for limit in below:
        if not (math.isfinite(limit) and limit > 0):
            raise SettingError("identity_below", limit, "above 0")
    return sorted(set(below))


def distances(descriptors: Tensor, others: Tensor) -> Tensor:
    """Return Euclidean distances ``(N, M)`` float64, 0 for equal vectors: no products of large numbers are subtracted.

    Args:
        descriptors: ``(N, D)``.
        others: ``(M, D)``.
    """
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat(
        [torch.cdist(part, others.double(), compute_mode=exact) for part in descriptors.double().split(_CHUNK)]
    )


def nearest(descriptors: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest other, and its position; of equally near ones the first.

    Args:
        descriptors: ``(N, D)``.
        others: ``(M, D)``, M at least 1.

    Returns:
        ``(N,)`` float64 and ``(N,)`` int64.

    Raises:
        SettingError: for no others, or vectors of another length.
    """
    if not len(others) or descriptors.shape[1:] != others.shape[1:]:
        raise SettingError("others", tuple(others.shape), f"of shape (M, {descriptors.shape[1]}), M at least 1")
    parts = [distances(part, others).min(1) for part in descriptors.split(_CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def nearest_others(descriptors: Tensor, groups: Tensor | None = None, count: int = _MAX_PEOPLE) -> Tensor:
    """Return the distances of vectors to the nearest vector of another group: ``(count or N,)`` float64.

    Args:
        descriptors: ``(N, D)``.
        groups: ``(N,)`` int64, equal for pictures of one person; by default each vector is a group.
        count: largest number of vectors that are measured, evenly spread.

    Raises:
        SettingError: for fewer than two groups.
    """
    groups = torch.arange(len(descriptors)) if groups is None else groups.cpu()
    check_integer("sources", len(groups.unique()), 2)
    chosen = torch.linspace(0, len(descriptors) - 1, min(count, len(descriptors))).round().long()
    rows = []
    for part in chosen.split(_CHUNK):
        is_own = groups[part, None] == groups
        rows.append(distances(descriptors[part], descriptors).masked_fill(is_own, math.inf).amin(1))
    return torch.cat(rows)


def percentile_rank(count: int) -> int:
    """Return the rank of the 1st percentile among ``count`` values, from 1: that of the least for up to 100 values."""
    return 1 + math.floor(PERCENTILE * (count - 1))


def low_percentile(values: Tensor) -> float:
    """Return the 1st percentile of values ``(N,)``: one of them, of which the rank is :func:`percentile_rank`."""
    return float(values.kthvalue(percentile_rank(len(values))).values)


def membership_auc(
    members: Tensor, others: Tensor, member_weights: Tensor | None = None, other_weights: Tensor | None = None
) -> float:
    """Return the chance that a member's distance is below another's, ties counting half: the area under the ROC curve.

    Args:
        members: ``(B,)`` distances of members to the nearest picture.
        others: ``(M,)`` distances of people who are no members.
        member_weights: ``(B,)``, how often each counts; once by default.
        other_weights: ``(M,)``.

    Returns:
        1 where all members are nearer than all others, 0.5 where distances say nothing.
    """
    ordered, order = others.double().sort()
    weights = torch.ones_like(ordered) if other_weights is None else other_weights.double()[order]
    below = torch.cat([weights.new_zeros(1), weights.cumsum(0)])  # weight of the others before a place
    left, right = (torch.searchsorted(ordered, members.double(), right=side) for side in (False, True))
    wins = below[-1] - (below[left] + below[right]) / 2
    member_weights = torch.ones_like(wins) if member_weights is None else member_weights.double()
    return float(member_weights @ wins / (member_weights.sum() * below[-1]))


class Identity:
    """Descriptors of sources and held-out pictures, with which descriptors of pictures are compared.

    Args:
        sources: ``(B, D)``.
        held_out: ``(M, D)``, M at least 2.
        below: distances below which shares of pictures are figures, too.
        groups: ``(B,)`` int64; sources of the same number are of one person. None where all are different.

    Attributes:
        distances: ``(M,)`` float64, of the held-out pictures to the nearest source.
        limit: 1st percentile of those: a picture that is nearer to a source is counted as alike.

    Raises:
        SettingError: for too few vectors, other shapes, limits that are not above 0, or a descriptor that tells nobody
            apart.
    """

    def __init__(
        self, sources: Tensor, held_out: Tensor, below: Sequence[float] = (), groups: Tensor | None = None
    ) -> None:
        check_integer("held_out", len(held_out), 2)
        self.sources, self.below = sources.double(), checked_limits(below)
        self._groups = groups
        self.distances, _ = nearest(held_out, sources)
        self.limit = low_percentile(self.distances)
        if not float(self.distances.median()):
            raise SettingError("identity", "equal descriptors of sources and held-out pictures", "different for others")
        self._members, self._others = (_some(each.double()) for each in (sources, held_out))

    def _is_diverse(self) -> bool:
        return len(self.sources) > 1 and (self._groups is None or len(self._groups.unique()) > 1)

    def nearest(self, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances of pictures ``(N, D)`` to the nearest source, and its number, as :func:`nearest`."""
        return nearest(descriptors, self.sources)

    def figures(self, sets: Sequence[Tensor], resamples: int) -> dict[str, Figure]:
        """Return figures of sets of pictures by name, each with ``value``, ``interval`` and the values of the ``sets``.

        ``identity_distance`` is the mean distance to the nearest source, ``identity_alike`` the share of pictures
        nearer than the limit, ``identity_below_D`` the share nearer than D, and ``identity_attack`` the AUC of the
        membership attack.

        Args:
            sets: ``(N, D)`` descriptors of each set's pictures.
            resamples: of the bootstrap; 0 for no intervals.
        """
        near = [self.nearest(each)[0] for each in sets]
        figures = {"identity_distance": mean_figure(near, resamples)}
        limits = {"alike": self.limit, **{f"below_{limit:g}": limit for limit in self.below}}
        for name, limit in limits.items():
            figures[f"identity_{name}"] = _share_figure([each < limit for each in near], resamples)
        return figures | {"identity_attack": self.attack(sets, resamples)}

    def attack(self, sets: Sequence[Tensor], resamples: int) -> Figure:
        """Return the AUC of sources against held-out pictures by the distance to the nearest picture of a set.

        Sources and held-out pictures are drawn again for the interval as the pictures are: sets share them.

        Args:
            sets: ``(N, D)`` descriptors of each set's pictures.
            resamples: of the bootstrap; 0 for no interval.
        """
        people = torch.cat([self._members, self._others])
        between = [distances(each, people).float() for each in sets]
        counts = [*map(len, sets), len(self._members), len(self._others)]

        def one(s: int, weights: Sequence[Tensor]) -> float:
            near = between[s][weights[s] > 0].amin(0)
            return membership_auc(near[: counts[-2]], near[counts[-2] :], weights[-2], weights[-1])

        return _auc_figure(one, len(sets), counts, resamples)

    def baseline(self, resamples: int) -> Figure:
        """Return the attack's AUC with half of the held-out pictures in place of generated ones, against the others.

        It is the mean over random halves: 0.5 where sources and held-out pictures are of one kind. The interval is
        that of drawing sources and held-out pictures again.

        Args:
            resamples: of the bootstrap; 0 for no interval.
        """
        rng = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(self._others), generator=rng) for _ in range(_HALVES)]
        members, others = distances(self._members, self._others), distances(self._others, self._others)
        counts = [len(self._members), len(self._others)]

        def one(s: int, weights: Sequence[Tensor]) -> float:
            order = orders[s]
            is_drawn = weights[1][order] > 0
            middle = len(order) // 2
            shown, rest = order[:middle][is_drawn[:middle]], order[middle:]
            if not len(shown) or not bool(is_drawn[middle:].any()):  # a resample of very few
                return 0.5
            near = members[:, shown].amin(1), others[rest][:, shown].amin(1)
            return membership_auc(*near, weights[0], weights[1][rest])

        return _auc_figure(one, _HALVES, counts, resamples)

    def record(self, resamples: int) -> dict[str, Any]:
        """Return what pictures are compared with, as JSON holds it.

        Args:
            resamples: of the bootstrap of the baseline; 0 for no interval.
        """
        return {
            "held_out": _distribution(self.distances),
            "sources": _distribution(nearest_others(self.sources, self._groups)) if self._is_diverse() else None,
            "limit": self.limit,
            "chance": percentile_rank(len(self.distances)) / (len(self.distances) + 1),
            "baseline": self.baseline(resamples),
            "halves": _HALVES,
            "counts": [len(self.sources), len(self.distances)],
        }


def _some(descriptors: Tensor) -> Tensor:
    """Return at most :data:`_MAX_PEOPLE` of the vectors, drawn by a fixed seed."""
    chosen = torch.randperm(len(descriptors), generator=torch.Generator().manual_seed(0))[:_MAX_PEOPLE]
    return descriptors[chosen.sort().values]


def _share_figure(sets: Sequence[Tensor], resamples: int) -> Figure:
    """Return the share of pictures for which a condition holds.

    Resamples of none, or of all, are alike. The interval then ends at the exact binomial bound (Clopper and Pearson).
    """
    figure = mean_figure([each.double() for each in sets], resamples)
    if resamples and figure["value"] in (0.0, 1.0):
        bound = 1 - _BOUND ** (1 / sum(map(len, sets)))
        figure["interval"] = [0.0, bound] if not figure["value"] else [1 - bound, 1.0]
    return figure


def _auc_figure(
    one: Callable[[int, Sequence[Tensor]], float], sets: int, counts: Sequence[int], resamples: int
) -> Figure:
    """Return the mean of an AUC over sets, a function of the set's number and of the weights of all that is drawn."""
    each = [one(s, [torch.ones(n, dtype=torch.float64) for n in counts]) for s in range(sets)]
    interval = None
    if resamples:
        ends = bootstrap(lambda weights: sum(one(s, weights) for s in range(sets)) / sets, counts, resamples)
        interval = [min(max(end, 0.0), 1.0) for end in ends]
    return {"value": sum(each) / len(each), "interval": interval, "sets": each}


def _distribution(values: Tensor) -> dict[str, float]:
    return {
        "least": float(values.min()),
        "percentile": low_percentile(values),
        "median": float(values.median()),
        "mean": float(values.mean()),
    }
