"""Tensor files with a header: safetensors whose metadata hold a format and facts as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from ..errors import FileError
from .atomic import write_tensors
from .mmap import open_tensors, read_tensors

__all__ = ["read_stored", "write_stored"]


def write_stored(path: str | Path, form: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write tensors and facts, which JSON can hold, whole or not at all.

    Raises:
        FileError: where the file cannot be written.
    """
    write_tensors(path, tensors, {"latentpatch": json.dumps({"format": form, **facts}, sort_keys=True)})


def read_stored(path: str | Path, form: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the facts and tensors of a file of a format.

    Raises:
        FileError: where it is not such a file, with the reason.
    """
    try:
        tensors = read_tensors(path)
        with open_tensors(path) as stored:
            header = json.loads((stored.metadata() or {}).get("latentpatch", "null"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise FileError(path, f"not a readable file of format {form}: {error}") from error
    if not isinstance(header, dict) or header.get("format") != form:
        raise FileError(path, f"not a file of format {form}")
    return header, tensors
