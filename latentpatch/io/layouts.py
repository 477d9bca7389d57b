"""Layouts of the pictures that a command writes: a folder of files, a data set, or shards of tar files."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileError
from .atomic import check_replaceable, replacing, write_bytes
from .encoding import FORMATS

__all__ = ["DatasetFolder", "PictureFolder", "Shards"]

Record = Mapping[str, Any]

_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)
_LEAST_DIGITS = 4


class PictureFolder:
    """Pictures as single files in a folder, ``0000.png`` and so on.

    Args:
        folder: where they are written.
        total: number of pictures; it decides the digits of their names.
        suffix: of their names.
    """

    #: Folder of the pictures within the folder, with a slash.
    below = ""
    #: Name of a file with a line of JSON a picture; None where there is none.
    table: str | None = None
    #: Whether records have the predicate of the sources, as they are read without the report.
    has_where = False

    def __init__(self, folder: Path, total: int = 1, suffix: str = ".png") -> None:
        self.folder, self.total, self.suffix = folder, total, suffix
        self._digits = max(_LEAST_DIGITS, len(str(total - 1)))

    def stem(self, number: int) -> str:
        """Return the name of a picture without its suffix."""
        return f"{number:0{self._digits}d}"

    def file(self, number: int) -> str:
        """Return the path of a picture, relative to the folder."""
        return f"{self.below}{self.stem(number)}{self.suffix}"

    def check(self, folder: Path, *names: str) -> None:
        """Refuse a folder where something other than a file has the name of a picture, or one of other names.

        Raises:
            FileError: naming it.
        """
        if (folder / self.below).is_file():
            raise FileError(folder / self.below, "cannot be written: it is a file")
        for path in (*self._files(folder), *(folder / name for name in (*names, self.table) if name)):
            check_replaceable(path)

    def has(self, number: int) -> bool:
        """Return whether a picture is written already."""
        return (self.folder / self.file(number)).exists()

    def put(self, first: int, rows: Sequence[Record], pictures: Sequence[bytes | None]) -> None:
        """Write pictures, numbered from ``first``, and their records; None stays as it is.

        Raises:
            FileError: where a file cannot be written.
        """
        for number, data in enumerate(pictures, first):
            if data is not None:
                write_bytes(self.folder / self.file(number), data)

    def finish(self) -> None:
        """Complete the files once all pictures are written."""

    def read(self, number: int, path_of: Callable[[str], Path]) -> bytes:
        """Return the file of a picture, also after it was moved.

        Args:
            number: of the picture.
            path_of: returns where a file of the folder is now.
        """
        return path_of(self.file(number)).read_bytes()

    def describe(self, row: Record) -> Record:
        """Return a picture's line of :attr:`table`."""
        return row

    def older(self, folder: Path) -> list[str]:
        """Return the files of pictures in a folder that this run does not replace."""
        found = {path.relative_to(folder).as_posix() for path in self._files(folder)}
        return sorted(found - {self._replaced(number) for number in range(self.total)}) if found else []

    def _files(self, folder: Path) -> list[Path]:
        return [path for suffix in FORMATS.values() for path in folder.glob(f"{self.below}[0-9]*{suffix}")]

    def _replaced(self, number: int) -> str:
        return self.file(number)


class DatasetFolder(PictureFolder):
    """An image folder as the package ``datasets`` loads it: pictures in ``train`` with a table of their records."""

    below = "train/"
    table = "train/metadata.jsonl"
    has_where = True

    def __init__(self, folder: Path, total: int = 1, suffix: str = ".png") -> None:
        super().__init__(folder, total, suffix)
        (folder / self.below).mkdir(exist_ok=True)

    def describe(self, row: Record) -> Record:
        """Return a picture's columns: the same of every picture, whatever its sources."""
        shares = [{"source": name, "share": share} for name, share in row["shares"].items()]
        others = {name: row[name] for name in ("seed", "label", "where") if name in row}
        return {"file_name": Path(row["file"]).name, **others, "shares": shares}


class Shards(PictureFolder):
    """Tar files of pictures with their records, as the package ``webdataset`` reads them.

    A sample is ``0000.png`` and ``0000.json``, and ``0000.cls`` with the number of its class where it has one. Batches
    are written to files of their own, in any order, and put together at the end; a shard that is there stays.

    Args:
        folder, total, suffix: see :class:`PictureFolder`.
        size: pictures in a shard.
    """

    has_where = True

    def __init__(self, folder: Path, total: int, suffix: str, size: int) -> None:
        super().__init__(folder, total, suffix)
        self.size, self._parts = size, folder / "parts"
        self._parts.mkdir(exist_ok=True)

    def _shard(self, number: int) -> str:
        return f"shard-{number // self.size:06d}.tar"

    def file(self, number: int) -> str:
        """Return the shard of a picture, and its name there."""
        return f"{self._shard(number)}/{self.stem(number)}{self.suffix}"

    def has(self, number: int) -> bool:
        """Return False: a batch is written as a whole."""
        return False

    def put(self, first: int, rows: Sequence[Record], pictures: Sequence[bytes | None]) -> None:
        """Write a batch of pictures and their records, to one file for each shard that they belong to."""
        parts: dict[int, list[bytes]] = defaultdict(list)
        begins: dict[int, int] = {}
        for number, row, data in zip(range(first, first + len(rows)), rows, pictures, strict=True):
            shard = number // self.size
            begins.setdefault(shard, number)
            record = json.dumps({key: row[key] for key in row if key not in ("file", "class")}, sort_keys=True)
            members = [(self.suffix, data or b""), (".json", record.encode())]
            if "class" in row:
                members.append((".cls", str(row["class"]).encode()))
            parts[shard] += [_member(self.stem(number) + suffix, content) for suffix, content in members]
        for shard, members_of_shard in parts.items():
            write_bytes(self._parts / f"{begins[shard]}.tar", b"".join(members_of_shard))

    def finish(self) -> None:
        """Put the batches of each shard together."""
        numbers = sorted(int(path.stem) for path in self._parts.glob("[0-9]*.tar"))
        by_shard: dict[str, list[Path]] = defaultdict(list)
        for number in numbers:
            by_shard[self._shard(number)].append(self._parts / f"{number}.tar")
        for name, paths in by_shard.items():
            if not (self.folder / name).exists():  # else only removing its parts was interrupted
                with replacing(self.folder / name) as temporary, temporary.open("wb") as shard:
                    for path in paths:
                        shard.write(path.read_bytes())
                    shard.write(_END_OF_ARCHIVE)
            for path in paths:
                path.unlink()
        shutil.rmtree(self._parts)

    def read(self, number: int, path_of: Callable[[str], Path]) -> bytes:
        """Return the file of a picture from its shard."""
        with tarfile.open(path_of(self._shard(number))) as shard:
            member = shard.extractfile(self.stem(number) + self.suffix)
            assert member is not None
            return member.read()

    def _files(self, folder: Path) -> list[Path]:
        return list(folder.glob("shard-*.tar"))

    def _replaced(self, number: int) -> str:
        return self._shard(number)


def _member(name: str, content: bytes) -> bytes:
    """Return a file within a tar file: header, content, padding. Equal arguments give equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
