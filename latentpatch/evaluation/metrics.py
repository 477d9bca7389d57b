"""Metrics of sets of feature vectors: how near generated images are to real ones, and how varied; PSNR of images.

Metrics of sets take features ``(N, D)``, one row an image, and work in float64. Those with ``weights`` count image i
``weights[i]`` times, which is how :mod:`.bootstrap` resamples a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer

__all__ = [
    "coverages",
    "densities",
    "frechet_distance",
    "kernel_distance",
    "kernel_statistic",
    "kolmogorov_smirnov",
    "leading_directions",
    "precisions",
    "psnr",
    "random_pairs",
    "recalls",
    "weighted_pair_mean",
]

#: Neighbors that span a manifold in Kynkaanniemi et al. 2019 and in Naeem et al. 2020.
PRECISION_NEIGHBORS, DENSITY_NEIGHBORS = 3, 5

_CHUNK = 1024  # rows of a distance matrix in memory at a time
_MIN_SQUARED_ERROR = 1e-10  # bounds the PSNR of equal images at 100 dB


def frechet_distance(features: Tensor, reference: Tensor, *, weights: Tensor | None = None) -> float:
    """Return the Frechet distance of two sets: of Gaussians with their moments (Heusel et al. 2017).

    It falls with the number of images at the same quality, so compare distances of equal counts only. No matrix root is
    computed: with A, B the centered features, the trace of the root of the product of the covariances is the sum of the
    singular values of A B'.

    Args:
        features: ``(N, D)``, N at least 2.
        reference: ``(M, D)``, M at least 2.
        weights: ``(N,)``, how often each image counts; once by default.

    Raises:
        SettingError: for fewer vectors, other shapes, or numbers that are not finite.
    """
    features, reference = _to_float64(features, reference, 2)
    mean, root = _moments(features, weights)
    other_mean, other_root = _moments(reference, None)
    spread = root.square().sum() + other_root.square().sum()
    common = torch.linalg.svdvals(root @ other_root.T).sum()
    return max(0.0, float((mean - other_mean).square().sum() + spread - 2 * common))


def leading_directions(reference: Tensor, count: int) -> Tensor:
    """Return a set's leading principal directions, for Frechet distances of fewer images than dimensions.

    Args:
        reference: ``(M, D)``.
        count: number of directions; a set has at most D and M - 1.

    Returns:
        ``(D, count or fewer)`` float64, orthonormal columns: project both sets by ``features @ directions``.
    """
    check_integer("count", count, 1)
    reference, _ = _to_float64(reference, reference, 2)
    _, _, rows = torch.linalg.svd(reference - reference.mean(0), full_matrices=False)
    directions: Tensor = rows[: min(count, len(reference) - 1)].T
    return directions


def kernel_distance(features: Tensor, reference: Tensor, *, weights: Tensor | None = None) -> float:
    """Return the unbiased squared MMD with the kernel (x.y / D + 1)^3 (KID: Binkowski et al. 2018).

    It is zero on average for sets from one distribution, whatever their counts, and may be negative. Arguments and
    errors are those of :func:`frechet_distance`.
    """
    return kernel_statistic(features, reference)(weights)


def kernel_statistic(features: Tensor, reference: Tensor) -> Callable[[Tensor | None], float]:
    """Return :func:`kernel_distance` as a function of the weights, which shares one ``N x N`` kernel matrix."""
    features, reference = _to_float64(features, reference, 2)
    own, cross = _kernel(features, features), _kernel(features, reference).mean(1)
    others = _mean_of_pairs(_kernel(reference, reference), torch.ones_like(reference[:, 0]))

    def statistic(weights: Tensor | None = None) -> float:
        weights = torch.ones_like(cross) if weights is None else weights.to(cross)
        return float(_mean_of_pairs(own, weights) + others - 2 * (weights @ cross) / weights.sum())

    return statistic


def precisions(features: Tensor, reference: Tensor, k: int = PRECISION_NEIGHBORS) -> Tensor:
    """Return 1 for each generated image within the reference's manifold, else 0; precision is the mean.

    The manifold is the union of balls about the reference's vectors, each of which reaches its k-th nearest other
    vector (improved precision, Kynkaanniemi et al. 2019).

    Args:
        features: ``(N, D)``.
        reference: ``(M, D)``, M above k.
        k: number of neighbors.

    Returns:
        ``(N,)`` float64.

    Raises:
        SettingError: for too few vectors, other shapes, or numbers that are not finite.
    """
    features, reference = _to_float64(features, reference, 1)
    radii = _radii(reference, k)
    return torch.cat([(rows <= radii).any(1) for rows in _distances(features, reference)]).double()


def recalls(features: Tensor, reference: Tensor, k: int = PRECISION_NEIGHBORS) -> Tensor:
    """Return 1 for each reference image within the generated images' manifold, else 0: ``(M,)``; recall is the mean.

    Arguments and errors are those of :func:`precisions`.
    """
    return precisions(reference, features, k)


def densities(features: Tensor, reference: Tensor, k: int = DENSITY_NEIGHBORS) -> Tensor:
    """Return the number of the reference's balls about each generated image, over k: ``(N,)``; density is the mean.

    Density and coverage are from Naeem et al. 2020. Arguments and errors are those of :func:`precisions`.
    """
    features, reference = _to_float64(features, reference, 1)
    radii = _radii(reference, k)
    return torch.cat([(rows < radii).sum(1) for rows in _distances(features, reference)]).double() / k


def coverages(features: Tensor, reference: Tensor, k: int = DENSITY_NEIGHBORS) -> Tensor:
    """Return 1 for each ball of the reference with a generated image in it, else 0: ``(M,)``; coverage is the mean.

    Arguments and errors are those of :func:`precisions`.
    """
    features, reference = _to_float64(features, reference, 1)
    radii = _radii(reference, k)
    nearest = torch.cat([rows.amin(1) for rows in _distances(reference, features)])
    return (nearest < radii).double()


def random_pairs(count: int, pairs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random pairs of different images among ``count``: two ``(pairs,)`` int64; pairs may repeat.

    Raises:
        SettingError: for fewer than two images.
    """
    check_integer("count", count, 2)
    rng = torch.Generator().manual_seed(seed)
    first = torch.randint(count, (pairs,), generator=rng)
    return first, (first + torch.randint(1, count, (pairs,), generator=rng)) % count


