"""Arithmetic that does not depend on the number of threads: each part of the work has one thread of torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from threading import Event
from typing import TypeVar

import torch

from .interruption import current_check

__all__ = [
    "make_in_threads",
    "map_in_threads",
    "num_threads",
    "one_thread",
    "one_thread_an_operation",
    "run_in_threads",
]

P = TypeVar("P")
R = TypeVar("R")

#: Threads for parts of work where operations have one; 0 where both have as many.
_threads_for_parts: ContextVar[int] = ContextVar("threads_for_parts", default=0)


def num_threads() -> int:
    """Return how many parts of work are computed at a time: as many as torch has threads."""
    return _threads_for_parts.get() or torch.get_num_threads()


@contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Give single operations one thread within the block, and parts of work as many as before.

    Where other threads keep the cores busy, the threads of an operation wait for each other at its end.
    """
    token = _threads_for_parts.set(num_threads())
    try:
        with one_thread():
            yield
    finally:
        _threads_for_parts.reset(token)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute the block with one thread, so that sums have one order."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_in_threads(function: Callable[[P], R], parts: Sequence[P]) -> list[R]:
    """Return the result of each part, computed with one thread of torch, for as many at a time as torch has threads.

    Grad mode and inference mode are those of the caller. Autocast is that of the function alone. After an error or an
    interruption, no thread begins another part.
    """
    results: dict[int, R] = {}
    ended = Event()
    threads, check = max(1, min(num_threads(), len(parts))), current_check()
    has_grad, is_inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def run(first: int) -> None:
        token = _threads_for_parts.set(1)  # parts of a part share its thread
        try:
            with (
                one_thread(),
                torch.inference_mode(is_inference),
                torch.set_grad_enabled(has_grad),
                _set_on_error(ended),
            ):
                for i in range(first, len(parts), threads):
                    if ended.is_set():
                        return
                    check()
                    results[i] = function(parts[i])
        finally:
            _threads_for_parts.reset(token)

    with one_thread(), _set_on_error(ended):
        run_in_threads([lambda first=first: run(first) for first in range(threads)])  # type: ignore[misc]
    return [results[i] for i in range(len(parts))]


def make_in_threads(
    make: Callable[[int, Callable[[], None]], R], count: int, tell: Callable[[int, R], None]
) -> list[R]:
    """Return what is made of the numbers from 0 on, by as many threads at a time as torch has.

    Args:
        make: function of a number, and of a function that it calls now and then: that one raises an exception after an
            error or an interruption of the caller, which would wait for the thread otherwise.
        count: of the numbers.
        tell: called with each number and its result, in order.
    """
    ended, results = Event(), []

    def check() -> None:
        if ended.is_set():
            raise CancelledError

    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), count))) as pool, _set_on_error(ended):
        for number, result in enumerate(pool.map(lambda number: make(number, check), range(count))):
            results.append(result)
            tell(number, result)
    return results


@contextmanager
def _set_on_error(ended: Event) -> Iterator[None]:
    try:
        yield
    except BaseException:
        ended.set()
        raise


def run_in_threads(jobs: Sequence[Callable[[], object]]) -> None:
    """Run jobs, the first in the calling thread and each other one in a thread of its own."""
    # A forked process loses the threads of its parent, so each process has its own pool.
    waiting = [_pool(os.getpid()).submit(job) for job in jobs[1:]]
    try:
        jobs[0]()
    finally:
        for each in waiting:
            each.result()


@lru_cache(maxsize=1)
def _pool(_process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="latentpatch")
