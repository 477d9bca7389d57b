"""The raster sampler's reference for tests that hold keys as nested lists."""

from __future__ import annotations

import numpy as np

from latentpatch.methods.latent import reference as slow

Grid = list[list[list[int]]]


def interpolate(grid: Grid, height: int, width: int) -> Grid:
    """Bring a grid to another size, see :func:`latentpatch.methods.latent.reference.interpolate`."""
    return slow.interpolate(np.array(grid, dtype=np.int64), (height, width)).tolist()


def slow_raster(
    keys: list[Grid],
    uniforms: list[float],
    patch: int,
    neighbours: int,
    scales: int,
    stride: int | None = None,
    start: int | None = None,
    reference: Grid | None = None,
    mask: list[list[bool]] | None = None,
) -> list[list[int]]:
    """Make one image, see :func:`latentpatch.methods.latent.reference.raster`."""
    index = slow.raster(
        np.array(keys, dtype=np.int64),
        uniforms,
        patch_size=patch,
        stride=stride,
        neighbors=neighbours,
        scales=scales,
        start_size=start,
        reference=None if reference is None else np.array(reference, dtype=np.int64),
        mask=None if mask is None else np.array(mask, dtype=bool),
    )
    return index.tolist()
