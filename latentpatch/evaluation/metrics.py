"""Distances between sets of feature vectors: how near generated pictures are to real ones, and how varied.

All functions take features ``(N, D)``, one row a picture, and work in float64. Those with ``weights`` count picture i
``weights[i]`` times, which is how :mod:`.resampling` draws new sets from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = [
    "coverages",
    "densities",
    "frechet_distance",
    "kernel_distance",
    "kernel_statistic",
    "kolmogorov_smirnov",
    "leading_directions",
    "precisions",
    "random_pairs",
    "recalls",
    "weighted_pair_mean",
]

#: Neighbours that make a manifold, as Kynkaanniemi et al. 2019 and Naeem et al. 2020 take them.
PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5

_CHUNK = 1024  # rows of a table of distances held at a time


def frechet_distance(features: Tensor, reference: Tensor, *, weights: Tensor | None = None) -> float:
    """Frechet distance of the Gaussians with the means and covariances of two sets (Heusel et al. 2017).

    It falls with the number of pictures at the same quality, so only figures of equal counts compare. No matrix root is
    taken: with A, B the centred features, the trace of the root of the product of the covariances is the sum of the
    singular values of A B'.

    Args:
        features: ``(N, D)``, N at least 2.
        reference: ``(M, D)``, M at least 2.
        weights: ``(N,)``, see above.

    Raises:
        ValueError: for fewer vectors, other shapes, or numbers that are not finite.
    """
    features, reference = _checked(features, reference, 2)
    mean, root = _moments(features, weights)
    other_mean, other_root = _moments(reference, None)
    spread = root.square().sum() + other_root.square().sum()
    common = torch.linalg.svdvals(root @ other_root.T).sum()
    return max(0.0, float((mean - other_mean).square().sum() + spread - 2 * common))


def leading_directions(reference: Tensor, count: int) -> Tensor:
    """The leading principal directions of a set, for a Frechet distance of fewer pictures than dimensions.

    Args:
        reference: ``(M, D)``.
        count: how many; at most D and M - 1 are there.

    Returns:
        ``(D, count or fewer)`` float64, orthonormal columns: project both sets by ``features @ directions``.
    """
    if count < 1:
        raise ValueError(f"directions {count}: at least 1 is expected")
    reference, _ = _checked(reference, reference, 2)
    _, _, rows = torch.linalg.svd(reference - reference.mean(0), full_matrices=False)
    directions: Tensor = rows[: min(count, len(reference) - 1)].T
    return directions


def kernel_distance(features: Tensor, reference: Tensor, *, weights: Tensor | None = None) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (KID: Binkowski et al. 2018).

    Zero on average where both sets come from one distribution, whatever their counts; it may be negative.

    Arguments and errors are those of :func:`frechet_distance`.
    """
    return kernel_statistic(features, reference)(weights)


def kernel_statistic(features: Tensor, reference: Tensor) -> Callable[[Tensor | None], float]:
    """:func:`kernel_distance` as a function of the weights; the kernels are computed once, N x N numbers kept."""
    features, reference = _checked(features, reference, 2)
    own, cross = _kernel(features, features), _kernel(features, reference).mean(1)
    others = _mean_of_pairs(_kernel(reference, reference), torch.ones_like(reference[:, 0]))

    def statistic(weights: Tensor | None = None) -> float:
        weights = torch.ones_like(cross) if weights is None else weights.to(cross)
        return float(_mean_of_pairs(own, weights) + others - 2 * (weights @ cross) / weights.sum())

    return statistic


def precisions(features: Tensor, reference: Tensor, k: int = PRECISION_NEIGHBOURS) -> Tensor:
    """Which generated pictures lie within the reference's manifold, the balls about its vectors that reach their k-th
    nearest other: improved precision is the mean (Kynkaanniemi et al. 2019).

    Args:
        features: ``(N, D)``.
        reference: ``(M, D)``, M above k.
        k: neighbours.

    Returns:
        ``(N,)`` float64 of 0 and 1.

    Raises:
        ValueError: for too few vectors, other shapes, or numbers that are not finite.
    """
    features, reference = _checked(features, reference, 1)
    radii = _radii(reference, k)
    return torch.cat([(rows <= radii).any(1) for rows in _distances(features, reference)]).double()


def recalls(features: Tensor, reference: Tensor, k: int = PRECISION_NEIGHBOURS) -> Tensor:
    """Which reference pictures lie within the generated ones' manifold: improved recall is the mean. -> (M,)

    Arguments and errors are those of :func:`precisions`, the two sets' parts exchanged.
    """
    return precisions(reference, features, k)


def densities(features: Tensor, reference: Tensor, k: int = DENSITY_NEIGHBOURS) -> Tensor:
    """In how many of the reference's balls each generated picture lies, over k: density is the mean (Naeem et al.
    2020). -> (N,)

    Arguments and errors are those of :func:`precisions`.
    """
    features, reference = _checked(features, reference, 1)
    radii = _radii(reference, k)
    return torch.cat([(rows < radii).sum(1) for rows in _distances(features, reference)]).double() / k


