"""Files from the network arrive whole, in bounded time, or not at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.errors import refuses_file

from latentpatch.io import download as module
from latentpatch.io.download import download, within_seconds

HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def site(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yield the address of a server that answers one request."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/weights.bin"
        thread.join(5)
        assert not thread.is_alive()


def _waits(connection: socket.socket) -> None:
    connection.settimeout(5)
    while connection.recv(1):  # until the other side gives up
        pass


def _trickles(connection: socket.socket) -> None:
    connection.sendall(HEAD % 10**6)
    try:
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        pass


ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "silent": _waits,
    "silent after the head": lambda c: (c.sendall(HEAD % 9), _waits(c))[1],
    "one byte now and then": _trickles,
    "cut short": lambda c: c.sendall(HEAD % 9 + b"four"),
    "no such file": lambda c: c.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n"),
    "another protocol": lambda c: c.sendall(b"SSH-2.0-x\r\n"),
    "closed": lambda _: None,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_site_that_does_not_answer_is_given_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect L23: downloads of weights had no time limit."""
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.2)
    start = time.monotonic()
    with site(ANSWERS[name]) as url, refuses_file("/weights.bin", ""):
        download(url, tmp_path / "w.bin")
    assert time.monotonic() - start < 3
    assert not list(tmp_path.iterdir())


def test_a_download_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytes(range(256)) * 8000
    with site(lambda connection: connection.sendall(HEAD % len(data) + data)) as url:
        download(url, tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == data
    assert "w.bin" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with site(lambda connection: connection.sendall(HEAD % 1 + b"x")) as url, refuses_file("no/w.bin", "written"):
        download(url, tmp_path / "no" / "w.bin")


def test_other_work_has_a_time_limit() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        within_seconds(0.05, lambda: release.wait(20))
    release.set()
    assert within_seconds(20, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within_seconds(20, lambda: 1 // 0)
