"""Calls in threads, with results in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from latentpatch.runs.ahead import Ahead, map_ahead


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_come_in_order_and_not_too_many_ahead(threads: int) -> None:
    begun: list[int] = []
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            assert i - len(taken) <= 6
            yield i

    def late(i: int) -> int:
        begun.append(i)
        time.sleep(0.001 * (i % 3))
        return i * i

    for result in map_ahead(late, items(), threads, 5):
        taken.append(result)
    assert taken == [i * i for i in range(50)]
    assert sorted(begun) == list(range(50))


def test_an_error_comes_in_its_place_and_ends_the_rest() -> None:
    def fail_at_three(i: int) -> int:
        if i == 3:
            raise ValueError(i)
        return i

    results = map_ahead(fail_at_three, range(100), 2, 8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert list(results) == []


def test_leaving_the_block_drops_what_has_not_begun() -> None:
    gate = threading.Event()
    done: list[int] = []

    def wait(i: int) -> None:
        gate.wait(10)
        done.append(i)

    with Ahead[None](1) as ahead:
        for i in range(20):
            ahead.submit(wait, i)
        threading.Timer(0.05, gate.set).start()
    assert len(done) < 20