def coverages(features: Tensor, reference: Tensor, k: int = DENSITY_NEIGHBOURS) -> Tensor:
    """Which of the reference's balls hold a generated picture: coverage is the mean (Naeem et al. 2020).
    -> (M,)

    Arguments and errors are those of :func:`precisions`.
    """
    features, reference = _checked(features, reference, 1)
    radii = _radii(reference, k)
    nearest = torch.cat([rows.amin(1) for rows in _distances(reference, features)])
    return (nearest < radii).double()


def random_pairs(count: int, pairs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random pairs of different pictures among ``count``: two ``(pairs,)`` int64; a pair may come again.

    Raises:
        ValueError: for fewer than two pictures.
    """
    if count < 2:
        raise ValueError(f"pairs of {count} pictures: at least 2 are expected")
    chance = torch.Generator().manual_seed(seed)
    first = torch.randint(count, (pairs,), generator=chance)
    return first, (first + torch.randint(1, count, (pairs,), generator=chance)) % count


def weighted_pair_mean(distances: Tensor, first: Tensor, second: Tensor, weights: Tensor | None = None) -> float:
    """Mean distance of pairs of pictures, where a pair counts as often as both of its pictures do; all once where
    weights leave none.

    Args:
        distances: ``(P,)``.
        first, second: ``(P,)`` int64 pictures.
        weights: ``(N,)`` of the pictures.
    """
    distances = distances.double()
    times = torch.ones_like(distances) if weights is None else weights[first] * weights[second]
    if not bool(times.any()):  # of few pairs
        times = torch.ones_like(distances)
    return float((times * distances).sum() / times.sum())


def kolmogorov_smirnov(first: Tensor, second: Tensor, permutations: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Two-sample Kolmogorov-Smirnov statistic, and its p-value by permutation.

    Args:
        first, second: ``(N,)`` and ``(M,)`` numbers.
        permutations: random exchanges of the labels; the smallest p-value is 1 / (permutations + 1).

    Returns:
        The largest difference between the two distribution functions, and how likely one at least as large is where
        both sets come from one distribution. Ties are allowed for.
    """
    if not len(first) or not len(second):
        raise ValueError(f"samples of {len(first)} and {len(second)} numbers: at least 1 each is expected")
    pooled, order = torch.cat([first, second]).double().cpu().sort()
    last = torch.cat([pooled[1:] > pooled[:-1], torch.ones(1, dtype=torch.bool)])  # of each group of equals
    labels = (order < len(first)).double()
    chance = torch.Generator().manual_seed(seed)
    observed = _largest_gap(labels[None], last)
    # Gaps are multiples of a fraction; rounding must not tell equal ones apart.
    bound = float(observed) - 1e-9
    exceeding = 0
    group = max(1, 2**22 // len(labels))
    for done in range(0, permutations, group):
        count = min(group, permutations - done)
        shuffled = labels[torch.rand(count, len(labels), generator=chance).argsort(1)]
        exceeding += int((_largest_gap(shuffled, last) >= bound).sum())
    return float(observed), (1 + exceeding) / (1 + permutations)


def _largest_gap(labels: Tensor, last: Tensor) -> Tensor:
    """Kolmogorov-Smirnov statistics of rows of labels (R, N + M), 1 for the first sample, in order of value. -> (R,)"""
    ones = labels.sum(1, keepdim=True)
    steps = labels / ones - (1 - labels) / (labels.shape[1] - ones)
    return steps.cumsum(1)[:, last].abs().amax(1)


def _moments(features: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """-> mean (D,) and R of at most D rows with R'R the unbiased covariance"""
    weights = torch.ones_like(features[:, 0]) if weights is None else weights.to(features)
    total = weights.sum()
    mean = weights @ features / total
    root = (features - mean) * (weights / (total - 1)).sqrt()[:, None]
    return mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: Tensor, weights: Tensor) -> Tensor:
    """Mean of a kernel over pairs of different pictures."""
    same = (weights.square() * kernel.diagonal()).sum()
    return (weights @ kernel @ weights - same) / (weights.sum().square() - weights.square().sum())


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance of each vector to its k-th nearest other. -> (N,)"""
    if not 1 <= k < len(features):
        raise ValueError(f"k {k}: from 1 to {len(features) - 1} (one less than the vectors) is expected")
    # Each vector's nearest is itself.
    return torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in _distances(features, features)])


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances, a group of rows at a time; of differences, so that zeros are zeros."""
    for rows in a.split(_CHUNK):
        yield torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist")


def _checked(features: Tensor, reference: Tensor, least: int) -> tuple[Tensor, Tensor]:
    for name, each in (("features", features), ("reference", reference)):
        if not isinstance(each, Tensor) or each.ndim != 2 or len(each) < least or not each.shape[1]:
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"{name}: shape (N, D) with N at least {least} is expected, got {shape}")
        if not bool(torch.isfinite(each).all()):
            raise ValueError(f"{name}: NaN or infinite values; finite ones are expected")
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"features have {features.shape[1]} dimensions, the reference {reference.shape[1]}")
    return features.detach().double(), reference.detach().to(features.device).double()
