"""Sliced Wasserstein distances between the patches of pictures, by convolutions.

A convolution with a random unit filter projects every patch of a picture to one number (GPDM, Elnekave & Weiss,
arXiv:2203.11862). In one dimension optimal transport pairs numbers by rank: one sort gives the distance. Sorting is
exact and stable, with Numba by radix: every backend and any number of threads gives the same bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from ..runs.system import has_numba
from ..validation import check_choice

__all__ = [
    "UNEQUAL",
    "project",
    "random_directions",
    "repeated",
    "sliced_wasserstein",
    "sorted_rows",
    "stable_order",
    "transport_gradient",
    "transport_plan",
    "w1",
]

#: Ways to pair sets of unequal size: the integral over quantiles, or the smaller set repeated as in GPDM.
UNEQUAL = ("exact", "repeat")


def random_directions(count: int, channels: int, side: int, generator: torch.Generator) -> Tensor:
    """Return random unit filters ``(count, channels, side, side)``, float32, uniform on the sphere."""
    values = torch.randn(count, channels, side, side, generator=generator)
    unit: Tensor = values / values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return unit


def project(pictures: Tensor, directions: Tensor, stride: int = 1) -> Tensor:
    """Return the projections of all patches of all pictures.

    Args:
        pictures: ``(N, C, H, W)``, at least as large as a filter.
        directions: ``(P, C, s, s)``.
        stride: pixels between patches.

    Returns:
        ``(P, N * patches)``; the patches of the first picture come first.

    Raises:
        SettingError: for a picture smaller than a filter.
    """
    side = directions.shape[-1]
    if min(pictures.shape[-2:]) < side:
        raise SettingError("picture", tuple(pictures.shape[-2:]), f"at least {side} pixels high and wide, as a patch")
    return F.conv2d(pictures, directions, stride=stride).transpose(0, 1).flatten(1)


def _runs_numba(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32 and has_numba()


def stable_order(values: Tensor) -> Tensor:
    """Return the positions that sort each row, equal values in their order.

    Args:
        values: ``(P, n)`` float32, finite.

    Returns:
        ``(P, n)`` int64, as ``values.sort(dim=1, stable=True).indices``.
    """
    if not _runs_numba(values):
        return values.sort(dim=1, stable=True).indices
    from .radix import order_rows

    return torch.from_numpy(order_rows(values.detach().contiguous().numpy(), torch.get_num_threads()))


def sorted_rows(values: Tensor) -> Tensor:
    """Return each row in ascending order."""
    if values.device.type != "cpu" or values.requires_grad:
        return values.sort(dim=1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1))  # vectorized, several times as fast as torch's


@lru_cache(maxsize=32)
def transport_plan(first: int, second: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the optimal transport between two sorted sets of equal weights, by their sizes alone.

    Args:
        first, second: numbers of values.

    Returns:
        Ranks in the first set, ranks in the second set, and the mass moved between them: three tensors of the same
        length, at most ``first + second - 1``. The masses, float64, add up to 1.
    """
    # In units of 1 / (first * second) every mass is an integer, so that no rounding shifts a rank.
    ends = np.union1d(np.arange(1, first + 1) * second, np.arange(1, second + 1) * first)
    starts = np.concatenate([[0], ends[:-1]])
    masses = (ends - starts) / (first * second)
    return torch.from_numpy(starts // second), torch.from_numpy(starts // first), torch.from_numpy(masses)


def w1(first: Tensor, second: Tensor) -> Tensor:
    """Return the Wasserstein-1 distance of each row's two sets of numbers, differentiable in both.

    Args:
        first: ``(P, n)``.
        second: ``(P, m)``.

    Returns:
        ``(P,)``: for n = m the mean absolute difference of the sorted rows.
    """
    a, b = (values.gather(1, stable_order(values)) for values in (first, second))
    if first.shape[1] == second.shape[1]:
        return (a - b).abs().mean(1)
    left, right, mass = (each.to(first.device) for each in transport_plan(first.shape[1], second.shape[1]))
    return ((a[:, left] - b[:, right]).abs() * mass.to(a.dtype)).sum(1)


def transport_gradient(values: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Return the mean :func:`w1` over rows, and the gradient of each row's distance in its values.

    The gradient is in closed form: the sign of the difference to the paired target times the mass moved.

    Args:
        values: ``(P, n)`` float32.
        targets: ``(P, m)``, each row sorted.

    Returns:
        The mean distance, and ``(P, n)``.
    """
    count = values.shape[1]
    left, right, mass = transport_plan(count, targets.shape[1])
    weights = mass.float()
    if _runs_numba(values):
        from .radix import transport_rows

        first, second = (each.detach().contiguous().numpy() for each in (values, targets))
        plan = left.numpy(), right.numpy(), weights.numpy()
        cost, gradient = transport_rows(first, second, *plan, torch.get_num_threads())
        return float(cost.mean()), torch.from_numpy(gradient)
    order = stable_order(values)
    left, right, weights = (each.to(values.device) for each in (left, right, weights))
    ordered = values.gather(1, order)
    if count == targets.shape[1]:
        steps = ordered - targets
        moved = steps.sign() * (torch.ones((), device=values.device) / count)
    else:
        steps = ordered[:, left] - targets[:, right]
        moved = torch.zeros_like(values).index_add_(1, left, steps.sign() * weights)
    distance = (steps.abs().double() * (weights.double() if steps.shape[1] == len(weights) else 1 / count)).sum(1)
    return float(distance.mean()), torch.empty_like(values).scatter_(1, order, moved)


def repeated(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return each row repeated to ``count`` values: whole copies, then a random choice without repetition.

    Every row is topped up by the same positions, as in the public code of GPDM.
    """
    size = values.shape[1]
    more = torch.randperm(size, generator=generator)[: count % size].to(values.device)
    return torch.cat([*[values] * (count // size), values[:, more]], 1)


def sliced_wasserstein(
    pictures: Tensor,
    references: Tensor,
    *,
    side: int = 7,
    num_projections: int = 64,
    seed: int = 0,
    stride: int = 1,
    unequal: str = "exact",
) -> Tensor:
    """Return the sliced Wasserstein-1 distance between the patches of two sets of pictures.

    The patches of all pictures of a set are pooled: only the sets' distributions are compared.

    Args:
        pictures: ``(N, C, H, W)``, floating point.
        references: ``(M, C, H', W')``.
        side: of patches, in pixels.
        num_projections: random directions that are averaged.
        seed: of the directions.
        stride: pixels between patches.
        unequal: ``exact`` integrates over quantiles; ``repeat`` repeats the smaller set and tops it up at random.

    Returns:
        A scalar in the unit of the pictures, differentiable in both; 0 for equal sets of patches.

    Raises:
        SettingError: for other channels, a picture smaller than a patch or an unknown ``unequal``.
    """
    check_choice("unequal", unequal, UNEQUAL)
    if pictures.shape[1] != references.shape[1]:
        raise SettingError("references", tuple(references.shape), f"of {pictures.shape[1]} channels, as the pictures")
    generator = torch.Generator().manual_seed(seed)
    directions = random_directions(num_projections, pictures.shape[1], side, generator).to(pictures)
    first, second = project(pictures, directions, stride), project(references, directions, stride)
    if unequal == "repeat" and first.shape[1] != second.shape[1]:
        count = max(first.shape[1], second.shape[1])
        first, second = (
            values if values.shape[1] == count else repeated(values, count, generator) for values in (first, second)
        )
    return w1(first, second).mean()
