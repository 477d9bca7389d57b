"""Explanation of an image: which sources its cells are from, as a record, an image, or an HTML page.

An image that ``generate`` wrote is generated again from the seed and settings in its metadata; where its pixels agree,
its index map is exact. That of an image of ``edit`` or ``inpaint`` is in the record beside it
(:mod:`latentpatch.provenance.beside`). For any other image the map of nearest sources is an estimate.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders.base import PRECISIONS
from ..errors import LatentPatchError, SettingError, SettingTypeError
from ..inputs import as_picture, image_batch
from ..io import images
from ..io.encoding import Encoding
from ..model import LatentPatch, Picture
from ..registry import settings_from_record
from ..results import Generation
from ..runs.defaults import plain_torch
from ..settings import check_limits
from ..validation import check_integer
from .beside import COMMANDS, recorded_index
from .maps import largest_regions, provenance_images
from .trace import nearest_other_sources, nearest_source_map

__all__ = ["Explanation", "SourcePart", "explain", "source_pictures"]

_TEMPLATE = Path(__file__).with_name("explanation.html")
_MAX_ROUNDING = 4  # levels of 255 by which pixels may differ between devices and precisions
_MAX_REFERENCES = 32  # sources whose cells give the typical distance to the nearest other source
_SHEET_SOURCES = 12  # sources on the sheet
_PART_FIELDS = ("id", "group", "cells", "largest_region", "attributes")
_FACTS = ("command", "version", "seed", "sampler", "settings", "where", "decoding", "reference", "sources_sha256")


@dataclass(frozen=True)
class SourcePart:
    """A source's part of an image.

    Attributes:
        id: id of the source.
        share: its share of the image's cells, in (0, 1].
        cells: number of its cells.
        largest_region: number of cells in its largest connected region.
        attributes: attributes of the source.
        picture: ``(3, H, W)`` in [0, 1], from the source's file, or decoded from the bank.
        group: name of the group that counts as one source: of its augmented copies and of nearly equal sources.
        detail: its part in the image's detail: see :func:`~latentpatch.provenance.maps.local_shares`; None where that
            is not known.
    """

    id: str
    share: float
    cells: int
    largest_region: int
    attributes: dict[str, str]
    picture: Tensor = field(repr=False)
    group: str = ""
    detail: float | None = None


@dataclass(frozen=True)
class Explanation:
    """The sources of one image.

    Attributes:
        title: the image's name.
        picture: ``(3, H, W)`` in [0, 1].
        index: ``(h, w)`` int64, the position of each cell's source in :attr:`sources`; -1 for the input image.
        exact: whether the index map is the one the image was generated with.
        note: why the map is exact, or why it is an estimate.
        sources: parts of the sources, by falling share.
        distance: ``(h, w)`` float32, for an estimate the distance of each cell to its source, relative to the typical
            distance of a source's cell to the nearest other source; None for an exact map.
        facts: metadata of the image: seed, settings and others.
    """

    title: str
    picture: Tensor = field(repr=False)
    index: Tensor = field(repr=False)
    exact: bool
    note: str
    sources: list[SourcePart]
    distance: Tensor | None = field(default=None, repr=False)
    facts: dict[str, Any] = field(default_factory=dict)

    def group_shares(self) -> dict[str, float]:
        """Return the shares of the image by the name of a group of sources that counts as one, largest first."""
        shares: dict[str, float] = {}
        for part in self.sources:
            shares[part.group or part.id] = shares.get(part.group or part.id, 0) + part.share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def local_share(self) -> float | None:
        """Return the largest part of a group of sources in the image's detail; None where it is not known."""
        parts: dict[str, float] = {}
        for part in self.sources:
            if part.detail is None:
                return None
            parts[part.group or part.id] = parts.get(part.group or part.id, 0) + part.detail
        return max(parts.values(), default=0.0)

    def record(self) -> dict[str, Any]:
        """Return the explanation as JSON holds it; ``cells`` are positions in the list of sources."""
        distance = self.distance
        return {
            "picture": self.title,
            "exact": self.exact,
            "note": self.note,
            "grid": list(self.index.shape),
            "cells": self.index.tolist(),
            "distance": None if distance is None else [[round(d, 4) for d in row] for row in distance.tolist()],
            "sources": [
                {name: getattr(part, name) for name in _PART_FIELDS}
                | {"share": round(part.share, 6), "detail": None if part.detail is None else round(part.detail, 6)}
                for part in self.sources
            ],
            "groups": {name: round(share, 6) for name, share in self.group_shares().items()},
            "facts": self.facts,
        }

    def sheet(self) -> Tensor:
        """Draw the image, its map, and the sources, faded except for the cells in use: ``(3, H', W')``."""
        height, width = self.picture.shape[1:]
        cell = height // len(self.index)
        tiles = [self.picture, provenance_images(self.index[None], max(1, len(self.sources)), cell)[0]]
        for k, part in enumerate(self.sources[:_SHEET_SOURCES]):
            used = (self.index == k).repeat_interleave(cell, 0).repeat_interleave(width // self.index.shape[1], 1)
            tiles.append(torch.where(used, part.picture, 0.75 + 0.25 * part.picture))
        return images.contact_sheet(torch.stack(tiles))

    def page(self) -> str:
        """Return a self-contained HTML page, which embeds all images and uses no network."""
        record = self.record()
        record["title"], record["picture"] = self.title, _data_uri(images.encode_png(self.picture), "png")
        for part, entry in zip(self.sources, record["sources"], strict=True):
            entry["picture"] = _data_uri(images.encode_lossy(part.picture, "JPEG"), "jpeg")
        # Escapes keep texts from ending the script element.
        text = json.dumps(record, sort_keys=True).replace("<", "\\u003c").replace(">", "\\u003e")
        return _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)


