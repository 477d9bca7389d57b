"""Write files atomically: readers see a whole file or none.

Every file is written under a temporary name in its folder and then renamed, which file systems do in one step. No
file is flushed to the disk by force: this guards against errors and interruptions of the program, not against power
cuts.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from ..runs.interruption import checkpoint, count_written
from .mmap import DTYPES

__all__ = [
    "TEMPORARY",
    "alone_in",
    "append_line",
    "check_replaceable",
    "move_into",
    "replacing",
    "staged",
    "tensor_bytes",
    "write_bytes",
    "write_tensors",
]

try:
    import fcntl
except ImportError:  # Windows has none: processes that change one folder at the same time go unnoticed
    fcntl = None  # type: ignore[assignment]


#: Beginning of the names of temporary files and folders.
TEMPORARY = ".latentpatch-"

_LONGEST_WAIT = 30.0  # seconds for another process that changes files in the same folder
_WAIT = 0.01  # seconds between looks
_ELEMENTS_PER_WRITE = 1 << 22  # bounds the memory of a copy from the GPU or of a strided tensor


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, atomically.

    Raises:
        FileError: where the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a text file, made with its folder where it is missing, whole or not at all.

    Raises:
        FileError: where the file cannot be written, or another process writes there for too long.
    """
    path = Path(path)
    with _file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(path.parent), path.open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            data = (b"\n" if file.read(1) not in (b"", b"\n") else b"") + line.encode() + b"\n"
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Run the block while no other process is in such a block for the same folder.

    The lock is the folder's own and ends with the process. File systems without locks do without.

    Raises:
        FileError: where another process has the folder for too long.
    """
    handle, end = None, time.monotonic() + _LONGEST_WAIT
    with suppress(OSError):  # a folder that may not be listed
        handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        while handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise FileError(folder, "another command is at work there") from error
                time.sleep(_WAIT)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        if handle is not None:
            os.close(handle)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, atomically.

    The bytes equal those of ``safetensors.torch.save_file``, which needs memory for all of them.

    Raises:
        FileError: where the file cannot be written.
    """
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in names:
        value = tensors[name]
        begin, end = end, end + value.nbytes
        header[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for part in tensors[name].detach().reshape(-1).split(_ELEMENTS_PER_WRITE):
                file.write(tensor_bytes(part))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, in the order of its elements, as files and digests hold them."""
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a hidden path beside ``path``, of the same suffix, that replaces ``path`` when the block ends.

    Where the block raises, the temporary file is removed and ``path`` stays unchanged.

    Raises:
        FileError: for any ``OSError``, in the block too, and where ``path`` exists and is not a regular file. Other
            errors of the block pass unchanged.
    """
    path = Path(path)
    temporary = path.with_name(_temporary_name() + path.suffix)
    with _file_errors(path):
        check_replaceable(path)
        try:
            yield temporary
            checkpoint()
            temporary.replace(path)
        except BaseException:
            _remove(temporary)
            raise


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """Yield a staging folder inside ``folder`` whose files move into ``folder`` when the block ends.

    Missing parents are created. Files of the same names are replaced, others stay; sub-folders of the staging folder
    stay sub-folders. Where the block or a move raises, the staging folder, new files and created folders are removed.

    Raises:
        FileError: for any ``OSError``, in the block too. Other errors of the block pass unchanged.
    """
    folder = Path(folder)
    staging = folder / _temporary_name()
    folders: list[Path] = []
    files: list[str] = []
    with _file_errors(folder):
        try:
            _create(staging, folders)
            yield staging
            checkpoint()
            _move_all(staging, folder, folders, files)
            staging.rmdir()
            count_written()
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            for file in files:
                _remove(Path(file))
            for created in reversed(folders):
                with suppress(OSError):  # another process may have put a file there meanwhile
                    created.rmdir()
            raise


def move_into(staging: Path, folder: Path) -> None:
    """Move the contents of one folder into another, each file in one step; same names are replaced.

    Raises:
        FileError: where a file cannot move; most reasons are found before the first one moves.
    """
    with _file_errors(folder):
        _move_all(staging, folder, [], [])
        count_written()


def _temporary_name() -> str:
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn OSErrors of the block into FileErrors of ``path``."""
    try:
        yield
    except OSError as error:
        raise FileError(path, f"cannot be written: {error.strerror or error}") from error


def check_replaceable(path: Path) -> None:
    """Refuse a path that a file cannot replace, such as a folder.

    Raises:
        FileError: naming it.
    """
    # Renaming onto a device such as /dev/null would put a file in its place for everyone.
    if path.exists() and not path.is_file():
        raise FileError(path, f"cannot be written: {'it is a folder' if path.is_dir() else 'not a regular file'}")


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _create(folder: Path, created: list[Path]) -> None:
    """Create a folder and its missing parents; append each created one to ``created``."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        try:
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():  # a folder: another process was quicker
                raise
        else:
            created.append(path)


def _move_all(staging: Path, folder: Path, folders: list[Path], files: list[str]) -> None:
    """Move the contents of ``staging`` into ``folder``; append new folders and files to the lists."""
    with alone_in(folder):  # so that files of two commands do not mix
        _move_names(staging, folder, sorted(_names_below(staging)), folders, files)


def _move_names(staging: Path, folder: Path, names: list[str], folders: list[Path], files: list[str]) -> None:
    for name in names:  # before the first move, so that none need be undone
        source, target = staging / name, folder / name
        if not source.is_dir():
            check_replaceable(target)
        elif target.is_symlink() or (target.exists() and not target.is_dir()):
            raise FileError(target, "cannot be written: it is not a folder")
    inner = [name for name in names if (staging / name).is_dir()]
    for name in names:
        source, target = staging / name, folder / name
        if source.is_dir():
            if not target.is_dir():
                _create(target, folders)
        else:
            if not target.exists():
                files.append(str(target))
            source.replace(target)
    for name in reversed(inner):
        (staging / name).rmdir()


def _names_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files and folders below a folder, relative to it."""
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder)
        yield from (str(below / name) for name in (*folders, *files))
