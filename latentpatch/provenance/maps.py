"""Figures and images of index maps: shares, regions and provenance maps (LatentPatch paper, figures 1 and 4).

An index map holds the position of each latent cell's source; -1 stands for the input image (the unchanged part of an
edit).
"""

from __future__ import annotations

import colorsys

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
    shares = torch.zeros(len(flat), count + 1, device=index.device)
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
    maps = index.cpu().numpy()
    return torch.tensor([max(_region_sizes(cells), default=0) / cells.size for cells in maps], dtype=torch.float32)


def region_counts(index: Tensor) -> Tensor:
    """Return the number of 4-connected regions, each from one source: ``(N,)`` int64."""
    return torch.tensor([len(_region_sizes(cells)) for cells in index.cpu().numpy()], dtype=torch.int64)


def _region_sizes(cells: np.ndarray) -> list[int]:
    """Return the sizes of 4-connected regions by flood fill."""
    unvisited = {(int(y), int(x)) for y, x in np.argwhere(cells >= 0)}
    sizes = []
    while unvisited:
        front = [unvisited.pop()]
        size = 0
        while front:
            y, x = front.pop()
            size += 1
            for neighbor in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if neighbor in unvisited and cells[neighbor] == cells[y, x]:
                    unvisited.remove(neighbor)
                    front.append(neighbor)
        sizes.append(size)
    return sizes


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
    hues = torch.tensor([_INPUT_COLOR if b < 0 else colorsys.hsv_to_rgb(b / count, 0.85, 0.95) for b in used.tolist()])
    colors = hues.view(-1, 3)[cells].movedim(-1, 1)  # N x 3 x h x w
    return colors.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
