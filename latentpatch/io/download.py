"""Work on the network within a time limit; fetch files."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ..errors import FileError
from ..runs.progress import progress
from .atomic import replacing

__all__ = ["download", "within_seconds"]

T = TypeVar("T")

_SILENT_SECONDS = 30.0  # without a byte, until a connection counts as broken
_SLOWEST = 1024  # bytes a second, after the first silent seconds
_BLOCK = 1 << 20  # bytes


def download(url: str, path: str | Path) -> None:
    """Write the file at an address to ``path``, whole or not at all; a bar shows the progress.

    Raises:
        FileError: of the address, where it cannot be read, answers too slowly, or ends early; of ``path``, where that
            cannot be written.
    """
    path = Path(path)
    start, done = time.monotonic(), 0
    try:
        answer = urlopen(Request(url, headers={"User-Agent": "latentpatch"}), timeout=_SILENT_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, HTTPError):  # an answer, whose connection is open
            error.close()
        raise FileError(url, f"cannot be read: {error}") from error
    total = int(answer.headers.get("Content-Length", 0))

    def blocks() -> Iterator[bytes]:
        nonlocal done
        try:
            while block := answer.read1(_BLOCK):
                yield block
                done += len(block)
                if time.monotonic() - start > _SILENT_SECONDS + done / _SLOWEST:
                    raise FileError(url, f"too slow: {done} bytes after {time.monotonic() - start:.0f} s")
        except (OSError, http.client.HTTPException) as error:
            raise FileError(url, f"cannot be read: {error}") from error
        if done < total:
            raise FileError(url, f"ended after {done} of {total} bytes")

    bar = progress(path.name, total=total or None, unit="B", unit_scale=True)
    with answer, bar, replacing(path) as temporary, temporary.open("wb") as file:
        for block in blocks():
            file.write(block)
            bar.update(len(block))


def within_seconds(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of a function; one that is late goes on in a thread of its own, and its result is dropped.

    Raises:
        TimeoutError: where it takes longer than ``seconds``. Errors of the function pass unchanged.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    done, _ = wait([outcome], seconds)
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return outcome.result()
