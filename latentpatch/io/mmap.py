"""Memory-map tensors in files, so that they may be larger than memory.

A mapping is private: writes to a mapped tensor stay in this process. It reserves no memory; the readers of PyTorch
and safetensors do, and Linux refuses them a file larger than the machine's memory.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import FileError, SettingError
from .notes import open_regular

__all__ = ["DTYPES", "Rows", "map_tensors", "open_tensors", "read_tensors"]

#: Names of dtypes in safetensors files, in the order in which safetensors lays out the tensors.
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # Python names it from 3.13 on


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, in memory.

    Raises:
        OSError, SafetensorError: where the file cannot be read, or is malformed.
    """
    with open_regular(path, "rb"):
        return load_file(path)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file to read its header, and tensors one by one, as NumPy's arrays.

    Raises:
        OSError, SafetensorError: where it cannot be read, or is malformed. Of every file that it cannot open,
            safetensors itself says that it does not exist.
    """
    with open_regular(path, "rb"), safe_open(path, framework="np") as stored:
        yield stored


def map_tensors(path: str | Path, scattered: Collection[str] = ()) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file; pages are read when elements are used.

    The file may be replaced meanwhile, by renaming, but not be shortened.

    Args:
        path: the file.
        scattered: names of tensors with scattered accesses, for which the system's reading ahead, megabytes at a
            time, is turned off.

    Raises:
        OSError, SafetensorError, ValueError: where the file cannot be read, or is malformed.
    """
    with open_tensors(path):  # checks the header against the file's size, and reads no tensor
        pass
    with Path(path).open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        types = {name: dtype for dtype, name in DTYPES.items()}
        tensors = {}
        for name, entry in header.items():
            if entry["dtype"] not in types:
                raise SettingError(f"dtype of tensor {name!r}", entry["dtype"], f"one of {', '.join(types)}")
            offset = start + entry["data_offsets"][0]
            tensors[name] = _map(file, types[entry["dtype"]], entry["shape"], offset, name in scattered)
    return tensors


class Rows:
    """Collect rows in batches into one tensor, in memory or in a file; for use in a ``with`` block.

    Args:
        count: largest number of rows.
        shape: shape of one row.
        dtype: dtype of the elements.
        device: device of a tensor in memory.
        folder: folder of a temporary file for the rows; None collects them in memory. The file has no name and
            vanishes with the tensor, whatever ends the process.
    """

    def __init__(
        self,
        count: int,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        folder: str | Path | None = None,
    ) -> None:
        self._shape, self._dtype, self._folder, self._length = tuple(shape), dtype, folder, 0
        if folder is None:
            self._rows = torch.empty((count, *shape), dtype=dtype, device=device)
        else:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed on leaving the block)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            with suppress(OSError):  # append and tensor report what matters
                self._file.close()

    def __len__(self) -> int:
        return self._length

    def append(self, batch: Tensor) -> None:
        """Append rows.

        Raises:
            FileError: where the file cannot be written.
        """
        if self._folder is None:
            self._rows[self._length : self._length + len(batch)] = batch
        else:
            data: Any = batch.to("cpu", self._dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
            try:
                self._file.write(data)
            except OSError as error:
                raise FileError(self._folder, f"cannot be written: {error.strerror or error}") from error
        self._length += len(batch)

    def tensor(self) -> Tensor:
        """Return the rows, ``(len(self), *shape)``; no rows can be appended afterwards."""
        if self._folder is None:
            # A view would keep, and save, the memory of unused rows.
            return self._rows if self._length == len(self._rows) else self._rows[: self._length].clone()
        try:
            self._file.flush()
            return _map(self._file, self._dtype, (self._length, *self._shape), 0)
        except OSError as error:
            raise FileError(self._folder, f"cannot be written: {error.strerror or error}") from error


def _map(file: BinaryIO, dtype: torch.dtype, shape: Sequence[int], offset: int, scattered: bool = False) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(tuple(shape), dtype=dtype)
    if offset % dtype.itemsize:
        raise SettingError("offset of a tensor", offset, f"a multiple of its elements' {dtype.itemsize} bytes")
    # Mappings begin at whole pages.
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    length = offset - begin + count * dtype.itemsize
    if sys.platform == "win32":
        pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
    else:
        pages = mmap.mmap(
            file.fileno(),
            length,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=begin,
        )
    if scattered and hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=offset - begin).view(tuple(shape))
