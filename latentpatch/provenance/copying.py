"""How much of a picture is copied, and from whom: figures of single pictures, and of sets beside held-out ones.

A picture is looked at in two ways. Its *field* says for each latent cell which source it is from: the index map where
the picture was made with it, else the nearest source of each cell, at the same place, in the full latents. (Decoded
and encoded again, nearly all cells still lie nearest to the source they were copied from: see
:func:`.trace.nearest_fields`.) Its *distance* to each source is taken over the whole picture, in the
reduced latents that are searched, where it is exact. Where sources have variants (:mod:`.augmentation`),
all of a source's count as that source, and its distance is that of the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..bank.bank import SourceBank
from ..bank.latents import chunks
from ..model import LatentPatch
from ..results import Generation
from .maps import largest_regions, region_counts
from .trace import nearest_fields

__all__ = [
    "NEIGHBOURS",
    "Copying",
    "Nearest",
    "copying",
    "copying_of_sources",
    "largest_shares",
    "nearest_sources",
    "region_densities",
    "source_counts",
    "source_distances",
]

#: Sources the nearest one is compared with, in :func:`nearest_sources`.
NEIGHBOURS = 5


# --- index maps ----------------------------------------------------------------------------------------


def largest_shares(index: Tensor) -> Tensor:
    """Share of the cells that the source with most of them gave: ``(N, h, w)`` int64 -> ``(N,)`` float32.

    Cells of the given picture (-1) count as cells, but not as a source.
    """
    most = [counts.max() if len(counts) else torch.tensor(0) for _, counts in map(_counted, index.cpu())]
    return torch.stack(most).float() / index[0].numel() if most else torch.zeros(0)


def source_counts(index: Tensor) -> Tensor:
    """Number of sources that gave at least one cell: ``(N, h, w)`` int64 -> ``(N,)`` int64."""
    return torch.tensor([len(found) for found, _ in map(_counted, index.cpu())], dtype=torch.int64)


def region_densities(index: Tensor) -> Tensor:
    """How little a field can be compressed: its 4-connected regions of one source, per cell.

    A field is written down by its regions, each with its source. A returned source is one region, ``1 / (h * w)``; a
    picture whose every cell has another nearest source than its neighbours has as many regions as cells, 1. Beside that
    of held-out pictures it says how much more regular a field is than chance makes it.

    Args:
        index: ``(N, h, w)`` int64.

    Returns:
        ``(N,)`` float32 in (0, 1]; 0 where no cell is from a source.
    """
    return region_counts(index).float() / max(1, index[:1].numel())


def _counted(cells: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = cells[cells >= 0].unique(return_counts=True)
    return found


# --- latents -------------------------------------------------------------------------------------------


def source_distances(keys: Tensor, stored: Tensor) -> Tensor:
    """Distances of pictures to sources: the root of the mean over the cells of the keys' squared distances.

    Keys are integers, and all sums are below 2^53: distances are exact but for the root, whatever computes them.

    Args:
        keys: ``(N, h, w, r)`` int16, of the pictures.
        stored: ``(B, h, w, r)`` int16: :attr:`SourceBank.keys`.

    Returns:
        ``(N, B)`` float64, in units of the keys.
    """
    ours = keys.flatten(1).double()
    squares = ours.square().sum(1, keepdim=True)
    rows = []
    for chunk in chunks(stored):
        theirs = chunk.flatten(1).to(ours)
        rows.append(squares + theirs.square().sum(1) - 2 * ours @ theirs.T)
    return (torch.cat(rows, 1) / (keys.shape[1] * keys.shape[2])).sqrt()


@dataclass(frozen=True)
class Nearest:
    """The nearest source of N pictures.

    Attributes:
        source: ``(N,)`` int64 position.
        distance: ``(N,)`` float64.
        relative: ``(N,)`` float64, the distance as part of the mean distance to the next nearest sources.
    """

    source: Tensor
    distance: Tensor
    relative: Tensor


def nearest_sources(distances: Tensor, neighbours: int = NEIGHBOURS) -> Nearest:
    """The nearest source of each picture, and how much nearer it is than those after it.

    ``relative`` is near 1 for a picture that resembles several sources alike, and near 0 for one that is a source. It
    is the adaptive distance of Carlini et al. (Extracting Training Data from Diffusion Models, USENIX Security 2023)
    without their constant: needing no scale, it serves for plain pictures that resemble everything, too. They take
    fifty neighbours, with which the figure depends on the number of sources, as it hardly does with five.

    Args:
        distances: ``(N, B)`` in any space: :func:`source_distances`, or ``torch.cdist`` of features.
        neighbours: how many sources after the nearest to compare with; fewer where there are fewer.

    Raises:
        ValueError: for fewer than two sources, or neighbours below 1.
    """
    if distances.ndim != 2 or distances.shape[1] < 2 or neighbours < 1:
        raise ValueError(
            f"distances {tuple(distances.shape)}, neighbours {neighbours}: (N, B) with at least 2 sources, "
            "and at least 1 neighbour are expected"
        )
    nearest, source = distances.topk(min(neighbours + 1, distances.shape[1]), dim=1, largest=False)
    others = nearest[:, 1:].double()
    compared = others.isfinite()  # a source that does not count is infinitely far away
    scale = others.where(compared, 0).sum(1) / compared.sum(1).clamp(min=1)
    first = nearest[:, 0].double()
    relative = torch.where(scale > 0, first / scale.clamp(min=1e-300), first.sign())
    return Nearest(source[:, 0], first, relative)


# --- pictures ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copying:
    """Copying figures of N pictures; tensors ``(N,)`` on the CPU.

    Attributes:
        index: ``(N, h, w)`` int64, the field: numbers of sources, whatever their variants, -1 for a given picture.
        exact: bool, whether the field is the index map the picture was made with.
        largest_share, sources, largest_region, regions: of the field: see :func:`largest_shares`,
            :func:`source_counts`, :func:`~latentpatch.provenance.largest_regions`, :func:`region_densities`.
        nearest: int64, the source nearest to the whole picture.
        distance: float64, its distance in units of the latents: see :func:`source_distances`.
        relative: float64, the same beside that to the next nearest: see :func:`nearest_sources`.
        mirrored: bool, whether the picture's mirror image is the one that is so near.
    """

    index: Tensor
    exact: Tensor
    largest_share: Tensor
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
        """For each picture what a JSON file should say.

        Args:
            ids: of the sources, without those of their variants.
        """
        return [
            {
                "exact": bool(self.exact[i]),
                "largest_share": round(float(self.largest_share[i]), 6),
                "sources": int(self.sources[i]),
                "largest_region": round(float(self.largest_region[i]), 6),
                "regions": round(float(self.regions[i]), 6),
                "nearest": ids[int(self.nearest[i])],
                "distance": round(float(self.distance[i]), 6),
                "relative": round(float(self.relative[i]), 6),
                "mirrored": bool(self.mirrored[i]),
            }
            for i in range(len(self))
        ]

    def with_index(self, index: Tensor, exact: Tensor) -> Copying:
        """The same pictures with fields ``(N, h, w)`` that are better known for those where ``exact`` ``(N,)``."""
        index = torch.where(exact[:, None, None], index, self.index)
        return replace(self, **_field_figures(index), exact=self.exact | exact)


@torch.no_grad()
def copying(model: LatentPatch, pictures: Tensor | Generation, neighbours: int = NEIGHBOURS) -> Copying:
    """Copying figures of pictures against a model's sources.

    Args:
        model: fitted, with at least two sources.
        pictures: ``(N, 3, H, W)`` in [0, 1] of the bank's image size: any pictures, which are encoded, and whose mirror
            images are looked at too; or what the model generated, whose index maps say all.
        neighbours: see :func:`nearest_sources`.

    Raises:
        TypeError, ValueError: for pictures that are not that.
    """
    bank = model.bank
    if isinstance(pictures, Generation):
        if pictures.ids != tuple(bank.ids):
            raise ValueError("pictures: made from other sources than the model's")
        index = pictures.index
        keys = bank.keys_at(index)
        near = nearest_sources(_distances(bank, keys), neighbours)
        return _figures(bank, index, near, torch.zeros(len(index), dtype=torch.bool), exact=True)
    latents = model.latents_of(pictures)
    index, _ = nearest_fields(latents, bank.latents, model.autoencoder.codebook)
    plain = nearest_sources(_distances(bank, bank.keys_of(latents, model.pca)), neighbours)
    turned = bank.keys_of(model.latents_of(pictures.flip(3)), model.pca)
    mirrored = nearest_sources(_distances(bank, turned), neighbours)
    closer = mirrored.relative < plain.relative
    near = Nearest(
        torch.where(closer, mirrored.source, plain.source),
        torch.where(closer, mirrored.distance, plain.distance),
        torch.where(closer, mirrored.relative, plain.relative),
    )
    return _figures(bank, index, near, closer, exact=False)


@torch.no_grad()
def copying_of_sources(model: LatentPatch, count: int = 200, neighbours: int = NEIGHBOURS) -> Copying:
    """The figures of the sources themselves, each against all others: what to expect of pictures that are no copies.

    Args:
        model: fitted, with at least three sources.
        count: sources that are looked at, at most, evenly spread over the bank.
        neighbours: see :func:`nearest_sources`.

    Raises:
        ValueError: for fewer than three sources.
    """
    bank, total, variants = model.bank, len(model.bank.sources), model.bank.variants.count
    if total < 3:
        raise ValueError(f"{total} sources: at least 3 are expected, to compare each with two others")
    chosen = torch.arange(min(count, total), device=bank.keys.device) * total // min(count, total)
    distances = _distances(bank, bank.validated_keys()[chosen * variants])
    distances.scatter_(1, chosen[:, None], float("inf"))
    near = nearest_sources(distances, neighbours)
    latents = model.latents_at((chosen * variants)[:, None, None].expand(-1, *bank.grid))
    index, _ = nearest_fields(latents, bank.latents, model.autoencoder.codebook, chosen, variants)
    return _figures(bank, index, near, torch.zeros(len(chosen), dtype=torch.bool), exact=False)


def _distances(bank: SourceBank, keys: Tensor) -> Tensor:
    """Distances of pictures' keys ``(N, h, w, r)`` to each source, to the nearest of its variants. -> (N, sources)"""
    distances = source_distances(keys, bank.validated_keys())
    return distances.view(len(keys), -1, bank.variants.count).amin(2)


def _figures(bank: SourceBank, index: Tensor, near: Nearest, mirrored: Tensor, exact: bool) -> Copying:
    return Copying(
        **_field_figures(bank.variants.sources_of(index)),
        exact=torch.full((len(index),), exact),
        nearest=near.source.cpu(),
        distance=near.distance.cpu() * float(bank.key_step),
        relative=near.relative.cpu(),
        mirrored=mirrored.cpu(),
    )


def _field_figures(index: Tensor) -> dict[str, Tensor]:
    return {
        "index": index.cpu(),
        "largest_share": largest_shares(index),
        "sources": source_counts(index),
        "largest_region": largest_regions(index),
        "regions": region_densities(index),
    }
