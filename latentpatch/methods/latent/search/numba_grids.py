"""Loops over grids, compiled by Numba: grids to units and back, and resizing of keys."""

from __future__ import annotations

from ....runs.system import njit

__all__ = ["compiled", "cut", "paste", "resize"]

# Contraction to fused multiply-add changes no result, because all products are exact.
compiled = njit(fastmath={"contract"}, error_model="numpy")


@compiled
def cut(grids, side, units):
    """Split grids into units.

    ``grids (N, h, w, r)`` are read, ``units (N, units, side^2 r)`` are written, with zeros beyond the border.
    """
    images, height, width, depth = grids.shape
    columns = -(-width // side)
    units[:] = 0
    for image in range(images):
        for row in range(height):
            for column in range(width):
                unit, first = _position(row, column, columns, side, depth)
                for k in range(depth):
                    units[image, unit, first + k] = grids[image, row, column, k]


@compiled
def paste(units, side, grids):
    """Assemble grids from units.

    ``units (N, units, side^2 r)`` are read, ``grids (N, h, w, r)`` are written.
    """
    images, height, width, depth = grids.shape
    columns = -(-width // side)
    for image in range(images):
        for row in range(height):
            for column in range(width):
                unit, first = _position(row, column, columns, side, depth)
                for k in range(depth):
                    grids[image, row, column, k] = units[image, unit, first + k]


@compiled
def _position(row, column, columns, side, depth):
    """Return the unit that contains a cell, and the index of the cell's first component in it."""
    return row // side * columns + column // side, (row % side * side + column % side) * depth


@compiled
def resize(grids, resized):
    """Interpolate grids as :func:`~latentpatch.methods.latent.search.keys.resize_keys` does.

    ``grids (N, h, w, r)`` are read, ``resized (N, h', w', r)`` is written; both are int16.
    """
    images, height, width, depth = resized.shape
    old_height, old_width = grids.shape[1:3]
    whole = 4 * height * width
    for row in range(height):
        top, down = _interpolation(row, old_height, height)
        bottom = min(top + 1, old_height - 1)
        for column in range(width):
            left, across = _interpolation(column, old_width, width)
            right = min(left + 1, old_width - 1)
            for image in range(images):
                for k in range(depth):
                    above = (2 * width - across) * grids[image, top, left, k] + across * grids[image, top, right, k]
                    below = (2 * width - across) * grids[image, bottom, left, k]
                    below += across * grids[image, bottom, right, k]
                    total = (2 * height - down) * above + down * below
                    resized[image, row, column, k] = (2 * total + whole) // (2 * whole)


@compiled
def _interpolation(i, old, new):
    """Return the old cell before sample ``i`` and the weight of the next cell, times ``2 * new``."""
    position = min(max((2 * i + 1) * old - new, 0), 2 * new * (old - 1))
    return position // (2 * new), position % (2 * new)
