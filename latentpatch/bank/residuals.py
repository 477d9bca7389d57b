"""Residuals: the fine detail of sources that an autoencoder loses, added back to decoded images.

A small decoder makes soft images. But every latent here comes from a source whose image is at hand when it is
encoded. So a bank can store, beside the latents, the residual of decoding them, and add it where they are used.
Example-based super-resolution (Freeman et al. 2002) has to guess where such patches fit.

A residual is the fine part alone, without local means: tone is left to the decoder, which blends that of different
sources. Where cells of different sources meet, their residuals fade into each other over a cell's width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LEVELS", "add_residuals", "can_have_residuals", "encode_residuals", "fading", "quarters", "to_pixels"]

#: Steps of a residual in the range of a pixel, 0 to 1.
LEVELS = 255.0


def can_have_residuals(side: int) -> bool:
    """Return whether cells of ``side`` pixels can have residuals: each quarter must have more than a mean."""
    return side >= 4 and side % 2 == 0


def encode_residuals(pictures: Tensor, decoded: Tensor, side: int) -> Tensor:
    """Return the residuals of decoded images: ``(N, h, w, 3 side^2)`` int8, in 1/255.

    A cell has four quarters in reading order, each of 3 colours of ``side / 2`` rows. Values are differences from local
    means, taken over quarters and interpolated between them; they are clamped to +-127.

    Args:
        pictures: ``(N, 3, h side, w side)`` in [0, 1].
        decoded: the same pictures, encoded and decoded.
        side: of a cell in pixels, see :func:`can_have_residuals`.
    """
    half = side // 2
    error = pictures.float() - decoded.float()
    coarse = F.interpolate(F.avg_pool2d(error, half), scale_factor=half, mode="bilinear", align_corners=False)
    fine = ((error - coarse) * LEVELS).round().clamp(-127, 127).to(torch.int8)
    images, height, width = len(fine), fine.shape[2] // side, fine.shape[3] // side
    cells = fine.view(images, 3, height, 2, half, width, 2, half).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return cells.reshape(images, height, width, 3 * side**2)


def add_residuals(
    images: Tensor, index: Tensor, gather: Callable[[Tensor], Tensor], part: slice = slice(None)
) -> Tensor:
    """Return decoded images ``(N, 3, H, W)`` in [0, 1] with the residuals of their cells' sources.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        index: ``(N, h, w)`` int64, the source of each cell; cells of -1 have no residual.
        gather: ``(N, h, w, 4)`` int64 sources of the quarters of cells -> ``(N, h, w, 4, d)`` int8 residuals.
        part: the index maps of the images. The others are gathered, too: processes that share sources gather together.
    """
    height, width = index.shape[1:]
    half = images.shape[2] // height // 2
    weights = fading(half, images.device) / LEVELS
    if images.device.type != "cpu" or images.requires_grad or torch.compiler.is_compiling():
        return (images + to_pixels(_mixed(index, gather, weights)[part], half)).clamp(0, 1)
    # One image at a time stays in the caches, and moving pixels by quarters is twice as fast as all at once.
    detailed = images.clone(memory_format=torch.contiguous_format)
    of_images = (
        _mixed(index, gather, weights)[part]
        if part != slice(None)
        else (_mixed(sources, gather, weights)[0] for sources in index.split(1))
    )
    for image, mixed in zip(detailed.view(-1, 3, height, 2, half, width, 2, half), of_images, strict=True):
        fine = mixed.view(height, width, 2, 2, 3, half, half)
        for down, right in product(range(2), repeat=2):
            image[:, :, down, :, :, right] += fine[:, :, down, right].permute(2, 0, 3, 1, 4)
    return detailed.clamp_(0, 1)


def _mixed(index: Tensor, gather: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """Return residuals faded into those of neighbouring cells: ``(N, h, w, 4, d)`` float32."""
    own, *beside = quarters(index)
    total = gather(own).float() * weights[0]
    for sources, weight in zip(beside, weights[1:], strict=True):
        total = torch.addcmul(total, gather(sources).float(), weight)
    return total


def quarters(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four sources whose residuals meet in each quarter of a cell: ``(N, h, w, 4)`` each.

    They are those of the cell itself, of the neighbour above or below, of the one left or right, and of the one across
    the corner; beyond the border of the grid the cell's own.

    Args:
        index: ``(N, h, w)`` int64.
    """
    above, below = (_beside(index, 1, last) for last in (False, True))
    own = torch.stack([index] * 4, -1)
    upright = torch.stack([above, above, below, below], -1)
    level = torch.stack([_beside(index, 2, last) for last in (False, True)] * 2, -1)
    across = torch.stack([_beside(rows, 2, last) for rows in (above, below) for last in (False, True)], -1)
    return own, upright, level, across


def _beside(index: Tensor, axis: int, after: bool) -> Tensor:
    """Return the cell before or after each cell along an axis; at the border the cell itself."""
    count = index.shape[axis]
    if after:
        return torch.cat([index.narrow(axis, 1, count - 1), index.narrow(axis, count - 1, 1)], axis)
    return torch.cat([index.narrow(axis, 0, 1), index.narrow(axis, 0, count - 1)], axis)


@lru_cache(maxsize=16)
def _fading(half: int) -> Tensor:
    ramp = 0.5 - 0.5 * torch.cos(pi * (torch.arange(half, dtype=torch.float64) + half + 0.5) / (2 * half))
    near = torch.stack([ramp, ramp.flip(0)])  # for pixels in the first and in the second half of a cell
    parts = []
    for rows, columns in ((near, near), (1 - near, near), (near, 1 - near), (1 - near, 1 - near)):
        window = rows[:, None, :, None] * columns[None, :, None, :]
        parts.append(window[:, :, None].expand(2, 2, 3, half, half).reshape(4, 3 * half**2))
    return torch.stack(parts).float()


def fading(half: int, device: torch.device) -> Tensor:
    """Return the weights of :func:`quarters` in a cell's pixels, ``(4, 4, d)`` float32: raised cosines of sum 1."""
    make = _fading.__wrapped__ if torch.compiler.is_compiling() else _fading  # a compiler keeps no caches
    return make(half).to(device)


def to_pixels(mixed: Tensor, half: int) -> Tensor:
    """Return residuals ``(N, h, w, 4, d)`` as pixels ``(N, 3, H, W)``."""
    images, height, width = mixed.shape[:3]
    blocks = mixed.reshape(images, height, width, 2, 2, 3, half, half).permute(0, 5, 1, 3, 6, 2, 4, 7)
    return blocks.reshape(images, 3, height * 2 * half, width * 2 * half)
