"""Pyramids: pictures at several sizes, resized without aliasing."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError

__all__ = ["pyramid", "pyramid_sizes", "resize"]


def resize(images: Tensor, size: Sequence[int], mode: str = "bicubic") -> Tensor:
    """Resize pictures; smaller ones are filtered first, so that nothing aliases.

    Args:
        images: ``(N, C, H, W)`` floating point.
        size: height and width of the result.
        mode: ``bicubic`` or ``bilinear``.

    Returns:
        ``(N, C, height, width)``, within the range of the pictures: overshoot of bicubic filters is cut.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    result = F.interpolate(images, (size[0], size[1]), mode=mode, antialias=True)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return result.clamp(low, high)


def pyramid_sizes(size: Sequence[int], ratio: float, coarsest: int) -> list[tuple[int, int]]:
    """Return the sizes of a pyramid's scales, coarse to fine.

    Args:
        size: height and width of the finest scale.
        ratio: size of a scale relative to the next finer one, between 0 and 1.
        coarsest: shorter side of the coarsest scale, in pixels; the finest, where it is smaller.

    Returns:
        heights and widths; the ratio is refitted so that the shorter side of the first is ``coarsest``.

    Raises:
        SettingError: for a ratio that is not between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise SettingError("ratio", ratio, "above 0 and below 1")
    height, width = size
    sizes = [(height, width)]
    factor = 1.0
    while min(sizes[-1]) > coarsest:
        factor *= ratio
        least = coarsest / min(height, width)
        factor = max(factor, least)
        sizes.append((max(1, round(height * factor)), max(1, round(width * factor))))
        if factor == least:
            break
    return sizes[::-1]


def pyramid(images: Tensor, sizes: Sequence[Sequence[int]], mode: str = "bicubic") -> list[Tensor]:
    """Return pictures at each size, each made from the pictures themselves.

    Args:
        images: ``(N, C, H, W)`` floating point.
        sizes: heights and widths.
        mode: see :func:`resize`.
    """
    return [resize(images, size, mode) for size in sizes]
