"""Compare images with sources after registration: shifts, zooms, rotations and mirror images.

A copy that is cropped, rotated or moved has other latents than its source, cell by cell. Here an image is placed over
each source, and their overlap is compared. The search is exhaustive at low resolution. The most similar sources are
then registered to a part of a pixel, by Gauss-Newton steps that maximise the correlation (Evangelidis and Psarakis,
"Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", PAMI 2008).

The brightness is compared, less its local mean, as part of its local deviation. Hue, brightness and contrast are
without effect on it, as far as nothing is clipped; noise, blur and compression have a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import SettingError
from ..registration.features import linear_parts
from ..runs.defaults import plain_torch
from ..validation import check_integer
from .copying import nearest_sources
from .placement import MIN_OVERLAP, SIDE, contrast, correlation_at, places, refine, sample, thumbnails, unit

__all__ = [
    "MAX_ROTATION",
    "MAX_SHIFT",
    "MAX_ZOOM",
    "Registered",
    "RegisteredSources",
]

#: Reach of the exhaustive search, either way.
MAX_ZOOM = 1.35  # factor
MAX_ROTATION = 12.0  # degrees
MAX_SHIFT = 0.125  # share of the shorter side

_ZOOMS, _ANGLES, _SHIFTS = 7, 5, 5  # placements along each axis of the exhaustive search
_CANDIDATES = 8  # sources that are registered to an image
_COARSE_SIDE = 24  # pixels of the shorter side in the exhaustive search
_FINE_SIDES = (32, SIDE)  # pixels of the shorter side, one level of the refinement after the other
_BATCH = 16  # images compared with all sources at a time
_CHUNK = 4096  # sources compared with an image at a time


@dataclass(frozen=True)
class Registered:
    """The sources most similar to N images after registration, the most similar first.

    Attributes:
        source: ``(N, k)`` int64 numbers of sources, no two of a group.
        distance: ``(N, k)`` float64 in [0, 2], square root of 2 - 2 times the correlation over the overlap.
        overlap: ``(N, k)`` float64, share of the source that the image covers.
        placement: ``(N, k, 2, 3)`` float64, see :mod:`.placement`.
        mirrored: ``(N, k)`` bool, whether the image is mirrored before it is placed.
    """

    source: Tensor
    distance: Tensor
    overlap: Tensor
    placement: Tensor
    mirrored: Tensor

    def __len__(self) -> int:
        return len(self.source)

    @property
    def relative(self) -> Tensor:
        """Return the least distance relative to the next ones, ``(N,)``, as :func:`.copying.nearest_sources` does."""
        return nearest_sources(self.distance).relative

    def records(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the most similar source of each image as JSON holds it.

        Args:
            ids: ids of the sources.
        """
        return [
            {
                "registered": round(relative, 6),
                "registered_to": ids[int(self.source[i, 0])],
                "registered_mirrored": bool(self.mirrored[i, 0]),
                "overlap": round(float(self.overlap[i, 0]), 4),
                "placement": [[round(value, 4) for value in row] for row in self.placement[i, 0].tolist()],
            }
            for i, relative in enumerate(self.relative.tolist())
        ]

    @classmethod
    def concatenate(cls, parts: Iterable[Registered]) -> Registered:
        """Join the results of several batches."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def sorted(self) -> Registered:
        """Return the sources of each image by their distance; equal ones keep their order."""
        distance, order = self.distance.sort(stable=True, dim=1)
        rows = torch.arange(len(self))[:, None]
        return Registered(
            self.source[rows, order],
            distance,
            self.overlap[rows, order],
            self.placement[rows, order],
            self.mirrored[rows, order],
        )


class RegisteredSources:
    """Sources at low resolution, to be compared with images.

    Args:
        images: batches ``(n, 3, H, W)`` in [0, 1], all of one size.
        groups: ``(B,)`` int64; sources of the same number count as one. By default all are different.

    Raises:
        SettingError: for fewer than two groups, or another number of groups than of sources.
    """

    @plain_torch()
    def __init__(self, images: Iterable[Tensor], groups: Tensor | None = None) -> None:
        grey = [thumbnails(batch) for batch in images]
        self._grey = torch.cat(grey) if grey else torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
        self._groups = torch.arange(len(self)) if groups is None else groups.cpu()
        if self._groups.shape != (len(self),):
            raise SettingError("groups", tuple(self._groups.shape), f"of shape ({len(self)},)")
        if len(self._groups.unique()) < 2:
            raise SettingError("images", len(self._groups.unique()), "at least 2 different sources")
        self._coarse = torch.cat([contrast(part, _COARSE_SIDE) for part in self._grey.split(_CHUNK)])

    def __len__(self) -> int:
        return len(self._grey)

    @plain_torch()
    @torch.no_grad()
    def compare(self, images: Tensor) -> Registered:
        """Register images to the sources that they resemble most.

        Args:
            images: ``(N, 3, H, W)`` in [0, 1], of the sources' size.

        Raises:
            SettingError: for images of another size.
        """
        grey = thumbnails(images)
        if grey.shape[1:] != self._grey.shape[1:]:
            raise SettingError("images", tuple(images.shape), "of the sources' size")
        return Registered.concatenate(self._compare(part, None) for part in grey.split(_BATCH))

    @plain_torch()
    @torch.no_grad()
    def compare_sources(self, numbers: Tensor) -> Registered:
        """Register sources to those of other groups.

        Args:
            numbers: ``(N,)`` int64 numbers of the sources.

        Raises:
            SettingError: where there are fewer than three groups: one, and two to compare it with.
        """
        check_integer("groups", len(self._groups.unique()), 3)
        return Registered.concatenate(self._compare(self._grey[part], part) for part in numbers.cpu().split(_BATCH))

    def _compare(self, grey: Tensor, excluded: Tensor | None) -> Registered:
        source, hypothesis = self._candidates(grey, excluded)
        count, candidates = source.shape
        mirrored = hypothesis >= len(self._search.placements)
        placements = self._search.placements[hypothesis % len(self._search.placements)].flatten(0, 1)
        is_mirrored = mirrored.flatten()[:, None, None, None]

        def paired(images: Tensor) -> Tensor:
            each = images.repeat_interleave(candidates, 0)
            return each.flip(3).where(is_mirrored, each)

        sources = self._grey[source.flatten()]
        for side in _FINE_SIDES:
            placements = refine(paired(contrast(grey, side)), contrast(sources, side), placements)
        correlation, overlap = correlation_at(paired(grey), sources, placements)
        distance = (2 - 2 * correlation.double()).clamp(min=0).sqrt()
        return Registered(
            source,
            distance.view(count, -1),
            overlap.double().view(count, -1),
            placements.double().view(count, -1, 2, 3),
            mirrored,
        ).sorted()

    @cached_property
    def _search(self) -> _Search:
        return _Search.of(self._coarse)

    def _candidates(self, grey: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the most similar sources of different groups, and the best hypothesis of each: ``(N, k)`` int64."""
        found = [self._search.scores(image, self._coarse) for image in contrast(grey, _COARSE_SIDE)]
        score, hypothesis = (torch.stack(each) for each in zip(*found, strict=True))
        _, group = self._groups.unique(return_inverse=True)
        if excluded is not None:
            score = score.masked_fill(group[excluded.cpu()][:, None] == group, -math.inf)
        rows, num_groups = group.expand(len(score), -1), int(group.max()) + 1
        best = score.new_full((len(score), num_groups), -math.inf).scatter_reduce(1, rows, score, "amax")
        numbers = torch.arange(len(self)).where(score == best.gather(1, rows), len(self))
        first = torch.full_like(best, len(self), dtype=torch.int64).scatter_reduce(1, rows, numbers, "amin")
        count = min(_CANDIDATES, num_groups - (excluded is not None))
        source = first.gather(1, best.topk(count, dim=1).indices)
        return source, hypothesis.gather(1, source)


