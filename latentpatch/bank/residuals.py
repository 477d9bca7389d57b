"""Residuals: the fine detail of sources that an autoencoder loses, added back to decoded images.

A small decoder makes soft images. But every latent here comes from a source whose image is at hand when it is
encoded. So a bank can store, beside the latents, the residual of decoding them, and add it where they are used.
Example-based super-resolution (Freeman et al. 2002) has to guess where such patches fit.

A residual is the fine part alone, without local means: tone is left to the decoder, which blends that of different
sources. Where cells of different sources meet, their residuals fade into each other over a cell's width.

A residual is the source's only where the decoded latent is. Blending changes latents, and a residual that fades into
the next cell meets those of another source: beards glittered on cheeks. So each residual is weighted by a gain, which
falls with the distance of the source's own latent in a cell from the one that is decoded there.

Eyes see detail of color less than that of brightness. So residuals keep luma at full and chroma at half resolution, as
JPEG does (4:2:0): 1.5 bytes a pixel. Those of older files have three colors at full resolution: 3 bytes. The number of
values a cell tells which.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from math import isqrt, pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..runs.system import has_numba
from ..runs.threads import map_in_threads

__all__ = [
    "ALL_COLORS",
    "LEVELS",
    "add_residuals",
    "can_have_residuals",
    "cell_side",
    "depth_of",
    "encode_residuals",
    "fading",
    "gains",
    "has_all_colors",
    "quarters",
    "surrounding",
    "to_pixels",
]

#: Steps of a residual in the range of a pixel, 0 to 1.
LEVELS = 255.0

#: Distance of reduced latents at which a gain is 1/e, relative to the standard deviation of reduced latents.
REACH = 0.6

#: The choice of residuals with three colors at full resolution.
ALL_COLORS = "full"

#: Weights of red, green and blue in luma (ITU-R BT.601).
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114

_LEAST = 1e-12  # least squared distance, so that latents without variance have gains


def can_have_residuals(side: int) -> bool:
    """Return whether cells of ``side`` pixels can have residuals: each quarter must have more than a mean."""
    return side >= 4 and side % 2 == 0


def depth_of(side: int, has_all_colors: bool = False) -> int:
    """Return the values d of a cell of ``side`` pixels, with three colors at full resolution or as many as are kept."""
    return 3 * side**2 // (1 if has_all_colors or not _can_halve(side) else 2)


def _can_halve(side: int) -> bool:
    """Return whether chroma at half resolution has more than a mean in each quarter of a cell."""
    return side >= 8 and side % 4 == 0


def cell_side(depth: int) -> int:
    """Return the side in pixels of cells of ``depth`` values; 0 where no cells have as many."""
    side = isqrt(depth // 3 if has_all_colors(depth) else 2 * depth // 3)
    return side if can_have_residuals(side) and depth in (depth_of(side), depth_of(side, True)) else 0


def has_all_colors(depth: int) -> bool:
    """Return whether the ``depth`` values of a cell are three colors of every pixel."""
    return bool(3 * isqrt(depth // 3) ** 2 == depth)  # half a square is none


def _are_all_colors(depth: int, half: int) -> bool:
    """Return the same for the values of a quarter of a cell, of ``half`` rows, without a root: a compiler has none."""
    return depth == 3 * half**2


def encode_residuals(pictures: Tensor, decoded: Tensor, side: int, has_all_colors: bool = False) -> Tensor:
    """Return the residuals of decoded images: ``(N, h, w, d)`` int8, in 1/255, with d of :func:`depth_of`.

    A cell has four quarters in reading order. Each has luma of ``side / 2`` rows, then red less luma and blue less luma
    of ``side / 4`` rows; or three colours of ``side / 2`` rows, where all are wanted, or cells are small.
    Values are differences from local means, taken over quarters and interpolated between them; they are clamped to
    +-127.

    Args:
        pictures: ``(N, 3, h side, w side)`` in [0, 1].
        decoded: the same pictures, encoded and decoded.
        side: of a cell in pixels, see :func:`can_have_residuals`.
        has_all_colors: keep three colors at full resolution.
    """
    half = side // 2
    error = pictures.float() - decoded.float()
    if has_all_colors or not _can_halve(side):
        coarse = F.interpolate(F.avg_pool2d(error, half), scale_factor=half, mode="bilinear", align_corners=False)
        return _in_quarters(error - coarse, half).flatten(3)
    red, green, blue = error.unbind(1)
    luma = red * _RED + green * _GREEN + blue * _BLUE
    chroma = F.avg_pool2d(torch.stack([red - luma, blue - luma], 1), 2)
    parts = (luma[:, None], half), (chroma, half // 2)
    return torch.cat([_in_quarters(each - _local_means(each, rows), rows) for each, rows in parts], 4).flatten(3)


def _in_quarters(fine: Tensor, rows: int) -> Tensor:
    """Return values ``(N, c, H, W)`` as int8 by quarters of cells, of some rows each: ``(N, h, w, 4, c rows^2)``."""
    levels = (fine * LEVELS).round_().clamp_(-127, 127).to(torch.int8)
    images, channels, height, width = levels.shape
    cells = levels.view(images, channels, height // rows // 2, 2, rows, width // rows // 2, 2, rows)
    return cells.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(3, 4)


def _local_means(values: Tensor, side: int) -> Tensor:
    """Return the means over squares, interpolated linearly between their centres: ``(N, c, H, W)``."""
    means = F.avg_pool2d(values, side)
    steps = (torch.arange(side, dtype=means.dtype, device=means.device) + (0.0 if side % 2 else 0.5)) / side
    for axis in (2, 3):  # F.interpolate takes several times as long
        count = means.shape[axis]
        before = torch.cat([means.narrow(axis, 0, 1), means], axis).unsqueeze(axis + 1)
        after = torch.cat([means, means.narrow(axis, count - 1, 1)], axis).unsqueeze(axis + 1)
        between = torch.lerp(before, after, steps.view(-1, *[1] * (3 - axis)))
        means = between.flatten(axis, axis + 1).narrow(axis, (side + 1) // 2, count * side)
    return means


def gains(latents: Tensor, surroundings: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gains of residuals, in the order of :func:`quarters`: ``(N, h, w, 4)`` float32 each, from 0 to 1.

    They are exp(-(d / :data:`REACH`)^4), where d is the distance of a source's latent from the decoded one.

    Args:
        latents: ``(N, r, h, w)``, the reduced latents that are decoded.
        surroundings: ``(9, N, r, h, w)``, the reduced latents in each cell of the sources of :func:`surrounding`.
        deviation: scalar, the standard deviation of reduced latents, the unit of distances.
    """
    squares = (surroundings - latents).square_().sum(2) / (REACH * deviation).square().clamp(min=_LEAST)
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
        gather: ``(N, h, w, 4)`` int64 sources of the quarters of cells -> ``(N, h, w, 4, d / 4)`` int8 residuals. What
            -1 gives is without meaning.
        part: the index maps of the images. The others are gathered, too: processes that share sources gather together.
        gains: of the index maps, see :func:`gains`; None for 1 everywhere.
    """
    half = images.shape[2] // index.shape[1] // 2
    sources = torch.stack(quarters(index))
    factors = (sources >= 0).float()
    if gains is not None:
        factors *= torch.stack(list(gains))

    def gathered(part: slice) -> Tensor:
        found: Tensor = gather(sources[:, part].flatten(0, 1)).unflatten(0, (4, -1))
        return found

    if images.device.type != "cpu" or images.requires_grad or torch.compiler.is_compiling():
        residuals = to_pixels(_mixed(gathered(slice(None)), factors, half)[part], half)
        return (images + residuals.to(images.device)).clamp(0, 1)
    together = None if part == slice(None) else gathered(slice(None))[:, part]
    factors = factors[:, part]
    detailed = torch.empty_like(images, memory_format=torch.contiguous_format)
    # Numba is not loaded for this alone.
    has_loops = images.dtype == torch.float32 and type(images) is Tensor and "numba" in sys.modules and has_numba()

    def add(n: int) -> None:
        one = slice(n, n + 1)
        residuals = gathered(one) if together is None else together[:, one]
        has_loop = has_loops and not _are_all_colors(residuals.shape[-1], half) and _is_loop_exact(half)
        (_add_in_loop if has_loop else _add)(images[n], residuals, factors[:, one], half, detailed[n])

    # One image at a time stays in a core's cache.
    map_in_threads(add, range(len(images)))
    return detailed


@lru_cache(maxsize=8)
def _is_loop_exact(half: int) -> bool:
    """Return whether Numba's loop rounds as torch does on this processor, where quarters of cells have some rows."""
    source = torch.Generator().manual_seed(0)
    values = torch.rand(4 * 16 * depth_of(2 * half) // 4, generator=source, dtype=torch.float32, device="cpu")
    residuals = (values * 255 - 127).to(torch.int8).view(4, 1, 2, 2, 4, -1)
    image, factors = values[: 48 * half**2].view(3, 4 * half, -1), values[-64:].view(4, 1, 2, 2, 4)
    results = torch.empty_like(image), torch.empty_like(image)
    for add, result in zip((_add, _add_in_loop), results, strict=True):
        add(image, residuals, factors, half, result)
    return torch.equal(*results)


def _add_in_loop(image: Tensor, residuals: Tensor, factors: Tensor, half: int, detailed: Tensor) -> None:
    """Do the same as :func:`_add` in one pass, without colors at full resolution."""
    from .residual_kernels import add

    picture, levels, shares = (each.contiguous().numpy() for each in (image, residuals[:, 0], factors[:, 0]))
    weights, colors = _loop_constants(residuals.shape[-1], half)
    add(picture, levels, shares, weights, colors, detailed.numpy())


@lru_cache(maxsize=8)
def _loop_constants(depth: int, half: int) -> tuple[Any, Any]:
    """Return the weights of sources, and what each color takes of red and blue."""
    colors = np.array([[1, 0], [-_RED / _GREEN, -_BLUE / _GREEN], [0, 1]], np.float32)
    return (_fading(depth, half) / LEVELS).numpy(), colors


def _add(image: Tensor, residuals: Tensor, factors: Tensor, half: int, detailed: Tensor) -> None:
    """Write an image ``(3, H, W)`` with residuals, faster than by :func:`to_pixels`; see :func:`_mixed`."""
    mixed = _mixed(residuals, factors, half)
    height, width = mixed.shape[1:3]
    detailed.copy_(image)
    if _are_all_colors(mixed.shape[-1], half):
        quartered = detailed.view(3, height, 2, half, width, 2, half)
        fine = mixed.view(height, width, 2, 2, 3, half, half)
        for down, right in product(range(2), repeat=2):
            quartered[:, :, down, :, :, right] += fine[:, :, down, right].permute(2, 0, 3, 1, 4)
    else:
        luma, colors = _luma_and_colors(mixed, half, 2)
        detailed.view(3, height * half, 2, -1).add_(colors.view(3, height * half, 1, -1))
        detailed.add_(luma[0])
    detailed.clamp_(0, 1)


def _mixed(residuals: Tensor, factors: Tensor, half: int) -> Tensor:
    """Return residuals faded into those of neighbouring cells: ``(N, h, w, 4, d / 4)`` float32.

    Args:
        residuals: ``(4, N, h, w, 4, d / 4)`` int8, in the order of :func:`quarters`.
        factors: ``(4, N, h, w, 4)`` float32, of the residuals.
        half: rows of a quarter of a cell.
    """
    weights = fading(residuals.shape[-1], half, residuals.device) / LEVELS
    total = residuals[0].float().mul_(factors[0, ..., None]).mul_(weights[0])
    for each, factor, weight in zip(residuals[1:], factors[1:], weights[1:], strict=True):
        total.addcmul_(each.float().mul_(factor[..., None]), weight)
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
def _fading(depth: int, half: int) -> Tensor:
    if _are_all_colors(depth, half):
        return _windows(half, 3)
    return torch.cat([_windows(half, 1), _windows(half // 2, 2)], 2)


def _windows(half: int, channels: int) -> Tensor:
    ramp = 0.5 - 0.5 * torch.cos(pi * (torch.arange(half, dtype=torch.float64) + half + 0.5) / (2 * half))
    near = torch.stack([ramp, ramp.flip(0)])  # for pixels in the first and in the second half of a cell
    parts = []
    for rows, columns in ((near, near), (1 - near, near), (near, 1 - near), (1 - near, 1 - near)):
        window = rows[:, None, :, None] * columns[None, :, None, :]
        parts.append(window[:, :, None].expand(2, 2, channels, half, half).reshape(4, channels * half**2))
    return torch.stack(parts).float()


def fading(depth: int, half: int, device: torch.device) -> Tensor:
    """Return the weights of :func:`quarters` in the values of a cell: raised cosines of sum 1.

    Args:
        depth: values of a quarter of a cell, d / 4.
        half: rows of a quarter of a cell; from the depth, a compiler of many sizes cannot tell them.
        device: of the weights.

    Returns:
        ``(4, 4, d / 4)`` float32.
    """
    make = _fading.__wrapped__ if torch.compiler.is_compiling() else _fading  # a compiler keeps no caches
    return make(depth, half).to(device)


def to_pixels(mixed: Tensor, half: int) -> Tensor:
    """Return residuals ``(N, h, w, 4, d / 4)`` as pixels ``(N, 3, H, W)``."""
    if _are_all_colors(mixed.shape[-1], half):
        return _plane(mixed, half, half)
    luma, colors = _luma_and_colors(mixed, half, 1)
    return luma + F.interpolate(colors, scale_factor=2)


def _luma_and_colors(mixed: Tensor, half: int, times: int) -> tuple[Tensor, Tensor]:
    """Return luma ``(N, 1, H, W)``, and what colors differ from it by.

    Args:
        mixed: ``(N, h, w, 4, d / 4)``.
        half: rows of a quarter of a cell.
        times: how often a value of color is beside itself, 1 or 2.

    Returns:
        luma, and colors ``(N, 3, H / 2, times W / 2)``.
    """
    luma, chroma = mixed[..., : half**2], mixed[..., half**2 :]
    if times > 1:
        chroma = chroma.repeat_interleave(times, 4)
    red, blue = _plane(chroma, half // 2, times * half // 2).unbind(1)
    return _plane(luma, half, half), torch.stack([red, red * (-_RED / _GREEN) - blue * (_BLUE / _GREEN), blue], 1)


def _plane(values: Tensor, rows: int, columns: int) -> Tensor:
    """Return values of quarters ``(N, h, w, 4, c rows columns)`` in their places: ``(N, c, H, W)``."""
    images, height, width = values.shape[:3]
    blocks = values.reshape(images, height, width, 2, 2, -1, rows, columns).permute(0, 5, 1, 3, 6, 2, 4, 7)
    return blocks.reshape(images, -1, height * 2 * rows, width * 2 * columns)
