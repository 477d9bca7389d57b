"""Failures: the answers to requests that have no result, and the errors they come from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..errors import ImageError, ImageTooLargeError, MissingDependencyError, SettingError
from ..registry import SAMPLERS
from ..runs.system import is_out_of_memory
from .schema import FIELDS
from .setting_fields import picture_settings

__all__ = ["BUSY", "Failure", "Refusal", "failure_of", "malformed", "truncate_for_message"]

_log = logging.getLogger(__name__)

MAX_SHOWN = 80  # characters of a value in a message


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
    if isinstance(error, MissingDependencyError):  # of a method that this server lacks the package for
        return Failure(422, "invalid_value", str(error), "method")
    if isinstance(error, SettingError) and error.group is not None:
        return Failure(422, "invalid_value", str(error), f"{error.group}.{error.name}")
    if isinstance(error, (ValueError, TypeError)):
        return Failure(422, "invalid_value", str(error), _field(getattr(error, "name", None)))
    if is_out_of_memory(error):
        return Failure(503, "out_of_memory", "out of memory; fewer or smaller pictures may fit")
    _log.error("a request failed", exc_info=error)
    return Failure(500, "internal", "this request failed for a reason of the server's own; its log has it")


def _field(name: object) -> str | None:
    """Return the request's field of a name that an error carries; None where it is no field's."""
    name = {"guide": "target"}.get(str(name), str(name))
    if name.partition(".")[0] in FIELDS:  # such as pictures.1
        return name
    return f"settings.{name}" if name in SAMPLERS.settings() or name in picture_settings() else None
