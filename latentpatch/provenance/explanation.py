"""Which sources a picture is from, where and how much: as records, as one picture, as a page to explore.

What ``generate`` wrote can be sampled again from the seed and settings in its metadata, which gives its index map, and
is believed where the pixels agree. Of any other picture there is the field of nearest sources, an estimate.
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
from ..errors import LatentPatchError, SettingTypeError
from ..io import images
from ..model import LatentPatch, Picture
from ..registry import SAMPLERS
from ..results import Generation
from ..settings import check_limits
from ..validation import check_integer
from .maps import largest_regions, provenance_images
from .trace import nearest_fields

__all__ = ["Explanation", "SourcePart", "explain", "source_pictures"]

_TEMPLATE = Path(__file__).with_name("explanation.html")
_ROUNDING = 4  # of 255 levels, by which pixels differ between devices and precisions
_REFERENCES = 32  # sources that say how far a cell usually is from the nearest other source
_SHOWN = 12  # sources on the sheet
_FACTS = ("command", "version", "seed", "sampler", "settings", "where", "decoding", "reference", "sources_sha256")


@dataclass(frozen=True)
class SourcePart:
    """What one source gave.

    Attributes:
        id: its name.
        share: part of the picture's cells, in (0, 1].
        cells: number of them.
        largest_region: cells in the largest connected region.
        attributes: what is known of the source.
        picture: ``(3, H, W)`` in [0, 1], the file where there is one, else decoded from the bank.
    """

    id: str
    share: float
    cells: int
    largest_region: int
    attributes: dict[str, str]
    picture: Tensor = field(repr=False)


@dataclass(frozen=True)
class Explanation:
    """Where one picture comes from.

    Attributes:
        title: what to call the picture.
        picture: ``(3, H, W)`` in [0, 1].
        index: ``(h, w)`` int64, for each cell its source's place in :attr:`sources`, or -1 for a given picture.
        exact: whether the index map is the one the picture was made with.
        note: how it is known, or why it is only estimated.
        sources: by falling share.
        distance: ``(h, w)`` float32, of an estimate: how far a cell is from the source named for it, beside how far a
            source's cell usually is from the nearest other source's. None where the map is exact.
        facts: what the picture's metadata says of its making.
    """

    title: str
    picture: Tensor = field(repr=False)
    index: Tensor = field(repr=False)
    exact: bool
    note: str
    sources: list[SourcePart]
    distance: Tensor | None = field(default=None, repr=False)
    facts: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For a JSON file: sources by falling share, and their places in the list, cell by cell."""
        return {
            "picture": self.title,
            "exact": self.exact,
            "note": self.note,
            "grid": list(self.index.shape),
            "cells": self.index.tolist(),
            "distance": None
            if self.distance is None
            else [[round(d, 4) for d in row] for row in self.distance.tolist()],
            "sources": [
                {
                    "id": part.id,
                    "share": round(part.share, 6),
                    "cells": part.cells,
                    "largest_region": part.largest_region,
                    "attributes": part.attributes,
                }
                for part in self.sources
            ],
            "facts": self.facts,
        }

    def sheet(self) -> Tensor:
        """The picture, its map, and the sources with the cells they gave left clear: ``(3, H', W')``."""
        height, width = self.picture.shape[1:]
        cell = height // len(self.index)
        tiles = [self.picture, provenance_images(self.index[None], max(1, len(self.sources)), cell)[0]]
        for k, part in enumerate(self.sources[:_SHOWN]):
            used = (self.index == k).repeat_interleave(cell, 0).repeat_interleave(width // self.index.shape[1], 1)
            tiles.append(torch.where(used, part.picture, 0.75 + 0.25 * part.picture))
        return images.contact_sheet(torch.stack(tiles))

    def page(self) -> str:
        """One HTML file that needs nothing else: pictures are in it, and no network is used."""
        record = self.record()
        record["title"], record["picture"] = self.title, _data_uri(images.encode_png(self.picture), "png")
        for part, entry in zip(self.sources, record["sources"], strict=True):
            entry["picture"] = _data_uri(images.encode_lossy(part.picture, "JPEG"), "jpeg")
        # As characters that end neither a script nor a comment.
        text = json.dumps(record, sort_keys=True).replace("<", "\\u003c").replace(">", "\\u003e")
        return _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)


