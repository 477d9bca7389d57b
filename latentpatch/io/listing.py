"""Find picture files in folders and text lists, and name them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from ..errors import FileError, SettingError

__all__ = ["SUFFIXES", "find_named", "identifiers", "left_out", "list_images", "normalized", "resolved"]

T = TypeVar("T")

#: Suffixes of picture files, in lower case.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"
)  # fmt: skip

#: Beginnings of names of folders that are no one's pictures: hidden ones, and what file servers and archives add.
_LEFT_OUT = (".", "@", "__MACOSX")
#: Suffixes of files that are not taken for pictures that were left out.
_TEXTS = ("", ".csv", ".html", ".json", ".jsonl", ".md", ".py", ".safetensors", ".tsv", ".txt")

_ACCEPTED = f"accepted: {' '.join(SUFFIXES)}"


def list_images(*sources: str | Path) -> list[Path]:
    """List the picture files of ``sources``, in the order of the sources.

    Args:
        sources: each a folder (all pictures below it by suffix, sorted by path; hidden files and folders are
            skipped, as are those of file servers such as ``@eaDir``; links to folders are not followed), a picture,
            or a ``.txt`` file with the path of one picture a line, relative to the folder of that file (blank lines
            and lines that begin with ``#`` are skipped).

    Raises:
        SettingError: where there are no sources.
        FileError: where a source does not exist, is of another kind or holds no pictures, or where two paths are
            of one picture.
    """
    if not sources:
        raise SettingError("sources", sources, "at least one folder, picture or .txt list")
    paths = [path for source in sources for path in _list_source(Path(source))]
    first: dict[Path, Path] = {}
    for path in paths:
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise FileError(path, f"cannot be resolved: {error}") from error
        if resolved in first:
            raise FileError(path, f"listed twice, the first time as {first[resolved]}")
        first[resolved] = path
    return paths


def _list_source(source: Path) -> list[Path]:
    try:
        is_folder, exists = source.is_dir(), source.exists()
    except OSError as error:  # no permission, or too long for a name
        raise FileError(source, f"cannot be read: {error.strerror or error}") from error
    if is_folder:
        return _list_folder(source)
    if not exists and not (source.is_symlink() and source.suffix.lower() in SUFFIXES):  # reading tells of the latter
        raise FileError(source, "no such file or folder")
    if source.suffix.lower() in SUFFIXES:
        return [source]
    if source.suffix.lower() == ".txt":
        return _read_list(source)
    raise FileError(source, f"not a folder, a .txt list or a picture; {_ACCEPTED}")


def _list_folder(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise FileError(error.filename, f"cannot be listed: {error.strerror or error}") from error

    paths = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(_LEFT_OUT)]
        visible = [Path(parent, name) for name in files if not name.startswith(".")]
        paths += [path for path in visible if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise FileError(folder, f"holds no images; {_ACCEPTED}")
    return sorted(paths, key=lambda path: path.parts)


def left_out(*sources: str | Path) -> list[tuple[Path, str]]:
    """Return files and folders that :func:`list_images` passes over in folders, with the reason; no texts or tables."""
    found = []
    for parent, folders, files in (step for source in sources for step in os.walk(source)):
        found += [(Path(parent, name), "a hidden or system folder") for name in folders if name.startswith(_LEFT_OUT)]
        folders[:] = [name for name in folders if not name.startswith(_LEFT_OUT)]
        for path in (Path(parent, name) for name in files):
            suffix = path.suffix.lower()
            if path.name.startswith("."):
                found += [(path, "hidden")] if suffix in SUFFIXES else []
            elif suffix not in SUFFIXES and suffix not in _TEXTS:
                found.append((path, f"suffix {suffix}"))
    return sorted(found)


def _read_list(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(file, f"not a readable UTF-8 text file: {error}") from error
    paths = []
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        path = file.parent / entry
        try:
            exists = path.is_file()
        except (OSError, ValueError):  # too long for a name, or a null character
            exists = False
        if not exists:
            raise FileError(file, f"line {number}: {entry}: no such file")
        if path.suffix.lower() not in SUFFIXES:
            raise FileError(file, f"line {number}: {entry}: not a picture; {_ACCEPTED}")
        paths.append(path)
    if not paths:
        raise FileError(file, "lists no images; it must hold the path of one picture a line")
    return paths


def identifiers(paths: Sequence[Path]) -> list[str]:
    """Return a unique name of each picture: its stem, else file name, else path below the common folder.

    Names are in Unicode's normal form C, as most tables have them, whatever the file system has.

    Args:
        paths: as from :func:`list_images`.

    Returns:
        One string a path, the same wherever the folder lies.

    Raises:
        SettingError: where a path occurs twice.
    """
    absolute = [Path(os.path.normpath(path.absolute())) for path in paths]
    if len(set(absolute)) < len(absolute):
        raise SettingError("paths", str(Counter(absolute).most_common(1)[0][0]), "different from one another")
    common = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    below = [path.relative_to(common).as_posix() for path in absolute]
    for names in ([path.stem for path in paths], [path.name for path in paths], below):
        normal = [normalized(name) for name in names]
        if len(set(normal)) == len(normal):
            return normal
    return below


def resolved(path: str | Path) -> Path:
    """Return an absolute path without links, as far as they lead anywhere; those of loops stay."""
    return Path(os.path.realpath(path))


def normalized(name: str) -> str:
    """Return a name in Unicode's normal form C, by which names are compared."""
    return unicodedata.normalize("NFC", name)


def find_named(path: Path, names: Mapping[str, T]) -> T | None:
    """Return what a table has for a picture: under the longest end of its path that the table has; else None."""
    parts = Path(normalized(os.path.normpath(path.absolute()))).parts
    ends = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((names[end] for end in ends if end in names), None)
