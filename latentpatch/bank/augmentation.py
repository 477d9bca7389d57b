"""Variants of a source: its mirror image, and copies moved by a few cells for sources that are not registered.

Every variant is a source of its own in the bank, right after the picture it is of, so that samplers, files and index
maps hold it as they hold any. What a picture took from a source is what it took from all of its variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..validation import check_integer, check_number

__all__ = ["DEFAULT_OFFSET_COST", "Variants"]

DEFAULT_OFFSET_COST = 0.05
_MOST_OFFSETS = 4  # 81 copies of a source
_MOST_COST = 10


@dataclass(frozen=True)
class Variants:
    """How a source enters a bank.

    Attributes:
        mirrored: whether it does as its mirror image, too: the picture is flipped and encoded.
        offsets: by how many cells it is moved, down or up and right or left, to enter as copies, too; 0 to 4. The
            latent grid is moved, and its edge repeated.
        offset_cost: what every cell that is compared with a copy costs, for a copy moved by one cell, as part of the
            mean squared distance of a cell of the sources to the mean of all; it grows with the square of the way.
    """

    mirrored: bool = False
    offsets: int = 0
    offset_cost: float = DEFAULT_OFFSET_COST

    def __post_init__(self) -> None:
        if not isinstance(self.mirrored, bool):
            raise TypeError(f"mirrored {self.mirrored!r}: True or False is expected")
        check_integer("offsets", self.offsets, 0)
        if self.offsets > _MOST_OFFSETS:
            raise ValueError(f"offsets {self.offsets}: at most {_MOST_OFFSETS} is expected")
        check_number("offset_cost", self.offset_cost, 0, _MOST_COST)

    @property
    def count(self) -> int:
        """Variants of one source, itself among them: it is the first."""
        return (2 if self.mirrored else 1) * len(self.moves)

    @cached_property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """Cells down and right that the copies are moved by, the shortest way first, so that ties go to it."""
        steps = range(-self.offsets, self.offsets + 1)
        return tuple(sorted(product(steps, steps), key=lambda way: (way[0] ** 2 + way[1] ** 2, way)))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the ids of a source's variants end in, in order."""
        moved = ["" if way == (0, 0) else f"{way[0]:+d}{way[1]:+d}" for way in self.moves]
        turned = ["", "mirrored"] if self.mirrored else [""]
        return tuple(f"~{kind}{move}" if kind or move else "" for kind in turned for move in moved)

    def ids(self, names: Sequence[str]) -> list[str]:
        """Ids of all variants of sources: ``NAME``, ``NAME~+1-1``, ``NAME~mirrored``, ``NAME~mirrored+1-1``."""
        suffixes = self.suffixes
        return [name + suffix for name in names for suffix in suffixes]

    def sources_of(self, index: Tensor) -> Tensor:
        """Numbers of the sources that positions in the bank are variants of; -1 stays."""
        return index if self.count == 1 else index.div(self.count, rounding_mode="floor")

    def squared_offsets(self) -> Tensor:
        """Squared ways, in cells, that a source's variants are moved by: ``(count,)`` int64."""
        ways = [down**2 + right**2 for down, right in self.moves]
        return torch.tensor(ways * (2 if self.mirrored else 1))

    def moved(self, grids: Tensor) -> Tensor:
        """Copies of latent grids: ``(N, h, w, q)`` -> ``(N, moves, h, w, q)``."""
        if not self.offsets:
            return grids[:, None]
        height, width = grids.shape[1:3]
        rows, columns = torch.arange(height, device=grids.device), torch.arange(width, device=grids.device)
        return torch.stack(
            [
                grids[:, (rows - down).clamp(0, height - 1)][:, :, (columns - right).clamp(0, width - 1)]
                for down, right in self.moves
            ],
            dim=1,
        )

    def record(self) -> dict[str, Any]:
        """As JSON holds them."""
        return asdict(self)
