"""Limits of requests, and failures: the reasons why a request has no result."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ImageError, ImageTooLargeError, SettingError
from ..registry import SAMPLERS
from ..runs.system import is_out_of_memory
from ..validation import check_integer, check_real
from .schema import FIELDS, GenerateRequest, InfoRequest, InpaintRequest, ProvenanceRequest, Request

__all__ = [
    "BUSY",
    "Failure",
    "Limits",
    "Refusal",
    "check_count",
    "check_seconds",
    "count_images",
    "failure_of",
    "malformed",
    "truncate_for_message",
]

_log = logging.getLogger(__name__)

MAX_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Limits:
    """Bounds on the cost of one request, or of one batch.

    Attributes:
        max_images: pictures of one request.
        max_batch_images: pictures made together; a batch of more goes in several rounds.
        max_pixels: of a picture in a request.
        max_image_bytes: of the file of a picture in a request.
        max_seconds: of a batch's work. A request that would take longer by itself is refused with 413, one
            that no longer fits beside those before it with 503.
    """

    max_images: int = 64
    max_batch_images: int = 128
    max_pixels: int = 16 * 2**20
    max_image_bytes: int = 8 * 2**20
    max_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "max_seconds":
                check_integer(name, value, 1)
        if not check_real("max_seconds", self.max_seconds) > 0:
            raise SettingError("max_seconds", self.max_seconds, "above 0")
        object.__setattr__(self, "max_seconds", float(self.max_seconds))


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no result.

    Attributes:
        status: of HTTP. 400: not a request; 406: no such form of answer; 413: too large; 422: a value
            that cannot be used; 500: a defect of this server; 503: too busy, try again later.
        code: the reason as a word, for programs.
        message: the reason as a sentence.
        field: the field of the request at fault, such as ``n`` or ``settings.stride``; None where it is no single one.
    """

    status: int
    code: str
    message: str
    field: str | None = None


BUSY = Failure(503, "busy", "too much work is waiting; try again in a moment")


class Refusal(Exception):
    """Carries a failure to where outcomes are collected."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def malformed(message: str) -> Refusal:
    """Return the refusal of a body that is no request."""
    return Refusal(Failure(400, "malformed", message))


def truncate_for_message(value: Any) -> str:
    """Return a value as text of bounded length; of bytes only their number."""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def failure_of(error: Exception) -> Failure:
    """Return the failure that a client sees, by the type of an error."""
    if isinstance(error, Refusal):
        return error.failure
    if isinstance(error, ImageTooLargeError):
        return Failure(413, "picture_too_large", str(error), _field(error.path))
    if isinstance(error, ImageError):
        return Failure(422, "unusable_picture", str(error), _field(error.path))
    if isinstance(error, (ValueError, TypeError)):
        return Failure(422, "invalid_value", str(error), _field(getattr(error, "name", None)))
    if is_out_of_memory(error):
        return Failure(503, "out_of_memory", "out of memory; fewer or smaller pictures may fit")
    _log.error("a request failed", exc_info=error)
    return Failure(500, "internal", "this request failed for a reason of the server's own; its log has it")


def _field(name: object) -> str | None:
    """Return the request's field of a name that an error carries; None where it is no field's."""
    if name in FIELDS:
        return str(name)
    return f"settings.{name}" if name in SAMPLERS.settings() else None


def count_images(request: Request) -> int:
    """Return the number of pictures that a request decodes."""
    if isinstance(request, (GenerateRequest, ProvenanceRequest, InpaintRequest)):
        return len(request.seeds) if request.seeds is not None else request.n
    return 0 if isinstance(request, InfoRequest) else 1


def check_count(request: Request, limits: Limits) -> int:
    """Return the number of pictures that a request decodes.

    Raises:
        Refusal: where there are too many.
    """
    count = count_images(request)
    if count > limits.max_images:
        name = "seeds" if getattr(request, "seeds", None) is not None else "n"
        message = f"{name}: at most {limits.max_images} pictures are made for one request, not {count}"
        raise Refusal(Failure(413, "too_many_images", message, name))
    return count


def check_seconds(seconds: float, limits: Limits, left: float = math.inf) -> None:
    """Refuse work that takes too long.

    Args:
        seconds: an estimate.
        limits: of the server.
        left: seconds until the batch has to be done.

    Raises:
        Refusal: 413 for what would never fit, 503 for what does not fit now.
    """
    if seconds > limits.max_seconds:
        message = f"this would take some {seconds:.0f} s; the limit is {limits.max_seconds:g} s"
        raise Refusal(Failure(413, "too_much_work", message))
    if seconds > left:
        raise Refusal(BUSY)
