"""Augmentation of sources: mirror images, and copies moved by a few cells for sources that are not registered.

Every copy is a source of its own in the bank, right after the image it is of, so that samplers, files and index
maps treat it like any other. Shares of a source add up over all of its copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..validation import check_flag, check_integer, check_number

__all__ = ["DEFAULT_OFFSET_COST", "Variants"]

DEFAULT_OFFSET_COST = 0.05
_MAX_OFFSETS = 4  # cells; 81 copies of a source
_MAX_OFFSET_COST = 10


@dataclass(frozen=True)
class Variants:
    """The copies of each image that enter a bank.

    Attributes:
        mirrored: also the mirror image: the image is flipped and encoded.
        offsets: also copies moved by up to this many cells, down or up and right or left; 0 to 4. The
            latent grid is moved, and its edge repeated.
        offset_cost: cost of each cell compared with a copy moved by one cell, in units of the
            mean squared distance of a cell of the sources to the mean of all; it grows with the squared offset.
    """

    mirrored: bool = False
    offsets: int = 0
    offset_cost: float = DEFAULT_OFFSET_COST

    def __post_init__(self) -> None:
        check_flag("mirrored", self.mirrored)
        check_integer("offsets", self.offsets, 0, _MAX_OFFSETS)
        check_number("offset_cost", self.offset_cost, 0, _MAX_OFFSET_COST)

    @property
    def count(self) -> int:
        """Number of copies of one image; the image itself is the first."""
        return (2 if self.mirrored else 1) * len(self.moves)

    @cached_property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """Offsets of the copies, in cells down and right, the shortest first, so that ties go to it."""
        steps = range(-self.offsets, self.offsets + 1)
        return tuple(sorted(product(steps, steps), key=lambda move: (move[0] ** 2 + move[1] ** 2, move)))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the ids of an image's copies, in order."""
        moves = ["" if move == (0, 0) else f"{move[0]:+d}{move[1]:+d}" for move in self.moves]
        flips = ["", "mirrored"] if self.mirrored else [""]
        return tuple(f"~{flip}{move}" if flip or move else "" for flip in flips for move in moves)

    def ids(self, names: Sequence[str]) -> list[str]:
        """Return the ids of all copies: ``NAME``, ``NAME~+1-1``, ``NAME~mirrored``, ``NAME~mirrored+1-1``."""
        suffixes = self.suffixes
        return [name + suffix for name in names for suffix in suffixes]

    def check_ids(self, names: Sequence[str]) -> None:
        """Refuse images with the name of another one's copy.

        Raises:
            SettingError: naming both.
        """
        copies = {copy: name for name in names for copy in self.ids([name])[1:]}
        for name in names:
            if name in copies:
                wanted = f"another name than that of a copy of {copies[name]!r}: rename it, or leave out copies"
                raise SettingError("ids", name, wanted)

    def sources_of(self, index: Tensor) -> Tensor:
        """Return the numbers of the images that positions in the bank are copies of; -1 stays."""
        return index if self.count == 1 else index.div(self.count, rounding_mode="floor")

    def squared_offsets(self) -> Tensor:
        """Return the squared offsets, in cells, of an image's copies: ``(count,)`` int64."""
        squares = [down**2 + right**2 for down, right in self.moves]
        return torch.tensor(squares * (2 if self.mirrored else 1))

    def moved(self, grids: Tensor) -> Tensor:
        """Return the moved copies ``(N, moves, h, w, q)`` of latent grids ``(N, h, w, q)``."""
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
        """Return the fields as a JSON record."""
        return asdict(self)
