"""Compare each patch of a picture with all patches of a window about it; memory is bounded by blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .patch_nearest import BLOCK_BYTES
from .patches import patch_grid

__all__ = ["row_blocks", "window_distances", "window_values"]


def row_blocks(count: int, columns: int, radius: int, block_bytes: int = BLOCK_BYTES) -> Iterator[range]:
    """Yield blocks of rows whose distances to their windows take bounded memory.

    Args:
        count: rows of patches.
        columns: of patches.
        radius: of the windows.
        block_bytes: memory of the distances of a block; it changes no result.
    """
    size = max(1, block_bytes // (4 * columns * (2 * radius + 1) ** 2))
    for top in range(0, count, size):
        yield range(top, min(count, top + size))


def window_distances(picture: Tensor, side: int, radius: int, rows: range) -> Tensor:
    """Return the mean squared difference of patches to those of the windows about them.

    Args:
        picture: ``(C, H, W)`` float32.
        side: of the patches, in pixels.
        radius: largest shift of a patch, in rows and in columns.
        rows: consecutive rows of patches.

    Returns:
        ``(2 radius + 1, 2 radius + 1, len(rows), columns)`` by the shift down and right, from ``-radius`` on; infinity
        for a patch that reaches beyond the picture.
    """
    grid, width = patch_grid(picture.shape[1:], side), picture.shape[2]
    strip = slice(rows.start, rows.stop + side - 1)
    padded = F.pad(picture, (radius,) * 4)
    shifted, result = range(2 * radius + 1), []
    for down in shifted:
        keys = padded[:, strip.start + down : strip.stop + down].unfold(2, width, 1)  # (C, rows, shifts, W)
        squares = (keys - picture[:, strip, None]).square_().mean(0)
        result.append(_box_sums(_box_sums(squares, side, 0), side, 2) / side**2)
    distances = torch.stack(result).transpose(1, 2)
    down_at, right_at = (
        torch.arange(n)[None] + torch.arange(-radius, radius + 1)[:, None] for n in grid
    )  # places of the keys, by shift and place
    is_out = [(at < 0) | (at >= n) for at, n in zip((down_at[:, rows.start : rows.stop], right_at), grid, strict=True)]
    distances.masked_fill_(is_out[0][:, None, :, None].to(distances.device), torch.inf)
    return distances.masked_fill_(is_out[1][None, :, None].to(distances.device), torch.inf)


def _box_sums(values: Tensor, side: int, dim: int) -> Tensor:
    """Return the sums of ``side`` neighbors along a dimension; running sums would be less exact."""
    count = values.shape[dim] - side + 1
    result = values.narrow(dim, 0, count).clone()
    for start in range(1, side):
        result += values.narrow(dim, start, count)
    return result


def window_values(picture: Tensor, weights: Tensor, rows: range) -> Tensor:
    """Return weighted sums of the pixels in the window about each pixel: ``(C, len(rows), W)``.

    Args:
        picture: ``(C, H, W)`` float32.
        weights: of shifts and pixels, as the distances of :func:`window_distances` with a side of 1.
        rows: consecutive rows of pixels.
    """
    radius = len(weights) // 2
    padded = F.pad(picture, (radius,) * 4)
    result = picture.new_zeros(len(picture), len(rows), picture.shape[2])
    for down, each in enumerate(weights):
        values = padded[:, rows.start + down : rows.stop + down].unfold(2, picture.shape[2], 1)
        result += torch.einsum("crsw,srw->crw", values, each)
    return result
