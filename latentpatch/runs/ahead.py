"""Run calls in threads ahead of the use of their results, which come in the order of the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

__all__ = ["Ahead", "map_ahead"]

P = TypeVar("P")
R = TypeVar("R")


class Ahead(Generic[R]):
    """Calls in threads of their own; for use in a ``with`` block, whose end drops those that have not begun.

    The calls themselves use one thread: NumPy and codecs rather than torch.

    Args:
        threads: number of calls that run at a time.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="latentpatch-ahead")
        self._calls: deque[Future[R]] = deque()

    def __enter__(self) -> Ahead[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return len(self._calls)

    def submit(self, call: Callable[..., R], *arguments: Any) -> None:
        """Begin a call as soon as a thread is free."""
        self._calls.append(self._pool.submit(call, *arguments))

    def next(self) -> R:
        """Wait for the oldest call and return its result, or raise its exception."""
        return self._calls.popleft().result()


def map_ahead(call: Callable[[P], R], items: Iterable[P], threads: int, most: int) -> Generator[R, None, None]:
    """Yield the result of each item in order, at most ``most`` of them made ahead; exceptions come in order, too."""
    with Ahead[R](threads) as ahead:
        for item in items:
            ahead.submit(call, item)
            if len(ahead) > most:
                yield ahead.next()
        while len(ahead):
            yield ahead.next()
