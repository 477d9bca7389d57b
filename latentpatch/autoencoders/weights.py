"""Weight files: download and cache them, check their digests, and read them safely.

Nothing here executes the contents of a file: PyTorch files go through the weights-only unpickler.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import FileError, WeightsError
from ..io.atomic import alone_in, write_bytes
from ..io.download import download

__all__ = ["WeightFile", "cache_folder", "located", "read_checkpoint", "sha256_of", "without_downloads"]

_may_download = ContextVar("may_download", default=True)


@dataclass(frozen=True)
class WeightFile:
    """A published file of weights.

    Attributes:
        name: file name, unique among all our files (it names the file in the cache).
        url: its address, or None where it can only be fetched by hand.
        sha256: lower-case hex digest, or None where it is not published: then the
            digest is recorded when a file is first used and checked from then on.
        hint: how to get the file by hand.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    hint: str = ""


@contextmanager
def without_downloads() -> Iterator[None]:
    """Within the block, weights that are not on this machine raise :class:`WeightsError`, and are not fetched."""
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


def cache_folder() -> Path:
    """Return the folder of downloaded weights, inside PyTorch Hub's (``TORCH_HOME`` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "latentpatch"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def located(file: WeightFile, path: str | Path | None = None) -> Iterator[Path]:
    """Yield the path of a file on this machine, downloaded if need be, with its digest checked.

    Where the digest is not published, it is recorded once the block has succeeded, so that a file that
    could not be loaded may be replaced.

    Args:
        file: which file.
        path: the file itself or the folder that holds it; None to use the cache, then the network.

    Raises:
        WeightsError: where it is neither there nor downloadable (the message says what to fetch and
            where to put it), or its digest differs.
    """
    if path is not None:
        local = Path(path).expanduser()
        if local.is_dir():
            local = local / file.name
        if not local.is_file():
            raise WeightsError(f"{local}: no such file. {_how_to_get(file)}")
    else:
        local = cache_folder() / file.name
        if not local.is_file():
            _download(file, local)
    try:
        seen = sha256_of(local)
    except OSError as error:
        raise WeightsError(f"{local}: cannot be read: {error.strerror or error}") from error
    key = str(local.resolve())
    recorded = {} if file.sha256 else _read_record()
    if file.sha256 not in (None, seen):
        raise WeightsError(f"{local}: SHA-256 must be {file.sha256}, got {seen}: not the published {file.name}")
    if recorded.get(key, seen) != seen:
        raise WeightsError(
            f"{local}: SHA-256 must be {recorded[key]}, as when first used, got {seen}: the file has changed. "
            f"If that is intended, remove its line from {_record_path()}"
        )
    try:
        yield local
    except WeightsError as error:
        if path is None:
            raise WeightsError(f"{error}. Remove {local} to have it downloaded again") from error
        raise
    if file.sha256 is None and key not in recorded:
        _add_record(key, seen)


def _how_to_get(file: WeightFile) -> str:
    return " ".join(part for part in (file.hint, f"Download: {file.url}" if file.url else "") if part)


def _download(file: WeightFile, target: Path) -> None:
    if file.url is None:
        raise WeightsError(f"{file.name} cannot be downloaded by itself. {file.hint} Put it at {target}")
    if not _may_download.get():
        raise WeightsError(
            f"{file.name} is not on this machine, and a model file alone does not have it downloaded: "
            "name the autoencoder, too (--autoencoder or --generator, autoencoder=)"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        download(file.url, target)
    except (OSError, FileError) as error:
        raise WeightsError(
            f"could not download {file.name}: {error}. Fetch {file.url} by hand and put it at {target}, "
            f"or name its path after the autoencoder's name and a colon"
        ) from error


def _record_path() -> Path:
    return cache_folder() / "sha256.json"


def _read_record() -> dict[str, str]:
    try:
        record = json.loads(_record_path().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{_record_path()}: not a readable record of SHA-256 digests ({error}); repair or remove it"
        ) from error
    if not isinstance(record, dict):
        raise WeightsError(f"{_record_path()}: not a record of SHA-256 digests; remove it")
    return record


def _add_record(key: str, digest: str) -> None:
    try:
        folder = _record_path().parent
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):  # the digest that another process recorded meanwhile stays
            record = {key: digest, **_read_record()}
            write_bytes(_record_path(), json.dumps(record, indent=1, sort_keys=True).encode())
    except (OSError, FileError) as error:
        warnings.warn(f"the SHA-256 of {key} could not be recorded in {_record_path()}: {error}", stacklevel=3)


def read_checkpoint(path: Path, inert: Mapping[str, type] | None = None) -> Any:
    """Unpickle a PyTorch file with the weights-only loader.

    Args:
        path: the file.
        inert: stand-in classes by dotted name for harmless globals in such files;
            the stand-ins are built in place of the real classes, which are never imported.

    Raises:
        WeightsError: for unreadable files and, by name, for any other global.
    """
    stand_ins: list[Any] = [(stub, name) for name, stub in (inert or {}).items()]
    try:
        with torch.serialization.safe_globals(stand_ins):
            # Mapped rather than read where the format allows it: large files hold more than their weights.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises many types on malformed bytes
        refused = _unknown_globals(path, set(inert or ()), str(error))
        if refused:
            raise WeightsError(
                f"{path}: refused, it would run code when unpickled: {', '.join(refused)}. "
                "Only tensors and plain containers are accepted"
            ) from error
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint: {_cause(error)}") from error


def _unknown_globals(path: Path, allowed: set[str], message: str) -> list[str]:
    try:
        return sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - allowed)
    except Exception:  # not a zip checkpoint: the error names only the first global
        return re.findall(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message)


def _cause(error: Exception) -> str:
    """Return the first line of an error without the unpickler's preamble, which recommends the unsafe loader."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
