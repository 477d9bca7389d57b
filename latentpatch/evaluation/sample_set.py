"""What is kept of a set of pictures while it is made: of ten thousand, not the pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..bank.bank import SourceBank
from ..provenance.copying import largest_shares, region_densities, source_counts, source_distances
from ..provenance.maps import largest_regions
from .metrics import random_pairs
from .seams import seam_energies

__all__ = ["COPY_SHARE", "ON_SHEET", "PictureSet", "copying_values", "nearest_distances"]

#: A picture is a copy where one source gave so much of it.
COPY_SHARE = 0.9
#: Pictures on a contact sheet.
ON_SHEET = 30


class PictureSet:
    """One set of pictures: their features and figures, and the pictures that are still needed.

    Args:
        size: how many there will be.
        pairs: random pairs whose distances are wanted.
    """

    def __init__(self, size: int, pairs: int) -> None:
        self.first, self.second = random_pairs(size, pairs)
        self._used, self._where = torch.cat([self.first, self.second]).unique(return_inverse=True)
        self._wanted = set(self._used.tolist())
        self._kept: list[Tensor] = []
        self._features: list[Tensor] = []
        self.count = 0
        self.distances = torch.empty(0)
        #: the first pictures, and those with the costliest seams.
        self.opening: list[Tensor] = []
        self.worst: list[tuple[float, Tensor]] = []
        #: figures of single pictures.
        self.values: dict[str, list[Tensor]] = {}

    @property
    def features(self) -> Tensor:
        """``(size, D)`` float64."""
        return torch.cat(self._features)

    def pair_pictures(self) -> tuple[Tensor, Tensor, Tensor]:
        """-> the pictures that are in pairs, and the pairs among them"""
        first, second = self._where.view(2, -1)
        return torch.stack(self._kept), first, second

    def take(self, pictures: Tensor, features: Tensor, values: Mapping[str, Tensor]) -> None:
        """Add the next pictures.

        Args:
            pictures: ``(N, 3, H, W)``.
            features: ``(N, D)``.
            values: figures of each by name, ``(N,)``; by ``seams`` the worst are known.
        """
        # Copies: a view would hold its whole batch.
        self._kept += [picture.clone() for i, picture in enumerate(pictures, self.count) if i in self._wanted]
        self._features.append(features)
        self.opening += pictures[: max(0, ON_SHEET - self.count)].clone()
        self.count += len(pictures)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.double())
        if "seams" in values:
            costliest = values["seams"].topk(min(ON_SHEET, len(pictures)))
            self.worst += [(float(cost), pictures[i].clone()) for cost, i in zip(*costliest, strict=True)]
            self.worst = sorted(self.worst, key=lambda pair: -pair[0])[:ON_SHEET]


def copying_values(bank: SourceBank, index: Tensor, usual: float | None) -> dict[str, Tensor]:
    """Figures of pictures that are made of sources.

    Args:
        bank: the sources.
        index: ``(N, h, w)`` int64 positions in it.
        usual: median distance of held-out pictures to their nearest source, where it is known.

    Returns:
        ``(N,)`` each, by name. Variants of a source count as that source, but for seams.
    """
    sources = bank.variants.sources_of(index)
    shares = largest_shares(sources)
    values = {
        "largest_share": shares,
        "largest_region": largest_regions(sources),
        "sources": source_counts(sources),
        "regions": region_densities(sources),
        "copied": (shares >= COPY_SHARE).double(),
        "seams": seam_energies(bank, index).cpu(),
    }
    if usual:
        values["nearest"] = nearest_distances(bank, bank.keys_at(index.to(bank.keys.device))) / usual
    return values


def nearest_distances(bank: SourceBank, keys: Tensor) -> Tensor:
    """Distance of pictures' keys ``(N, h, w, r)`` to the nearest source, in units of the keys. -> (N,) float64"""
    return source_distances(keys, bank.validated_keys()).amin(1).cpu()
