"""Losses of inversion; each returns one value a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["arc_loss", "noise_correlation", "pyramid_loss", "squared_error"]

_COARSEST = 8  # pixels of the shorter side at which a pyramid ends
_TINY = 1e-9  # keeps roots and their slopes finite


def squared_error(images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared differences of pictures: ``(N,)``."""
    return F.mse_loss(images, targets, reduction="none").mean((1, 2, 3))


def pyramid_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over sizes of :func:`squared_error`, each size half of the one before: ``(N,)``."""
    difference, losses = images - targets, []
    while True:
        losses.append(difference.square().mean((1, 2, 3)))
        if min(difference.shape[2:]) < 2 * _COARSEST:
            return torch.stack(losses).mean(0)
        difference = F.avg_pool2d(difference, 2)


def arc_loss(styles: Tensor) -> Tensor:
    """Return the mean squared angle between the styles of two layers, in radians squared: ``(N,)``.

    The angle is 2 atan2(norm(x - y), norm(x + y)), as in GEOCROSS of PULSE (Menon et al., CVPR 2020).

    Args:
        styles: ``(N, L, D)``.
    """
    first, second = torch.triu_indices(styles.shape[1], styles.shape[1], 1, device=styles.device)
    if not len(first):
        return styles.new_zeros(len(styles))
    x, y = styles[:, first], styles[:, second]
    apart, together = ((each.square().sum(2) + _TINY).sqrt() for each in (x - y, x + y))
    return (2 * torch.atan2(apart, together)).square().mean(1)


def noise_correlation(noise: Sequence[Tensor]) -> Tensor:
    """Return squared correlations of noise maps with themselves moved by a pixel, over sizes: ``(N,)``.

    Karras et al., Analyzing and Improving the Image Quality of StyleGAN (2020), appendix D.

    Args:
        noise: maps ``(N, 1, h, w)``.
    """
    total = torch.zeros(())
    for each in noise:
        while True:
            for axis in (2, 3):
                total = total + (each * each.roll(1, axis)).mean((1, 2, 3)).square()
            if min(each.shape[2:]) <= _COARSEST:
                break
            each = F.avg_pool2d(each, 2) * 2  # so that white noise keeps its deviation
    return total
