"""The scale of latent grids; importing this module imports no torch."""

from __future__ import annotations

__all__ = ["USUAL_SIDE", "grid_scale"]

#: Shorter side in cells of the grids that settings were chosen on: 256 pixels in cells of 16.
USUAL_SIDE = 16


def grid_scale(grid: tuple[int, int]) -> float:
    """Return how many times the usual side fits the shorter side of a grid ``(h, w)``, at least 1.

    Sizes in cells times this number cover the same part of a picture. Smaller grids keep the sizes of the usual one: in
    fewer cells a patch would tell sources apart no more.
    """
    return max(1.0, min(grid) / USUAL_SIDE)
