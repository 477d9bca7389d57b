"""Ctrl-C ends commands, also where a library drops the exception, and all threads of a computation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from latentpatch.io import atomic
from latentpatch.methods.single_image.texture_settings import EfrosLeungSettings, QuiltingSettings
from latentpatch.picture_tasks import make_pictures
from latentpatch.runs.interruption import checkpoint, end_by_signals, forget_signals
from latentpatch.runs.threads import make_in_threads, map_in_threads


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, as in a terminal; a process in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def drop(number: signal.Signals) -> None:
    """Send a signal to this process, and drop its exception, as some libraries in C do."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(5)
    except KeyboardInterrupt:
        return
    pytest.fail("the signal raised nothing")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_exception_that_a_library_dropped_comes_again(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)

    def write() -> None:
        with end_by_signals(), atomic.staged(tmp_path / "out") as staging:
            (staging / "0000.png").write_bytes(b"x")
            drop(number)  # nothing checks after it: the files do not move all the same

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not (tmp_path / "out").exists()
    with end_by_signals():
        drop(number)
        with pytest.raises(KeyboardInterrupt):
            checkpoint()
        with pytest.raises(KeyboardInterrupt):
            map_in_threads(str, [1, 2, 3])
        forget_signals()  # as a search that returns the best so far
        checkpoint()
    checkpoint()

    def fail() -> None:
        with end_by_signals():
            drop(number)
            raise ImportError("cannot load module more than once per process")

    with pytest.raises(KeyboardInterrupt):  # of which the error is a consequence
        fail()
    assert signal.getsignal(number) is before


def test_no_thread_goes_on_after_an_error() -> None:
    done: list[int] = []

    def work(part: int) -> None:
        if part == 0:
            raise KeyboardInterrupt
        done.append(part)
        time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt):
        map_in_threads(work, list(range(100)))
    assert len(done) < 10

    def make(number: int, check: Callable[[], None]) -> int:
        while number:
            check()
            time.sleep(0.001)
        return number

    def stop(number: int, result: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_in_threads(make, 4, stop)
    assert make_in_threads(lambda number, check: number, 3, lambda *_: None) == [0, 1, 2]


@pytest.mark.parametrize(
    "settings", [QuiltingSettings(), EfrosLeungSettings(window=5)], ids=["quilting", "efros-leung"]
)
def test_textures_of_several_seeds_end_together(settings: QuiltingSettings | EfrosLeungSettings) -> None:
    """Before, the pictures of all other seeds were finished before the command ended."""
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    start = time.monotonic()

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pictures("texture", [picture], (600, 600), range(4), settings=settings, observe=stop)
    assert time.monotonic() - start < 20
