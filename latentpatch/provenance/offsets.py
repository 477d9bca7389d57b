"""Figures and pictures of offset maps: which pixel each pixel of a result was copied from.

An offset map ``(h, w, 3)`` int64 holds the number of the picture, the row and the column; -1 for pixels that are no
copies, such as those outside of a region that was made anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["copying_figures", "offset_images"]

_NEAR = 2  # pixels from its own place that count as in place
_PLAIN_COLOR = 0.5  # RGB of pixels that are no copies


def offset_images(offsets: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Draw offset maps: red is the column and green the row that a pixel was copied from, blue the picture.

    A piece that was copied as a whole shows as a smooth ramp, and a seam as a jump.

    Args:
        offsets: ``(N, h, w, 3)`` int64.
        sizes: heights and widths of the pictures.

    Returns:
        ``(N, 3, h, w)`` float32 in [0, 1].
    """
    picture = offsets[..., 0].clamp(min=0)
    heights, widths = torch.tensor(list(sizes), device=offsets.device).T
    red = offsets[..., 2] / (widths[picture] - 1).clamp(min=1)
    green = offsets[..., 1] / (heights[picture] - 1).clamp(min=1)
    blue = (picture + 0.5) / len(sizes)
    colors = torch.stack([red, green, blue], 1).float().clamp(0, 1)
    return torch.where(offsets[..., 0][:, None] < 0, _PLAIN_COLOR, colors)


def copying_figures(offsets: Tensor, sizes: Sequence[tuple[int, int]]) -> list[dict[str, float | None]]:
    """Return how much each result copies.

    Args:
        offsets: ``(N, h, w, 3)`` int64.
        sizes: heights and widths of the pictures.

    Returns:
        for each result, as shares of the pixels that are copies, from 0 to 1: ``in_place``, those from within 2 pixels
        of their own place, None where no picture has the size of the result; ``contiguity``, neighboring pixels that
        are neighbors in the picture, too; ``largest_share``, those of the largest connected piece that was copied as
        a whole.
    """
    result = []
    size = (offsets.shape[1], offsets.shape[2])
    rows, columns = (torch.arange(n, device=offsets.device) for n in size)
    same = torch.tensor([tuple(each) == size for each in sizes], device=offsets.device)
    for each in offsets:
        is_copy = each[..., 0] >= 0
        moves = each.clone()
        moves[..., 1] -= rows[:, None]
        moves[..., 2] -= columns[None]
        near = (moves[..., 1].abs() <= _NEAR) & (moves[..., 2].abs() <= _NEAR) & same[each[..., 0].clamp(min=0)]
        along = (moves[:, 1:] == moves[:, :-1]).all(-1) & is_copy[:, 1:]
        down = (moves[1:] == moves[:-1]).all(-1) & is_copy[1:]
        count = max(1, int(is_copy.sum()))
        pairs = int((is_copy[:, 1:] & is_copy[:, :-1]).sum()) + int((is_copy[1:] & is_copy[:-1]).sum())
        result.append(
            {
                "in_place": round(int((near & is_copy).sum()) / count, 6) if bool(same.any()) else None,
                "contiguity": round((int(along.sum()) + int(down.sum())) / max(1, pairs), 6),
                "largest_share": round(_largest_piece(along, down, is_copy) / count, 6),
            }
        )
    return result


def _largest_piece(along: Tensor, down: Tensor, is_copy: Tensor) -> int:
    """Return the pixels of the largest piece.

    Args:
        along: ``(h, w - 1)`` bool, whether a pixel and the one to its left belong together.
        down: ``(h - 1, w)`` bool, whether a pixel and the one above belong together.
        is_copy: ``(h, w)`` bool, the pixels that count.
    """
    joined = np.pad(along.cpu().numpy(), ((0, 0), (1, 0)))
    runs = np.cumsum(~joined.ravel()).reshape(joined.shape) - 1  # pieces of single rows
    sizes = np.bincount(runs.ravel(), weights=is_copy.cpu().numpy().ravel())
    parents = np.arange(len(sizes))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    below = down.cpu().numpy()
    for one, other in np.unique(np.stack([runs[:-1][below], runs[1:][below]], 1), axis=0).tolist():
        parents[root(other)] = root(one)
    total: dict[int, float] = {}
    for run, count in enumerate(sizes.tolist()):
        total[root(run)] = total.get(root(run), 0.0) + count
    return int(max(total.values()))