@plain_torch()
@torch.no_grad()
def explain(
    model: LatentPatch,
    picture: Generation | Picture,
    i: int = 0,
    *,
    originals: Mapping[str, Path] | None = None,
    reference: Picture | None = None,
) -> Explanation:
    """Explain which sources an image is from.

    Args:
        model: a fitted model with the sources to find.
        picture: what the model generated; or a file, whose metadata is used; or ``(3, H, W)`` in [0, 1] of the bank's
            image size.
        i: position of the image in a generation.
        originals: files of the sources by id; other sources are decoded from the bank.
        reference: the reference that the image was generated with, if any.

    Raises:
        ImageError: for a file that cannot be read.
        TypeError, ValueError: for arguments that do not fit.
    """
    if isinstance(picture, Generation):
        if not picture.is_from(model.bank):
            raise SettingError("picture", "an image of other sources", "generated from the model's sources")
        check_integer("i", i, 0, len(picture) - 1)
        seed = {"seed": picture.seeds[i]} if picture.seeds else {}
        note, facts = "Exact: the map this image was generated with.", {**seed, **picture.settings_record()}
        return _explanation(model, f"image {i}", picture.images[i].cpu(), picture.index[i], originals, note, facts)
    picture = as_picture(picture, "picture")
    if not isinstance(picture, (str, Path)):
        pixels = image_batch(picture, "picture", 1, model.image_size, torch.device("cpu"))[0]
        title, facts, exact, reason = "an image", {}, None, "the image has no metadata"
    else:
        title, pixels = Path(picture).name, images.read_image(picture, model.image_size)
        facts = images.read_record(picture)
        if facts.get("command") in COMMANDS:
            exact, reason = recorded_index(model, Path(picture), facts, pixels, originals or {})
        else:
            exact, reason = _exact_index(model, facts, images.read_image(picture), reference)
    shown = {name: facts[name] for name in _FACTS if name in facts}
    if exact is not None:
        return _explanation(model, title, pixels, exact, originals, f"Exact: {reason}.", shown)
    latents = model.latents_of(pixels[None])
    index, distance = nearest_source_map(latents, model.bank.latents, model.autoencoder.codebook)
    note = f"An estimate: the nearest of all {len(model.bank.sources)} sources for each cell, because {reason}."
    estimate = _explanation(model, title, pixels, index[0], originals, note, shown)
    return replace(estimate, exact=False, distance=distance[0].cpu() / _typical_distance(model))


def source_pictures(
    model: LatentPatch, positions: Sequence[int], originals: Mapping[str, Path] | None = None
) -> list[Tensor]:
    """Return images ``(3, H, W)`` in [0, 1] of sources, from their files, or decoded from the bank.

    Args:
        model: a fitted model.
        positions: positions of the sources in its bank.
        originals: files of sources by id.

    Raises:
        ImageError: for a file that cannot be read.
    """
    paths = ((originals or {}).get(model.bank.ids[b]) for b in positions)
    return [
        model.source_picture(b).cpu() if path is None else images.read_image(path, model.image_size)
        for b, path in zip(positions, paths, strict=True)
    ]


