"""Patch diffusion: Gaussian noise becomes a picture by the patches of the sources, without training.

A noisy grid is x = y + sigma n. When the sources y are all the pictures there are, the best guess of y is their mean,
each weighted by exp(-|x - y|^2 / 2 sigma^2). For whole grids this gives sources back. So the guess is made in windows
at the same place in all sources, and is averaged where windows overlap: the equivariance-broken local score machine of
Kamb and Ganguli (2025, section 3). Noise falls in deterministic steps (DDIM, Song et al. 2021), and windows shrink with
it. A reference gets some noise and is denoised (SDEdit, Meng et al. 2022). With a mask, the cells outside are the
reference's, with noise, at every level (RePaint, Lugmayr et al. 2022). Sweeps of resynthesis follow.

Unlike the other samplers this one is computed in floating point, here of 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from .resynthesis import resynthesis
from .sources import BoolArray, IntArray, offset_costs

__all__ = ["patch_diffusion"]

FloatArray = npt.NDArray[np.float64]


def patch_diffusion(
    keys: IntArray,  # (B, h, w, r)
    uniforms: Sequence[float],  # 1 a cell
    *,
    levels: int = 24,
    start_noise: float = 5.0,
    end_noise: float = 0.0375,
    windows: Sequence[int] = (16, 11, 9, 7, 5, 5, 3, 3),
    strength: float | None = None,
    sweeps: int = 2,
    max_share: float | None = None,
    patch_size: int = 4,
    stride: int = 1,
    reference: IntArray | None = None,  # (h, w, r)
    mask: BoolArray | None = None,  # (h, w), True where cells are filled
    pictures: IntArray | None = None,  # (B,) number of the picture that a source is an augmentation of
    squared_offsets: IntArray | None = None,  # (B,) cells that each source is moved by, squared
    offset_cost: float = 0.0,
) -> IntArray:
    """Return the source of each cell of one picture, ``(h, w)``; -1 outside the mask."""
    count, height, width, depth = keys.shape
    area = height * width
    pictures = np.arange(count) if pictures is None else pictures
    costs = offset_costs(keys, squared_offsets, offset_cost)
    if max_share is None:  # 0.3, or one and a half even shares
        max_share = min(1.0, max(0.3, 1.5 / (int(pictures.max()) + 1)))
    if strength is None:
        strength = 0.5 if reference is not None and mask is None else 1.0
    if reference is None:
        strength = 1.0

    # Standard deviations fall geometrically; each side of a window serves an equal part of the levels.
    ratio = (end_noise / start_noise) ** (1 / max(1, levels - 1))
    sigmas = [standard_deviation(keys) * start_noise * ratio**level for level in range(levels)]
    first = levels - ceil(strength * levels)

    flat = keys.reshape(count, area, depth).astype(float)
    noise = gaussian(uniforms, depth)  # (area, r)
    clean = np.zeros((area, depth)) if reference is None else reference.reshape(area, depth).astype(float)
    x = clean + sigmas[first] * noise
    penalties = np.zeros(count)  # makes sources less likely whose pictures weigh more than their share
    mean, weights = x, np.empty(0)
    for level in range(first, levels):
        cover = windows_of(height, width, windows[level * len(windows) // levels])
        mean, weights, shares = posterior(x, flat, costs, sigmas[level], cover, penalties)
        weighs = np.bincount(pictures, shares)[pictures]  # (B,), by picture
        penalties += [log(max(1.0, share / max_share)) for share in weighs]
        if level + 1 < levels:
            x = mean + (x - mean) * (sigmas[level + 1] / sigmas[level])
            if mask is not None:
                x = np.where(mask.reshape(area, 1), x, clean + sigmas[level + 1] * noise)

    if sweeps and mask is None:  # sweeps take the nearest source, so they need no draws
        blocks = ceil(height / stride) * ceil(width / stride)
        return resynthesis(
            keys,
            np.zeros(1 + blocks).tolist(),
            patch_size=patch_size,
            stride=stride,
            neighbors=1,
            sweeps=sweeps,
            max_share=max_share,
            donors=1.0,
            symmetric=False,
            reference=np.rint(mean).astype(np.int64).reshape(height, width, depth),
            pictures=pictures,
            squared_offsets=squared_offsets,
            offset_cost=offset_cost,
        )
    likeliest = weights.argmax(0).reshape(height, width)
    return likeliest if mask is None else np.where(mask, likeliest, -1)


def posterior(
    x: FloatArray,  # (area, r) noisy
    keys: FloatArray,  # (B, area, r)
    costs: IntArray,  # (B,) of each cell, added to squared distances
    sigma: float,
    cover: BoolArray,  # (area, area), True where the window of a row's cell covers a column's
    penalties: FloatArray,  # (B,)
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mean of the sources behind a noisy grid, ``(area, r)``, and what it is made of.

    Also the weight of each source in each cell, ``(B, area)``, and in all windows together, ``(B,)``.
    """
    distances = ((x - keys) ** 2).sum(2) + costs[:, None]  # (B, area)
    logits = -(distances @ cover.T) / (2 * sigma**2) - penalties[:, None]  # (B, windows)
    likelihoods = np.exp(logits - logits.max(0))
    in_windows = likelihoods / likelihoods.sum(0)
    in_cells = in_windows @ (cover / cover.sum(0))  # the average of the windows that cover a cell
    return np.einsum("bc,bcr->cr", in_cells, keys), in_cells, in_windows.mean(1)


def windows_of(height: int, width: int, side: int) -> BoolArray:
    """Return which cells the window around each cell covers, ``(area, area)``; ``side`` is in 1/16 of the grid's sides.

    Of an even side the odd row and column lie after the cell.
    """
    rows, columns = np.indices((height, width)).reshape(2, -1)

    def near(at: IntArray, length: int) -> BoolArray:
        cells = max(1, round(side * length / 16))
        offset = at[None, :] - at[:, None]
        within: BoolArray = (offset >= -((cells - 1) // 2)) & (offset <= cells // 2)
        return within

    return near(rows, height) & near(columns, width)


def standard_deviation(keys: IntArray) -> float:
    """Return the standard deviation of keys as vectors, at least 1: the unit of noise."""
    return max(1.0, sqrt(keys.shape[3] * float(keys.var())))


def gaussian(uniforms: Sequence[float], depth: int) -> FloatArray:
    """Return normal numbers, ``depth`` for each uniform: ``(cells, depth)``.

    The first 32 bits of a uniform, with the cell and the component, are a counter for splitmix64 (Steele et al. 2014),
    whose 52 upper bits are another uniform. The inverse of the normal distribution turns it into a normal number.
    """
    ones = 2**64 - 1
    result = np.empty((len(uniforms), depth))
    for cell, component in np.ndindex(*result.shape):
        word = min(max(int(float(uniforms[cell]) * 2**32), 0), 2**32 - 1)
        state = ((word << 31) + cell * depth + component + 1) * 0x9E3779B97F4A7C15 & ones
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & ones
        state = (state ^ state >> 27) * 0x94D049BB133111EB & ones
        state ^= state >> 31
        result[cell, component] = NormalDist().inv_cdf(((state >> 12) + 0.5) / 2**52)
    return result
