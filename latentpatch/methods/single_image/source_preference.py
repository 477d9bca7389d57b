"""Costs of sources and places, for patch diffusion with several sources or a weight of the position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.patch_prior import PatchPrior
from ...ops.pyramid import resize
from .gpnn import Size

__all__ = ["EXTREME", "Preference"]

#: Continuity from which on a result is of one source, and position from which on patches stay in place.
EXTREME = 1000.0
_IN_PLACE = 1e9  # cost for the square of the distance, from EXTREME on
_HEIGHT, _WIDTH = (
    0.4,
    2.0,
)  # how far continuity reaches, places going from -1 to 1: things at one height belong together
_CONTRAST = 0.7  # differences of three channels, in standard deviations, across which it does not reach
_WINDOW = 5  # patches across of the window that it reaches over at fine scales
_FAR = 50.0  # cost of a source without a share, at coarse scales
_UNIT = 0.01  # of the variance of a patch: the squared distance that costs 1 at fine scales


@dataclass(frozen=True)
class Preference:
    """Costs of sources and places: a cost of 1 divides the weight of a patch by e, before weights are balanced.

    Attributes:
        parts: of the result that each source is to have; they add up to 1.
        continuity: cost, from 0 to 1000, of a source that no nearby patch of like color is of (the semantic continuity
            of FewGAN).
        shares: ``(S, h, w)``, those that each of S sources is to have at each place; None for ``parts`` everywhere.
        position: cost for the squared distance of places, see :class:`~latentpatch.ops.patch_prior.PatchPrior`.
    """

    parts: Sequence[float]
    continuity: float = 0.0
    position: float = 0.0
    shares: Tensor | None = None

    def coarse(self, grid: Size, shares: Tensor | None, colors: Tensor) -> PatchPrior:
        """Return the costs of sources and places for the patches of a result.

        Args:
            grid: rows and columns of the patches.
            shares: ``(rows columns, S)`` weights of the sources in each patch so far; None at first.
            colors: ``(rows columns, C)`` mean colors of the patches so far, in standard deviations.
        """
        costs = self._costs(grid)
        if shares is not None and self.continuity:
            near = _kernel(grid, colors.cpu().numpy())
            mean = np.einsum("qp,ps->qs", near / near.sum(1, keepdims=True), shares.cpu().numpy())
            costs += self.continuity * (1 - torch.from_numpy(mean).view(costs.shape))
        return self._prior(costs.clamp(max=_FAR), colors.device)

    def fine(self, grid: Size, matches: Tensor | None, variance: float, device: torch.device) -> PatchPrior:
        """Return the costs for a search.

        Args:
            grid: rows and columns of the patches.
            matches: ``(rows, columns, 1, 3)`` so far.
            variance: of the patches, the sum over their numbers.
            device: of the search.
        """
        costs = self._costs(grid)
        if matches is not None and self.continuity:
            shares = F.one_hot(matches[:, :, 0, 0].long().cpu(), len(self.parts)).float()
            edges = F.pad(shares.permute(2, 0, 1)[:, None], [_WINDOW // 2] * 4, mode="replicate")
            costs += self.continuity * (1 - F.avg_pool2d(edges, _WINDOW, 1)[:, 0].permute(1, 2, 0))
        return self._prior(costs, device, variance * _UNIT)

    def _costs(self, grid: Size) -> Tensor:
        """Return the negative logarithms of the shares, ``(rows, columns, S)``; infinity for sources without any."""
        if self.shares is None:
            return torch.zeros(*grid, len(self.parts))
        return -resize(self.shares[None].cpu(), grid, "bilinear")[0].permute(1, 2, 0).log()

    def _prior(self, costs: Tensor, device: torch.device, unit: float = 1.0) -> PatchPrior:
        position = _IN_PLACE if self.position >= EXTREME else self.position * unit
        return PatchPrior((costs * unit).to(device), position)


def _kernel(grid: Size, colors: np.ndarray) -> np.ndarray:
    """Return how near and alike in color patches are: ``(Q, Q)`` in [0, 1], 1 for a patch and itself."""
    rows, columns = (2 * np.arange(n, dtype=np.float32) / max(1, n - 1) for n in grid)
    down, right = ((axis[:, None] - axis) ** 2 for axis in (rows / _HEIGHT, columns / _WIDTH))
    places = (down[:, None, :, None] + right[None, :, None]).reshape(len(colors), -1)
    contrast = 3 * ((colors[:, None] - colors) ** 2).mean(2) / _CONTRAST**2
    kernel: np.ndarray = np.exp(-(places + contrast) / 2)
    return kernel
