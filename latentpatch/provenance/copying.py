"""Copying figures: how much of an image is copied, and from which source.

Two views of an image are measured. Its *index map* says for each latent cell which source it is from: the map it was
generated with, else the nearest source of each cell at the same place (:func:`.trace.nearest_source_map`; nearly all
cells of a decoded and encoded image are still nearest to the source they were copied from). Its *distance* to each
source is that of the whole image, in the reduced latents of the search, where it is exact. Augmented copies of a source
(:mod:`~latentpatch.bank.augmentation`) count as that source; its distance is that of the nearest copy. Sources of a
group (:mod:`~latentpatch.bank.grouping`) count as one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..bank.bank import SourceBank
from ..bank.latents import chunks
from ..errors import SettingError
from ..model import LatentPatch
from ..results import Generation
from ..runs.defaults import plain_torch
from ..validation import check_integer
from .maps import largest_regions, local_shares, region_counts
from .trace import nearest_other_sources, nearest_source_map

__all__ = [
    "NEIGHBORS",
    "Copying",
    "Nearest",
    "copying",
    "copying_of_sources",
    "largest_shares",
    "map_figures",
    "nearest_groups",
    "nearest_sources",
    "region_densities",
    "source_counts",
    "source_distances",
]

#: Number of next nearest sources that the nearest one is compared with.
NEIGHBORS = 5

#: Of two values of a figure of index maps, the one that says more copying.
_WORSE = {
    "largest_share": torch.maximum,
    "local_share": torch.maximum,
    "sources": torch.minimum,
    "largest_region": torch.maximum,
    "regions": torch.minimum,
}


def largest_shares(index: Tensor) -> Tensor:
    """Return the largest source's share of the cells: ``(N, h, w)`` int64 -> ``(N,)`` float32.

    Cells of the input image (-1) count as cells, but not as a source.
    """
    most = [counts.max() if len(counts) else torch.tensor(0) for _, counts in map(_count, index.cpu())]
    return torch.stack(most).float() / index[0].numel() if most else torch.zeros(0)


def source_counts(index: Tensor) -> Tensor:
    """Return the number of sources with at least one cell: ``(N, h, w)`` int64 -> ``(N,)`` int64."""
    return torch.tensor([len(found) for found, _ in map(_count, index.cpu())], dtype=torch.int64)


def region_densities(index: Tensor) -> Tensor:
    """Return the number of 4-connected regions from one source, per cell: how little a map can be compressed.

    A returned source is one region, ``1 / (h * w)``; an image whose every cell has another source than its neighbors
    has 1. Compared with held-out images it shows how much more regular a map is than chance makes it.

    Args:
        index: ``(N, h, w)`` int64.

    Returns:
        ``(N,)`` float32 in (0, 1]; 0 where no cell is from a source.
    """
    return region_counts(index).float() / max(1, index[:1].numel())


def map_figures(index: Tensor, detail: Tensor | None) -> dict[str, Tensor]:
    """Return the figures of index maps by name.

    Args:
        index: ``(N, h, w)`` int64.
        detail: ``(h, w)`` weights of the cells in local shares; None where all are equal.
    """
    equal = torch.full(index.shape[1:], 1 / max(1, index[:1].numel()), dtype=torch.float64)
    return {
        "largest_share": largest_shares(index),
        "local_share": local_shares(index, equal if detail is None else detail),
        "sources": source_counts(index),
        "largest_region": largest_regions(index),
        "regions": region_densities(index),
    }


def _count(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sources of an index map and the number of cells of each."""
    found: tuple[Tensor, Tensor] = cells[cells >= 0].unique(return_counts=True)
    return found


def source_distances(keys: Tensor, stored: Tensor) -> Tensor:
    """Return the distances of images to sources: the root mean square over the cells of the keys' distances.

    Keys are integers, and all sums are below 2^53: distances are exact but for the root, on every device.

    Args:
        keys: ``(N, h, w, r)`` int16, of the images.
        stored: ``(B, h, w, r)`` int16: :attr:`SourceBank.keys`.

    Returns:
        ``(N, B)`` float64, in units of the keys.
    """
    queries = keys.flatten(1).double()
    squares = queries.square().sum(1, keepdim=True)
    rows = []
    for chunk in chunks(stored):
        sources = chunk.flatten(1).to(queries)
        rows.append(squares + sources.square().sum(1) - 2 * queries @ sources.T)
    return (torch.cat(rows, 1) / (keys.shape[1] * keys.shape[2])).sqrt()


