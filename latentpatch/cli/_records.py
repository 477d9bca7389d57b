"""Records that commands write beside their pictures: what they say is checked against the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import FileError, LatentPatchError
from ..io.images import contact_sheet, read_image
from ..io.notes import open_regular, read_json
from ..model import LatentPatch
from ..provenance.maps import provenance_images
from ._output import IMAGES_FILE, SHEET_IMAGES

__all__ = ["Listing", "RecordedMaps", "read_note", "recorded_maps", "without_sheets"]

#: Records, with the number of inputs that their ``grid.png`` shows before the pictures.
_RECORDS = {"generation.json": 0, "inpaint.json": 2, "edit.json": 2}
_SHEETS = ("grid.png", "provenance.png")
_TOLERANCE = 1.5 / 255  # largest difference of a sheet's pixel
_MALFORMED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    LatentPatchError,
)


class Listing(NamedTuple):
    """Pictures to be measured.

    Attributes:
        pictures: their paths.
        skipped: files that are none, each with the reason.
    """

    pictures: list[Path]
    skipped: list[dict[str, str]]


@dataclass(frozen=True)
class RecordedMaps:
    """Source maps that ``generate`` recorded.

    Attributes:
        index: ``(N, h, w)`` int64 numbers of sources, -1 without a record.
        is_recorded: ``(N,)`` bool.
        notes: what was not believed, and why.
    """

    index: Tensor
    is_recorded: Tensor
    notes: list[str]


def without_sheets(folder: Path, paths: Sequence[Path], grid: tuple[int, int]) -> Listing:
    """Leave out the contact sheets of a folder.

    A sheet is left out where a record names it, and where its pixels are those of pictures that the record names and
    that are kept, or of their maps. Any other picture is kept, whatever its name.

    Args:
        folder: the folder; where it is a file, no sheet is left out.
        paths: its pictures.
        grid: rows and columns of the maps.
    """
    skipped: dict[Path, str] = {}
    for name, inputs in _RECORDS.items() if folder.is_dir() else ():
        note = folder / name
        try:
            record = read_json(note) if note.exists() else {}
            for path in (folder / sheet for sheet in _SHEETS if sheet in record.get("sheets", ())):
                is_grid = path.name == "grid.png"
                if path in paths and _shows(path, _tiles(record, folder, paths, None if is_grid else grid),
                                            inputs if is_grid else 0):  # fmt: skip
                    skipped[path] = f"a contact sheet of {name}; its pixels are those of the pictures"
        except _MALFORMED:
            continue  # then nothing says that they are sheets
    kept = [path for path in paths if path not in skipped]
    return Listing(kept, [{"file": path.name, "reason": reason} for path, reason in skipped.items()])


def _tiles(record: Mapping[str, Any], folder: Path, paths: Sequence[Path], grid: tuple[int, int] | None) -> Tensor:
    """Return the pictures of a record, or their maps where there is a grid, as a sheet shows them: ``(n, 3, H, W)``."""
    rows = list(islice(_rows(record, folder), SHEET_IMAGES))
    files = [folder / str(row["file"]) for row in rows]
    if not set(files) <= set(paths) - {folder / sheet for sheet in _SHEETS}:
        raise ValueError("pictures that are not measured")
    pictures = torch.stack([read_image(path) for path in files])
    if grid is None:
        return pictures
    index = torch.tensor([row["index"] for row in rows])
    if index.shape[1:] != grid:
        raise ValueError(f"maps of shape {tuple(index.shape)}")
    return provenance_images(index, len(record["ids"]), pictures.shape[2] // grid[0])


def _rows(record: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of pictures: those in a report, or the lines of the file beside it."""
    if "images" in record:
        yield from record["images"]
        return
    with open_regular(folder / IMAGES_FILE, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _shows(path: Path, tiles: Tensor, inputs: int) -> bool:
    """Return whether a picture is a contact sheet of tiles, after those of some inputs, which may show anything."""
    unknown = torch.zeros_like(tiles[:1]).expand(inputs, -1, -1, -1)
    expected = contact_sheet(torch.cat([unknown, tiles]))
    is_known = contact_sheet(torch.cat([unknown, torch.ones_like(tiles)])) == 1
    sheet = read_image(path)
    return sheet.shape == expected.shape and bool(((sheet - expected).abs() <= _TOLERANCE)[is_known].all())


def read_note(folder: Path) -> dict[str, Any]:
    """Return the record ``generation.json`` of a folder; empty where there is none that can be read."""
    try:
        record = read_json(folder / "generation.json")
    except _MALFORMED:
        return {}
    return record if isinstance(record, dict) else {}


def recorded_maps(folder: Path, paths: Sequence[Path], model: LatentPatch) -> RecordedMaps:
    """Read the source maps of ``generation.json`` of a folder.

    Raises:
        FileError: for a record that ``generate`` did not write.
    """
    index = torch.full((len(paths), *model.bank.grid), -1, dtype=torch.int64)
    is_recorded = torch.zeros(len(paths), dtype=torch.bool)
    note = folder / "generation.json"
    notes = [f"{path.name} was measured as a picture: no record shows that it is a contact sheet"
             for path in paths if path.name in _SHEETS]  # fmt: skip
    if not folder.is_dir() or not note.exists():
        return RecordedMaps(index, is_recorded, notes)
    try:
        record = read_json(note)
        if record["sources_sha256"] == model.bank.digest():
            maps = {str(row["file"]): torch.tensor(row["index"]) for row in _rows(record, folder)}
            for i, path in enumerate(paths):
                if path.parent == folder and path.name in maps:
                    if maps[path.name].shape != model.bank.grid:
                        raise ValueError(f"a map of shape {tuple(maps[path.name].shape)}")
                    index[i], is_recorded[i] = maps[path.name], True
        else:
            notes.append(
                f"{note.name} is of other sources, or of these with other options such as --mirrored, --offsets, "
                "--no-details or --size: its maps were not used"
            )
        if int(index.max()) >= len(model.bank) or int(index.min()) < -1:
            raise ValueError(f"positions beyond the {len(model.bank)} sources")
    except _MALFORMED as error:
        raise FileError(note, f"not a record that generate wrote: {error}") from error
    return RecordedMaps(model.bank.groups_of(index), is_recorded, notes)
