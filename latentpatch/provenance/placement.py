"""Place an image over a source so that their local contrasts agree most.

A placement is an affine map ``(2, 3)`` that takes a point of the source to the image; both have their origin at their
centre, and the unit is half the shorter side, as in :mod:`~latentpatch.registration.features`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.blurring import blur

__all__ = [
    "MAX_STRETCH",
    "MIN_OVERLAP",
    "SIDE",
    "contrast",
    "correlation_at",
    "places",
    "refine",
    "sample",
    "thumbnails",
    "unit",
]

#: Largest ratio of the two zooms of a placement, which the refinement finds.
MAX_STRETCH = 1.2
#: Least share of a source that is compared.
MIN_OVERLAP = 0.5
#: Pixels of the shorter side of thumbnails.
SIDE = 64

_MAX_REFINED_ZOOM = 1.5  # factor
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
_GREY_BLUR = 0.7  # pixels
_LOCAL = 0.08  # of the shorter side; standard deviation of the window of local mean and deviation
_FLAT = 0.03  # grey levels in [0, 1]; local deviations below it count for little

_LEAST_LENGTH = 0.01  # of local contrast over all pixels; below it a picture is flat, and agrees with none
_STEPS = 5  # Gauss-Newton steps a level
_MAX_CHANGE = 0.1  # of an entry of a placement in a step


# --- Local contrast ------------------------------------------------------------------------------------


def thumbnails(images: Tensor) -> Tensor:
    """Return images ``(N, 3, H, W)`` in [0, 1] in grey, small: ``(N, 1, h, w)`` uint8 on the CPU."""
    images = images.cpu().float()
    grey = torch.einsum("nchw,c->nhw", images, images.new_tensor(_LUMA))[:, None]
    return (_resize(grey, SIDE).clamp(0, 1) * 255).round().byte()


def _resize(grey: Tensor, side: int) -> Tensor:
    """Resize ``(N, 1, H, W)`` to a shorter side."""
    size = [max(1, round(length * side / min(grey.shape[2:]))) for length in grey.shape[2:]]
    return F.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)


def contrast(small: Tensor, side: int) -> Tensor:
    """Return the local contrast of thumbnails ``(N, 1, H, W)`` uint8 at a shorter side: ``(N, 1, h, w)`` float32."""
    grey = small.float() / 255
    grey = grey if side == SIDE else _resize(grey, side)
    return _local_contrast(grey, torch.ones_like(grey[:1]))


def _local_contrast(grey: Tensor, weight: Tensor) -> Tensor:
    """Return the brightness less its local mean, as part of its local deviation.

    Args:
        grey: ``(N, 1, h, w)`` in [0, 1].
        weight: ``(N or 1, 1, h, w)``, 1 where there is an image and 0 elsewhere.
    """
    width = _LOCAL * min(grey.shape[2:])
    grey = _blur(grey, weight, _GREY_BLUR)
    mean = _blur(grey, weight, width)
    variance = (_blur(grey.square(), weight, width) - mean.square()).clamp(min=0)
    return (grey - mean) / (variance + _FLAT**2).sqrt()


def _blur(values: Tensor, weight: Tensor, width: float) -> Tensor:
    """Blur ``(N, 1, h, w)`` by a Gaussian, over what has weight."""

    def smooth(each: Tensor) -> Tensor:
        return blur(each, width, math.ceil(3 * width), "constant")

    return smooth(values * weight) / smooth(weight).clamp(min=1e-6)


# --- Placements ----------------------------------------------------------------------------------------


def _points(height: int, width: int) -> Tensor:
    """Return the centres of pixels: ``(h * w, 2)``."""
    side = min(height, width)
    y, x = ((2 * torch.arange(length) + 1 - length) / side for length in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], 2).flatten(0, 1)


def places(placements: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return where placements ``(N, 2, 3)`` take the pixels of a source.

    Args:
        placements: ``(N, 2, 3)``.
        size: height and width of source and image.

    Returns:
        ``(N, h * w, 2)``, x and y from -1 to 1 within the image, and whether they are, ``(N, h * w)`` float, 0 or 1.
    """
    height, width = size
    sides = torch.tensor([width, height])
    at = _points(height, width) @ placements[:, :, :2].mT + placements[:, None, :, 2]
    at = at * min(height, width) / sides
    return at, (at.abs() <= 1 - 1 / sides).all(2).float()


def sample(images: Tensor, at: Tensor) -> Tensor:
    """Sample images ``(N, C, h, w)`` at :func:`places` ``(N, P, 2)``: ``(N, C, P)``."""
    return F.grid_sample(images, at[:, None], align_corners=False, padding_mode="border")[:, :, 0]


def unit(values: Tensor, weight: Tensor) -> Tensor:
    """Return ``(N, P)`` less its mean and of length 1 over weights of 0 and 1; 0 elsewhere."""
    centred = _centred(values, weight)
    return centred / _length(centred)