@dataclass(frozen=True)
class Nearest:
    """The nearest source of N images.

    Attributes:
        source: ``(N,)`` int64 position.
        distance: ``(N,)`` float64.
        relative: ``(N,)`` float64, the distance relative to the mean distance to the next nearest sources.
    """

    source: Tensor
    distance: Tensor
    relative: Tensor


def nearest_sources(distances: Tensor, neighbors: int = NEIGHBORS) -> Nearest:
    """Return the nearest source of each image, and how much nearer it is than the next nearest ones.

    ``relative`` is near 1 for an image that resembles several sources equally, and near 0 for one that is a source. It
    is the adaptive distance of Carlini et al. (Extracting Training Data from Diffusion Models, USENIX Security 2023)
    without their constant: it needs no scale, so it also works for plain images that resemble everything. With their
    fifty neighbors it depends on the number of sources, with five it hardly does.

    Args:
        distances: ``(N, B)`` in any space: :func:`source_distances`, or ``torch.cdist`` of features.
        neighbors: number of next nearest sources to compare with; fewer where there are fewer.

    Raises:
        SettingError: for fewer than two sources, or neighbors below 1.
    """
    check_integer("neighbors", neighbors, 1)
    if distances.ndim != 2 or distances.shape[1] < 2:
        raise SettingError("distances", tuple(distances.shape), "of shape (N, B) with at least 2 sources")
    nearest, source = distances.topk(min(neighbors + 1, distances.shape[1]), dim=1, largest=False)
    others = nearest[:, 1:].double()
    is_counted = others.isfinite()  # an excluded source is infinitely far away
    scale = others.where(is_counted, 0).sum(1) / is_counted.sum(1).clamp(min=1)
    first = nearest[:, 0].double()
    relative = torch.where(scale > 0, first / scale.clamp(min=1e-300), first.sign())
    return Nearest(source[:, 0], first, relative)


@dataclass(frozen=True)
class Copying:
    """Copying figures of N images; tensors ``(N,)`` on the CPU.

    Attributes:
        index: ``(N, h, w)`` int64, the index map: numbers of groups of sources, -1 for the input image.
        exact: bool, whether it is the index map the image was generated with.
        largest_share, local_share, sources, largest_region, regions: of the index map: see :func:`largest_shares`,
            :func:`~latentpatch.provenance.maps.local_shares`, :func:`source_counts`,
            :func:`~latentpatch.provenance.maps.largest_regions`, :func:`region_densities`.
        nearest: int64, the source nearest to the whole image, without its augmented copies.
        distance: float64, its distance in units of the latents: see :func:`source_distances`.
        relative: float64, relative to the distance to the next nearest of other groups: see :func:`nearest_sources`.
        mirrored: bool, whether nearest, distance and relative are those of the mirror image, which is nearer.
    """

    index: Tensor
    exact: Tensor
    largest_share: Tensor
    local_share: Tensor
    sources: Tensor
    largest_region: Tensor
    regions: Tensor
    nearest: Tensor
    distance: Tensor
    relative: Tensor
    mirrored: Tensor

    def __len__(self) -> int:
        return len(self.nearest)

    def records(self, ids: list[str]) -> list[dict[str, Any]]:
        """Return the figures of each image as JSON holds them.

        Args:
            ids: ids of the sources, without those of their augmented copies.
        """
        columns = {each.name: getattr(self, each.name).tolist() for each in fields(self) if each.name != "index"}
        columns["nearest"] = [ids[number] for number in columns["nearest"]]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return [{name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()} for row in rows]

    def with_index(self, index: Tensor, exact: Tensor, detail: Tensor | None) -> Copying:
        """Return these figures with index maps ``(N, h, w)`` in place of the estimates where ``exact`` ``(N,)``.

        Of the figures of both maps the one that says more copying is kept. For ``detail`` see :func:`map_figures`.
        """
        index = torch.where(exact[:, None, None], index, self.index)
        figures = {
            name: _WORSE[name](getattr(self, name), values) for name, values in map_figures(index, detail).items()
        }
        return replace(self, index=index, **figures, exact=self.exact | exact)


