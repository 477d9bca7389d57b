"""Seam energy: how much neighboring cells from different sources disagree, computed from the sources' latents alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bank.bank import SourceBank

__all__ = ["seam_energies"]

_MAX_VARIANCE_SOURCES = 1000  # sources whose variance is the unit


@torch.no_grad()
def seam_energies(bank: SourceBank, index: Tensor) -> Tensor:
    """Return the seam costs of index maps (Kwatra et al. 2003, squared differences), in reduced latents.

    Where cell p comes from source s and its neighbor q from t, the seam between them costs the difference of the two
    sources at both places, ``|y_s(p) - y_t(p)|^2 + |y_s(q) - y_t(q)|^2``.

    Args:
        bank: the sources.
        index: ``(N, h, w)`` int64 positions in the bank; a cell of -1 has no seams.

    Returns:
        ``(N,)`` float64, cost per cell, in units of the sources' variance: 0 for a whole source, of order 1 for cells
        of random sources.
    """
    keys = bank.validated_keys()
    rows, columns = (torch.arange(side, device=keys.device) for side in bank.grid)
    total = torch.zeros(len(index), dtype=torch.float64, device=keys.device)
    index = index.to(keys.device)
    for axis in (0, 1):
        length = index.shape[1 + axis] - 1
        s, t = index.narrow(1 + axis, 0, length), index.narrow(1 + axis, 1, length)
        cost = torch.zeros(s.shape, dtype=torch.float64, device=keys.device)
        for offset in (0, 1):  # the places of s and of t
            y = rows[offset:][:length] if axis == 0 else rows
            x = columns[offset:][:length] if axis == 1 else columns
            cost += _squared_difference(keys, s, t, y[:, None], x[None, :])
        total += cost.masked_fill((s < 0) | (t < 0), 0).sum((1, 2))
    return total / index[0].numel() / _variance(keys[:: bank.variants.count])


def _squared_difference(keys: Tensor, s: Tensor, t: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return ``|y_s - y_t|^2`` at the places (y, x): ``(N, ...)`` float64."""
    return (keys[s.clamp(min=0), y, x].double() - keys[t.clamp(min=0), y, x].double()).square().sum(-1)


def _variance(keys: Tensor) -> float:
    """Return the mean squared deviation of a cell of a source from the mean source; 1 for equal sources."""
    some = keys[:_MAX_VARIANCE_SOURCES].double()
    return float((some - some.mean(0)).square().sum(-1).mean()) or 1.0
