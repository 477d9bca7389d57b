"""Index maps that a JSON record beside a picture holds, for pictures that need another one to be made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders.weights import sha256_of
from ..io.listing import normalized
from ..io.notes import read_json
from ..model import LatentPatch
from .trace import nearest_source_map

__all__ = ["COMMANDS", "MIN_SAME_CELLS", "recorded_index"]

#: Commands whose record, ``COMMAND.json``, has the maps of their pictures.
COMMANDS = ("edit", "inpaint")
#: Part of the cells of a recorded map that the picture's own map must confirm.
MIN_SAME_CELLS = 0.9

_DECISIVE = ("sources_sha256", "image", "donor", "mask", "box", "sampler", "settings")


def recorded_index(
    model: LatentPatch, path: Path, facts: Mapping[str, Any], pixels: Tensor, originals: Mapping[str, Path]
) -> tuple[Tensor | None, str]:
    """Return the index map ``(h, w)`` that the record beside a picture has, -1 for the input image; and the reason.

    The record is not believed: its facts must be those of the picture's metadata, and of the cells that it says are
    from sources, the picture's own nearest sources must confirm :data:`MIN_SAME_CELLS`.

    Args:
        model: fitted.
        path: of the picture.
        facts: its metadata, of one of :data:`COMMANDS`.
        pixels: ``(3, H, W)`` of the bank's image size.
        originals: files of the sources by id.

    Returns:
        None in place of the map, where there is none that can be believed, and why.
    """
    note = path.with_name(f"{facts['command']}.json")
    what = f"it was made by {facts['command']!r}, from another image that is not available"
    try:
        record = read_json(note)
        row = next(row for row in record["images"] if row["file"] == path.name and row["seed"] == facts.get("seed"))
        if any(record.get(name) != facts.get(name) for name in _DECISIVE):
            return None, f"{what}, and {note.name} beside it is of another run"
        index = torch.tensor(row["index"], dtype=torch.int64)
        if facts["command"] == "edit":
            donor = _position(model, facts["donor"], originals)
            if donor is None:
                return None, f"{what}, and its donor {facts['donor']['file']} is none of the sources"
            index = torch.where(index < 0, index, donor)
        elif facts.get("sources_sha256") != model.bank.digest():
            return None, "its metadata names other sources, or these at another --size"
        is_map = index.shape == model.bank.grid and -1 <= int(index.min()) <= int(index.max()) < len(model.bank)
        if not is_map or not bool((index >= 0).any()):
            return None, f"{what}, and {note.name} beside it has no map of these sources"
    except FileNotFoundError:
        return None, f"{what}, and without {note.name} beside it"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RuntimeError, RecursionError):
        return None, f"{what}, and {note.name} beside it has no record of it"
    nearest = nearest_source_map(model.latents_of(pixels[None]), model.bank.latents, model.autoencoder.codebook)[0][0]
    mine, own = (model.bank.groups_of(each.cpu()[index >= 0]) for each in (nearest, index))
    agreement = float((mine == own).double().mean())
    if agreement < MIN_SAME_CELLS:
        return None, f"the picture confirms only {agreement:.0%} of the map in {note.name} beside it"
    return index, f"the map that {note.name} beside it records; the picture confirms {agreement:.0%} of it"


def _position(model: LatentPatch, donor: Mapping[str, Any], originals: Mapping[str, Path]) -> int | None:
    """Return the position of a donor in the bank: by its content where there are files, else by its name."""
    names = [name for name, path in originals.items() if sha256_of(path) == donor["sha256"]]
    names = names if originals else [normalized(Path(donor["file"]).stem)]
    return next((model.bank.ids.index(name) for name in names if name in model.bank.ids), None)