def _centred(values: Tensor, weight: Tensor) -> Tensor:
    mean = (values * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1)
    return (values - mean) * weight


def _length(values: Tensor) -> Tensor:
    lengths: Tensor = values.norm(dim=-1, keepdim=True).clamp(min=_LEAST_LENGTH)
    return lengths


def correlation_at(images: Tensor, sources: Tensor, placements: Tensor) -> tuple[Tensor, Tensor]:
    """Return the correlation of local contrasts over the overlap, and its share of the source: ``(N,)`` each.

    Local means and deviations are taken of the overlap, at the source's scale.

    Args:
        images, sources: thumbnails ``(N, 1, h, w)`` uint8.
        placements: ``(N, 2, 3)``.
    """
    at, inside = places(placements, images.shape[2:])
    placed, weight = sample(images.float() / 255, at).view(sources.shape), inside.view(sources.shape)
    first, second = (unit(_local_contrast(each, weight).flatten(1), inside) for each in (placed, sources / 255))
    return (first * second).sum(1), inside.mean(1)


class _Fit(NamedTuple):
    """Agreement of images with sources at some placements."""

    correlation: Tensor  # (N,)
    error: Tensor  # (N, P), source less image, both of length 1
    slopes: Tensor  # (N, 6, P), of the image by the placement

    @classmethod
    def at(cls, placements: Tensor, stack: Tensor, sources: Tensor) -> _Fit:
        """Compare sources ``(N, P)`` with images and their slopes along x and y, ``(N, 3, h, w)``."""
        at, inside = places(placements, stack.shape[2:])
        values = sample(stack, at)
        image, source = _centred(values[:, 0], inside), unit(sources, inside)
        length = _length(image)
        image = image / length
        x, y = _points(*stack.shape[2:]).T
        along_x, along_y = values[:, 1], values[:, 2]
        slopes = torch.stack([along_x * x, along_x * y, along_x, along_y * x, along_y * y, along_y], 1)
        slopes = _centred(slopes, inside[:, None]) / length[:, None]
        slopes = slopes - (slopes @ image[..., None]) * image[:, None]
        correlation = (image * source).sum(1)
        return cls(correlation, source - correlation[:, None] * image, slopes)

    def where(self, is_better: Tensor, other: _Fit) -> _Fit:
        """Return the other fit where it is better, ``(N,)`` bool."""
        return _Fit(
            torch.where(is_better, other.correlation, self.correlation),
            torch.where(is_better[:, None], other.error, self.error),
            torch.where(is_better[:, None, None], other.slopes, self.slopes),
        )


def refine(images: Tensor, sources: Tensor, placements: Tensor) -> Tensor:
    """Move placements ``(N, 2, 3)`` to a larger correlation of local contrasts ``(N, 1, h, w)``."""
    pixel = 2 / min(images.shape[2:])
    along_x = F.pad((images[..., 2:] - images[..., :-2]) / (2 * pixel), (1, 1, 0, 0))
    along_y = F.pad((images[..., 2:, :] - images[..., :-2, :]) / (2 * pixel), (0, 0, 1, 1))
    stack, flat = torch.cat([images, along_x, along_y], 1), sources.flatten(1)
    fit, damping = _Fit.at(placements, stack, flat), torch.full((len(images),), 1e-2)
    for _ in range(_STEPS):
        normal = fit.slopes @ fit.slopes.mT
        normal = normal + torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * damping[:, None] + 1e-6)
        change = torch.linalg.solve(normal, fit.slopes @ fit.error[..., None])[..., 0]
        moved = placements + change.clamp(-_MAX_CHANGE, _MAX_CHANGE).view(-1, 2, 3)
        trial = _Fit.at(moved, stack, flat)
        is_better = (trial.correlation > fit.correlation) & _is_within_reach(moved, images.shape[2:])
        fit = fit.where(is_better, trial)
        placements = torch.where(is_better[:, None, None], moved, placements)
        damping = torch.where(is_better, damping / 4, damping * 8).clamp(1e-3, 1e3)
    return placements


def _is_within_reach(placements: Tensor, size: Sequence[int]) -> Tensor:
    """Return whether zoom, stretch and overlap of placements ``(N, 2, 3)`` are within their limits: ``(N,)`` bool."""
    linear = placements[:, :, :2]
    area = torch.linalg.det(linear)
    # Of two singular values a and b: a b is the area, a^2 + b^2 the sum of squares.
    roundness = linear.square().sum((1, 2)) / (2 * area.clamp(min=1e-6))
    _, inside = places(placements, size)
    is_within: Tensor = (
        (area >= _MAX_REFINED_ZOOM**-2)
        & (area <= _MAX_REFINED_ZOOM**2)
        & (roundness <= (MAX_STRETCH + 1 / MAX_STRETCH) / 2)
        & (inside.mean(1) >= MIN_OVERLAP)
    )
    return is_within
