"""Estimate how noisy a picture is: the standard deviation of white Gaussian noise.

Patches of clean pictures lie near few directions; noise is as strong in all others. So the smallest eigenvalues of the
covariance of patches are the variance of the noise, also in textures, where the median absolute deviation of a Haar or
Laplacian detail takes the texture for noise (Chen, Zhu & Heng, "An Efficient Statistical Method for Image Noise Level
Estimation", ICCV 2015, algorithm 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..runs.defaults import plain_torch
from .patches import extract_patches, patch_grid

__all__ = ["SIDE", "noise_level"]

#: Side of the patches, in pixels.
SIDE = 5

_ROWS = 64  # of patches, whose products are summed at a time


@plain_torch()
def noise_level(picture: Tensor, visible: Tensor | None = None) -> float:
    """Return the standard deviation of the noise of a picture, in the unit of its pixels.

    In grey pictures full of texture the estimate is some levels too high: there are fewer directions without texture.
    Noise of neighboring pixels that is alike, as after resizing or in photographs as JPEG, is taken for less. So is
    noise that was clipped at black and white.

    Args:
        picture: ``(C, H, W)`` with sides of at least :data:`SIDE` pixels.
        visible: ``(H, W)`` bool, the pixels that count; None for all.

    Returns:
        0 without a patch that is visible as a whole.
    """
    products = torch.zeros(len(picture) * SIDE**2 + 1, len(picture) * SIDE**2 + 1, dtype=torch.float64)
    for top in range(0, patch_grid(picture.shape[1:], SIDE)[0], _ROWS):
        rows = slice(top, top + _ROWS + SIDE - 1)
        patches = extract_patches(picture[None, :, rows], SIDE).flatten(0, 2).cpu().double()
        if visible is not None:
            patches = patches[extract_patches(visible[None, None, rows].float(), SIDE).flatten(0, 2).amin(1) > 0]
        patches = torch.cat([patches, patches.new_ones(len(patches), 1)], 1)
        products += patches.T @ patches
    count = float(products[-1, -1])
    if not count:
        return 0.0
    mean = products[-1, :-1] / count
    values = torch.linalg.eigvalsh(products[:-1, :-1] / count - mean[:, None] * mean).clamp_(min=0)
    for number in range(len(values), 0, -1):  # leave out the largest until the rest are spread alike about their mean
        rest = values[:number]
        if rest.mean() <= rest.quantile(0.5):
            break
    return float(rest.mean().sqrt())
