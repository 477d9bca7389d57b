"""Rows of a table: a sampler with its settings, or something to compare it with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from ..methods.base import Context
from ..model import LatentPatch
from ..ops.blending import DECODINGS
from ..registry import SAMPLERS
from ..settings import Settings, aliases_of, declared

__all__ = ["CONTROLS", "COPIER", "Row", "drawn_positions", "parse_row", "read_tables", "standard_rows"]

#: What is no sampler: sources as they are or decoded, and held-out pictures through the autoencoder.
CONTROLS = ("sources", "sources-decoded", "held-out", "held-out-reduced")

_OPTIONS = ("bank", "decoding")


@dataclass(frozen=True)
class Row:
    """What is evaluated.

    Attributes:
        name: what tables call it.
        sampler: a key of :data:`~latentpatch.registry.SAMPLERS`, or one of :data:`CONTROLS`.
        settings: those that differ from the model's, or the sampler's defaults.
        decoding: see :meth:`LatentPatch.generate`.
        bank: so many sources, drawn anew with each seed; None for all.
    """

    name: str
    sampler: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    decoding: str | None = None
    bank: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"row name {self.name!r}: text is expected")
        if self.sampler not in SAMPLERS and self.sampler not in CONTROLS:
            names = ", ".join([*SAMPLERS, *CONTROLS])
            raise ValueError(f"row {self.name!r}: sampler {self.sampler!r}: one of {names} is expected")
        if self.decoding not in (None, *DECODINGS):
            raise ValueError(
                f"row {self.name!r}: decoding {self.decoding!r}: one of {', '.join(DECODINGS)} is expected"
            )
        if self.bank is not None and (isinstance(self.bank, bool) or not isinstance(self.bank, int) or self.bank < 1):
            raise ValueError(f"row {self.name!r}: bank {self.bank!r}: a number of sources is expected")
        if self.control and (self.settings or self.bank is not None or self.decoding is not None):
            raise ValueError(f"row {self.name!r}: {self.sampler} takes no settings")
        kind = None if self.control else SAMPLERS.settings_class(self.sampler)
        known = set() if kind is None else {*declared(kind), *aliases_of(kind)}
        unknown = sorted(set(self.settings) - known)
        if unknown:
            raise ValueError(
                f"row {self.name!r}: {unknown[0]!r} is not a setting of the sampler {self.sampler!r}; "
                f"known: {', '.join(sorted(known)) or 'none'}"
            )

    @property
    def control(self) -> bool:
        """Whether nothing is sampled."""
        return self.sampler in CONTROLS

    def bank_size(self, model: LatentPatch) -> int | None:
        """To how many of the sources it is restricted; None where it is not."""
        return None if self.bank is None or self.bank >= len(model.bank.sources) else self.bank

    def _context(self, model: LatentPatch) -> Context:
        return Context(model.bank.grid, self.bank_size(model) or len(model.bank.sources))

    def settings_for(self, model: LatentPatch) -> Settings:
        """The sampler's settings in force.

        Raises:
            TypeError, ValueError: where they are out of range, naming the row.
        """
        sampler = SAMPLERS[self.sampler]
        base = model.settings if isinstance(model.settings, sampler.Settings) else sampler.Settings()
        try:
            chosen = base.changed(**self.settings)
            sampler.validate(chosen, self._context(model))
        except (TypeError, ValueError) as error:
            raise type(error)(f"row {self.name!r}: {error}") from error
        return chosen

    def identity(self, model: LatentPatch) -> dict[str, Any]:
        """What decides its pictures, but for the seeds and what all rows share; not its name."""
        if self.control:
            return {"sampler": self.sampler}
        settings = self.settings_for(model)
        bank = self.bank_size(model)
        record = {
            "sampler": self.sampler,
            "settings": SAMPLERS[self.sampler].resolve(settings, self._context(model)).record(),
            "decoding": self.decoding or model.default_decoding(settings),
            "bank": bank,
        }
        return json.loads(json.dumps(record))  # type: ignore[no-any-return]  # tuples are lists in a file


#: In every table: what a generator is that returns its sources.
COPIER = Row("sources, verbatim", "sources")


def standard_rows() -> list[Row]:
    """Every sampler at its defaults, what the autoencoder makes of held-out pictures, and of sources."""
    return [
        Row("held-out, reconstructed", "held-out"),
        Row("held-out, reconstructed through the PCA", "held-out-reduced"),
        Row("sources, reconstructed", "sources-decoded"),
        *(Row(f"{name} (default)", name) for name in SAMPLERS),
    ]


def parse_row(text: str) -> Row:
    """A row of ``[NAME:] SAMPLER [KEY=VALUE ...]``.

    Keys are settings of the sampler, ``decoding`` or ``bank``. Values are numbers, ``true``, ``false``, ``null``, text,
    or several with commas between, as ``16,11,9``. The name is the rest of the text where none is given.

    Raises:
        ValueError: where the text is not that.
    """
    name, colon, rest = text.rpartition(": ")
    words = rest.split()
    if not words or (colon and not name.strip()):
        raise ValueError(f"row {text!r}: [NAME:] SAMPLER [KEY=VALUE ...] is expected")
    given: dict[str, Any] = {}
    for word in words[1:]:
        match = re.fullmatch(r"(\w+)=(.+)", word)
        if match is None or match[1] in given:
            raise ValueError(f"row {text!r}: KEY=VALUE, every key once, is expected, got {word!r}")
        given[match[1]] = _value(match[2])
    options = {key: given.pop(key) for key in _OPTIONS if key in given}
    return Row(name.strip() or " ".join(words), words[0], given, **options)


def read_tables(path: str | Path) -> dict[str, list[Row]]:
    """Tables of a JSON file: rows by the table's heading.

    The file holds ``{HEADING: [ROW, ...], ...}``, or one list of rows. A row is the text :func:`parse_row` takes, or
    an object with ``name``, ``sampler`` and, where wanted, ``settings`` (an object), ``decoding`` and ``bank``.

    Raises:
        FileError: where the file holds something else.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: not a readable JSON file: {error}") from error
    tables = {path.stem: found} if isinstance(found, list) else found
    if not isinstance(tables, dict) or not tables or not all(isinstance(rows, list) for rows in tables.values()):
        raise FileError(f"{path}: {{HEADING: [ROW, ...], ...}} or [ROW, ...] is expected")
    try:
        return {heading: [_row(row) for row in rows] for heading, rows in tables.items()}
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: {error}") from error


def _row(found: Any) -> Row:
    if isinstance(found, str):
        return parse_row(found)
    names = {each.name for each in fields(Row)}
    if not isinstance(found, dict) or not {"name", "sampler"} <= set(found) <= names:
        raise ValueError(f"row {json.dumps(found)}: text, or an object of {', '.join(sorted(names))} is expected")
    settings = found.get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError(f"row {found['name']!r}: settings {settings!r}: an object is expected")
    return Row(**{**found, "settings": {key: _hashable(value) for key, value in settings.items()}})


def _value(text: str) -> Any:
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _hashable(value: Any) -> Any:
    """Settings are frozen, and often keys of a cache: lists become tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def drawn_positions(model: LatentPatch, count: int | None, seed: int) -> Tensor | None:
    """Return the positions of randomly drawn sources, with their variants, ascending; None for all."""
    total, variants = len(model.bank.sources), model.bank.variants.count
    if count is None or count >= total:
        return None
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return (drawn[:, None] * variants + torch.arange(variants)).flatten()
