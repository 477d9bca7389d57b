"""Figures of a row: the mean over its sets, a bootstrap interval, and the value of each set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .bootstrap import bootstrap
from .sample_set import SampleSet

__all__ = ["DIRECTIONS", "FLAG_COPIES", "FLAG_SHARE", "Figures", "is_copying", "leading_basis"]

#: A row is flagged as copying from this mean largest share on, or from this share of copies on.
FLAG_SHARE, FLAG_COPIES = 0.5, 0.05

#: Leading directions of the reference for Frechet distances of no more images than features have dimensions.
DIRECTIONS = 64


@dataclass(frozen=True)
class Figures:
    """Measures sets of images.

    Attributes:
        reference: ``(M, D)`` features of held-out images.
        basis: ``(D, directions)`` of the Frechet distance; None for all dimensions.
        resamples: of the bootstrap; 0 for no intervals.
    """

    reference: Tensor
    basis: Tensor | None
    resamples: int

    def measure(self, sets: Sequence[SampleSet], source_distance: float) -> dict[str, dict[str, Any]]:
        """Return each figure by name, with its ``value``, ``interval`` and the values of the ``sets``.

        Args:
            sets: sets of one row.
            source_distance: mean distance of random pairs of sources, the unit of diversity.
        """
        reference = self.reference
        projected, *reduced = (
            features if self.basis is None else features @ self.basis
            for features in (reference, *(each.features for each in sets))
        )
        kernels = [metrics.kernel_statistic(each.features, reference) for each in sets]

        def distance(s: int, weights: Tensor) -> float:
            return metrics.frechet_distance(reduced[s], projected, weights=weights)

        def diversity(s: int, weights: Tensor) -> float:
            each = sets[s]
            return metrics.weighted_pair_mean(each.distances, each.first, each.second, weights) / source_distance

        sizes = [len(each.features) for each in sets]
        figures = {
            "distance": self._figure(distance, sizes, least=0),
            "kernel": self._figure(lambda s, weights: kernels[s](weights), sizes),
            "precision": self._mean([metrics.precisions(each.features, reference) for each in sets]),
            "recall": self._mean([metrics.recalls(each.features, reference) for each in sets], is_shared=True),
            "density": self._mean([metrics.densities(each.features, reference) for each in sets]),
            "coverage": self._mean([metrics.coverages(each.features, reference) for each in sets], is_shared=True),
            "diversity": self._figure(diversity, sizes, least=0),
        }
        for name in sets[0].values:
            figures[name] = self._mean([torch.cat(each.values[name]) for each in sets])
        return figures

    def _mean(self, values: Sequence[Tensor], is_shared: bool = False) -> dict[str, Any]:
        """Return a figure that is a mean over images, of each set or of the reference that all sets share."""

        def mean(s: int, weights: Tensor) -> float:
            return float(weights @ values[s].double() / weights.sum())

        low, high = (float(bound) for bound in torch.cat(list(values)).aminmax())
        return self._figure(mean, [len(each) for each in values], is_shared, low, high)

    def _figure(
        self,
        statistic: Callable[[int, Tensor], float],
        sizes: Sequence[int],
        is_shared: bool = False,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> dict[str, Any]:
        """Return a figure whose statistic takes the number of a set and its images' weights.

        The interval is cut at ``least`` and ``most``, the bounds of the statistic. Where sets share the reference whose
        images are resampled, they share its weights.
        """
        each = [statistic(s, torch.ones(n, dtype=torch.float64)) for s, n in enumerate(sizes)]

        def average(weights: Sequence[Tensor]) -> float:
            return sum(statistic(s, weights[0 if is_shared else s]) for s in range(len(sizes))) / len(sizes)

        interval = None
        if self.resamples:
            ends = bootstrap(average, sizes[:1] if is_shared else sizes, self.resamples)
            interval = [min(max(end, least), most) for end in ends]
        return {"value": sum(each) / len(each), "interval": interval, "sets": each}


def leading_basis(reference: Tensor, samples: int, directions: int | None) -> Tensor | None:
    """Return the directions ``(D, directions)`` of the Frechet distance; None for all dimensions.

    Args:
        reference: ``(M, D)`` features of held-out images.
        samples: images in a set.
        directions: see :class:`.protocol.Protocol`.
    """
    count, dimensions = reference.shape
    if directions is None:
        directions = DIRECTIONS if min(count, samples) <= dimensions else 0
    return metrics.leading_directions(reference, directions) if 0 < directions < dimensions else None


def is_copying(figures: Mapping[str, Any]) -> bool:
    """Return whether a row with these figures copies its sources."""
    if "largest_share" not in figures:
        return False
    return bool(figures["largest_share"]["value"] >= FLAG_SHARE or figures["copied"]["value"] >= FLAG_COPIES)
