"""A soft choice of sources, so that gradients pass through it.

A sampler's choice is an index and has no gradient. Here every source takes part in every cell, weighted by the softmax
of the negative distances of the patches around it over a temperature, as in neural nearest neighbours (Plötz and Roth,
2018, section 3). As the temperature falls the weights become those of the nearest patch alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...validation import check_integer, check_real

__all__ = ["patch_distances", "soft_weights"]


def patch_distances(reference: Tensor, sources: Tensor, patch_size: int) -> Tensor:
    """Mean squared distances of patches at the same place.

    Args:
        reference: ``(N, r, h, w)`` floating point.
        sources: ``(B, h, w, r)`` of the same type.
        patch_size: side of the patches in cells; beyond the grid they are cut.

    Returns:
        ``(N, B, h, w)``: of the patch around each cell, the squared distance a cell on average.

    Raises:
        ValueError: where the patch exceeds the grid.
    """
    check_integer("patch_size", patch_size, 1)
    height, width = reference.shape[2:]
    if patch_size > min(height, width):
        raise ValueError(
            f"patch_size {patch_size}: at most {min(height, width)} (shorter side of the {height}x{width} grid) is "
            "expected"
        )
    products = torch.einsum("nrhw,bhwr->nbhw", reference, sources)
    cells = reference.square().sum(1)[:, None] - 2 * products + sources.square().sum(3)
    before, after = patch_size // 2, (patch_size - 1) // 2  # as in resynthesis
    inside = F.pad(cells.new_ones(1, 1, height, width), (before, after, before, after))
    sums = F.avg_pool2d(F.pad(cells, (before, after, before, after)), patch_size, 1)
    distances: Tensor = sums / F.avg_pool2d(inside, patch_size, 1)
    return distances


def soft_weights(distances: Tensor, temperature: float, neighbours: int | None = None, *, hard: bool = False) -> Tensor:
    """How much of each source a cell is made of.

    Args:
        distances: ``(N, B, h, w)``.
        temperature: in units of the distances, above 0.
        neighbours: how many nearest sources take part; None for all.
        hard: give the nearest source everything, with the gradient of the soft weights (straight through).

    Returns:
        ``(N, B, h, w)``, adding up to 1 over the sources.

    Raises:
        TypeError, ValueError: for arguments out of range.
    """
    if not 0 < check_real("temperature", temperature) < float("inf"):
        raise ValueError(f"temperature {temperature}: a positive number is expected")
    if neighbours is not None:
        check_integer("neighbours", neighbours, 1)
        if neighbours > distances.shape[1]:
            raise ValueError(f"neighbours {neighbours}: at most {distances.shape[1]} (number of sources) is expected")
        taken = distances.topk(neighbours, dim=1, largest=False).indices
        distances = torch.full_like(distances, float("inf")).scatter(1, taken, distances.gather(1, taken))
    weights = (-distances / temperature).softmax(1)
    if not hard:
        return weights
    nearest = torch.zeros_like(weights).scatter_(1, distances.argmin(1, keepdim=True), 1)
    return nearest + (weights - weights.detach())
