"""Latents of pictures, in which patches are compared and copied instead of in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ...autoencoders.registry import Autoencoder, load_autoencoder
from ...errors import SettingError
from ...io.channels import with_channels

__all__ = ["CELL", "LatentSpace", "cells_of", "pixel_offsets"]

#: Pixels of a cell's side: the grid of taef2, which the autoencoder folds to half of that.
CELL = 8
_FOLD = 2  # cells that the autoencoder folds into one, along each side


def cells_of(size: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of cells that cover a picture."""
    return -(-size[0] // CELL), -(-size[1] // CELL)


@cache
def _network(name: str) -> Autoencoder:
    return load_autoencoder(name)


class LatentSpace:
    """Latents of some pictures, moved into [0, 1] by one scale for all channels, so that distances keep their meaning.

    Args:
        name: of the autoencoder.
        pictures: ``(C, H, W)`` in [0, 1], colored or grey.

    Attributes:
        latents: of the pictures, ``(32, rows, columns)`` each.
    """

    def __init__(self, name: str, pictures: Sequence[Tensor]) -> None:
        if len(pictures[0]) % 2 == 0:
            raise SettingError("space", name, "pixels for pictures with transparency")
        self.name, self.channels = name, len(pictures[0])
        latents = [self._encoded(each) for each in pictures]
        self.low = min(float(each.min()) for each in latents)
        self.range = max(max(float(each.max()) for each in latents) - self.low, 1e-6)
        self.latents = [self._scaled(each) for each in latents]

    def encode(self, picture: Tensor) -> Tensor:
        """Return the latents of a further picture; those beyond the range of the others are cut."""
        return self._scaled(self._encoded(picture))

    def decode(self, latents: Tensor, size: Sequence[int]) -> Tensor:
        """Return the picture ``(C, *size)`` of latents ``(32, rows, columns)``."""
        rows, columns = latents.shape[1:]
        padded = F.pad(latents[None], (0, columns % _FOLD, 0, rows % _FOLD), mode="replicate")
        folded = F.pixel_unshuffle(padded * self.range + self.low, _FOLD)
        picture = _network(self.name).decode(folded)[0, :, : size[0], : size[1]]
        return with_channels(picture, self.channels)

    def _encoded(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        side = CELL * _FOLD
        padded = F.pad(with_channels(picture, 3)[None], (0, -width % side, 0, -height % side), mode="replicate")
        latents = F.pixel_shuffle(_network(self.name).encode(padded), _FOLD)[0]
        rows, columns = cells_of((height, width))
        return latents[:, :rows, :columns]

    def _scaled(self, latents: Tensor) -> Tensor:
        return ((latents - self.low) / self.range).clamp(0, 1)


def pixel_offsets(offsets: Tensor, sources: Sequence[Sequence[int]], size: Sequence[int]) -> Tensor:
    """Return the source, row and column of each pixel of a result, from those of each of its cells.

    Args:
        offsets: ``(rows, columns, 3)`` int64: source, row and column of cells.
        sources: heights and widths of the sources in pixels.
        size: height and width of the result in pixels.

    Returns:
        ``(*size, 3)`` int64: source, row and column in pixels.
    """
    down, right = (torch.arange(n, device=offsets.device) for n in size)
    found = offsets[down // CELL][:, right // CELL].clone()
    limits = torch.tensor([tuple(each) for each in sources], device=offsets.device)[found[..., 0]] - 1
    inside = torch.stack(torch.broadcast_tensors((down % CELL)[:, None], right % CELL), -1)
    found[..., 1:] = torch.minimum(found[..., 1:] * CELL + inside, limits)
    return found
