"""Dynamic batching: calls that wait together are answered together, by one thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from itertools import islice

import torch

from .codecs import Call, Response, respond
from .service import Service

__all__ = ["Batcher"]

MAX_BATCH_LIMITS = 3  # times max_seconds that a batch may take before its server counts as unhealthy


class Batcher:
    """A queue of calls and the thread that answers them, several at a time.

    Args:
        service: used by that thread alone.
        batch_size: most calls answered together.
        max_delay: most seconds a call waits for others while the thread is free.
        threads: of torch, for the thread; None leaves torch's own number.
    """

    def __init__(self, service: Service, batch_size: int, max_delay: float, threads: int | None) -> None:
        self._service, self._batch_size, self._max_delay, self._threads = service, batch_size, max_delay, threads
        self._changed = threading.Condition()
        self._waiting: dict[Future[Response], tuple[Call, float]] = {}  # in order of arrival, with its time
        self._closed = False
        self._batch_start: float | None = None  # None between batches
        # A daemon, so that a process that has to end at once does; close() waits for it.
        self._thread = threading.Thread(target=self._work, name="latentpatch-batches", daemon=True)
        self._thread.start()

    @property
    def is_healthy(self) -> bool:
        """True while calls are answered: until a batch takes far longer than its limit."""
        start, patience = self._batch_start, MAX_BATCH_LIMITS * self._service.limits.max_seconds
        return self._thread.is_alive() and (start is None or time.monotonic() - start < patience)

    def submit(self, call: Call) -> Future[Response]:
        """Queue a call and return its response to come; there always is one."""
        future: Future[Response] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting[future] = call, time.monotonic()
            self._changed.notify()
        return future

    def cancel(self, future: Future[Response]) -> None:
        """Drop a call whose client has left, unless its batch has begun."""
        with self._changed:
            self._waiting.pop(future, None)

    def close(self) -> None:
        """Answer the calls that wait, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # holds for the thread that calls it
        while (batch := self._next()) is not None:
            for future, response in zip(batch, respond(self._service, list(batch.values())), strict=True):
                future.set_result(response)
            self._batch_start = None
            del batch, future, response  # or they would be kept while the next batch gathers

    def _next(self) -> dict[Future[Response], Call] | None:
        """Wait for the next batch and return it; None once there is none to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            # Calls that came while the thread was busy have waited enough.
            deadline = next(iter(self._waiting.values()))[1] + self._max_delay
            while len(self._waiting) < self._batch_size and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._batch_start = time.monotonic()
            futures = list(islice(self._waiting, self._batch_size))
            return {future: self._waiting.pop(future)[0] for future in futures}
