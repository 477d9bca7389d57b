"""Facts that sources have in common: no color, and a ground such as white paper.

A decoder gives grey pictures a tint of some levels, and white grounds spots. So a bank remembers of each source whether
it is grey. A ground has one color, or fades evenly from one at the top to one at the bottom. Where all sources have the
same ground, and share a part of it, the bank also remembers the pixels of each source's ground: a bit a pixel. All are
facts of single sources, so that they come and go with them.

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
    "have_one_ground",
    "is_grey",
    "is_shared",
    "mask_depth",
    "without_color",
]

_LEVELS = 255.0
#: Levels that channels of a grey pixel may differ by. JPEG moves them.
_TOLERANCE = 2
#: Levels that the luminance of a ground may lie from that of its color. JPEG moves them by two; both are rounded.
_GROUND_TOLERANCE = 3
#: The same of single channels: JPEG moves the color of whole blocks beside an object, and shadows have little color.
_CHANNEL_TOLERANCE = 8
#: Levels that pixels of a border may lie from a ground, in each step of fitting it to them.
_FIT_LIMITS = (16, 8, 4, 3)
#: Levels that the grounds of all sources may lie apart to be one.
_APART = 4
#: Weights of red, green and blue in the luminance of a grey picture (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)


class Common(NamedTuple):
    """Facts of sources.

    Attributes:
        grey: ``(S,)`` bool, whether a source has no color.
        grounds: ``(S, 2, 3)`` uint8, the color of its ground at the top and at the bottom.
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

    A picture's ground begins with the commonest color of its border; pixels are ground wherever they have its color.

    Args:
        pictures: of whole cells.
        side: of a cell in pixels.
        has_masks: whether masks are wanted; without them, and where cells have no quarters, they have no elements.
    """
    grey, grounds = is_grey(pictures), _grounds(pictures)
    count, height, width = len(pictures), pictures.shape[2] // side, pictures.shape[3] // side
    if not has_masks or not can_have_residuals(side):
        return Common(grey.cpu(), grounds, pictures.new_zeros((count, height, width, 0), dtype=torch.uint8))
    half, levels = side // 2, _in_levels(pictures)
    ground = _in_rows(grounds.to(levels.device).double(), levels.shape[2])
    error = levels - ground
    is_ground = (error.abs() <= _CHANNEL_TOLERANCE).all(1, keepdim=True)
    is_ground &= _luminance(error).abs() <= _GROUND_TOLERANCE
    bits = is_ground.view(count, height, 2, half, width, 2, half).permute(0, 1, 4, 2, 5, 3, 6)
    bits = F.pad(bits.reshape(count, height, width, 4, half**2).long(), (0, -(half**2) % 8)).unflatten(4, (-1, 8))
    packed = (bits << torch.arange(8, device=bits.device)).sum(5).to(torch.uint8)
    return Common(grey.cpu(), grounds, packed.flatten(3))


def _in_levels(pictures: Tensor) -> Tensor:
    return (pictures.float() * _LEVELS).round().long().clamp(0, 255)


def _grounds(pictures: Tensor) -> Tensor:
    """Return the grounds ``(N, 2, 3)`` uint8 on the CPU of pictures ``(N, 3, H, W)`` in [0, 1].

    Fitted to the border: from the commonest color on, by least squares, to fewer and fewer of the pixels.
    """
    height, width = pictures.shape[2:]
    sides = pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, :, 0], pictures[:, :, :, -1]
    border = _in_levels(torch.cat(sides, 2)).cpu()
    common = (border[:, 0] * 65536 + border[:, 1] * 256 + border[:, 2]).mode(1).values
    color = torch.stack([common // 65536, common // 256 % 256, common % 256], 1)
    down = torch.linspace(0, 1, height, dtype=torch.float64)
    down = torch.cat([down.new_zeros(width), down.new_ones(width), down, down])
    basis = torch.stack([1 - down, down], 1)
    ends = color[:, None].repeat(1, 2, 1).double()
    for limit in _FIT_LIMITS:
        error = border.movedim(1, 2) - basis @ ends
        near = (error.abs() <= limit).all(2).double()
        # The unit matrix keeps an end where it is if no pixel tells of it.
        square = torch.einsum("np,pi,pj->nij", near, basis, basis) + torch.eye(2, dtype=torch.float64)
        ends = ends + torch.linalg.solve(square, torch.einsum("np,pi,npc->nic", near, basis, error))
    return ends.round().clamp(0, 255).to(torch.uint8)


def _in_rows(ends: Tensor, height: int) -> Tensor:
    """Return the colors of rows ``(N, 3, height, 1)`` between those at the top and the bottom, ``(N, 2, 3)``."""
    top, bottom = ends[:, 0, :, None, None], ends[:, 1, :, None, None]
    return top + (bottom - top) * torch.linspace(0, 1, height, dtype=ends.dtype, device=ends.device)[:, None]


def is_grey(pictures: Tensor) -> Tensor:
    """Return whether pictures ``(N, 3, H, W)`` in [0, 1] have no color, but for what JPEG adds: ``(N,)`` bool."""
    levels = (pictures.float() * _LEVELS).round()
    return (levels.amax(1) - levels.amin(1)).flatten(1).amax(1) <= _TOLERANCE


def have_one_ground(grounds: Tensor) -> bool:
    """Return whether grounds ``(S, 2, 3)`` uint8 have nearly the same colors."""
    return int((grounds.amax(0).int() - grounds.amin(0).int()).max()) <= _APART


def is_shared(grounds: Tensor, masks: Tensor) -> bool:
    """Return whether all sources, at least two, have nearly the same ground, and some pixel of it in common."""
    if len(grounds) < 2 or not masks.numel() or not have_one_ground(grounds):
        return False
    return bool(np.bitwise_and.reduce(masks.cpu().numpy(), 0).any())


def without_color(images: Tensor, is_grey: Tensor | None = None) -> Tensor:
    """Return images ``(N, 3, H, W)``, the grey ones among them ``(N,)`` bool by their luminance alone; None for all."""
    grey = _luminance(images)
    return grey.repeat(1, 3, 1, 1) if is_grey is None else torch.where(is_grey[:, None, None, None], grey, images)


def _luminance(images: Tensor) -> Tensor:
    return (images * images.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)


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
        bounds: ``(2, 2, 3)``, the least and the greatest color of the ground at the top and the bottom, in [0, 1].
        part: the index maps of the images; the others are gathered, too.
    """
    half = images.shape[2] // index.shape[1] // 2
    low, high = _in_rows(bounds.to(images), images.shape[2])
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
