"""A set of samples while it is generated: features and figures of all images, and only the images still needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bank.bank import SourceBank
from ..provenance.copying import map_figures, source_distances
from .metrics import random_pairs
from .seams import seam_energies

__all__ = ["COPY_SHARE", "SHEET_IMAGES", "Alike", "SampleSet", "copying_figures", "most_alike", "nearest_distances"]

#: An image is a copy where one source gave at least this share of its cells.
COPY_SHARE = 0.9
#: Number of images on a contact sheet.
SHEET_IMAGES = 30
#: Number of pairs of an image and the source most alike by identity that are kept.
ALIKE_PAIRS = 12


@dataclass(frozen=True)
class Alike:
    """An image and the source that is most alike by a descriptor of identity.

    Attributes:
        number: of the image in its set.
        source: number of the source.
        distance: of their descriptors.
        image: ``(3, H, W)``.
    """

    number: int
    source: int
    distance: float
    image: Tensor

    def record(self, number_of_set: int, sources: Sequence[str]) -> dict[str, Any]:
        """Return the pair as JSON holds it, with the source's id."""
        distance = round(self.distance, 6)
        return {"set": number_of_set, "number": self.number, "source": sources[self.source], "distance": distance}


class SampleSet:
    """One set of images: their features and figures, and the images that pairs and contact sheets need.

    Args:
        size: number of images.
        pairs: number of random pairs whose distances are measured.

    Attributes:
        first, second: ``(pairs,)`` int64 images of each pair.
        distances: ``(pairs,)`` perceptual distances; the caller sets them.
        opening: the first images.
        worst: seam cost and image of those with the largest cost, in falling order.
        values: figures of single images by name, in batches.
        descriptors: descriptors of identity, in batches; none without a descriptor.
        alike: the images nearest to a source by their descriptors, in rising order of the distance.
    """

    def __init__(self, size: int, pairs: int) -> None:
        self.first, self.second = random_pairs(size, pairs)
        used, self._pair_positions = torch.cat([self.first, self.second]).unique(return_inverse=True)
        self._used = set(used.tolist())
        self._pair_images: list[Tensor] = []
        self._features: list[Tensor] = []
        self._count = 0
        self.distances = torch.empty(0)
        self.opening: list[Tensor] = []
        self.worst: list[tuple[float, Tensor]] = []
        self.values: dict[str, list[Tensor]] = {}
        self.descriptors: list[Tensor] = []
        self.alike: list[Alike] = []

    @property
    def features(self) -> Tensor:
        """The features of all images, ``(size, D)`` float64."""
        return torch.cat(self._features)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images that are in pairs, and the positions of each pair among them."""
        first, second = self._pair_positions.view(2, -1)
        return torch.stack(self._pair_images), first, second

    def add(self, images: Tensor, features: Tensor, values: Mapping[str, Tensor]) -> None:
        """Add the next images.

        Args:
            images: ``(N, 3, H, W)``.
            features: ``(N, D)``.
            values: figures of single images by name, ``(N,)``; ``seams`` decides which images are the worst.
        """
        # Clones: a view would keep its whole batch in memory.
        self._pair_images += [image.clone() for i, image in enumerate(images, self._count) if i in self._used]
        self._features.append(features)
        self.opening += images[: max(0, SHEET_IMAGES - self._count)].clone()
        self._count += len(images)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.double())
        if "seams" in values:
            costliest = values["seams"].topk(min(SHEET_IMAGES, len(images)))
            self.worst += [(float(cost), images[i].clone()) for cost, i in zip(*costliest, strict=True)]
            self.worst = sorted(self.worst, key=lambda pair: -pair[0])[:SHEET_IMAGES]

    def add_identities(self, images: Tensor, descriptors: Tensor, distances: Tensor, sources: Tensor) -> None:
        """Add the identities of the images that were added last.

        Args:
            images: ``(N, 3, H, W)``.
            descriptors: ``(N, D)``.
            distances: ``(N,)`` to the nearest source.
            sources: ``(N,)`` int64, the number of that source.
        """
        self.descriptors.append(descriptors)
        first = self._count - len(images)
        for i in distances.argsort(stable=True)[:ALIKE_PAIRS].tolist():
            self.alike.append(Alike(first + i, int(sources[i]), float(distances[i]), images[i].clone()))
        self.alike = sorted(self.alike, key=lambda each: each.distance)[:ALIKE_PAIRS]


def most_alike(sets: Sequence[SampleSet]) -> list[tuple[int, Alike]]:
    """Return the images of all sets that are most alike a source, each with the number of its set."""
    found = [(s, each) for s, some in enumerate(sets) for each in some.alike]
    return sorted(found, key=lambda pair: pair[1].distance)[:ALIKE_PAIRS]


def copying_figures(bank: SourceBank, index: Tensor, typical_distance: float | None) -> dict[str, Tensor]:
    """Return figures of images that are made of sources, ``(N,)`` each, by name.

    Augmented copies of a source, and the sources of a group, count as one, except for seams.

    Args:
        bank: the sources.
        index: ``(N, h, w)`` int64 positions in the bank.
        typical_distance: median distance of held-out images to their nearest source, the unit of ``nearest``; without
            it that figure is left out.
    """
    values = map_figures(bank.groups_of(index), bank.detail)
    values |= {"copied": (values["largest_share"] >= COPY_SHARE).double(), "seams": seam_energies(bank, index).cpu()}
    if typical_distance:
        values["nearest"] = nearest_distances(bank, bank.keys_at(index.to(bank.keys.device))) / typical_distance
    return values


def nearest_distances(bank: SourceBank, keys: Tensor) -> Tensor:
    """Return the distance of keys ``(N, h, w, r)`` to the nearest source, in units of the keys: ``(N,)`` float64."""
    return source_distances(keys, bank.validated_keys()).amin(1).cpu()
