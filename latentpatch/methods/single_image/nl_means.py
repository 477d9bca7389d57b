"""NL-means: each pixel becomes the mean of the pixels whose patches are alike (Buades, Coll & Morel, CVPR 2005).

The weight of pixel j for pixel i is ``exp(-d(i, j) / (h sigma)^2)``, where d is the mean squared difference of the
patches about them (equations 2 and 3; a uniform instead of a Gaussian window). This is attention,
``softmax(scores) V``: queries and keys are patches, values are pixels, and ``d = |q|^2 - 2 q k + |k|^2`` over the
patch's numbers, of which softmax leaves ``2 q k - |k|^2``. Only keys in a window about the pixel take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.patch_windows import row_blocks, window_distances, window_values
from .denoising import PatchDenoiser, Progress
from .denoising_settings import NLMeansSettings

__all__ = ["NLMeans", "nl_means"]


class NLMeans(PatchDenoiser):
    """Averages pixels whose patches are alike: attention of a picture to itself (Buades et al., CVPR 2005)."""

    name: ClassVar[str] = "nl-means"
    Settings: ClassVar[type[NLMeansSettings]] = NLMeansSettings

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: NLMeansSettings
    ) -> float:
        """Return the time of all shifts within the window."""
        return 4e-8 * size[0] * size[1] * settings.window**2

    def clean_patches(self, colors: Tensor, sigma: float, settings: NLMeansSettings, progress: Progress) -> Tensor:
        """Return the means."""
        return nl_means(colors, settings.bandwidth * sigma, settings.patch_size, settings.window // 2, progress)


def nl_means(
    picture: Tensor, scale: float, side: int = 3, radius: int = 10, progress: Progress | None = None
) -> Tensor:
    """Return the mean of the pixels about each pixel, weighted by how alike their patches are.

    Args:
        picture: ``(C, H, W)`` float32; at the edges patches are mirrored.
        scale: root mean square difference of patches at which a weight has fallen to 1/e.
        side: of the patches, odd.
        radius: largest distance of a pixel that takes part, in rows and in columns.
        progress: called after each block of rows.
    """
    height, width = picture.shape[1:]
    padded = F.pad(picture, (side // 2,) * 4, mode="reflect")
    result = torch.zeros_like(picture)
    for rows in row_blocks(height, width, radius):
        scores = window_distances(padded, side, radius, rows).div_(-(scale**2))
        weights = scores.flatten(0, 1).movedim(0, -1).contiguous().softmax(-1)  # the same bits with any threads
        weights = weights.movedim(-1, 0).view_as(scores)
        result[:, rows.start : rows.stop] = window_values(picture, weights, rows)
        if progress is not None:
            progress(rows.stop, height, result)
    return result
