"""Similarity transforms of points and pictures.

A transform is a ``(2, 3)`` matrix that takes a point (x, y) of the original to the aligned picture, both in pixels from
the upper left corner: the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.compositing import fill_smoothly

__all__ = ["invert", "outside", "transform_points", "warp"]


def transform_points(points: Tensor, matrices: Tensor) -> Tensor:
    """Apply matrices ``(..., 2, 3)`` to points ``(..., P, 2)``."""
    return points @ matrices[..., :2].mT + matrices[..., None, :, 2]


def invert(matrices: Tensor) -> Tensor:
    """Return the inverse transforms, ``(..., 2, 3)``."""
    linear = torch.linalg.inv(matrices[..., :2])
    return torch.cat([linear, -linear @ matrices[..., 2:]], -1)


def warp(picture: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Warp a picture by a similarity: shrink it with antialiasing where needed, then sample bicubically.

    Beyond its edges, the colours of the nearest edge go on, the smoother the farther they are from it.

    Args:
        picture: ``(3, h, w)`` floating point.
        matrix: ``(2, 3)``, original to aligned.
        size: ``(height, width)`` of the result.

    Returns:
        ``(3, H, W)`` of the picture's dtype, clamped to [0, 1].
    """
    height, width = picture.shape[1:]
    shrink = min(1.0, float(matrix[:, :2].double().det().abs().sqrt()))
    small = max(1, round(height * shrink)), max(1, round(width * shrink))
    source = picture[None].float()
    if small != (height, width):
        source = F.interpolate(source, small, mode="bicubic", antialias=True)
    originals = _originals(matrix, size)
    points = originals / torch.tensor([width, height]) * 2 - 1
    result = F.grid_sample(source, points[None].float(), "bicubic", "border", align_corners=False)[0].clamp(0, 1)
    is_beyond = _is_beyond(originals, (height, width))
    if bool(is_beyond.any()) and not bool(is_beyond.all()):
        result = fill_smoothly(result[None], is_beyond)[0]
    return result.to(picture.dtype)


def outside(matrix: Tensor, picture: tuple[int, int], size: tuple[int, int]) -> float:
    """Return the share of pixels of an aligned picture that lie beyond the edges of the original.

    Args:
        matrix: ``(2, 3)``, original to aligned.
        picture, size: ``(height, width)`` of the original and the aligned picture.
    """
    return float(_is_beyond(_originals(matrix, size), picture).double().mean())


def _is_beyond(points: Tensor, picture: tuple[int, int]) -> Tensor:
    return ((points < 0) | (points > torch.tensor([picture[1], picture[0]]))).any(-1)


def _originals(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the point of the original under every pixel of the aligned picture: ``(H, W, 2)``."""
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    aligned = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1)
    return transform_points(aligned, invert(matrix.double()))
