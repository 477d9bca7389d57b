"""Open files that are found beside others, which anyone may have put there."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

__all__ = ["open_regular", "read_json"]

_MOST_BYTES = 1 << 28  # of a record, which is read as a whole


def open_regular(path: str | Path, mode: str = "r", **options: Any) -> IO[Any]:
    """Open a file, as ``open`` does; pipes and devices, which might wait or go on for ever, are refused.

    Raises:
        OSError: where it is no regular file, or cannot be opened.
    """
    file: IO[Any] = open(  # noqa: SIM115 (the caller closes it)
        path, mode, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666), **options
    )
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_json(path: str | Path) -> Any:
    """Read a record that a command wrote; bytes that are not UTF-8 are replaced.

    Raises:
        OSError: where it is no regular file, or cannot be read.
        ValueError: where it is not JSON, or larger than any record.
    """
    with open_regular(path, encoding="utf-8", errors="replace") as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        try:
            return json.load(file)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
