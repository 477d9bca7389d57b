"""Figures of inverted pictures and of pictures between them.

Guo and Zhuang compare identities by FaceNet and distributions by FID (section 4). Descriptors and features are the
caller's here, see :mod:`.descriptors` and :mod:`.features`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .features import Extractor
from .identity import distances
from .metrics import frechet_distance, leading_directions

__all__ = ["between_identities", "frechet_beside_samples", "same_identities"]

_DIRECTIONS_PER_PICTURE = 0.5  # leading directions of the Fréchet distance, at most, relative to the pictures


def same_identities(descriptor: Extractor, pictures: Tensor, originals: Tensor) -> list[float]:
    """Return the distance of descriptors of each picture and its original, both ``(N, 3, H, W)``."""
    pairs = zip(descriptor.features(pictures), descriptor.features(originals), strict=True)
    return [round(float((a - b).norm()), 6) for a, b in pairs]


def between_identities(
    descriptor: Extractor, pictures: Tensor, ends: Tensor, weights: Tensor, strangers: Tensor | None = None
) -> dict[str, Any]:
    """Return distances of descriptors of in-between pictures to the pictures that they are between.

    Args:
        descriptor: of identity.
        pictures: ``(M, 3, H, W)``.
        ends: ``(N, 3, H, W)``, the inputs.
        weights: ``(M, N)`` of the inputs; only those with a weight count.
        strangers: ``(S, 3, H, W)``, pictures of others, to compare with.

    Returns:
        ``to_inputs``, for each picture its distances to the inputs that it is made of, in order; ``mean`` and
        ``largest`` of all; ``ends``, the mean distance of the inputs to one another; ``strangers``, the mean and the
        least distance to strangers.
    """
    described, known = descriptor.features(pictures), descriptor.features(ends)
    apart = distances(described, known)
    rows = [[round(float(d), 6) for d in row[share > 0]] for row, share in zip(apart, weights, strict=True)]
    used = apart[weights > 0]
    upper = torch.triu_indices(len(known), len(known), 1)
    found: dict[str, Any] = {
        "descriptor": descriptor.name,
        "to_inputs": rows,
        "mean": round(float(used.mean()), 6),
        "largest": round(float(used.max()), 6),
        "ends": round(float(distances(known, known)[upper[0], upper[1]].mean()), 6),
    }
    if strangers is not None:
        others = distances(described, descriptor.features(strangers))
        found["strangers"] = {"mean": round(float(others.mean()), 6), "least": round(float(others.min()), 6)}
    return found


def frechet_beside_samples(features: Extractor, pictures: Tensor, samples: Tensor, held_out: Tensor) -> dict[str, Any]:
    """Return Fréchet distances of two sets of pictures to held-out ones (the paper's table 1).

    Distances are measured along the leading directions of the held-out pictures, as many as half of the pictures. They
    compare the two sets, and are no FID.

    Args:
        features: function of pictures.
        pictures: ``(M, 3, H, W)``.
        samples: ``(M, 3, H, W)`` of the generator's own.
        held_out: ``(S, 3, H, W)``, S at least 2.
    """
    real = features.features(held_out)
    count = max(1, int(_DIRECTIONS_PER_PICTURE * min(len(pictures), len(samples), len(held_out))))
    directions = leading_directions(real, count)
    sets = {"interpolated": pictures, "generator": samples}
    values = {k: frechet_distance(features.features(v) @ directions, real @ directions) for k, v in sets.items()}
    return {"features": features.name, "directions": directions.shape[1], **{k: round(v, 6) for k, v in values.items()}}
