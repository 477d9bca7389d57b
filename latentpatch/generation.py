"""The result of an operation: pictures, where they come from, and what it takes to repeat them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from .provenance import largest_regions, provenance_images, source_shares
from .sampling import Settings

__all__ = ["Generation"]


@dataclass(frozen=True)
class Generation:
    """Images with their provenance.

    Attributes:
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        index: ``(N, h, w)`` int64, for each latent cell the position of its source in :attr:`ids`, or -1
            for the picture that was given.
        ids: names of the sources the index points to.
        seeds: the seed of each image; empty where nothing was drawn.
        sampler: name of the sampler; None where none was used.
        settings: its settings; None where none was used.
    """

    images: Tensor = field(repr=False)
    index: Tensor = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    seeds: tuple[int, ...] = ()
    sampler: str | None = None
    settings: Settings | None = None

    def __len__(self) -> int:
        return len(self.images)

    def shares(self) -> list[dict[str, float]]:
        """For each image, the share of its cells each of its sources gave, largest first."""
        result = []
        for row in source_shares(self.index, len(self.ids)).cpu():
            used = row.nonzero()[:, 0].tolist()
            used.sort(key=lambda b: (-float(row[b]), b))
            result.append({self.ids[b]: float(row[b]) for b in used})
        return result

    def largest_regions(self) -> Tensor:
        """For each image, the share of its cells in the largest connected region from one source: ``(N,)``."""
        return largest_regions(self.index)

    def provenance(self) -> Tensor:
        """Index maps as pictures of the images' size, one hue a source: ``(N, 3, H, W)``."""
        return provenance_images(self.index, len(self.ids), self.images.shape[2] // self.index.shape[1])

    def records(self) -> list[dict[str, Any]]:
        """For each image what a JSON file should say: seed, index map, shares, largest region."""
        regions = self.largest_regions().tolist()
        return [
            {
                "seed": self.seeds[i] if self.seeds else None,
                "index": self.index[i].tolist(),
                "shares": {name: round(share, 6) for name, share in shares.items()},
                "largest_region": round(regions[i], 6),
            }
            for i, shares in enumerate(self.shares())
        ]

    def settings_record(self) -> dict[str, Any]:
        """Sampler and settings, for a JSON file."""
        return {"sampler": self.sampler, "settings": None if self.settings is None else asdict(self.settings)}
