"""Tensors that live in files: mapped, so that their size is one of the disk and not of the memory.

A mapping is private: what is written to such a tensor stays in this process. It reserves no memory either, which
the readers of PyTorch and safetensors do: Linux refuses them a file larger than the machine's memory.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import FileError

__all__ = ["DTYPES", "Rows", "map_tensors"]

#: Names of types in safetensors files, in the order in which these lay out their tensors.
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


def map_tensors(path: str | Path, scattered: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors of a safetensors file over its mapping; only what is looked at is read.

    The file may be replaced meanwhile, by renaming, but not be shortened.

    Args:
        path: the file.
        scattered: tensors of which little is looked at, here and there. Otherwise systems read megabytes
            ahead of every byte.

    Raises:
        OSError, SafetensorError, ValueError: where it cannot be read, or is malformed.
    """
    with safe_open(path, framework="np"):  # checks the header against the file's size, and reads no tensor
        pass
    with Path(path).open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        types = {name: dtype for dtype, name in DTYPES.items()}
        tensors = {}
        for name, entry in header.items():
            if entry["dtype"] not in types:
                raise ValueError(f"tensor {name!r} is of type {entry['dtype']}; one of {', '.join(types)} is expected")
            offset = start + entry["data_offsets"][0]
            tensors[name] = _mapped(file, types[entry["dtype"]], entry["shape"], offset, name in scattered)
    return tensors


class Rows:
    """A tensor whose rows come in batches, in memory or in a file; to be used in a ``with`` block.

    Args:
        count: rows there are at most.
        shape: of one row.
        dtype: of the elements.
        device: where the tensor is, in memory.
        folder: where to keep it in a file instead: one without a name, which is gone when nobody uses the
            tensor any more, whatever ends the process.
    """

    def __init__(
        self,
        count: int,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        folder: str | Path | None = None,
    ) -> None:
        self._shape, self._dtype, self._folder, self._done = tuple(shape), dtype, folder, 0
        if folder is None:
            self._rows = torch.empty((count, *shape), dtype=dtype, device=device)
        else:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed on leaving the block)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            with suppress(OSError):  # of what no longer matters, or was said already
                self._file.close()

    def __len__(self) -> int:
        return self._done

    def append(self, batch: Tensor) -> None:
        """Put rows after those that are there.

        Raises:
            FileError: where the file cannot be written.
        """
        if self._folder is None:
            self._rows[self._done : self._done + len(batch)] = batch
        else:
            data: Any = batch.to("cpu", self._dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
            try:
                self._file.write(data)
            except OSError as error:
                raise FileError(f"cannot write to {self._folder}: {error.strerror or error}") from error
        self._done += len(batch)

    def tensor(self) -> Tensor:
        """The rows that came: ``(len(self), *shape)``; none can be added any more."""
        if self._folder is None:
            # A view would keep, and save, the memory of rows that did not come.
            return self._rows if self._done == len(self._rows) else self._rows[: self._done].clone()
        try:
            self._file.flush()
            return _mapped(self._file, self._dtype, (self._done, *self._shape), 0)
        except OSError as error:
            raise FileError(f"cannot write to {self._folder}: {error.strerror or error}") from error


def _mapped(file: BinaryIO, dtype: torch.dtype, shape: Sequence[int], offset: int, scattered: bool = False) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.empty(tuple(shape), dtype=dtype)
    if offset % dtype.itemsize:
        raise ValueError(f"elements of {dtype.itemsize} bytes at byte {offset}: a multiple is expected")
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
