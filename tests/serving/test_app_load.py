"""The ASGI server, live: batches, a full queue, and clients that behave badly."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers import traffic
from helpers.errors import refuses
from helpers.live_app import INFER, PREDICT, Live, Watched, alike, fault, until

from latentpatch.serving import Limits, Service

# --- batches ---------------------------------------------------------------------------------------------


def test_mixed_requests_share_batches_and_are_answered_as_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [traffic.good(i // 2) if i % 2 else traffic.bad(i // 2) for i in range(24)]
    watched = Watched(service, monkeypatch)
    watched.gate.set()
    wanted = [traffic.expected(service, sent) for sent in mixed]
    requests = sum(watched.sizes)  # the others are refused before the service sees them
    watched.sizes.clear()
    watched.gate.clear()
    watched.entered.clear()
    with Live(service, batch_size=8) as live, ThreadPoolExecutor(32) as pool:
        first = pool.submit(live.post, {"operation": "info"})
        assert watched.entered.wait(20)
        answers = [pool.submit(live.send, sent) for sent in mixed]
        until(lambda: len(live.batcher._waiting) == len(mixed))
        watched.gate.set()
        assert all(alike(answer.result(), one) for answer, one in zip(answers, wanted, strict=True))
        assert first.result().status == 200
    assert len(watched.sizes) == 4  # the one at the gate, then three of eight
    assert watched.sizes[0] == 1
    assert sum(watched.sizes[1:]) == requests > len(mixed) / 2


def test_a_lone_request_does_not_wait_for_long_and_few_are_gathered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(service, monkeypatch)
    watched.gate.set()
    with Live(service, batch_size=3, max_batch_delay=5.0) as live, ThreadPoolExecutor(3) as pool:
        start = time.monotonic()
        answers = list(pool.map(live.post, [{"operation": "info"}] * 3))
        assert [answer.status for answer in answers] == [200] * 3
        assert time.monotonic() - start < 4  # full before its time
    with Live(service, max_batch_delay=0.0) as live:
        assert live.post({"operation": "info"}).status == 200
    assert watched.sizes == [3, 1]


def test_a_full_queue_is_told_at_once_and_what_was_accepted_is_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(service, monkeypatch)
    with Live(service, batch_size=2, queue_size=5) as live, ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(live.post, {"seed": i}) for i in range(5)]
        until(lambda: watched.entered.is_set() and len(live.batcher._waiting) in (3, 4))
        until(lambda: len(live.batcher._waiting) + watched.sizes[0] == 5)
        for body in (None, b"x" * 2**20):
            answer = live.ask("POST", PREDICT, body, {"Connection": "close"})
            assert fault(answer, 503)["code"] == "busy"
            assert answer.headers["retry-after"] == "1"
        assert live.ask("GET", "/ping").status == 200
        watched.gate.set()
        assert [answer.result().status for answer in answers] == [200] * 5
        assert live.post({"operation": "info"}).status == 200


def test_a_defect_is_a_500_and_the_server_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("secret path")

    with Live(service) as live:
        with monkeypatch.context() as patch:
            patch.setattr(service, "run", broken)
            assert "secret" not in fault(live.post({"seed": 1}), 500)["message"]
        assert live.post({"operation": "info"}).status == 200
    assert "secret path" in caplog.text


def test_a_batch_that_hangs_shows(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(service, monkeypatch)
    with Live(service) as live, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(live.post, {"operation": "info"})
        assert watched.entered.wait(20)
        assert live.ask("GET", "/ping").status == 200
        with monkeypatch.context() as patch:
            patch.setattr(service, "limits", Limits(max_seconds=1e-9))
            assert live.ask("GET", "/ping").status == 503
            assert live.ask("GET", "/v2/health/ready").json() == {"ready": False}
        watched.gate.set()
        assert answer.result().status == 200


# --- clients ---------------------------------------------------------------------------------------------


def test_too_large_a_body(service: Service) -> None:
    with Live(service, max_body_bytes=100_000) as live:
        for size in (100_001, 350_000):
            for headers in ({}, {"Connection": "close"}):
                error = fault(live.ask("POST", PREDICT, b"x" * size, headers), 413)
                assert error["code"] == "body_too_large"
                # Without a length it shows on the way; such is sent where the body is an iterator.
                chunks = (b"x" * 10_000 for _ in range(0, size, 10_000))
                assert fault(live.ask("POST", PREDICT, chunks, headers), 413) == error
        request = (
            f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**15}\r\nExpect: 100-continue\r\n\r\n"
        )
        with live.raw(request.encode()) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        fits = b'{"operation": "info", "answer": "json"}'.ljust(100_000)
        assert live.ask("POST", PREDICT, fits).status == 200


def test_a_body_that_does_not_arrive(service: Service) -> None:
    with Live(service, max_body_seconds=0.2, queue_size=1) as live:
        request = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nabc".encode()
        with live.raw(request) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert live.post({"operation": "info"}).status == 200


def test_clients_that_leave_cost_others_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(service, monkeypatch)
    body = b'{"operation": "info"}'
    request = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with Live(service, queue_size=3) as live, ThreadPoolExecutor(2) as pool:
        at_work = live.raw(request)
        assert watched.entered.wait(20)
        waiting = live.raw(request)
        until(lambda: len(live.batcher._waiting) == 1)
        half = live.raw(request[:-5])
        for connection in (half, waiting, at_work):
            connection.close()
        until(lambda: not live.batcher._waiting)
        answers = [pool.submit(live.post, {"operation": "info"}) for _ in range(2)]
        until(lambda: len(live.batcher._waiting) == 2)  # there is room for both
        watched.gate.set()
        assert [answer.result().status for answer in answers] == [200, 200]
    assert watched.sizes == [1, 2]


def test_a_shutdown_answers_what_was_accepted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(service, monkeypatch)
    with ThreadPoolExecutor(5) as pool, Live(service, batch_size=2) as live:
        answers = [pool.submit(live.post, {"operation": "info"}) for _ in range(5)]
        until(lambda: watched.sizes and len(live.batcher._waiting) + watched.sizes[0] == 5)
        live.server.should_exit = True
        until(lambda: not live.server.servers[0].is_serving())
        with pytest.raises(OSError, match=r"refused|reset"):
            live.ask("GET", "/ping")
        watched.gate.set()
        assert [answer.result().status for answer in answers] == [200] * 5


_WRONG_TOKENS = (None, "", "Bearer", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "Bearer \xe9", "s3cret")


def test_tokens(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with Live(service, token="s3cret") as live:
        guarded = [("POST", PREDICT), ("GET", PREDICT), ("POST", INFER), ("GET", "/v2/models/latentpatch")]
        for method, path in [*guarded, ("GET", "/schema")]:
            for header in _WRONG_TOKENS:
                body = b"x" * 2**20 if method == "POST" else None
                answer = live.ask(method, path, body, {} if header is None else {"Authorization": header})
                assert "s3cret" not in fault(answer, 401)["message"]
                assert answer.headers["www-authenticate"] == "Bearer"
            for header in ("Bearer s3cret", "bearer  s3cret "):
                assert live.ask(method, path, None, {"AUTHORIZATION": header}).status == 200
        for path in ("/ping", "/v2/health/ready"):
            assert live.ask("GET", path).status == 200
    assert "s3cret" not in caplog.text


_BAD_OPTIONS: list[dict[str, Any]] = [{"batch_size": 0}, {"queue_size": True}, {"max_batch_delay": -1}]
_BAD_OPTIONS += [{"token": ""}, {"token": "a\nb"}, {"threads": 0}]


@pytest.mark.parametrize("change", _BAD_OPTIONS)
def test_options_are_checked(change: dict[str, Any]) -> None:
    module = pytest.importorskip("latentpatch.serving.app", reason="the http extra is not installed")
    assert "s3cret" not in repr(module.Options(token="s3cret"))
    with refuses(next(iter(change)), ValueError):
        module.Options(**change)
