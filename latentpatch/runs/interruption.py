"""Checks within long computations, such as of a deadline: a caller's check is called between their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["checkpoint", "current_check", "interruptible"]

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def interruptible(check: Callable[[], None] | None) -> Iterator[None]:
    """Let :func:`checkpoint` call a check within the block; an error that it raises ends the computation."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def current_check() -> Callable[[], None]:
    """Return the check of the innermost :func:`interruptible` block, for other threads; a function without effect
    where there is none.
    """
    return _check.get() or _nothing


def checkpoint() -> None:
    """Call the check, if there is one."""
    current_check()()


def _nothing() -> None:
    pass
