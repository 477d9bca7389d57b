"""A preference for pictures and for places, in searches for patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PatchPrior", "in_place", "place_distances"]

Size = tuple[int, int]


class PatchPrior(NamedTuple):
    """Scores that are added to those of matches.

    Attributes:
        costs: ``(rows, columns, S)`` float32, for each patch that is searched for and each picture; infinity excludes a
            picture there.
        position: added for each unit of the squared distance between the places of the two patches, whose rows and
            columns go from -1 to 1 in each picture (the positional code of FewGAN, section 3).
    """

    costs: Tensor
    position: float = 0.0

    def pairs(self, grids: Sequence[Size]) -> Tensor:
        """Return the added scores of all pairs, ``(rows columns, K)``, for the K patches of pictures of these grids."""
        grid = (self.costs.shape[0], self.costs.shape[1])
        own = self.costs.flatten(0, 1)
        parts = []
        for number, each in enumerate(grids):
            distances = place_distances(grid, each).to(own.device) if self.position else own.new_zeros(1, 1)
            parts.append((own[:, number, None] + self.position * distances).expand(-1, each[0] * each[1]))
        return torch.cat(parts, 1)


def place_distances(grid: Size, other: Size) -> Tensor:
    """Return the squared distances between the places of patches of two grids, from -1 to 1: ``(Q, K)`` float32."""
    axes = []
    for one, two in zip(grid, other, strict=True):
        first, second = (2 * torch.arange(n) / max(1, n - 1) - int(n > 1) for n in (one, two))
        axes.append((first[:, None] - second).square())
    rows, columns = axes
    return (rows[:, None, :, None] + columns[None, :, None, :]).reshape(grid[0] * grid[1], -1)


def in_place(grid: Size, grids: Sequence[Size]) -> Tensor:
    """Return the patch at the same place in each picture: ``(rows, columns, S, 3)`` int32."""
    result = []
    for number, other in enumerate(grids):
        rows, columns = (
            (torch.arange(n) * (m - 1) / max(1, n - 1)).round().int() for n, m in zip(grid, other, strict=True)
        )
        places = torch.broadcast_tensors(torch.tensor(number, dtype=torch.int32), rows[:, None], columns[None])
        result.append(torch.stack(places, -1))
    return torch.stack(result, 2)
