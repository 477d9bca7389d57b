"""Figures and images of index maps: shares, regions and provenance maps (LatentPatch paper, figures 1 and 4).

An index map holds the position of each latent cell's source; -1 stands for the input image (the unchanged part of an
edit).
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["largest_regions", "local_shares", "provenance_images", "region_counts", "source_shares"]

_INPUT_COLOR = (0.5, 0.5, 0.5)  # RGB of cells of the input image


def source_shares(index: Tensor, count: int) -> Tensor:
    """Return the share of the cells from each source.

    Args:
        index: ``(N, h, w)`` int64.
        count: number of sources, B.

    Returns:
        ``(N, B)`` float32; rows sum to 1, less the share of the input image.
    """
    flat = index.flatten(1)
    shares = torch.zeros(len(flat), count + 1, dtype=torch.float32, device=index.device)
    shares.scatter_add_(1, flat + 1, torch.ones_like(flat, dtype=shares.dtype))
    return shares[:, 1:] / flat.shape[1]


def local_shares(index: Tensor, detail: Tensor) -> Tensor:
    """Return the largest part that one source has in the detail of each image: ``(N,)`` float32.

    A source with a small share of all cells may have given the eyes, nose and mouth. Here a cell counts as much as the
    mean source has detail there.

    Args:
        index: ``(N, h, w)`` int64, sources or their groups; -1 for the input image, which counts as no source.
        detail: ``(h, w)`` with sum 1: :attr:`~latentpatch.bank.bank.SourceBank.detail`.
    """
    index, weights = index.cpu().flatten(1), detail.flatten()
    used, numbers = index.unique(return_inverse=True)
    shares = torch.zeros(len(index), len(used), dtype=weights.dtype)
    shares.scatter_add_(1, numbers.view(index.shape), weights.expand(len(index), -1))
    shares[:, used < 0] = 0
    most = shares.amax(1) if shares.numel() else shares.new_zeros(len(index))
    return most.float()


def largest_regions(index: Tensor) -> Tensor:
    """Return the share of the cells in the largest 4-connected region from one source: ``(N,)`` float32."""
    sizes = _region_sizes(index)
    return torch.from_numpy(sizes.max(1, initial=0) / max(1, sizes.shape[1])).float()


def region_counts(index: Tensor) -> Tensor:
    """Return the number of 4-connected regions, each from one source: ``(N,)`` int64."""
    return torch.from_numpy(np.count_nonzero(_region_sizes(index), 1))


def _region_sizes(index: Tensor) -> np.ndarray[Any, Any]:
    """Return the size of the 4-connected region that begins in each cell, in reading order, else 0: ``(N, h w)``.

    Every cell takes the least number of its neighbours from the same source, until none changes.
    """
    maps = index.cpu().numpy()
    images, height, width = maps.shape
    cells = height * width
    labels = np.broadcast_to(np.arange(cells).reshape(height, width), maps.shape).copy()
    pairs = [(np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])]
    before = np.full_like(labels, -1)
    while not np.array_equal(before, labels):
        before = labels.copy()
        for one, other in pairs:
            is_same = maps[one] == maps[other]
            least = np.minimum(labels[one], labels[other])
            for side in (one, other):
                np.minimum(labels[side], least, out=labels[side], where=is_same)
        flat = labels.reshape(images, cells)
        flat[:] = np.take_along_axis(flat, flat, 1)  # a label's own label: long ways in few rounds
    numbers = labels.reshape(images, cells) + cells * np.arange(images)[:, None]
    return np.bincount(numbers[maps.reshape(images, cells) >= 0], minlength=images * cells).reshape(images, cells)


def provenance_images(index: Tensor, count: int, cell: int = 16) -> Tensor:
    """Draw index maps as in the paper: one hue for each source, gray for the input image.

    Args:
        index: ``(N, h, w)`` int64.
        count: number of sources, B; source b has hue b / B.
        cell: pixels along each side of a cell.

    Returns:
        ``(N, 3, h * cell, w * cell)`` float32 in [0, 1].
    """
    used, cells = index.cpu().unique(return_inverse=True)  # some tens, even of a million sources
    hues = [_INPUT_COLOR if b < 0 else colorsys.hsv_to_rgb(b / count, 0.85, 0.95) for b in used.tolist()]
    colors = torch.tensor(hues, dtype=torch.float32).view(-1, 3)[cells].movedim(-1, 1)  # N x 3 x h x w
    return colors.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
