"""Figures of pictures made from a few pictures of a scene, after FewGAN (Ben-Moshe et al., ICIP 2022, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..ops.patch_nearest import levels, nearest_vectors
from ..ops.patches import extract_patches
from .bootstrap import bootstrap
from .metrics import frechet_distance, kernel_statistic

__all__ = ["few_picture_figures", "nearest_sources", "pixel_diversity", "source_figures"]

_PATCH_SIDE, _STRIDE = 7, 2  # pixels, of the patches whose nearest source is looked for
_LEAST_SHARE = 0.05  # of a picture's pixels, from which on a source counts


def pixel_diversity(images: Tensor, sources: Tensor) -> float:
    """Return the mean standard deviation of a pixel over pictures, relative to that of all pixels of the sources.

    The measure of SinGAN (section 3, "quantitative evaluation"), which FewGAN takes over 200 pictures.

    Args:
        images: ``(N, 3, h, w)`` in [0, 1], N at least 2.
        sources: ``(M, 3, H, W)``.
    """
    if len(images) < 2:
        raise SettingError("images", len(images), "at least 2")
    return float(images.double().std(0).mean() / sources.double().flatten(2).std(2).mean())


def nearest_sources(images: Tensor, sources: Tensor) -> Tensor:
    """Estimate the source of each patch of pictures: ``(N, rows, columns)`` int64, that of the nearest patch.

    Patches are of 7 x 7 pixels, every second one. For methods that copy nothing, which have no provenance.

    Args:
        images: ``(N, 3, h, w)`` in [0, 1].
        sources: ``(M, 3, H, W)`` in [0, 1].
    """
    keys = extract_patches(levels(sources), _PATCH_SIDE).flatten(1, 2)
    found = []
    for image in images:
        patches = extract_patches(levels(image[None]), _PATCH_SIDE, _STRIDE)[0]
        nearest = nearest_vectors(patches.flatten(0, 1), keys.flatten(0, 1)).positions[:, 0]
        found.append((nearest // keys.shape[1]).view(patches.shape[:2]))
    return torch.stack(found)


def source_figures(maps: Tensor, count: int) -> dict[str, float]:
    """Return how many sources a picture is of: FewGAN names the collapse to one, and to a copy of one.

    Args:
        maps: ``(N, h, w)`` int64, the source of each pixel or patch; negative for none.
        count: number of sources.

    Returns:
        means over the pictures of ``largest_share``, ``sources``, those of at least 5 % of the picture, and
        ``entropy`` of the shares in bits; ``one_source``, the part of the pictures that is of one source to 95 %.
    """
    shares = torch.stack([(maps == k).double().mean((1, 2)) for k in range(count)], 1)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    largest = shares.amax(1)
    return {
        "largest_share": float(largest.mean()),
        "sources": float((shares >= _LEAST_SHARE).double().sum(1).mean()),
        "entropy": abs(float((shares * shares.clamp(min=1e-12).log2()).sum(1).mean())),
        "one_source": float((largest >= 1 - _LEAST_SHARE).double().mean()),
    }


def few_picture_figures(
    images: Tensor,
    sources: Tensor,
    features: Callable[[Tensor], Tensor],
    maps: Tensor | None = None,
    resamples: int = 200,
) -> dict[str, Any]:
    """Return the figures of a set of pictures: nearness to the sources, diversity, and shares of sources.

    Args:
        images: ``(N, 3, h, w)`` in [0, 1]; FewGAN has 200.
        sources: ``(M, 3, h, w)``, the pictures that they were made from.
        features: of pictures, ``(N, D)``. Distances by other features than Inception's are no KID and no FID.
        maps: the source of each pixel, see :func:`source_figures`; estimated by :func:`nearest_sources` where None.
        resamples: of the interval.

    Returns:
        ``kernel_distance`` (KID) with its 95 % ``interval`` over the pictures, ``frechet_distance`` (FID),
        ``diversity``, and those of :func:`source_figures` with ``is_estimated``; ``nearest``, the least RMS distance
        of a whole picture to a source, in levels of 255, mean over the pictures.
    """
    made, real = features(images), features(sources)
    statistic = kernel_statistic(made, real)
    distance = torch.stack([(images - each).square().mean((1, 2, 3)).sqrt() for each in sources]).amin(0)
    return {
        "kernel_distance": statistic(None),
        "interval": list(bootstrap(lambda weights: statistic(weights[0]), [len(made)], resamples)),
        "frechet_distance": frechet_distance(made, real),
        "diversity": pixel_diversity(images, sources),
        "nearest": 255 * float(distance.mean()),
        **source_figures(nearest_sources(images, sources) if maps is None else maps, len(sources)),
        "is_estimated": maps is None,
    }
