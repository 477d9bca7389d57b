"""Limits on the cost of requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..errors import SettingError
from ..validation import check_choice, check_integer, check_real
from .failures import BUSY, Failure, Refusal
from .schema import InfoRequest, Request, SeededRequest

__all__ = [
    "OPERATIONS",
    "Limits",
    "check_bytes",
    "check_count",
    "check_operation",
    "check_seconds",
    "count_images",
    "too_much_work",
]

#: What requests may ask for.
OPERATIONS = ("generate", "provenance", "inpaint", "edit", "reconstruct", "picture", "info")


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
        max_task_pixels: of the pictures that are sent for a task on pictures, together, and of those that it makes;
            0 refuses all such tasks.
        operations: those of :data:`OPERATIONS` that are answered. ``edit`` and ``inpaint`` can show a source as it is.
    """

    max_images: int = 64
    max_batch_images: int = 128
    max_pixels: int = 16 * 2**20
    max_image_bytes: int = 8 * 2**20
    max_seconds: float = 20.0
    max_task_pixels: int = 1 << 20
    operations: Sequence[str] = OPERATIONS

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name == "operations":
                for operation in value:
                    check_choice(name, operation, OPERATIONS)
            elif name != "max_seconds":
                check_integer(name, value, 0 if name == "max_task_pixels" else 1)
        if not check_real("max_seconds", self.max_seconds) > 0:
            raise SettingError("max_seconds", self.max_seconds, "above 0")
        object.__setattr__(self, "max_seconds", float(self.max_seconds))


def count_images(request: Request) -> int:
    """Return the number of pictures that a request decodes."""
    if isinstance(request, SeededRequest):
        return len(request.seeds) if request.seeds is not None else request.n
    return 0 if isinstance(request, InfoRequest) else 1


def check_operation(request: Request, limits: Limits) -> None:
    """Refuse operations that the server does not answer.

    Raises:
        SettingError: naming ``operation``.
    """
    if request.operation not in limits.operations:
        raise SettingError("operation", request.operation, f"one of {', '.join(limits.operations)} on this server")


def check_bytes(data: bytes, name: str, limits: Limits) -> None:
    """Refuse the file of a picture that is too large.

    Raises:
        Refusal: naming the field.
    """
    if len(data) > limits.max_image_bytes:
        message = f"{name}: a picture file has at most {limits.max_image_bytes} bytes, not {len(data)}"
        raise Refusal(Failure(413, "picture_too_large", message, name))


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
        raise too_much_work(limits, seconds)
    if seconds > left:
        raise Refusal(BUSY)


def too_much_work(limits: Limits, seconds: float | None = None) -> Refusal:
    """Return the refusal of work that would take some seconds, or that took longer than there are."""
    taken = "this took too long" if seconds is None else f"this would take some {seconds:.0f} s"
    return Refusal(Failure(413, "too_much_work", f"{taken}; the limit is {limits.max_seconds:g} s"))