def weighted_pair_mean(distances: Tensor, first: Tensor, second: Tensor, weights: Tensor | None = None) -> float:
    """Return the mean distance of pairs of images; a pair's weight is the product of its images' weights.

    Args:
        distances: ``(P,)``.
        first, second: ``(P,)`` int64 positions of images.
        weights: ``(N,)``, how often each image counts; where that leaves no pair, every pair counts once.
    """
    distances = distances.double()
    times = torch.ones_like(distances) if weights is None else weights[first] * weights[second]
    if not bool(times.any()):
        times = torch.ones_like(distances)
    return float((times * distances).sum() / times.sum())


def kolmogorov_smirnov(first: Tensor, second: Tensor, permutations: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Return the two-sample Kolmogorov-Smirnov statistic and its p-value by permutation.

    The statistic is the largest difference between the two distribution functions. Ties are accounted for.

    Args:
        first, second: ``(N,)`` and ``(M,)`` numbers, at least one each.
        permutations: number of random exchanges of the labels; the smallest p-value is 1 / (permutations + 1).

    Raises:
        SettingError: for an empty sample.
    """
    for name, sample in (("first", first), ("second", second)):
        if not len(sample):
            raise SettingError(name, 0, "at least 1 number")
    pooled, order = torch.cat([first, second]).double().cpu().sort()
    last = torch.cat([pooled[1:] > pooled[:-1], torch.ones(1, dtype=torch.bool)])  # in a group of equals
    labels = (order < len(first)).double()
    rng = torch.Generator().manual_seed(seed)
    observed = _largest_gap(labels[None], last)
    # Gaps are multiples of a fraction; rounding must not make equal gaps differ.
    bound = float(observed) - 1e-9
    exceeding = 0
    group = max(1, 2**22 // len(labels))
    for done in range(0, permutations, group):
        count = min(group, permutations - done)
        shuffled = labels[torch.rand(count, len(labels), generator=rng).argsort(1)]
        exceeding += int((_largest_gap(shuffled, last) >= bound).sum())
    return float(observed), (1 + exceeding) / (1 + permutations)


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair of images in dB: ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``.

    It is at most 100 dB, the value of equal images.
    """
    return -10 * (images - others).square().mean((1, 2, 3)).clamp(min=_MIN_SQUARED_ERROR).log10()


def _largest_gap(labels: Tensor, last: Tensor) -> Tensor:
    """Return Kolmogorov-Smirnov statistics ``(R,)`` of rows of labels ``(R, N + M)``, 1 for the first sample."""
    ones = labels.sum(1, keepdim=True)
    steps = labels / ones - (1 - labels) / (labels.shape[1] - ones)
    return steps.cumsum(1)[:, last].abs().amax(1)


def _moments(features: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mean ``(D,)`` and R of at most D rows with R'R the unbiased covariance."""
    weights = torch.ones_like(features[:, 0]) if weights is None else weights.to(features)
    total = weights.sum()
    mean = weights @ features / total
    root = (features - mean) * (weights / (total - 1)).sqrt()[:, None]
    return mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of a kernel over pairs of different images."""
    same = (weights.square() * kernel.diagonal()).sum()
    return (weights @ kernel @ weights - same) / (weights.sum().square() - weights.square().sum())


def _radii(features: Tensor, k: int) -> Tensor:
    """Return the distance of each vector to its k-th nearest other vector: ``(N,)``."""
    check_integer("k", k, 1, len(features) - 1)
    # The nearest vector is the vector itself.
    return torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in _distances(features, features)])


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Yield rows of Euclidean distances; computed from differences, so that equal vectors are at distance 0."""
    for rows in a.split(_CHUNK):
        yield torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist")


def _to_float64(features: Tensor, reference: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return both sets in float64, checked: finite ``(N, D)`` of one D, with at least ``least`` vectors."""
    for name, each in (("features", features), ("reference", reference)):
        if not isinstance(each, Tensor) or each.ndim != 2 or len(each) < least or not each.shape[1]:
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise SettingError(name, shape, f"of shape (N, D) with N at least {least}")
        if not bool(torch.isfinite(each).all()):
            raise SettingError(name, "NaN or infinite values", "finite")
    if features.shape[1] != reference.shape[1]:
        raise SettingError("features", tuple(features.shape), f"of {reference.shape[1]} dimensions, as the reference")
    return features.detach().double(), reference.detach().to(features.device).double()
