"""Facts that sources have in common: no color, and a ground of one color.

A decoder gives grey pictures a tint of some levels, and white grounds spots. So a bank remembers of each source whether
it is grey. Where all sources have a ground of one color, and share a part of it, the bank also remembers the pixels of
each source's ground: a bit a pixel. Both are facts of single sources, so that they come and go with them.

A picture whose sources are all grey is made grey. A pixel that is ground in all sources that meet there is clamped to
the colors that the ground has in the sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .residuals import can_have_residuals, quarters

__all__ = [
    "Common",
    "clamp_ground",
    "encode_common",
    "have_one_color",
    "is_grey",
    "is_shared",
    "mask_depth",
    "without_color",
]

_LEVELS = 255.0
#: Levels that channels of a grey pixel may differ by, and those of a ground from its commonest color. JPEG moves both.
_TOLERANCE = 2
#: Levels that the grounds of all sources may lie apart to be one.
_APART = 4
#: Weights of red, green and blue in the luminance of a grey picture (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)


class Common(NamedTuple):
    """Facts of sources.

    Attributes:
        grey: ``(S,)`` bool, whether a source has no color.
        grounds: ``(S, 3)`` uint8, the color of its ground.
        masks: ``(B, h, w, m)`` uint8, the pixels of the ground: four quarters a cell, a bit a pixel in reading order.
    """

    grey: Tensor
    grounds: Tensor
    masks: Tensor


def mask_depth(side: int) -> int:
    """Return the bytes m of a cell's mask, for cells of ``side`` pixels; 0 where they have no quarters."""
    return 4 * -(-((side // 2) ** 2) // 8) if can_have_residuals(side) else 0


@torch.no_grad()
def encode_common(pictures: Tensor, side: int, has_masks: bool = True) -> Common:
    """Return the facts of pictures ``(N, 3, H, W)`` in [0, 1].

    A picture's ground is the commonest color of its border, wherever pixels have it.

    Args:
        pictures: of whole cells.
        side: of a cell in pixels.
        has_masks: whether masks are wanted; without them, and where cells have no quarters, they have no elements.
    """
    levels = (pictures.float() * _LEVELS).round().long().clamp(0, 255)
    grey = is_grey(pictures)
    codes = levels[:, 0] * 65536 + levels[:, 1] * 256 + levels[:, 2]
    border = torch.cat([codes[:, 0], codes[:, -1], codes[:, :, 0], codes[:, :, -1]], 1).cpu().mode(1).values
    ground = torch.stack([border // 65536, border // 256 % 256, border % 256], 1).to(levels.device)[:, :, None, None]
    grounds = ground[:, :, 0, 0].to(torch.uint8)
    count, height, width = len(levels), levels.shape[2] // side, levels.shape[3] // side
    if not has_masks or not can_have_residuals(side):
        return Common(grey.cpu(), grounds.cpu(), levels.new_zeros((count, height, width, 0), dtype=torch.uint8))
    half = side // 2
    is_ground = ((levels - ground).abs() <= _TOLERANCE).all(1, keepdim=True)
    bits = is_ground.view(count, height, 2, half, width, 2, half).permute(0, 1, 4, 2, 5, 3, 6)
    bits = F.pad(bits.reshape(count, height, width, 4, half**2).long(), (0, -(half**2) % 8)).unflatten(4, (-1, 8))
    packed = (bits << torch.arange(8, device=bits.device)).sum(5).to(torch.uint8)
    return Common(grey.cpu(), grounds.cpu(), packed.flatten(3))


def is_grey(pictures: Tensor) -> Tensor:
    """Return whether pictures ``(N, 3, H, W)`` in [0, 1] have no color, but for what JPEG adds: ``(N,)`` bool."""
    levels = (pictures.float() * _LEVELS).round()
    return (levels.amax(1) - levels.amin(1)).flatten(1).amax(1) <= _TOLERANCE


def have_one_color(grounds: Tensor) -> bool:
    """Return whether grounds ``(S, 3)`` uint8 have nearly one color."""
    return int((grounds.amax(0).int() - grounds.amin(0).int()).max()) <= _APART


def is_shared(grounds: Tensor, masks: Tensor) -> bool:
    """Return whether all sources have a ground of nearly one color, and some pixel of it in common."""
    if not len(grounds) or not masks.numel() or not have_one_color(grounds):
        return False
    return bool(np.bitwise_and.reduce(masks.cpu().numpy(), 0).any())


def without_color(images: Tensor, is_grey: Tensor | None = None) -> Tensor:
    """Return images ``(N, 3, H, W)``, the grey ones among them ``(N,)`` bool by their luminance alone; None for all."""
    weights = images.new_tensor(_LUMINANCE)[:, None, None]
    grey = (images * weights).sum(1, keepdim=True)
    return grey.repeat(1, 3, 1, 1) if is_grey is None else torch.where(is_grey[:, None, None, None], grey, images)


def clamp_ground(
    images: Tensor,
    index: Tensor,
    gather: Callable[[Tensor], Tensor],
    bounds: Tensor,
    part: slice = slice(None),
) -> Tensor:
    """Return images whose pixels are clamped where all sources that meet there have ground.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        index: ``(N, h, w)`` int64, the source of each cell; cells of -1 have no ground.
        gather: ``(N, h, w, 4)`` int64 sources of the quarters of cells -> ``(N, h, w, 4, m / 4)`` uint8 masks.
        bounds: ``(2, 3)``, the least and the greatest color of the ground in [0, 1].
        part: the index maps of the images; the others are gathered, too.
    """
    half = images.shape[2] // index.shape[1] // 2
    low, high = bounds.to(images)[:, :, None, None]
    clamped = torch.minimum(torch.maximum(images, low), high)
    common: Tensor | None = None
    for sources in quarters(index):
        masks = gather(sources) * (sources >= 0)[..., None]
        common = masks if common is None else torch.bitwise_and(common, masks)
    assert common is not None
    bits = _unpacked(common[part])[..., : half**2].unflatten(4, (half, half)).unflatten(3, (2, 2))
    is_ground = bits.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 1, *images.shape[2:])
    return torch.where(is_ground > 0, clamped, images)


def _unpacked(masks: Tensor) -> Tensor:
    """Return bits ``(..., 8 m)`` int32, 0 or 1, of bytes ``(..., m)``."""
    divisors = 2 ** torch.arange(8, dtype=torch.int32, device=masks.device)
    return (masks.int()[..., None] // divisors % 2).flatten(-2)
