"""Edges of pictures: where there are many, and smoothing that stops at them.

NumPy computes on one thread: results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .palettes import luminance
from .pyramid import resize

__all__ = ["edge_density", "smooth_within_edges"]

_STEP = 0.03  # change of luminance in [0, 1] from a pixel to the next that counts as an edge
_CELLS = 24  # along the shorter side of a picture: edges are counted in each
_FULL = 0.15  # part of a cell's pixels that are edges where a density is 1
_ROUNDS = 3  # of smoothing, each half as wide as the one before
_LEAST_STEP = 1e-9  # of smoothing: any difference of float32 pixels is an edge then


def edge_density(picture: Tensor) -> Tensor:
    """Return how dense the edges are about each pixel, from 0 for none to 1: ``(1, H, W)`` for ``(C, H, W)``."""
    light = luminance(picture).cpu().numpy()[0]
    slopes = [np.abs(np.diff(light, axis=axis, append=light.take([-1], axis))) for axis in (0, 1)]
    edges = torch.from_numpy((np.maximum(*slopes) > _STEP).astype(np.float32))[None, None].to(picture.device)
    size = picture.shape[1:]
    cells = [max(1, round(side * min(1.0, _CELLS / min(size)))) for side in size]
    return (resize(resize(edges, cells, "bilinear"), size, "bilinear")[0] / _FULL).clamp(0, 1)


def smooth_within_edges(picture: Tensor, width: float, step: float) -> Tensor:
    """Return a picture that is smooth but for its edges: the recursive filter of Gastal & Oliveira (SIGGRAPH 2011).

    Args:
        picture: ``(C, H, W)`` float32.
        width: standard deviation of the smoothing, in pixels.
        step: difference of neighbors, summed over channels, that counts as much as the width; above 0.
    """
    values, step = picture.cpu().numpy().copy(), max(step, _LEAST_STEP)
    for turn in range(_ROUNDS):
        sigma = width * 3**0.5 * 2 ** (_ROUNDS - 1 - turn) / (4**_ROUNDS - 1) ** 0.5
        for axis in (2, 1):
            slopes = np.abs(np.diff(picture.cpu().numpy(), axis=axis)).sum(0)
            kept = np.moveaxis(np.exp(-(2**0.5) / sigma * (1 + width / step * slopes)), axis - 1, 0)
            lines = np.moveaxis(values, axis, 0)
            for at in range(1, len(lines)):
                lines[at] += kept[at - 1] * (lines[at - 1] - lines[at])
            for at in range(len(lines) - 2, -1, -1):
                lines[at] += kept[at] * (lines[at + 1] - lines[at])
    return torch.from_numpy(values).to(picture.device)
