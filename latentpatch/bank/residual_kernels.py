"""Residuals of luma and chroma added to an image in one pass, compiled by Numba; :mod:`.residuals` calls it."""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ..runs.system import njit

__all__ = ["add"]

_compiled = njit(error_model="numpy")


@_compiled
def add(image, residuals, factors, weights, colors, result):
    """Write an image with residuals to ``result (3, H, W)``; all arrays are contiguous.

    Args:
        image: ``(3, H, W)`` float32.
        residuals: ``(4, h, w, 4, d / 4)`` int8, of the four sources of each quarter of a cell.
        factors: ``(4, h, w, 4)`` float32, of the residuals.
        weights: ``(4, 4, d / 4)`` float32, of the sources in a quarter.
        colors: ``(3, 2)`` float32, what each color less luma takes of red and of blue less luma.
        result: ``(3, H, W)`` float32, is written.
    """
    half = image.shape[1] // residuals.shape[1] // 2
    mixed = np.empty(residuals.shape[4], np.float32)
    luma = np.empty((half, image.shape[2]), np.float32)
    chroma = np.empty((half // 2, 2, image.shape[2]), np.float32)  # each value twice
    for row in range(image.shape[1] // half):
        for column in range(image.shape[2] // half):
            y, x, part = row // 2, column // 2, row % 2 * 2 + column % 2
            for k in range(4):
                _mix(residuals[k, y, x, part], factors[k, y, x, part], weights[k, part], k == 0, mixed)
            _spread(mixed, half, column * half, luma, chroma)
        for down in range(half):
            y, (red, blue) = row * half + down, chroma[down // 2]
            for c in range(3):
                _add_row(image[c, y], luma[down], red, blue, colors[c], result[c, y])


@intrinsic
def _fused(_context, a, b, c):
    """Return a b + c of float32, rounded once, as torch.addcmul does."""
    return types.float32(a, b, c), lambda context, builder, signature, values: builder.fma(*values)


@_compiled
def _mix(residuals, factor, weights, is_first, mixed):
    """Write the weighted residuals of a source in a quarter of a cell, or add them."""
    for v in range(len(mixed)):
        value = np.float32(residuals[v]) * factor
        mixed[v] = value * weights[v] if is_first else _fused(value, weights[v], mixed[v])  # type: ignore[call-arg]


@_compiled
def _spread(mixed, half, left, luma, chroma):
    """Write the values of a quarter of a cell to their places in rows of pixels."""
    for down in range(half):
        row = luma[down]
        for right in range(half):
            row[left + right] = mixed[down * half + right]
    quarter = half // 2
    for channel in range(2):
        first = half * half + channel * quarter * quarter
        for down in range(quarter):
            row = chroma[down, channel]
            for right in range(half):
                row[left + right] = mixed[first + down * quarter + right // 2]


@_compiled
def _add_row(image, luma, red, blue, color, result):
    """Write a row of pixels of one color."""
    for x in range(len(luma)):
        value = image[x] + (red[x] * color[0] + blue[x] * color[1]) + luma[x]
        result[x] = min(max(value, np.float32(0)), np.float32(1))
