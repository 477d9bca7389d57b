"""Find picture files in folders and text lists, and name them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import FileError, SettingError

__all__ = ["SUFFIXES", "identifiers", "list_images"]

#: Suffixes of picture files, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_ACCEPTED = f"accepted: {' '.join(SUFFIXES)}"


def list_images(*sources: str | Path) -> list[Path]:
    """List the picture files of ``sources``, in the order of the sources.

    Args:
        sources: each a folder (all pictures below it by suffix, sorted by path; hidden files and folders are
            skipped, links to folders are not followed), a picture, or a ``.txt`` file with the path of one picture
            a line, relative to the folder of that file (blank lines and lines that begin with ``#`` are skipped).

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
    if not exists:
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
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [Path(parent, name) for name in files if not name.startswith(".")]
        paths += [path for path in visible if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise FileError(folder, f"holds no images; {_ACCEPTED}")
    return sorted(paths, key=lambda path: path.parts)


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
    for names in ([path.stem for path in paths], [path.name for path in paths]):
        if len(set(names)) == len(names):
            return names
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common).as_posix() for path in absolute]
