"""Compute features for registration: blurred structure tensors of normalized gradients.

Bigün and Granlund, "Optimal orientation detection of linear symmetry", ICCV 1987. The features say where edges are
and along which direction, whatever their contrast, sign and colour.

A placement is four numbers that take the frame to the picture: log zoom, angle, shift x, shift y. Frame and picture
have their origin at their centre, and the unit is half the frame's shorter side; the placement (0, 0, 0, 0) is the
central crop.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.blurring import blur

__all__ = [
    "STRIDE",
    "GreyPictures",
    "Level",
    "PictureBatch",
    "cell_centres",
    "frame_features",
    "linear_parts",
    "mean_of_others",
    "norms",
    "unit_features",
]

#: Cells from one feature to the next.
STRIDE = 2

_FLAT_GRADIENT = 0.02  # grey levels in [0, 1] a cell; gradients below it count for little
_ENERGY_BLUR = 6.0  # cells; standard deviation of the window of the local energy
_GREY_BLUR = 0.8  # cells
_CANVAS_HALF = 2.0  # frame units; half the side of the square that holds a picture


class Level(NamedTuple):
    """A square of the frame and its sampling."""

    half: float  # half the side, frame units
    cells: int  # along the side
    blur: float  # standard deviation of the blur of the features, in cells
    window: float  # standard deviation of the window, frame units


class GreyPictures(NamedTuple):
    """Grey pictures, each in the middle of a square canvas.

    Attributes:
        grey: ``(N, C, C)`` uint8; the frame of the central crop is C / 2 wide, in the middle.
        reach: ``(N, 2)`` float32, half the width and height of each picture in frame units.
    """

    grey: Tensor
    reach: Tensor

    def at(self, positions: Tensor) -> GreyPictures:
        """Return the pictures at some positions."""
        return GreyPictures(self.grey[positions], self.reach[positions])


class PictureBatch(NamedTuple):
    """Pictures ready to be sampled: ``(N, 1, C, C)`` float32 in [0, 1], and the same at half the side."""

    sharp: Tensor
    halved: Tensor
    reach: Tensor

    @classmethod
    def of(cls, pictures: GreyPictures) -> PictureBatch:
        """Convert pictures to floating point."""
        sharp = pictures.grey[:, None].float() / 255
        return cls(sharp, F.avg_pool2d(sharp, 2), pictures.reach)


def linear_parts(placements: Tensor) -> Tensor:
    """Return the matrices of zoom and rotation of placements: ``(N, 4)`` -> ``(N, 2, 2)``."""
    zoom, angle = placements[:, 0].exp(), placements[:, 1]
    x, y = zoom * angle.cos(), zoom * angle.sin()
    return torch.stack([torch.stack([x, -y], 1), torch.stack([y, x], 1)], 1)


def frame_features(
    pictures: PictureBatch, placements: Tensor, centre: tuple[float, float], level: Level, bias: Tensor
) -> Tensor:
    """Compute features of a square of the frame about ``centre``, less a bias, and 0 beyond the pictures.

    Args:
        pictures: N pictures.
        placements: ``(N, 4)``.
        centre: centre of the square, frame units.
        level: size and sampling of the square.
        bias: ``(1, 3, 1, 1)``, or a scalar.

    Returns:
        ``(N, 3, cells / STRIDE, cells / STRIDE)``.
    """
    grey, inside = _sample(pictures, placements, centre, level.half, level.cells)
    return (_structure(grey, inside, level.blur) - bias) * F.avg_pool2d(inside, STRIDE)


def _sample(
    pictures: PictureBatch, placements: Tensor, centre: tuple[float, float], half: float, cells: int
) -> tuple[Tensor, Tensor]:
    """Sample ``(N, 1, cells, cells)`` grey in [0, 1], and whether a cell is inside the picture, 0 or 1."""
    placements = placements.float()
    at = cell_centres(cells, half)
    frame = torch.stack([(at + centre[0]).expand(cells, cells), (at + centre[1])[:, None].expand(cells, cells)], 2)
    points = frame.reshape(1, -1, 2) @ linear_parts(placements).mT + placements[:, None, 2:]
    points = points.reshape(-1, cells, cells, 2)
    pixel = 2 * _CANVAS_HALF / pictures.sharp.shape[-1]  # side in frame units
    canvas = pictures.halved if 2 * half / cells > 1.5 * pixel else pictures.sharp
    grey = F.grid_sample(canvas, points / _CANVAS_HALF, align_corners=False, padding_mode="border")
    margin = 3 * _CANVAS_HALF / canvas.shape[-1]  # a pixel and a half, where gradients belong to the border
    inside = (points.abs() <= pictures.reach[:, None, None] - margin).all(3)
    return grey, inside[:, None].float()


def _structure(grey: Tensor, inside: Tensor, width: float) -> Tensor:
    """Compute ``(N, 3, h, h)``: strength of edges, and that times cosine and sine of twice the angle."""
    grey = _blur(grey, _GREY_BLUR)
    x = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1, 0, 0)) * inside
    y = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1)) * inside
    squared = x.square() + y.square()
    strength = squared.sqrt() / (_blur(squared, _ENERGY_BLUR).sqrt() + _FLAT_GRADIENT)
    squared = squared + 1e-12
    tensor = torch.cat([torch.ones_like(x), (x.square() - y.square()) / squared, 2 * x * y / squared], 1)
    return _blur(strength * tensor, width, STRIDE)


def _blur(values: Tensor, width: float, stride: int = 1) -> Tensor:
    return blur(values, width, math.ceil(2.5 * width), "replicate", stride)


def unit_features(features: Tensor, window: Tensor) -> Tensor:
    """Return the features of each picture under a window, of length 1."""
    windowed = features * window
    return windowed / norms(windowed)


def norms(features: Tensor) -> Tensor:
    """Return the lengths of features ``(N, 3, h, h)``: ``(N, 1, 1, 1)``."""
    return features.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-9)


def mean_of_others(features: Tensor) -> Tensor:
    """Return, for each picture, the mean of the features of all others, of length 1."""
    others = features.sum(0, keepdim=True) - features
    return others / norms(others)


def cell_centres(count: int, half: float) -> Tensor:
    """Return the centres of ``count`` cells from ``-half`` to ``half``."""
    return ((torch.arange(count) + 0.5) / count * 2 - 1) * half