def _explanation(
    model: LatentPatch,
    title: str,
    picture: Tensor,
    index: Tensor,
    originals: Mapping[str, Path] | None,
    note: str,
    facts: dict[str, Any],
) -> Explanation:
    """Return the explanation of an image with an index map ``(h, w)`` of positions in the bank, as an exact one."""
    index, weights = index.cpu(), model.bank.detail
    used, counts = index[index >= 0].unique(return_counts=True)
    order = sorted(range(len(used)), key=lambda k: (-int(counts[k]), int(used[k])))
    positions = [int(used[k]) for k in order]
    ranks = torch.full_like(index, -1)
    names, numbers = model.bank.group_names, model.bank.groups_of(torch.tensor(positions, dtype=torch.int64)).tolist()
    parts = []
    for rank, (b, pixels) in enumerate(zip(positions, source_pictures(model, positions, originals), strict=True)):
        own = index == b
        ranks[own] = rank
        region_share = float(largest_regions(torch.where(own, index, -1)[None])[0])
        cells = int(own.sum())
        share, region = cells / index.numel(), round(region_share * index.numel())
        attributes, group = model.bank.attributes[b], names[numbers[rank]]
        detail = None if weights is None else float(weights[own].sum())
        parts.append(SourcePart(model.bank.ids[b], share, cells, region, attributes, pixels, group, detail))
    return Explanation(title, picture, ranks, True, note, parts, None, facts)


def _exact_index(
    model: LatentPatch, facts: dict[str, Any], pixels: Tensor, reference: Picture | None
) -> tuple[Tensor | None, str]:
    """Return the index map ``(h, w)`` of an image that can be generated again, else None; and the reason."""
    if not facts:
        return None, "the file has no metadata of how it was generated"
    if facts.get("command") != "generate":
        return None, f"it was made by {facts.get('command')!r}, from another image that is not available"
    if facts.get("sources_sha256") != model.bank.digest():
        return None, "its metadata names other sources, or these at another --size"
    if facts.get("reference") is not None and reference is None:
        return None, "it was generated with a reference image, which is missing"
    try:
        generated = _generate_again(model, facts, reference)
    except (LatentPatchError, KeyError, TypeError, ValueError, OverflowError) as error:
        return None, f"its metadata cannot be used ({error})"
    if generated.images.shape[1:] != pixels.shape:
        return None, "its size is not that of generated images"
    made = images.as_written(generated.images[0].cpu(), Encoding.of_record(facts))
    levels = (made * 255).round() - (pixels * 255).round()
    most, differing = int(levels.abs().max()), float((levels != 0).any(0).float().mean())
    if most > _MAX_ROUNDING:
        return None, (
            f"its pixels are not those of its seed and settings: {differing:.1%} of them differ, by up to {most} "
            "of 255 levels; it was changed later, or its metadata is that of another image"
        )
    agreement = f"to {most} of 255 levels" if most else "to the last bit"
    return generated.index[0].cpu(), f"generated again from its seed and settings, with pixels that agree {agreement}"


def _generate_again(model: LatentPatch, facts: dict[str, Any], reference: Picture | None) -> Generation:
    """Generate an image again from its metadata, which may be malformed or ask for too much.

    Raises:
        LatentPatchError, KeyError, TypeError, ValueError, OverflowError: for metadata that cannot be used.
    """
    sampler, where = facts["sampler"], facts.get("where")
    settings = settings_from_record({**facts["settings"], "sampler": sampler})
    check_limits(settings)
    if not isinstance(where, str | None):
        raise SettingTypeError("where", where, "text")
    return model.generate(
        seeds=[check_integer("seed", facts["seed"], 0)],
        settings=settings,
        sampler=sampler,
        reference=reference if facts.get("reference") is not None else None,
        where=where,
        decoding=facts.get("decoding", "gather"),
        precision=facts["precision"] if facts.get("precision") in PRECISIONS else None,
    )


def _typical_distance(model: LatentPatch) -> float:
    """Return the median distance of a source's cell to the nearest other source; 1 where there is none."""
    if model.bank.num_groups < 2:
        return 1.0
    _, _, distance = nearest_other_sources(model, min(_MAX_REFERENCES, len(model.bank.sources)))
    return float(distance.median()) or 1.0


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
