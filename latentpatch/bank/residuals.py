"""Residuals: the fine detail of sources that an autoencoder loses, added back to decoded images.

A small decoder makes soft images. But every latent here comes from a source whose image is at hand when it is
encoded. So a bank can store, beside the latents, the residual of decoding them, and add it where they are used.
Example-based super-resolution (Freeman et al. 2002) has to guess where such patches fit.

A residual is the fine part alone, without local means: tone is left to the decoder, which blends that of different
sources. Where cells of different sources meet, their residuals fade into each other over a cell's width.

A residual is the source's only where the decoded latent is. Blending changes latents, and a residual that fades into
the next cell meets those of another source: beards glittered on cheeks. So each residual is weighted by a gain, which
falls with the distance of the source's own latent in a cell from the one that is decoded there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "LEVELS",
    "add_residuals",
    "can_have_residuals",
    "encode_residuals",
    "fading",
    "gains",
    "quarters",
    "surrounding",
    "to_pixels",
]

#: Steps of a residual in the range of a pixel, 0 to 1.
LEVELS = 255.0

#: Distance of reduced latents at which a gain is 1/e, relative to the standard deviation of reduced latents.
REACH = 0.6

_LEAST = 1e-12  # least squared distance, so that latents without variance have gains


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


def gains(latents: Tensor, surroundings: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gains of residuals, in the order of :func:`quarters`: ``(N, h, w, 4)`` float32 each, from 0 to 1.

    They are exp(-(d / :data:`REACH`)^4), where d is the distance of a source's latent from the decoded one.

    Args:
        latents: ``(N, r, h, w)``, the reduced latents that are decoded.
        surroundings: ``(9, N, r, h, w)``, the reduced latents in each cell of the sources of :func:`surrounding`.
        deviation: scalar, the standard deviation of reduced latents, the unit of distances.
    """
    squares = (surroundings - latents).square().sum(2) / (REACH * deviation).square().clamp(min=_LEAST)
    return _quarters(torch.exp(-squares.square()).float())


def add_residuals(
    images: Tensor,
    index: Tensor,
    gather: Callable[[Tensor], Tensor],
    part: slice = slice(None),
    gains: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return decoded images ``(N, 3, H, W)`` in [0, 1] with the residuals of their cells' sources.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        index: ``(N, h, w)`` int64, the source of each cell; cells of -1 have no residual.
        gather: ``(N, h, w, 4)`` int64 sources of the quarters of cells -> ``(N, h, w, 4, d)`` int8 residuals.
        part: the index maps of the images. The others are gathered, too: processes that share sources gather together.
        gains: of the index maps, see :func:`gains`; None for 1 everywhere.
    """
    height, width = index.shape[1:]
    half = images.shape[2] // height // 2
    weights = fading(half, images.device) / LEVELS
    factors: Sequence[Tensor | None] = [None] * 4 if gains is None else gains
    if images.device.type != "cpu" or images.requires_grad or torch.compiler.is_compiling():
        return (images + to_pixels(_mixed(index, gather, weights, factors)[part], half)).clamp(0, 1)
    # One image at a time stays in a core's cache, and moving pixels by quarters is twice as fast as all at once.
    detailed = images.clone(memory_format=torch.contiguous_format)

    def of_image(n: int) -> Tensor:
        one = slice(n, n + 1)
        return _mixed(index[one], gather, weights, [None if each is None else each[one] for each in factors])[0]

    whole = part != slice(None)
    of_images = _mixed(index, gather, weights, factors)[part] if whole else map(of_image, range(len(index)))
    for image, mixed in zip(detailed, of_images, strict=True):
        quartered = image.view(3, height, 2, half, width, 2, half)
        fine = mixed.view(height, width, 2, 2, 3, half, half)
        for down, right in product(range(2), repeat=2):
            quartered[:, :, down, :, :, right] += fine[:, :, down, right].permute(2, 0, 3, 1, 4)
        image.clamp_(0, 1)
    return detailed


def _mixed(
    index: Tensor, gather: Callable[[Tensor], Tensor], weights: Tensor, factors: Sequence[Tensor | None]
) -> Tensor:
    """Return residuals faded into those of neighbouring cells: ``(N, h, w, 4, d)`` float32."""
    total: Tensor | None = None
    for sources, weight, factor in zip(quarters(index), weights, factors, strict=True):
        residuals = gather(sources).float()
        if factor is not None:
            residuals.mul_(factor[..., None])
        total = residuals.mul_(weight) if total is None else total.addcmul_(residuals, weight)
    assert total is not None
    return total


def quarters(index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four sources whose residuals meet in each quarter of a cell: ``(N, h, w, 4)`` each.

    They are those of the cell itself, of the neighbour above or below, of the one left or right, and of the one across
    the corner; beyond the border of the grid the cell's own.

    Args:
        index: ``(N, h, w)`` int64.
    """
    return _quarters(surrounding(index))


def surrounding(index: Tensor) -> Tensor:
    """Return the source of each cell and those of the eight around it, in reading order: ``(9, N, h, w)``."""
    rows = (_beside(index, 1, False), index, _beside(index, 1, True))
    return torch.stack([each for row in rows for each in (_beside(row, 2, False), row, _beside(row, 2, True))])


def _quarters(around: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values of cells and of those around them, ``(9, N, h, w)``, by :func:`quarters`."""
    places = ((4, 4, 4, 4), (1, 1, 7, 7), (3, 5, 3, 5), (0, 2, 6, 8))
    own, upright, level, across = (torch.stack([around[place] for place in each], -1) for each in places)
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