@torch.no_grad()
def explain(
    model: LatentPatch,
    picture: Generation | Picture,
    i: int = 0,
    *,
    originals: Mapping[str, Path] | None = None,
    reference: Picture | None = None,
) -> Explanation:
    """Say where a picture comes from.

    Args:
        model: fitted, with the sources to look for.
        picture: what the model generated; or a file, whose metadata is used where there is any; or ``(3, H, W)`` in
            [0, 1] of the bank's image size.
        i: which picture of a generation.
        originals: the sources' files by id; without them sources are shown decoded from the bank.
        reference: the reference the picture was made with, where it was.

    Raises:
        ImageError: for a file that cannot be read.
        TypeError, ValueError: for arguments that do not fit.
    """
    if isinstance(picture, Generation):
        if picture.ids != tuple(model.bank.ids):
            raise ValueError("picture: made from other sources than the model's")
        if not 0 <= i < len(picture):
            raise ValueError(f"i {i}: a picture from 0 to {len(picture) - 1} is expected")
        seed = {"seed": picture.seeds[i]} if picture.seeds else {}
        return _explained(
            model,
            f"picture {i}",
            picture.images[i].cpu(),
            picture.index[i],
            originals,
            note="Exact: this is the map the picture was made with.",
            facts={**seed, **picture.settings_record()},
        )
    if isinstance(picture, Tensor):
        pixels, title, facts = picture if picture.ndim == 3 else picture[0], "a picture", {}
        made, reason = None, "it has no metadata"
    else:
        title, pixels = Path(picture).name, images.read_image(picture, model.image_size)
        facts = _metadata(picture)
        made, reason = _made_again(model, facts, images.read_image(picture), reference)
    shown = {name: facts[name] for name in _FACTS if name in facts}
    if made is not None:
        return _explained(model, title, pixels, made, originals, note=f"Exact: {reason}.", facts=shown)
    latents = model.latents_of(pixels[None])
    index, distance = nearest_fields(latents, model.bank.latents, model.autoencoder.codebook)
    note = f"An estimate, the source nearest to each cell among all {len(model.bank)}, because {reason}."
    explained = _explained(model, title, pixels, index[0], originals, note=note, facts=shown)
    return replace(explained, exact=False, distance=distance[0].cpu() / _usual_distance(model))


def source_pictures(
    model: LatentPatch, positions: Sequence[int], originals: Mapping[str, Path] | None = None
) -> list[Tensor]:
    """Pictures ``(3, H, W)`` in [0, 1] of sources: their files where they are known, else decoded from the bank.

    Raises:
        ImageError: for a file that cannot be read.
    """
    found = []
    for b in positions:
        path = (originals or {}).get(model.bank.ids[b])
        if path is not None:
            found.append(images.read_image(path, model.image_size))
        else:
            found.append(model.source_picture(b).cpu())
    return found


def _explained(
    model: LatentPatch,
    title: str,
    picture: Tensor,
    index: Tensor,
    originals: Mapping[str, Path] | None,
    *,
    note: str,
    facts: dict[str, Any],
) -> Explanation:
    index = index.cpu()
    used, counts = index[index >= 0].unique(return_counts=True)
    order = sorted(range(len(used)), key=lambda k: (-int(counts[k]), int(used[k])))
    positions = [int(used[k]) for k in order]
    ranks = torch.full_like(index, -1)
    parts = []
    for rank, (b, pixels) in enumerate(zip(positions, source_pictures(model, positions, originals), strict=True)):
        own = index == b
        ranks[own] = rank
        region = float(largest_regions(torch.where(own, index, -1)[None])[0])
        cells = int(own.sum())
        parts.append(
            SourcePart(
                model.bank.ids[b],
                cells / index.numel(),
                cells,
                round(region * index.numel()),
                model.bank.attributes[b],
                pixels,
            )
        )
    return Explanation(title, picture, ranks, True, note, parts, None, facts)


def _metadata(path: str | Path) -> dict[str, Any]:
    """What our commands put into a picture; anyone may have written it."""
    try:
        facts = json.loads(images.read_metadata(path).get("latentpatch", "{}"), parse_constant=str)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _made_again(
    model: LatentPatch, facts: dict[str, Any], pixels: Tensor, reference: Picture | None
) -> tuple[Tensor | None, str]:
    """The index map ``(h, w)`` of sampling as the metadata says, where pixels agree; and why, or why not."""
    if not facts:
        return None, "the file does not say how it was made"
    if facts.get("command") != "generate":
        return None, f"it was made by {facts.get('command')!r}, from a picture that is not at hand"
    if facts.get("sources_sha256") != model.bank.digest():
        return None, "it says that it was made from other sources"
    if facts.get("reference") is not None and reference is None:
        return None, "it was made with a reference picture, which was not given"
    try:
        made = _sampled(model, facts, reference)
    except (LatentPatchError, KeyError, TypeError, ValueError, OverflowError) as error:
        return None, f"what it says of its making cannot be used ({error})"
    if made.images.shape[1:] != pixels.shape:
        return None, "it does not have the size that it would have been made in"
    levels = (made.images[0].cpu() * 255).round() - (pixels * 255).round()
    most, differing = int(levels.abs().max()), float((levels != 0).any(0).float().mean())
    if most > _ROUNDING:
        return None, (
            f"its pixels are not those its seed and settings give: {differing:.1%} of them differ, by up to {most} "
            "of 255 levels; it was changed afterwards, or its metadata is another's"
        )
    agreed = "to the last bit" if not most else f"to {most} of 255 levels"
    return made.index[0].cpu(), f"sampled again from its seed and settings, and the pixels agree {agreed}"


def _sampled(model: LatentPatch, facts: dict[str, Any], reference: Picture | None) -> Generation:
    sampler, where = facts["sampler"], facts.get("where")
    settings = SAMPLERS.settings_class(sampler)(**facts["settings"])
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


def _usual_distance(model: LatentPatch) -> float:
    """How far a cell of a source is from the nearest other source, in the middle."""
    total, variants = len(model.bank.sources), model.bank.variants.count
    count = min(_REFERENCES, total)
    if total < 2:
        return 1.0
    chosen = torch.arange(count, device=model.bank.keys.device) * total // count
    latents = model.latents_at((chosen * variants)[:, None, None].expand(-1, *model.bank.grid))
    _, distance = nearest_fields(latents, model.bank.latents, model.autoencoder.codebook, chosen, variants)
    return float(distance.median()) or 1.0


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
