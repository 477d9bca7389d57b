"""Rows of evaluation tables: a sampler with its settings, or a control to compare it with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError, SettingError, SettingTypeError, shorten
from ..methods.base import Context
from ..model import LatentPatch
from ..ops.blending import DECODINGS
from ..registry import SAMPLERS
from ..settings import Settings
from ..validation import check_choice, check_integer

__all__ = ["CONTROLS", "COPIER", "Row", "RowError", "drawn_positions", "parse_row", "read_tables", "standard_rows"]

#: Rows without a sampler: sources as they are or decoded, and held-out images through the autoencoder.
CONTROLS = ("sources", "sources-decoded", "held-out", "held-out-reduced")

_OPTIONS = ("bank", "decoding")
_ROW_SYNTAX = "[NAME:] SAMPLER [KEY=VALUE ...], each key once"


class RowError(SettingError):
    """A row that cannot be evaluated: the refusal of an argument, with the row's name.

    Attributes:
        row: name of the row.
    """

    def __init__(self, row: str, name: str, value: Any, constraint: str) -> None:
        super().__init__(name, value, constraint)
        self.row, self.args = row, (row, name, value, constraint)

    def __str__(self) -> str:
        return f"row {shorten(self.row)}: {super().__str__()}"


@contextmanager
def _errors_of(row: str) -> Iterator[None]:
    """Raise refusals of arguments as those of a row."""
    try:
        yield
    except SettingError as error:
        raise RowError(row, error.name, error.value, error.constraint) from error


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: its name in tables.
        sampler: a key of :data:`~latentpatch.registry.SAMPLERS`, or one of :data:`CONTROLS`.
        settings: settings that differ from the model's, or from the sampler's defaults.
        decoding: see :meth:`LatentPatch.generate`.
        bank: number of sources, drawn anew with each seed; None for all.
    """

    name: str
    sampler: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    decoding: str | None = None
    bank: int | None = None

    def __post_init__(self) -> None:
        with _errors_of(self.name):
            if not isinstance(self.name, str) or not self.name.strip():
                raise SettingError("name", self.name, "text")
            check_choice("sampler", self.sampler, [*SAMPLERS, *CONTROLS])
            if self.decoding is not None:
                check_choice("decoding", self.decoding, DECODINGS)
            if self.bank is not None:
                check_integer("bank", self.bank, 1)
            if not isinstance(self.settings, Mapping):
                raise SettingTypeError("settings", self.settings, "an object")
            if not self.is_control:
                SAMPLERS.settings_class(self.sampler).checked_names(self.settings)
            elif self.settings or self.bank is not None or self.decoding is not None:
                raise SettingError("settings", dict(self.settings), f"absent: {self.sampler} takes no settings")

    @property
    def is_control(self) -> bool:
        """True for a row without a sampler."""
        return self.sampler in CONTROLS

    def bank_size(self, model: LatentPatch) -> int | None:
        """Return the number of sources the bank is restricted to; None for all of them."""
        return None if self.bank is None or self.bank >= len(model.bank.sources) else self.bank

    def _context(self, model: LatentPatch) -> Context:
        groups = model.bank.num_groups
        return Context(model.bank.grid, min(self.bank_size(model) or groups, groups))

    def settings_for(self, model: LatentPatch) -> Settings:
        """Return the settings in force with a model.

        Raises:
            RowError: where they are out of range.
        """
        with _errors_of(self.name):
            settings = model.with_settings(self.sampler, **self.settings)
            SAMPLERS[self.sampler].validate(settings, self._context(model))
        return settings

    def identity(self, model: LatentPatch) -> dict[str, Any]:
        """Return all that decides the row's images beside the seeds and the conditions of all rows; not its name."""
        if self.is_control:
            return {"sampler": self.sampler}
        settings = self.settings_for(model)
        record = {
            "sampler": self.sampler,
            "settings": SAMPLERS[self.sampler].resolve(settings, self._context(model)).record(),
            "decoding": self.decoding or model.default_decoding(settings),
            "bank": self.bank_size(model),
        }
        return json.loads(json.dumps(record))  # type: ignore[no-any-return]  # with lists for tuples, as in a file


#: The row of every table that shows the figures of a generator that returns its sources.
COPIER = Row("sources, verbatim", "sources")


def standard_rows() -> list[Row]:
    """Return rows of every sampler at its defaults, of reconstructed held-out images, and of sources."""
    return [
        Row("held-out, reconstructed", "held-out"),
        Row("held-out, reconstructed through the PCA", "held-out-reduced"),
        Row("sources, reconstructed", "sources-decoded"),
        *(Row(f"{name} (default)", name) for name in SAMPLERS),
    ]


def parse_row(text: str) -> Row:
    """Parse a row of the form ``[NAME:] SAMPLER [KEY=VALUE ...]``.

    Keys are settings of the sampler, ``decoding`` or ``bank``. Values are numbers, ``true``, ``false``, ``null``, text,
    or several with commas between, as ``16,11,9``. The default name is the rest of the text.

    Raises:
        SettingError: for another text, or a row that is refused.
    """
    name, colon, rest = text.rpartition(": ")
    words = rest.split()
    if not words or (colon and not name.strip()):
        raise SettingError("row", text, _ROW_SYNTAX)
    settings: dict[str, Any] = {}
    for word in words[1:]:
        match = re.fullmatch(r"(\w+)=(.+)", word)
        if match is None or match[1] in settings:
            raise SettingError("row", text, _ROW_SYNTAX)
        settings[match[1]] = _value(match[2])
    options = {key: settings.pop(key) for key in _OPTIONS if key in settings}
    return Row(name.strip() or " ".join(words), words[0], settings, **options)


def read_tables(path: str | Path) -> dict[str, list[Row]]:
    """Read the tables of a JSON file: rows by the table's heading.

    The file holds ``{HEADING: [ROW, ...], ...}``, or one list of rows. A row is the text :func:`parse_row` takes, or
    an object with ``name``, ``sampler`` and, if wanted, ``settings`` (an object), ``decoding`` and ``bank``.

    Raises:
        FileError: for other contents.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(path, f"not a readable JSON file: {error}") from error
    tables = {path.stem: found} if isinstance(found, list) else found
    if not isinstance(tables, dict) or not tables or not all(isinstance(rows, list) for rows in tables.values()):
        raise FileError(path, "must hold {HEADING: [ROW, ...], ...} or [ROW, ...]")
    try:
        return {heading: [_row(row) for row in rows] for heading, rows in tables.items()}
    except SettingError as error:
        raise FileError(path, str(error)) from error


def _row(record: Any) -> Row:
    if isinstance(record, str):
        return parse_row(record)
    names = {each.name for each in fields(Row)}
    if not isinstance(record, dict) or not {"name", "sampler"} <= set(record) <= names:
        raise SettingError("row", record, f"text, or an object of {', '.join(sorted(names))}")
    return Row(**record)


def _value(text: str) -> Any:
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    try:
        return json.loads(text)
    except ValueError:
        return text


def drawn_positions(model: LatentPatch, count: int | None, seed: int) -> Tensor | None:
    """Return the positions of randomly drawn sources, with their augmented copies, ascending; None for all."""
    total, variants = len(model.bank.sources), model.bank.variants.count
    if count is None or count >= total:
        return None
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return (drawn[:, None] * variants + torch.arange(variants)).flatten()
