"""Options of the server of its own: sizes of the queue and of batches, the token, names of the server."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FileError, SettingError
from ..validation import check_integer, check_real

__all__ = ["LOOPBACK", "Options", "read_token"]

#: Names of this machine for itself.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Options:
    """Options of the server: sizes of the queue and of batches, and the token.

    Attributes:
        batch_size: most requests answered together.
        max_batch_delay: most seconds a request waits for others while the worker is free.
        queue_size: most requests at once, from the first byte of a body to the answer: those at work too.
        max_body_bytes: of one request. With queue_size it bounds the memory that requests take.
        max_body_seconds: for a body to arrive.
        threads: of torch, for the worker; None leaves torch's own number.
        token: bearer token of every request but probes; None for a server that anyone may use.
        hosts: names of the server in the header Host, without which pages of other servers are kept from one without a
            token; empty for any.
    """

    batch_size: int = 16
    max_batch_delay: float = 0.01
    queue_size: int = 64
    max_body_bytes: int = 24 * 2**20
    max_body_seconds: float = 30.0
    threads: int | None = None
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = LOOPBACK

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue_size", "max_body_bytes"):
            check_integer(name, getattr(self, name), 1)
        if self.threads is not None:
            check_integer("threads", self.threads, 1)
        for name in ("max_batch_delay", "max_body_seconds"):
            value = check_real(name, getattr(self, name))
            if not 0 <= value < math.inf:
                raise SettingError(name, value, "a finite number of seconds, at least 0")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise SettingError("token", "other text", "printable ASCII and not blank")


def read_token(path: str | None) -> str | None:
    """Return the token of a file; without one, that of the environment, if there is one.

    Raises:
        FileError: where the file cannot be read.
    """
    if path is None:
        return os.environ.get("LATENTPATCH_TOKEN")
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"no token can be read: {getattr(error, 'strerror', 'not ASCII')}") from error
