"""Patches of pictures: extract them, and fold them back into pictures by weighted means.

A picture of ``H x W`` pixels has ``(H - side) // stride + 1`` rows of patches, and columns likewise. A patch is named
by its top left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer

__all__ = ["extract_patches", "fold_patches", "gaussian_window", "patch_grid", "patch_masses", "patch_positions"]


def patch_grid(size: Sequence[int], side: int, stride: int = 1) -> tuple[int, int]:
    """Return the rows and columns of the patches of a picture.

    Raises:
        SettingError: where the picture is smaller than a patch.
    """
    check_integer("side", side, 1)
    check_integer("stride", stride, 1)
    height, width = size
    if min(height, width) < side:
        raise SettingError("size", (height, width), f"at least a patch of {side} x {side} pixels")
    return (height - side) // stride + 1, (width - side) // stride + 1


def extract_patches(images: Tensor, side: int, stride: int = 1) -> Tensor:
    """Return the patches of pictures.

    Args:
        images: ``(N, C, H, W)``.
        side: of a patch, in pixels.
        stride: pixels from a patch to the next.

    Returns:
        ``(N, rows, columns, C side^2)``; a patch is in the order channel, row, column.
    """
    rows, columns = patch_grid(images.shape[2:], side, stride)
    patches = F.unfold(images, side, stride=stride).transpose(1, 2)
    return patches.reshape(len(images), rows, columns, -1)


def patch_masses(size: Sequence[int], side: int) -> Tensor:
    """Return the pixels that each patch stands for, where patches share each pixel alike: more at the edges.

    Args:
        size: height and width of the picture.
        side: of a patch, in pixels.

    Returns:
        ``(rows, columns)`` float32; the sum is the number of pixels.
    """
    axes = []
    for length, count in zip(size, patch_grid(size, side), strict=True):
        pixels = torch.arange(length)
        sharing = pixels.clamp(max=count - 1) - (pixels - side + 1).clamp(min=0) + 1
        axes.append((1 / sharing).unfold(0, side, 1).sum(1))
    return axes[0][:, None] * axes[1][None]


def patch_positions(positions: Tensor, side: int, size: Sequence[int], stride: int = 1) -> Tensor:
    """Return the pixel that each pixel stands for in the patch whose center is nearest.

    Args:
        positions: ``(rows, columns, 3)`` int64: number of the picture, row and column of the patch that replaces each
            patch; negative numbers for none.
        side: of a patch, in pixels.
        size: height and width of the result in pixels.
        stride: pixels from a patch to the next.

    Returns:
        ``(height, width, 3)`` int64 pixels: number of the picture, row, column.
    """
    axes = []
    for length, count in zip(size, positions.shape[:2], strict=True):
        pixels = torch.arange(length, device=positions.device)
        patch = ((pixels - side // 2 + stride // 2).clamp(min=0) // stride).clamp(max=count - 1)
        patch = torch.where(pixels - patch * stride >= side, count - 1, patch)
        axes.append((patch, (pixels - patch * stride).clamp(max=side - 1)))
    (rows, down), (columns, right) = axes
    found = positions[rows[:, None], columns[None]].clone()
    is_there = found[..., 0] >= 0
    found[..., 1] += torch.where(is_there, down[:, None], 0)
    found[..., 2] += torch.where(is_there, right[None], 0)
    return found


def gaussian_window(side: int, width: float, device: torch.device | None = None) -> Tensor:
    """Return the weights of a patch's pixels: a Gaussian about its center.

    Args:
        side: of a patch, in pixels.
        width: standard deviation, in sides.
        device: of the result.

    Returns:
        ``(side, side)`` float32, 1 at the center.
    """
    axis = torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2
    line = torch.exp(-axis.square() / (2 * (width * side) ** 2))
    return line[:, None] * line[None]


def fold_patches(
    patches: Tensor, size: Sequence[int], side: int, stride: int = 1, window: Tensor | None = None
) -> Tensor:
    """Assemble pictures from overlapping patches: each pixel is the weighted mean of the patches that have it.

    Args:
        patches: ``(N, rows, columns, C side^2)``, see :func:`extract_patches`.
        size: height and width of the pictures.
        side: of a patch, in pixels.
        stride: pixels from a patch to the next.
        window: ``(side, side)`` positive weights of a patch's pixels; None for equal ones.

    Returns:
        ``(N, C, height, width)``; 0 where there is no patch, right and below with a stride that leaves a rest.
    """
    rows, columns = patch_grid(size, side, stride)
    if patches.shape[1:3] != (rows, columns):
        raise SettingError("patches", tuple(patches.shape), f"of {rows} rows and {columns} columns")
    weights = patches.new_ones(side, side) if window is None else window.to(patches)
    flat = patches.flatten(1, 2).transpose(1, 2)
    channels = flat.shape[1] // side**2
    each = weights.reshape(-1, 1)
    values = F.fold(flat * each.repeat(channels, 1), (size[0], size[1]), side, stride=stride)
    total = F.fold(each.expand(1, -1, rows * columns), (size[0], size[1]), side, stride=stride)
    return values / torch.where(total > 0, total, 1)
