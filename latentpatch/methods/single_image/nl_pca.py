"""NL-PCA: groups of similar patches lose the principal components that are noise.

For patches on a grid, the nearest patches of a window form a group (Zhang, Dong, Zhang & Shi, "Two-stage image
denoising by principal component analysis with local pixel grouping", Pattern Recognition 2010; Deledalle, Salmon &
Dalalyan, "Image denoising with patch based PCA: local versus global", BMVC 2011). A group is a matrix of low rank plus
noise, so its singular values are shrunk as is best for that model (Gavish & Donoho, "Optimal Shrinkage of Singular
Values", IEEE Trans. Inf. Theory 2017, equation 7). A second pass finds groups and components in the result of the
first, and weighs the noisy components as Wiener's filter does (Lebrun, Buades & Morel, "A Nonlocal Bayesian Image
Denoising Algorithm", SIAM J. Imaging Sci. 2013, second step).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from ...ops.patch_nearest import BLOCK_BYTES
from ...ops.patch_windows import row_blocks, window_distances
from ...ops.patches import patch_grid
from ...runs.threads import one_thread
from .denoising import PatchDenoiser, Progress
from .denoising_settings import NLPCASettings

__all__ = ["NLPCA", "shrink", "wiener"]


_LEAST = 1e-6  # least deviation of a noise, of pixels in [0, 1]: far less than can be seen


class NLPCA(PatchDenoiser):
    """Takes the noise from the principal components of groups of similar patches (Zhang et al., 2010)."""

    name: ClassVar[str] = "nl-pca"
    Settings: ClassVar[type[NLPCASettings]] = NLPCASettings

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: NLPCASettings
    ) -> float:
        """Return the time to group patches, and for the components of the groups."""
        group = 1.7e-7 * (settings.window**2 + settings.neighbors * settings.patch_size**2)
        return settings.passes * group * size[0] * size[1] / settings.stride**2

    def clean_patches(self, colors: Tensor, sigma: float, settings: NLPCASettings, progress: Progress) -> Tensor:
        """Return the mean of all groups' patches, after each pass."""
        result: Tensor | None = None
        for done in range(settings.passes):

            def report(part: int, parts: int, so_far: Tensor, done: int = done) -> None:
                progress(done * parts + part, settings.passes * parts, so_far)

            result = _one_pass(colors, result, max(sigma, _LEAST), settings, report)
        assert result is not None
        return result


def _one_pass(noisy: Tensor, guide: Tensor | None, sigma: float, settings: NLPCASettings, progress: Progress) -> Tensor:
    """Return the noisy picture cleaned; groups and weights are those of the guide, where there is one."""
    channels, height, width = noisy.shape
    side, radius = settings.patch_size, settings.window // 2
    searched = noisy if guide is None else guide
    lines, columns = patch_grid((height, width), side)
    across = _every(columns, settings.stride)
    k = min(settings.neighbors, min(radius + 1, lines) * min(radius + 1, columns))  # a corner has no more
    within = (torch.arange(side)[:, None] * width + torch.arange(side)).flatten()
    shifts = torch.arange(-radius, radius + 1)
    shifts = (shifts[:, None] * width + shifts).flatten()
    total, count = noisy.new_zeros(height * width, channels), noisy.new_zeros(height * width, 1)
    flat = [each.flatten(1).T for each in (noisy, searched)]
    wanted = set(_every(lines, settings.stride).tolist())
    for rows in row_blocks(lines, columns, radius):
        own = torch.tensor([row for row in rows if row in wanted], dtype=torch.int64)
        if not len(own):
            continue
        distances = window_distances(searched, side, radius, rows)[:, :, own - rows.start][..., across]
        distances[radius, radius] = -1  # so that each patch is in its group, also where all are equal
        distances = distances.flatten(0, 1).flatten(1).T  # (groups, shifts)
        corners = (own[:, None] * width + across).flatten()
        size = max(1, BLOCK_BYTES // (4 * k * channels * side**2 * 4))
        for corner, each in zip(corners.split(size), distances.split(size), strict=True):
            near = each.topk(k, largest=False).indices
            pixels = (corner[:, None] + shifts[near])[..., None] + within  # (groups, k, side^2)
            patches = flat[0][pixels].flatten(2)
            cleaned = shrink(patches, sigma) if guide is None else wiener(patches, flat[1][pixels].flatten(2), sigma)
            at = pixels.flatten()
            total.index_add_(0, at, cleaned.reshape(-1, channels))
            count.index_add_(0, at, torch.ones(len(at), 1))
        progress(rows.stop, lines, (total / count.clamp(min=1)).T.view_as(noisy))
    return (total / count).T.view_as(noisy)


def _every(count: int, stride: int) -> Tensor:
    """Return every so many positions, and the last."""
    return torch.tensor(sorted({*range(0, count, stride), count - 1}))


def shrink(groups: Tensor, sigma: float) -> Tensor:
    """Return groups ``(G, k, d)`` without noise: singular values about the mean shrunk for the least squared error.

    With the aspect ratio b of the matrix, of values y in units of the noise's ``sigma sqrt(n)``, n its longer side,
    ``sqrt((y^2 - b - 1)^2 - 4 b) / y`` is left, and 0 up to ``1 + sqrt(b)``, the largest value of noise alone.
    """
    mean = groups.mean(1, keepdim=True)
    centered = groups - mean
    short, long = sorted((groups.shape[1] - 1, groups.shape[2]))
    ratio = short / long
    squares, vectors = _components(centered, short)
    squares = squares / (sigma**2 * long)
    is_signal = squares > (1 + sqrt(ratio)) ** 2
    kept = ((squares - ratio - 1).square() - 4 * ratio).clamp(min=0).sqrt() / squares.clamp(min=1e-12)
    return mean + _weighted(centered, vectors, torch.where(is_signal, kept, 0))


def wiener(groups: Tensor, guides: Tensor, sigma: float) -> Tensor:
    """Return groups ``(G, k, d)`` without noise: components of the clean guides, by their part of the variance."""
    mean = groups.mean(1, keepdim=True)
    centered = guides - guides.mean(1, keepdim=True)
    squares, vectors = _components(centered, min(groups.shape[1] - 1, groups.shape[2]))
    variances = squares / max(1, groups.shape[1] - 1)
    return mean + _weighted(groups - mean, vectors, variances / (variances + sigma**2))


def _components(centered: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return squared singular values ``(G, r)`` and, on the shorter side of the matrices, vectors ``(G, n, r)``."""
    is_tall = centered.shape[1] >= centered.shape[2]
    gram = centered.mT @ centered if is_tall else centered @ centered.mT
    with one_thread():  # LAPACK's last bits would change
        values, vectors = torch.linalg.eigh(gram)
    return values[:, -rank:].clamp(min=0), vectors[..., -rank:]


def _weighted(centered: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
    """Return matrices of which each component is weighted."""
    projection = (vectors * weights[:, None]) @ vectors.mT
    return centered @ projection if vectors.shape[1] == centered.shape[2] else projection @ centered