class _Search(NamedTuple):
    """The exhaustive search over placements of an image and of its mirror image."""

    placements: Tensor  # (T, 2, 3)
    at: Tensor  # (1, T P, 2), see :func:`.placement.places`
    inside: Tensor  # (T, P) float, whether a pixel of the source is within the image
    scale: Tensor  # (T, B), one over the deviation of each source within the overlap

    @classmethod
    def of(cls, sources: Tensor) -> _Search:
        """Prepare the search in local contrasts ``(B, 1, h, w)``."""
        shifts = _axis(2 * MAX_SHIFT, _SHIFTS)
        axes = (_axis(math.log(MAX_ZOOM), _ZOOMS), _axis(math.radians(MAX_ROTATION), _ANGLES), shifts, shifts)
        similarities = torch.tensor(list(product(*axes)))
        placements = torch.cat([linear_parts(similarities), similarities[:, 2:, None]], 2)
        at, inside = places(placements, sources.shape[2:])
        is_covering = inside.mean(1) >= MIN_OVERLAP
        placements, at, inside = placements[is_covering], at[is_covering], inside[is_covering]
        flat = sources.flatten(1)
        parts = []
        for part in flat.split(_CHUNK):
            squares = inside @ part.square().T - (inside @ part.T).square() / inside.sum(1, keepdim=True)
            parts.append(squares.clamp(min=1e-6 * flat.shape[1]).rsqrt())
        return cls(placements, at.view(1, -1, 2), inside, torch.cat(parts, 1))

    def scores(self, image: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest correlation of an image ``(1, h, w)`` with each source, and its hypothesis: ``(B,)``.

        Hypotheses are numbers of placements, and those of the mirror image after them.
        """
        both = torch.cat([image, image.flip(2)])[None]
        placed = [unit(each, self.inside) for each in sample(both, self.at).view(2, *self.inside.shape)]
        flat, found = sources.flatten(1), []
        for part, scale in zip(flat.split(_CHUNK), self.scale.split(_CHUNK, 1), strict=True):
            found.append(torch.cat([(each @ part.T).mul_(scale) for each in placed]).max(0))
        return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def _axis(reach: float, count: int) -> list[float]:
    """Return ``count`` values from -reach to reach, 0 among them."""
    values: list[float] = torch.linspace(-reach, reach, count).tolist()
    return values
