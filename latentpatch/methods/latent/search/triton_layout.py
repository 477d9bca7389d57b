"""Layout of the sources for the Triton kernels: slabs in two int8 planes, and their squared norms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .keys import Resize
from .prepared import cut, paste

__all__ = ["Layout", "from_slabs", "to_slabs"]

#: Elements interpolated at a time.
_CHUNK = 1 << 22


class Layout:
    """The sources of a bank at one grid size.

    Args:
        keys: ``(B, h, w, r)`` int16.
        size: cells ``(h, w)`` of the grid.
        side: side of a unit, in cells.

    Attributes:
        length: length of a slab.
        slabs: ``(slabs, 2, B, length)`` int8.
        norms: ``(slabs, B)`` int32, squared norms of the slabs.
    """

    def __init__(self, keys: Tensor, size: tuple[int, int], side: int) -> None:
        count, *old, depth = keys.shape
        self.length, slabs = self.shape(depth, size, side)
        self.slabs = torch.empty((slabs, 2, count, self.length), dtype=torch.int8, device=keys.device)
        self.norms = torch.empty((slabs, count), dtype=torch.int32, device=keys.device)
        resize = Resize((old[0], old[1]), size, keys.device)
        group = max(1, _CHUNK // max(keys[0].numel(), size[0] * size[1] * depth))
        for part in (slice(first, first + group) for first in range(0, count, group)):
            slabs_of_part = to_slabs(resize(keys[part]), side, self.length)
            self.slabs[:, :, part] = slabs_of_part
            self.norms[:, part] = join_slabs(slabs_of_part).int().square().sum(2, dtype=torch.int32)

    @staticmethod
    def shape(depth: int, size: tuple[int, int], side: int) -> tuple[int, int]:
        """Return the length and number of slabs; the length is the one with the least padding."""
        vector = side * side * depth
        length = min((64, 32), key=lambda length: -(-vector // length) * length)
        return length, -(-vector // length) * -(-size[0] // side) * -(-size[1] // side)

    @classmethod
    def bytes(cls, count: int, depth: int, size: tuple[int, int], side: int) -> int:
        """Return the size of a layout in bytes."""
        length, slabs = cls.shape(depth, size, side)
        return slabs * count * (2 * length + 4)


def to_slabs(grids: Tensor, side: int, length: int) -> Tensor:
    """Split keys into units and units into slabs of two planes.

    ``(N, h, w, r)`` int16 -> ``(slabs, 2, N, length)`` int8.
    """
    units = cut(grids, side).flatten(0, 1)
    vectors = pad(units, (0, 0, 0, -units.shape[1] % length)).unflatten(1, (-1, length)).flatten(0, 1).transpose(1, 2)
    high = (vectors + 64) >> 7
    return torch.stack([high, vectors - (high << 7)], 1).to(torch.int8)


def from_slabs(slabs: Tensor, size: tuple[int, int], side: int, depth: int) -> Tensor:
    """Assemble keys from slabs: ``(slabs, 2, N, length)`` int8 -> ``(N, h, w, r)`` int16."""
    rows, columns = -(-size[0] // side), -(-size[1] // side)
    vectors = join_slabs(slabs).transpose(1, 2).unflatten(0, (rows, columns, -1)).flatten(2, 3)
    return paste(vectors[:, :, : side * side * depth], size, side)


def join_slabs(slabs: Tensor) -> Tensor:
    """Join the two planes of slabs: ``(slabs, 2, N, length)`` int8 -> ``(slabs, N, length)`` int16."""
    high, low = slabs.short().unbind(1)
    return (high << 7) + low
