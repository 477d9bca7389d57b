"""Where the latents of an image come from: shares, regions and maps (LatentPatch, figures 1 and 4).

An index map holds, for each latent cell, the position of its source; -1 stands for the picture that
was given (the kept part of an edit).
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from torch import Tensor

__all__ = ["largest_regions", "provenance_images", "region_counts", "source_shares"]

_GIVEN = (0.5, 0.5, 0.5)


def source_shares(index: Tensor, count: int) -> Tensor:
    """Share of the cells each source gave.

    Args:
        index: ``(N, h, w)`` int64.
        count: number of sources, B.

    Returns:
        ``(N, B)`` float32; rows add up to 1, less the share of the given picture.
    """
    flat = index.flatten(1)
    shares = torch.zeros(len(flat), count + 1, device=index.device)
    shares.scatter_add_(1, flat + 1, torch.ones_like(flat, dtype=shares.dtype))
    return shares[:, 1:] / flat.shape[1]


def largest_regions(index: Tensor) -> Tensor:
    """Share of the cells in the largest 4-connected region that comes from one source: ``(N,)`` float32."""
    maps = index.cpu().numpy()
    return torch.tensor([max(_region_sizes(cells), default=0) / cells.size for cells in maps], dtype=torch.float32)


def region_counts(index: Tensor) -> Tensor:
    """Number of 4-connected regions that each come from one source: ``(N,)`` int64."""
    return torch.tensor([len(_region_sizes(cells)) for cells in index.cpu().numpy()], dtype=torch.int64)


def _region_sizes(cells: np.ndarray) -> list[int]:
    waiting = {(int(y), int(x)) for y, x in np.argwhere(cells >= 0)}
    sizes = []
    while waiting:
        front = [waiting.pop()]
        size = 0
        while front:
            y, x = front.pop()
            size += 1
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in waiting and cells[near] == cells[y, x]:
                    waiting.remove(near)
                    front.append(near)
        sizes.append(size)
    return sizes


def provenance_images(index: Tensor, count: int, cell: int = 16) -> Tensor:
    """Index maps as pictures in the paper's manner: one hue a source, grey for the given picture.

    Args:
        index: ``(N, h, w)`` int64.
        count: number of sources, B; source b has hue b / B.
        cell: pixels along each side of a cell.

    Returns:
        ``(N, 3, h * cell, w * cell)`` float32 in [0, 1].
    """
    used, cells = index.cpu().unique(return_inverse=True)  # of a million sources a picture shows some tens
    hues = torch.tensor([_GIVEN if b < 0 else colorsys.hsv_to_rgb(b / count, 0.85, 0.95) for b in used.tolist()])
    colours = hues.view(-1, 3)[cells].movedim(-1, 1)  # N x 3 x h x w
    return colours.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
