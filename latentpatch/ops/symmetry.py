"""Symmetric pictures: the part that decides the rest, and the rest from it; importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import SettingError
from ..validation import check_choice

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SYMMETRIES", "fundamental_size", "unfold_symmetric"]

#: Symmetries of a picture, with what each says.
SYMMETRIES = {
    "mirrored": "left is right and top is bottom, mirrored",
    "p4m": "mirrored, and the same about both diagonals, for squares",
}


def fundamental_size(size: Sequence[int], symmetry: str) -> tuple[int, int]:
    """Return height and width of the top left part that decides a symmetric picture.

    Raises:
        SettingError: for an unknown symmetry, and for p4m where the picture is no square.
    """
    check_choice("symmetric", symmetry, SYMMETRIES)
    height, width = size
    if symmetry == "p4m" and height != width:
        raise SettingError("size", (height, width), "a square for the symmetry p4m")
    return -(-height // 2), -(-width // 2)


def unfold_symmetric(parts: Tensor, size: Sequence[int], symmetry: str, dims: tuple[int, int]) -> Tensor:
    """Return whole pictures, or maps, of their top left parts.

    Args:
        parts: of the size that :func:`fundamental_size` returns.
        size: height and width of the whole.
        symmetry: of :data:`SYMMETRIES`.
        dims: of rows and columns.
    """
    import torch

    if symmetry == "p4m":
        parts = parts.movedim(dims, (0, 1))
        side = torch.arange(len(parts), device=parts.device)
        is_above = (side[:, None] <= side).view(len(parts), len(parts), *[1] * (parts.ndim - 2))
        parts = torch.where(is_above, parts, parts.transpose(0, 1)).movedim((0, 1), dims)
    for dim, length in zip(dims, size, strict=True):
        rest = parts.narrow(dim, 0, length - parts.shape[dim]).flip(dim)
        parts = torch.cat([parts, rest], dim)
    return parts
