"""The log of an evaluation: a folder with one JSON line for each row, and the rows' contact sheets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from ..io import images
from ..io.atomic import append_line, staged
from ..registry import SAMPLERS
from .sample_set import SHEET_IMAGES, SampleSet

__all__ = ["LOG", "EvaluationLog", "read_log"]

LOG = "evaluation.jsonl"
SHEETS = "sheets"
_PAIR_COLUMNS = 3  # pairs in a row of a sheet


class EvaluationLog:
    """The log of rows that are evaluated under the same conditions.

    Args:
        folder: where ``evaluation.jsonl`` and ``sheets/`` are; it may hold rows of other conditions, too.
        conditions: all that decides figures beside the row.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any]) -> None:
        self.folder, self.conditions = folder, conditions

    def find(self, **values: Any) -> dict[str, Any] | None:
        """Return the first entry of the same conditions with these values; a value of ``...`` stands for any."""
        for entry in read_log(self.folder / LOG):
            if entry["conditions"] == self.conditions and all(
                key in entry and value in (..., entry[key]) for key, value in values.items()
            ):
                return entry
        return None

    def append(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Append an entry under the log's conditions; return it as it is read back.

        Raises:
            FileError: where the log cannot be written; it stays as it was.
        """
        line = json.dumps({"conditions": self.conditions, **entry}, sort_keys=True)
        append_line(self.folder / LOG, line)
        return json.loads(line)  # type: ignore[no-any-return]

    def write_sheets(
        self, name: str, identity: Mapping[str, Any], sets: Sequence[SampleSet], pairs: Sequence[Tensor] = ()
    ) -> dict[str, str]:
        """Write contact sheets of a row's first images, of those with the costliest seams, and of pairs alike.

        Args:
            name: name of the row.
            identity: all that decides the row's images.
            sets: the row's sets.
            pairs: images ``(3, H, W)``, each with the source it is most alike behind it.

        Returns:
            Paths in the folder, by kind.
        """
        text = json.dumps([identity, self.conditions], sort_keys=True)
        slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:60].strip("-")
        stem = f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        worst = sorted((pair for each in sets for pair in each.worst), key=lambda pair: -pair[0])[:SHEET_IMAGES]
        sheets = {"first": sets[0].opening}
        if worst and worst[0][0] > 0:
            sheets["worst"] = [image for _, image in worst]
        if pairs:
            sheets["alike"] = list(pairs)
        paths = {}
        with staged(self.folder / SHEETS) as staging:
            for kind, shown in sheets.items():
                file = f"{stem}-{kind}.png"
                columns = 2 * min(_PAIR_COLUMNS, len(shown) // 2) if kind == "alike" else None
                images.write_image(staging / file, images.contact_sheet(torch.stack(shown), columns))
                paths[kind] = f"{SHEETS}/{file}"
        return paths


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a log; none where there is no file. Settings get their present names.

    Raises:
        FileError: where a line is damaged.
    """
    if not path.exists():
        return []
    entries = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry.get("conditions"), dict):
                raise ValueError("no entry of an evaluation")
            row = entry.get("row", {})
            if row.get("sampler") in SAMPLERS:
                row["settings"] = SAMPLERS.settings_class(row["sampler"]).renamed(row["settings"])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise FileError(path, f"line {number} is damaged ({error}); delete it to evaluate its row again") from error
        entries.append(entry)
    return entries
