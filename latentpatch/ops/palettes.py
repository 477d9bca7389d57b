"""Palettes: the colors of a picture moved to those of others, and its luminance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["luminance", "transfer_palette"]

_LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
_ROUNDS = 6  # of directions; more change little


def luminance(picture: Tensor) -> Tensor:
    """Return the luminance ``(1, H, W)`` of a picture ``(C, H, W)``: of two channels, the second is alpha."""
    if len(picture) < len(_LUMINANCE):
        return picture[:1]
    return (picture[:3] * picture.new_tensor(_LUMINANCE)[:, None, None]).sum(0, keepdim=True)


def transfer_palette(picture: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return a picture whose colors are distributed as those of others.

    Along random axes of the color space, one set after another, values are replaced by those of equal rank (Pitié,
    Kokaram & Dahyot, 2007). Equal colors stay equal, and a picture with the colors of the others stays as it is.

    Args:
        picture: ``(C, H, W)`` float32 in [0, 1].
        others: ``(C, H, W)`` float32 in [0, 1] each.
    """
    own, goal = picture.flatten(1).double(), torch.cat([each.flatten(1) for each in others], 1).double()
    generator, channels = torch.Generator().manual_seed(0), len(own)
    axes = torch.eye(channels, dtype=torch.float64)
    for _ in range(_ROUNDS):
        ours, theirs = ((axes[:, :, None] * each).sum(1) for each in (own, goal))
        ranked = [_ranked(one, other) for one, other in zip(ours.numpy(), theirs.numpy(), strict=True)]
        own = (axes.T[:, :, None] * torch.from_numpy(np.stack(ranked))).sum(1)
        axes = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))[0]
    return own.clamp(0, 1).float().view(picture.shape)


def _ranked(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each value the one of equal rank among others; equal values share the middle of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(values)
    found: np.ndarray = np.interp(ranks, (np.arange(len(others)) + 0.5) / len(others), np.sort(others))[inverse]
    return found
