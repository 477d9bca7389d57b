"""Attributes of sources, read from CSV files."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from ..errors import FileError
from ..io.listing import normalized

__all__ = ["read_attributes"]

_PATH_COLUMNS = ("file", "filename", "image", "path")


def read_attributes(path: str | Path) -> dict[str, dict[str, str]]:
    """Read the attributes of images from a CSV file with a header, in UTF-8.

    Values are separated by commas; by semicolons or tabs where the first line has more of these, or is ``sep=;``.
    Columns without a name and without values, which spreadsheets leave behind, are dropped.

    Args:
        path: the file. Column ``id`` names the image; without one, the path in column ``file``,
            ``filename``, ``image`` or ``path`` does, else that in the first column: shortened to its stem, or its
            file name, where these differ from one another.

    Returns:
        For each image its row, all columns by name; empty values are ``""``. Space around names
        of columns and before values is dropped.

    Raises:
        FileError: where the file is unreadable, empty, not UTF-8, without rows, has rows of another
            length than the header, or names a column or an image twice or not at all.
    """
    path = Path(path)
    header: list[str] | None = None
    rows: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            is_declared = first.lower().startswith("sep=") and len(first.strip()) == 5
            if not is_declared:
                stream.seek(0)
            delimiter = first[4] if is_declared else max(",;\t", key=first.count)
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
            for values in reader:
                if not values:
                    continue
                if header is None:
                    header = _checked_header(values, path)
                    continue
                line = f"line {reader.line_num}"
                while len(values) > len(header) and not values[-1].strip():
                    values.pop()
                if len(values) != len(header):
                    raise FileError(path, f"{line}: values must be {len(header)}, as in the header, got {len(values)}")
                row = dict(zip(header, values, strict=True))
                key = normalized(_key(row))
                if not key:
                    raise FileError(path, f"{line}: the name of the image is missing")
                if key in rows:
                    raise FileError(path, f"{line}: {key!r} has a row already, in line {lines[key]}")
                rows[key], lines[key] = row, reader.line_num
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(path, f"not a CSV file in UTF-8: {error.reason}") from error
    except csv.Error as error:
        raise FileError(path, f"line {reader.line_num if reader else 1}: not readable as CSV: {error}") from error
    if header is None:
        raise FileError(path, "empty, without the header of a CSV file")
    if not rows:
        raise FileError(path, "only a header, without a row")
    if "id" in header:
        return rows
    # Shortened as the names of sources are.
    for shortened in ([Path(key).stem for key in rows], [Path(key).name for key in rows]):
        if len(set(shortened)) == len(rows):
            return dict(zip(shortened, rows.values(), strict=True))
    return rows


def _checked_header(values: list[str], path: Path) -> list[str]:
    header = [value.strip() for value in values]
    while len(header) > 1 and not header[-1]:
        header.pop()
    for name, count in Counter(header).items():
        if count > 1:
            raise FileError(path, f"column {name!r} comes twice in the header")
    return header


def _key(row: dict[str, str]) -> str:
    if "id" in row:
        return row["id"]
    column = next((name for name in _PATH_COLUMNS if name in row), next(iter(row)))
    return row[column].replace("\\", "/").removeprefix("./")
