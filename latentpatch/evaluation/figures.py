"""Figures of a row: the mean over its sets, a bootstrap interval, and the value of each set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .bootstrap import bootstrap
from .sample_set import SampleSet

__all__ = ["DIRECTIONS", "FLAG_COPIES", "FLAG_SHARE", "Figure", "is_copying", "leading_basis", "mean_figure", "measure"]

#: A row is flagged as copying from this mean largest share on, or from this share of copies on.
FLAG_SHARE, FLAG_COPIES = 0.5, 0.05
#: Leading directions of the reference for Frechet distances of no more images than features have dimensions.
DIRECTIONS = 64

#: A figure: its ``value``, its ``interval`` (two ends, or None), and the values of the ``sets``.
Figure = dict[str, Any]


def measure(
    sets: Sequence[SampleSet], reference: Tensor, basis: Tensor | None, source_distance: float, resamples: int
) -> dict[str, Figure]:
    """Return each figure of a row by name, with its ``value``, ``interval`` and the values of the ``sets``.

    Args:
        sets: the row's sets.
        reference: ``(M, D)`` features of held-out images.
        basis: ``(D, directions)`` of the Frechet distance; None for all dimensions.
        source_distance: mean distance of random pairs of sources, the unit of diversity.
        resamples: of the bootstrap; 0 for no intervals.
    """
    features, sizes = [each.features for each in sets], [len(each.features) for each in sets]
    projected, *reduced = (each if basis is None else each @ basis for each in (reference, *features))
    kernels = [metrics.kernel_statistic(each, reference) for each in features]

    def distance(s: int, weights: Tensor) -> float:
        return metrics.frechet_distance(reduced[s], projected, weights=weights)

    def diversity(s: int, weights: Tensor) -> float:
        each = sets[s]
        return metrics.weighted_pair_mean(each.distances, each.first, each.second, weights) / source_distance

    figures = {
        "distance": _figure(distance, sizes, resamples, least=0),
        "kernel": _figure(lambda s, weights: kernels[s](weights), sizes, resamples),
        "precision": mean_figure([metrics.precisions(each, reference) for each in features], resamples),
        "recall": mean_figure([metrics.recalls(each, reference) for each in features], resamples, is_shared=True),
        "density": mean_figure([metrics.densities(each, reference) for each in features], resamples),
        "coverage": mean_figure([metrics.coverages(each, reference) for each in features], resamples, is_shared=True),
        "diversity": _figure(diversity, sizes, resamples, least=0),
    }
    for name in sets[0].values:
        figures[name] = mean_figure([torch.cat(each.values[name]) for each in sets], resamples)
    return figures


def mean_figure(values: Sequence[Tensor], resamples: int, is_shared: bool = False) -> Figure:
    """Return a figure that is a mean over images, of each set or of the reference that all sets share.

    Args:
        values: ``(N,)`` a set, the values of its images; or of the images of the reference.
        resamples: of the bootstrap; 0 for no interval.
        is_shared: whether the images are those of the reference.
    """

    def mean(s: int, weights: Tensor) -> float:
        return float(weights @ values[s].double() / weights.sum())

    low, high = (float(bound) for bound in torch.cat(list(values)).aminmax())
    return _figure(mean, [len(each) for each in values], resamples, is_shared, low, high)


def _figure(
    statistic: Callable[[int, Tensor], float],
    sizes: Sequence[int],
    resamples: int,
    is_shared: bool = False,
    least: float = -math.inf,
    most: float = math.inf,
) -> Figure:
    """Return a figure whose statistic takes the number of a set and its images' weights.

    The interval is cut at ``least`` and ``most``, the bounds of the statistic. Where sets share the reference whose
    images are resampled, they share its weights.
    """
    each = [statistic(s, torch.ones(n, dtype=torch.float64)) for s, n in enumerate(sizes)]

    def average(weights: Sequence[Tensor]) -> float:
        return sum(statistic(s, weights[0 if is_shared else s]) for s in range(len(sizes))) / len(sizes)

    interval = None
    if resamples:
        ends = bootstrap(average, sizes[:1] if is_shared else sizes, resamples)
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
