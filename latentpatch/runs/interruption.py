"""Checks within long computations, such as of a deadline: a caller's check is called between their parts.

Ctrl-C raises KeyboardInterrupt, as ever. Where it comes while a library in C looks up an attribute, though, that
library drops the exception. So a command keeps in mind that it was interrupted, and raises the exception again at the
next check.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

__all__ = [
    "checkpoint",
    "count_written",
    "current_check",
    "end_by_signals",
    "forget_signals",
    "interruptible",
    "times_written",
]

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)
_signals: list[int] = []  # that came in the present block of end_by_signals
_times_written = 0


@contextmanager
def interruptible(check: Callable[[], None] | None) -> Iterator[None]:
    """Let :func:`checkpoint` call a check within the block; an error that it raises ends the computation."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def current_check() -> Callable[[], None]:
    """Return the check of the innermost :func:`interruptible` block, for other threads; of signals, too."""
    check = _check.get()

    def check_both() -> None:
        if _signals:
            raise KeyboardInterrupt
        if check is not None:
            check()

    return check_both


def checkpoint() -> None:
    """Call the check, if there is one.

    Raises:
        KeyboardInterrupt: after a signal within :func:`end_by_signals`, unless it is forgotten.
    """
    current_check()()


@contextmanager
def end_by_signals() -> Iterator[None]:
    """End the block by KeyboardInterrupt on Ctrl-C and on a request to terminate, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        numbers.append(signal.SIGINT)
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    except Exception as error:
        if _signals:  # such as of a module that was not imported as a whole
            raise KeyboardInterrupt from error
        raise
    finally:
        _signals.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


def count_written() -> None:
    """Count that results were moved into place: a later interruption does not undo it."""
    global _times_written
    _times_written += 1


def times_written() -> int:
    """Return how often results were moved into place."""
    return _times_written


def forget_signals() -> None:
    """Go on after an interruption that was caught: checks raise nothing because of it."""
    _signals.clear()


def _interrupt(number: int, _frame: object) -> NoReturn:
    _signals.append(number)
    raise KeyboardInterrupt
