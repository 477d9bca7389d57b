"""Results of tasks: images, their provenance, and the settings that repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .bank.augmentation import Variants
from .bank.bank import SourceBank
from .bank.grouping import grouped
from .provenance.maps import largest_regions, local_shares, provenance_images, source_shares
from .provenance.offsets import copying_figures, offset_images
from .settings import Settings

__all__ = ["Blend", "Generation", "PictureGeneration"]

_LEAST_SHARE = 0.01  # of a picture, for a source that counts


@dataclass(frozen=True)
class Generation:
    """Images with their provenance.

    Attributes:
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        index: ``(N, h, w)`` int64, for each latent cell the position of its source in :attr:`ids`, or -1
            for the caller's own image.
        ids: names of the sources that the index points to.
        seeds: the seed of each image; empty without randomness.
        sampler: name of the sampler; None without one.
        settings: of the sampler; None without one.
        variants: the augmentation of the sources. :attr:`index` and :attr:`ids` tell copies apart; whatever counts
            sources counts all copies of an image as one source.
        groups: ``(S,)`` int64, the group of each source without its copies, numbered by first appearance; None where
            each is its own. A group counts as one source, and has the name of its first one.
        detail: ``(h, w)`` with sum 1, weights of the cells in :meth:`local_shares`; None where they are not known.
        sources_sha256: digest of the bank; None where it is not known.
    """

    images: Tensor = field(repr=False)
    index: Tensor = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    seeds: tuple[int, ...] = ()
    sampler: str | None = None
    settings: Settings | None = None
    variants: Variants = field(default_factory=Variants)
    groups: Tensor | None = field(default=None, repr=False)
    detail: Tensor | None = field(default=None, repr=False)
    sources_sha256: str | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def is_from(self, bank: SourceBank) -> bool:
        """Return whether the sources are those of a bank: by their names, and by their digest where it is known."""
        return self.ids == tuple(bank.ids) and self.sources_sha256 in (None, bank.digest())

    def shares(self) -> list[dict[str, float]]:
        """Return, for each image, the share of its cells from each source, largest first.

        Copies count together, and so do the sources of a group, by the name of the first.
        """
        names = self.ids[:: self.variants.count]
        if self.groups is not None:
            first: dict[int, str] = {}
            for number, name in zip(self.groups.tolist(), names, strict=True):
                first.setdefault(number, name)
            names = tuple(first.values())
        return [_largest_first(row, names) for row in source_shares(self._sources(), len(names)).cpu()]

    def largest_regions(self) -> Tensor:
        """Return the share of each image's cells in the largest connected region from one source: ``(N,)``."""
        return largest_regions(self._sources())

    def local_shares(self) -> Tensor | None:
        """Return the largest part of one source in each image's detail ``(N,)``, None where it is not known.

        See :func:`~latentpatch.provenance.maps.local_shares`.
        """
        return None if self.detail is None else local_shares(self._sources(), self.detail)

    def provenance(self) -> Tensor:
        """Return the index maps as pictures ``(N, 3, H, W)``, one hue a source, its copies in neighbouring hues."""
        return provenance_images(self.index, len(self.ids), self.images.shape[2] // self.index.shape[1])

    def records(self) -> list[dict[str, Any]]:
        """Return a JSON record of each image: seed, index map, shares, local share if known, largest region."""
        regions, local = self.largest_regions().tolist(), self.local_shares()
        return [
            {
                "seed": self.seeds[i] if self.seeds else None,
                "index": self.index[i].tolist(),
                "shares": {name: round(share, 6) for name, share in shares.items()},
                **({} if local is None else {"local_share": round(float(local[i]), 6)}),
                "largest_region": round(regions[i], 6),
            }
            for i, shares in enumerate(self.shares())
        ]

    def settings_record(self) -> dict[str, Any]:
        """Return sampler and settings as a JSON record."""
        return {"sampler": self.sampler, "settings": None if self.settings is None else self.settings.record()}

    def _sources(self) -> Tensor:
        """Return index maps of images, whichever copy of them, or of groups."""
        return grouped(self.variants.sources_of(self.index), self.groups)


@dataclass(frozen=True)
class Blend:
    """Images whose cells are weighted means of the cells of all sources.

    Attributes:
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        weights: ``(N, B, h, w)`` float32, the weight of each source in each latent cell; they add up to 1 over the
            sources.
        ids: names of the B sources.
    """

    images: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def index(self) -> Tensor:
        """The source of the largest weight in each cell: ``(N, h, w)`` int64."""
        return self.weights.argmax(1)

    def shares(self) -> list[dict[str, float]]:
        """Return, for each image, the mean weight of each source, largest first."""
        means = self.weights.detach().double().mean((2, 3)).cpu()
        return [_largest_first(row, self.ids) for row in means]


@dataclass(frozen=True)
class PictureGeneration:
    """Pictures made from one picture or a few, with their provenance.

    Attributes:
        images: ``(N, C, h, w)`` float32 in [0, 1], with the channels of the sources.
        seeds: the seed of each image.
        sizes: height and width of each source.
        task: what was done, such as "reshuffle".
        method: name of the method.
        settings: of the method.
        offsets: ``(N, h, w, 3)`` int64, for each pixel the number of the source, the row and the column that it was
            copied from, -1 for none; None for a method that copies nothing.
        losses: ``(steps,)`` float32, the objective over time; None for a method without one.
    """

    images: Tensor = field(repr=False)
    seeds: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    task: str
    method: str
    settings: Settings
    offsets: Tensor | None = field(default=None, repr=False)
    losses: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def copying(self) -> list[dict[str, float | None]]:
        """Return how much each image copies: in place, contiguity, largest share; empty without offsets.

        See :func:`~latentpatch.provenance.offsets.copying_figures`.
        """
        return [] if self.offsets is None else copying_figures(self.offsets, self.sizes)

    def provenance(self) -> Tensor | None:
        """Return the offset maps as pictures ``(N, 3, h, w)``: red is the column, green the row, blue the source."""
        return None if self.offsets is None else offset_images(self.offsets, self.sizes)

    def shares(self) -> Tensor | None:
        """Return the share of each image's pixels from each source ``(N, S)`` float32; None without offsets."""
        return None if self.offsets is None else source_shares(self.offsets[..., 0], len(self.sizes))

    def records(self) -> list[dict[str, Any]]:
        """Return a JSON record of each image: seed and copying figures.

        With several sources, also the share of each, and the number of those that have at least 1 %.
        """
        figures: list[dict[str, Any]] = [*self.copying()] or [{} for _ in self.seeds]
        shares = self.shares()
        if shares is not None and shares.shape[1] > 1:
            for each, row in zip(figures, shares.tolist(), strict=True):
                each["shares"] = [round(share, 6) for share in row]
                each["num_sources"] = sum(share >= _LEAST_SHARE for share in row)
        return [{"seed": seed, **each} for seed, each in zip(self.seeds, figures, strict=True)]

    @classmethod
    def joined(cls, parts: Sequence[PictureGeneration]) -> PictureGeneration:
        """Return the images of several results of the same sources and settings as one."""
        offsets = [part.offsets for part in parts if part.offsets is not None]
        return replace(
            parts[0],
            images=torch.cat([part.images for part in parts]),
            seeds=tuple(seed for part in parts for seed in part.seeds),
            offsets=torch.cat(offsets) if offsets else None,
        )

    def settings_record(self) -> dict[str, Any]:
        """Return method and settings as a JSON record."""
        return {"method": self.method, "settings": self.settings.record()}


def _largest_first(row: Tensor, ids: tuple[str, ...]) -> dict[str, float]:
    used = row.nonzero()[:, 0].tolist()
    used.sort(key=lambda b: (-float(row[b]), b))
    return {ids[b]: float(row[b]) for b in used}
