"""Losses of FewGAN that no other method has: structural similarity and spatial continuity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["continuity_loss", "structural_similarity"]

_WINDOW, _SIGMA = 11, 1.5  # pixels, of the Gaussian window
_LUMINANCE_CONSTANT, _CONTRAST_CONSTANT = 0.01**2, 0.03**2  # for pixels in [0, 1]
_LUMA = (0.299, 0.587, 0.114)


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean structural similarity of the luminance of pictures (Wang et al., IEEE TIP 2004).

    The similarity is that of grey pictures, as in its paper, so that colors are free.

    Args:
        first, second: ``(N, 3, H, W)`` in [-1, 1]; the window shrinks to the shorter side where that is smaller.

    Returns:
        A scalar in [-1, 1]; 1 for equal pictures.
    """
    first, second = (each.float() if each.dtype == torch.bfloat16 else each for each in (first, second))
    luma = first.new_tensor(_LUMA).view(1, 3, 1, 1) / 2
    a, b = (((images + 1) * luma).sum(1, keepdim=True) for images in (first, second))
    side = min(_WINDOW, *a.shape[2:])
    places = torch.arange(side, dtype=a.dtype, device=a.device) - (side - 1) / 2
    window = torch.softmax(-(places**2) / (2 * _SIGMA**2), 0)
    kernel = (window[:, None] * window).view(1, 1, side, side)
    with torch.autocast(a.device.type, enabled=False):  # differences of squares need all their digits
        mean_a, mean_b, aa, bb, ab = (F.conv2d(each, kernel) for each in (a, b, a * a, b * b, a * b))
    variance_a, variance_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _LUMINANCE_CONSTANT) / (mean_a**2 + mean_b**2 + _LUMINANCE_CONSTANT)
    return (luminance * (2 * covariance + _CONTRAST_CONSTANT) / (variance_a + variance_b + _CONTRAST_CONSTANT)).mean()


def continuity_loss(encoded: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbors, down plus across (Kim et al., IEEE TIP 2020).

    FewGAN's paper sums over places and channels; the mean, as in the code of Kim et al., does not depend on the size.

    Args:
        encoded: ``(N, C, h, w)``.
    """
    down = (encoded[:, :, 1:] - encoded[:, :, :-1]).abs().mean()
    return down + (encoded[..., 1:] - encoded[..., :-1]).abs().mean()
