"""The ASGI server of the tests, live on a port of its own, and checks of its answers."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from helpers import traffic
from helpers.live_server import Response
from latentpatch.serving import Service

PREDICT = "/predictions/latentpatch"
INFER = "/v2/models/latentpatch/infer"
JSON = {"Content-Type": "application/json"}


class Live:
    """The ASGI server on a port of its own, in a thread."""

    def __init__(self, service: Service, inversions: Any = None, **options: Any) -> None:
        for name in ("starlette", "uvicorn", "python_multipart"):
            pytest.importorskip(name, reason=f"the http extra is not installed: no {name}")
        import uvicorn

        from latentpatch.serving.app import Options, application

        self.app = application(service, Options(threads=1, **options), inversions)
        config = uvicorn.Config(self.app, port=0, http="h11", ws="none", lifespan="on", log_config=None)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> Live:
        self._thread.start()
        until(lambda: self.server.started or not self._thread.is_alive())
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert not self.batcher._thread.is_alive()

    @property
    def batcher(self) -> Any:
        return self.app.state.batcher

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, body: Any, **headers: str) -> Response:
        return self.ask("POST", PREDICT, json.dumps(body), {**JSON, **headers})

    def send(self, sent: traffic.Sent) -> Response:
        return self.ask("POST", PREDICT, sent.body, sent.headers)

    def raw(self, data: bytes) -> socket.socket:
        """Return a connection that has sent some bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(data)
        return connection


class Watched:
    """Counts the batches of a service, and makes them wait while the gate is shut."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        run = service.run

        def watched(requests: Sequence[Any]) -> Any:
            self.sizes.append(len(requests))
            self.entered.set()
            assert self.gate.wait(20)
            return run(requests)

        monkeypatch.setattr(service, "run", watched)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def same(answer: Response, service: Service, sent: traffic.Sent) -> bool:
    """Return whether this is the answer without a server."""
    return alike(answer, traffic.expected(service, sent))


def alike(answer: Response, wanted: Any) -> bool:
    named = {name.lower(): value for name, value in wanted.headers.items()}
    assert (answer.status, answer.headers["content-type"]) == (wanted.status, wanted.content_type), answer.body[:500]
    return answer.body == wanted.body and named.items() <= answer.headers.items()


def fault(answer: Response, status: int) -> dict[str, Any]:
    """Return the content of a refusal."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"status", "code", "message", "field"}
    assert error["status"] == status
    return error