@plain_torch()
@torch.no_grad()
def copying(model: LatentPatch, pictures: Tensor | Generation, neighbors: int = NEIGHBORS) -> Copying:
    """Measure how much of images a model's sources explain.

    Args:
        model: a fitted model with at least two sources.
        pictures: ``(N, 3, H, W)`` in [0, 1] of the bank's image size, which are encoded and also compared mirrored; or
            what the model generated, whose index maps are used.
        neighbors: see :func:`nearest_sources`.

    Raises:
        TypeError, ValueError: for other images.
    """
    bank = model.bank
    if isinstance(pictures, Generation):
        if not pictures.is_from(bank):
            raise SettingError("pictures", "images of other sources", "generated from the model's sources")
        index = pictures.index
        near = nearest_groups(bank, _distances(bank, bank.keys_at(index)), neighbors)
        return _figures(bank, index, near, torch.zeros(len(index), dtype=torch.bool), exact=True)
    latents, flipped = model.latents_of(pictures), model.latents_of(pictures.flip(3))
    index, _ = nearest_source_map(latents, bank.latents, model.autoencoder.codebook)
    plain, mirrored = (
        nearest_groups(bank, _distances(bank, bank.keys_of(each, model.pca)), neighbors) for each in (latents, flipped)
    )
    is_mirrored = mirrored.relative < plain.relative
    near = Nearest(
        torch.where(is_mirrored, mirrored.source, plain.source),
        torch.where(is_mirrored, mirrored.distance, plain.distance),
        torch.where(is_mirrored, mirrored.relative, plain.relative),
    )
    return _figures(bank, index, near, is_mirrored, exact=False)


@plain_torch()
@torch.no_grad()
def copying_of_sources(model: LatentPatch, count: int = 200, neighbors: int = NEIGHBORS) -> Copying:
    """Measure the sources, each against all others: a reference for images that are no copies.

    Args:
        model: a fitted model with at least three sources that do not count as one.
        count: largest number of sources that are measured, evenly spread over the bank.
        neighbors: see :func:`nearest_sources`.

    Raises:
        SettingError: for fewer than three sources.
    """
    bank, variants = model.bank, model.bank.variants.count
    check_integer("sources", bank.num_groups, 3)  # one, and two others to compare it with
    chosen, index, _ = nearest_other_sources(model, min(count, len(bank.sources)))
    distances = _distances(bank, bank.validated_keys()[chosen * variants])
    numbers = bank.group_numbers.to(chosen.device)
    near = nearest_groups(bank, distances.masked_fill(numbers[chosen][:, None] == numbers, float("inf")), neighbors)
    return _figures(bank, index, near, torch.zeros(len(chosen), dtype=torch.bool), exact=False)


def _distances(bank: SourceBank, keys: Tensor) -> Tensor:
    """Return distances of keys ``(N, h, w, r)`` to the nearest augmented copy of each source: ``(N, sources)``."""
    distances = source_distances(keys, bank.validated_keys())
    return distances.view(len(keys), -1, bank.variants.count).amin(2)


def nearest_groups(bank: SourceBank, distances: Tensor, neighbors: int = NEIGHBORS) -> Nearest:
    """Return the nearest source of each image by distances ``(N, sources)``, relative to those of other groups.

    Arguments and errors are those of :func:`nearest_sources`; sources of one group are no neighbors of each other.
    """
    if bank.shared_numbers is None:
        return nearest_sources(distances, neighbors)
    check_integer("sources", bank.num_groups, 2)
    numbers = bank.group_numbers.to(distances.device)
    least = distances.new_full((len(distances), bank.num_groups), float("inf"))
    least = least.scatter_reduce(1, numbers.expand_as(distances), distances, "amin")
    near = nearest_sources(least, neighbors)
    own = distances.masked_fill(numbers != near.source[:, None], float("inf"))
    return replace(near, source=own.argmin(1))


def _figures(bank: SourceBank, index: Tensor, near: Nearest, mirrored: Tensor, exact: bool) -> Copying:
    sources = bank.groups_of(index)
    return Copying(
        sources.cpu(),
        **map_figures(sources, bank.detail),
        exact=torch.full((len(index),), exact),
        nearest=near.source.cpu(),
        distance=near.distance.cpu() * float(bank.key_step),
        relative=near.relative.cpu(),
        mirrored=mirrored.cpu(),
    )
