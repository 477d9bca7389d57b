"""Sizes of patches and blocks: a number of cells, or a share of the grid's shorter side.

A cell of the latents covers the same number of pixels in pictures of any size. So it covers less of a face in a larger
picture, and a patch of so many cells would, too.
"""

from __future__ import annotations

from math import floor
from typing import Any, TypeVar

from ...errors import SettingError, SettingTypeError
from ...ops.grids import USUAL_SIDE, grid_scale
from ...settings import Settings, setting

__all__ = ["CELLS_OR_SHARE", "PATCH_SIZE_HELP", "STRIDE_HELP", "UNIT_HELP", "PatchSettings", "cells_of", "size_setting"]

_SIZES = "patch_size", "stride", "unit"

CELLS_OR_SHARE = (
    "a number of latent cells such as 5, or a share of the grid's shorter side such as 0.3, of 16 cells at least"
)
PATCH_SIZE_HELP = f"side of the compared patches: {CELLS_OR_SHARE}"
STRIDE_HELP = f"side of the copied blocks: {CELLS_OR_SHARE}"
UNIT_HELP = (
    "side of the squares of cells whose detail divides rows into bands, and over six of which the tone of a seam "
    "spreads: a number of cells, or a share"
)

P = TypeVar("P", bound="PatchSettings")


def size_setting(sixteenths: int | None, help: str, **declaration: Any) -> Any:
    """Declare a size: cells, or a share of the grid's shorter side; by default so many sixteenths of that side."""
    if sixteenths is not None:
        declaration["default_help"] = f"{sixteenths}/16 of the grid's shorter side"
    default = None if sixteenths is None else sixteenths / USUAL_SIDE
    return setting(default, help, above=0, limit=256, limited_by="grid", metavar="CELLS|SHARE", **declaration)


def cells_of(share: float, grid: tuple[int, int]) -> int:
    """Return a share of the shorter side of a grid ``(h, w)`` in cells: see :meth:`PatchSettings.in_cells`."""
    return max(1, floor(share * USUAL_SIDE * grid_scale(grid) + 0.5))


class PatchSettings(Settings):
    """Settings whose sizes are a number of cells, or a share of the grid's shorter side.

    A share covers the same part of a picture of any size. :meth:`in_cells` resolves it.
    """

    patch_size: int | float
    stride: int | float | None

    def check_together(self) -> None:
        patch_size, stride, _ = sizes = [getattr(self, name, None) for name in _SIZES]
        for name, size in zip(_SIZES, sizes, strict=True):
            if isinstance(size, float) and size >= 1:
                raise SettingTypeError(name, size, "a number of cells, or a share below 1.0")
        for kind in (int, float):  # a number and a share compare only on a grid
            if isinstance(stride, kind) and isinstance(patch_size, kind) and stride > patch_size:
                raise SettingError("stride", stride, f"at most patch_size ({patch_size:g})")

    def in_cells(self: P, grid: tuple[int, int]) -> P:
        """Return these settings with sizes in cells.

        A share comes to the nearest number of cells, the larger of two, at least 1. It is a share of
        :data:`~latentpatch.ops.grids.USUAL_SIDE` where the grid's shorter side is less. A stride that was a share is at
        most the patch size.

        Args:
            grid: height and width in cells.

        Raises:
            SettingError: for a stride in cells that exceeds the patch size.
        """
        sizes = {
            name: cells_of(share, grid) for name in _SIZES if isinstance(share := getattr(self, name, None), float)
        }
        if "stride" in sizes:
            sizes["stride"] = min(sizes["stride"], sizes.get("patch_size") or int(self.patch_size))
        return self.changed(**sizes) if sizes else self

    @property
    def window(self) -> int:
        """The patch size in cells, of settings that :meth:`in_cells` returned."""
        assert isinstance(self.patch_size, int)
        return self.patch_size

    @property
    def step(self) -> int:
        """The stride in cells, of settings that :meth:`in_cells` returned."""
        assert isinstance(self.stride, int)
        return self.stride
