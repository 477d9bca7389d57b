"""The ASGI server, live: the same answers as without it, whatever company they come in and however clients behave."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import traffic
from helpers.live_server import Response
from helpers.paths import ROOT
from PIL import Image

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from latentpatch import LatentPatch, RasterSettings, __version__
from latentpatch.io.images import read_image
from latentpatch.serving import Call, Limits, Service, json_schema, respond

CLIENT = ROOT / "examples" / "client.py"
PREDICT = "/predictions/latentpatch"
INFER = "/v2/models/latentpatch/infer"
JSON = {"Content-Type": "application/json"}


class Live:
    """The server on a port of its own, in a thread."""

    def __init__(self, service: Service, **options: Any) -> None:
        for name in ("starlette", "uvicorn", "python_multipart"):
            pytest.importorskip(name, reason=f"the http extra is not installed: no {name}")
        import uvicorn

        from latentpatch.serving.app import Options, application

        self.app = application(service, Options(threads=1, **options))
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
        """A connection that has sent this much."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(data)
        return connection


class Watched:
    """A service whose batches are counted, and held up while the gate is shut."""

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


@pytest.fixture(scope="module")
def service() -> Service:
    """Drawn faces, small for speed, and an autoencoder whose results could depend on the batch."""
    pictures = torch.stack([read_image(traffic.face(seed), (128, 128)) for seed in range(12)])
    model = LatentPatch("embedded", settings=RasterSettings(patch_size=4), components=8)
    return Service(model.fit(pictures, attributes={str(i): {"even": str(i % 2 == 0)} for i in range(12)}))


@pytest.fixture(scope="module")
def live(service: Service) -> Iterator[Live]:
    with Live(service) as server:
        yield server


def same(answer: Response, service: Service, sent: traffic.Sent) -> bool:
    """Whether this is what is answered without a server."""
    return alike(answer, traffic.expected(service, sent))


def alike(answer: Response, wanted: Any) -> bool:
    named = {name.lower(): value for name, value in wanted.headers.items()}
    assert (answer.status, answer.headers["content-type"]) == (wanted.status, wanted.content_type), answer.body[:500]
    return answer.body == wanted.body and named.items() <= answer.headers.items()


def fault(answer: Response, status: int) -> dict[str, Any]:
    """The body of a refusal."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"status", "code", "message", "field"}
    assert error["status"] == status
    return error


# --- the same answers ------------------------------------------------------------------------------------

_PICTURE = traffic.text(traffic.face(20))
_BOX = {"box": [16, 32, 80, 96]}
_OPERATIONS: list[dict[str, Any]] = [
    {"operation": "generate", "seeds": [4, 2], "settings": {"neighbours": 2}, "where": "even=True"},
    {"operation": "generate", "reference": _PICTURE, "sampler": "raster"},
    {"operation": "provenance", "seed": 9},
    {"operation": "inpaint", "image": _PICTURE, **_BOX, "n": 2},
    {"operation": "edit", "image": _PICTURE, **_BOX, "donor": "source:3"},
    {"operation": "reconstruct", "image": _PICTURE, "reduced": True},
    {"operation": "info"},
    {"operation": "explode"},
]


@pytest.mark.parametrize("fields", _OPERATIONS, ids=lambda fields: str(fields["operation"]))
def test_operations_in_every_form_of_answer(fields: dict[str, Any], live: Live, service: Service) -> None:
    for accept in ("*/*", "application/json", "image/webp", "text/html"):
        sent = traffic.as_json(fields, Accept=accept)
        assert same(live.send(sent), service, sent)


def test_bodies_of_every_kind(live: Live, service: Service) -> None:
    picture = traffic.face(6)
    for body, kind in [
        (picture, "image/png"),
        (picture, "application/octet-stream"),
        (picture, ""),
        (b'{"seed": 3}', ""),
        (b'{"seed": 3}', "text/plain; charset=utf-8"),
        (b"\xff\xfe", "application/json"),
        (b"hello", "text/plain"),
        (b"", "application/json"),
    ]:
        sent = traffic.Sent(body, {"Content-Type": kind} if kind else {})
        assert same(live.send(sent), service, sent)
    sent = traffic.Sent(picture, {"latentpatch-REQUEST": '{"n": 2}', "Content-Type": "image/png", "Accept": "image/*"})
    assert same(live.send(sent), service, sent)
    assert alike(live.ask("GET", f"{PREDICT}?n=3"), respond(service, [Call()])[0])


def form(fields: dict[str, bytes], files: Sequence[str] = ()) -> traffic.Sent:
    lines = []
    for name, value in fields.items():
        file = f'; filename="{name}.png"\r\nContent-Type: image/png' if name in files else ""
        lines += [f'--xyz\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode(), value, b"\r\n"]
    return traffic.Sent(b"".join([*lines, b"--xyz--\r\n"]), {"Content-Type": "multipart/form-data; boundary=xyz"})


def test_forms(live: Live, service: Service) -> None:
    picture = traffic.face(7)
    fields = {
        "operation": b"inpaint",
        "image": picture,
        "box": b"[32, 32, 99, 99]",
        "seed": b"5",
        "where": b"even=True",
    }
    (wanted,) = respond(service, [Call(None, {}, fields)])
    assert wanted.status == 200
    for files in ((), ("image",), tuple(fields)):  # a picture is one whether it is called a file or not
        assert alike(live.send(form(fields, files)), wanted)
    coded = urllib.parse.urlencode(fields).encode()
    assert alike(live.send(traffic.Sent(coded, {"Content-Type": "application/x-www-form-urlencoded"})), wanted)
    assert live.send(form({})).status == 400  # nothing was asked
    whole = form(fields)
    for body in (whole.body[:-12], whole.body.replace(b"xyz", b"abc"), b"", b"--xyz\r\nA"):
        assert "form" in fault(live.send(traffic.Sent(body, whole.headers)), 400)["message"]
    assert "boundary" in fault(live.send(traffic.Sent(b"x", {"Content-Type": "multipart/form-data"})), 400)["message"]
    many = {f"f{i}": b"1" for i in range(1000)}
    assert "100 parts" in fault(live.send(form(many)), 400)["message"]
    coded = urllib.parse.urlencode(many).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "100 parts" in fault(live.send(traffic.Sent(coded, headers)), 400)["message"]


def test_the_open_inference_protocol(live: Live, service: Service) -> None:
    body = {
        "id": "abc",
        "inputs": [{"name": "seeds", "datatype": "INT64", "shape": [2], "data": [5, 6]}],
        "parameters": {"operation": "generate"},
    }
    sent = traffic.as_json(body)
    for path in (INFER, PREDICT):
        answer = live.ask("POST", path, sent.body, sent.headers)
        assert same(answer, service, sent)
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    told = live.ask("GET", "/v2/models/latentpatch").json()
    assert (told["name"], told["versions"]) == ("latentpatch", [__version__])
    for output in told["outputs"]:
        given = outputs.pop(output["name"])
        assert given["datatype"] == output["datatype"]
        assert all(side in (-1, given["shape"][i]) for i, side in enumerate(output["shape"]))
    assert not outputs
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in told["inputs"]}
    assert inputs["n"] == ("INT64", [1])
    assert inputs["seeds"] == ("INT64", [-1])
    assert inputs["box"] == ("INT64", [4])
    assert inputs["composite"] == ("BOOL", [1])
    assert inputs["image"] == inputs["settings"] == inputs["operation"] == ("BYTES", [1])


def test_the_small_routes(live: Live) -> None:
    assert live.ask("GET", "/ping").json() == {"status": "Healthy"}
    assert live.ask("GET", "/v2/health/ready").json() == {"ready": True}
    assert live.ask("GET", "/schema").json() == json.loads(json.dumps(json_schema()))
    assert fault(live.ask("GET", "/predictions/other"), 404)["code"] == "not_found"
    answer = live.ask("DELETE", PREDICT)
    assert fault(answer, 405)["code"] == "method_not_allowed"
    assert "POST" in answer.headers["allow"]


def test_fuzzed_requests_are_refused_and_nothing_breaks(live: Live) -> None:
    answers = traffic.throw(live.send, list(traffic.fuzzed(4, 80)), 8)
    assert {got.status for got in answers} <= {200, 400, 406, 413, 422}
    assert live.ask("GET", "/ping").status == 200


# --- batches ---------------------------------------------------------------------------------------------


def test_mixed_requests_share_batches_and_are_answered_as_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [traffic.good(i // 2) if i % 2 else traffic.bad(i // 2) for i in range(24)]
    watched = Watched(service, monkeypatch)
    watched.gate.set()
    wanted = [traffic.expected(service, sent) for sent in mixed]
    requests = sum(watched.sizes)  # the others are none, and known to be before the service sees them
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
    assert len(watched.sizes) == 4  # the one that held the gate, then three of eight
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
        request = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**15}\r\nExpect: 100-continue\r\n\r\n"
        with live.raw(request.encode()) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        fits = b'{"operation": "info", "answer": "json"}'.ljust(100_000)
        assert live.ask("POST", PREDICT, fits).status == 200


def test_a_body_that_does_not_arrive(service: Service) -> None:
    with Live(service, max_body_seconds=0.2, queue_size=1) as live:
        request = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc".encode()
        with live.raw(request) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert live.post({"operation": "info"}).status == 200


def test_clients_that_leave_cost_others_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(service, monkeypatch)
    body = b'{"operation": "info"}'
    request = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
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


def test_tokens(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with Live(service, token="s3cret") as live:
        guarded = [("POST", PREDICT), ("GET", PREDICT), ("POST", INFER), ("GET", "/v2/models/latentpatch")]
        for method, path in [*guarded, ("GET", "/schema")]:
            for given in (
                None,
                "",
                "Bearer",
                "Bearer s3cre",
                "Bearer s3crets",
                "Basic s3cret",
                "Bearer \xe9",
                "s3cret",
            ):
                body = b"x" * 2**20 if method == "POST" else None
                answer = live.ask(method, path, body, {} if given is None else {"Authorization": given})
                assert "s3cret" not in fault(answer, 401)["message"]
                assert answer.headers["www-authenticate"] == "Bearer"
            for given in ("Bearer s3cret", "bearer  s3cret "):
                assert live.ask(method, path, None, {"AUTHORIZATION": given}).status == 200
        for path in ("/ping", "/v2/health/ready"):
            assert live.ask("GET", path).status == 200
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(live.app.state.batcher._options)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"queue_size": True},
        {"max_batch_delay": -1},
        {"token": ""},
        {"token": "a\nb"},
        {"threads": 0},
    ],
)
def test_options_are_checked(change: dict[str, Any]) -> None:
    module = pytest.importorskip("latentpatch.serving.app", reason="the http extra is not installed")
    with pytest.raises(ValueError, match=next(iter(change))):
        module.Options(**change)


# --- as users run it -------------------------------------------------------------------------------------


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, env=kept | environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command(tmp_path: Path, faces: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = pytest.importorskip("latentpatch.serving.app", reason="the http extra is not installed")
    assert module.main([str(tmp_path / "none")]) == 1
    assert module.main([str(faces), "--token-file", str(tmp_path / "none")]) == 1
    assert module.main([str(faces), "--queue-size", "0"]) == 1
    assert capfd.readouterr().err.count("latentpatch: ") == 3
    (tmp_path / "token").write_text("s3cret\n")
    command = [sys.executable, "-m", "latentpatch.serving.app", faces, "--autoencoder", "pixels", "--port", "0"]
    options = ["--threads", "1", "--token-file", tmp_path / "token"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = ""
            while (found := re.search(r"http://127\.0\.0\.1:(\d+)", told)) is None:
                line = process.stderr.readline()
                assert line, told
                told += line
            url = found[0]
            refused = run(sys.executable, CLIENT, "--url", url, "info")
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "401 unauthorized" in refused.stderr
            (tmp_path / "key_file.json").write_text('{"inference": {"key": "s3cret"}}')
            client = (
                sys.executable,
                CLIENT,
                "--url",
                url,
                "--key-file",
                tmp_path / "key_file.json",
            )
            assert json.loads(run(*client, "info").stdout)["autoencoder"]["name"] == "pixels"
        finally:
            process.send_signal(signal.SIGTERM)
            output, rest = process.communicate(timeout=30)
    assert "Application shutdown complete" in rest
    assert "s3cret" not in told + rest + output


def test_the_python_client(tmp_path: Path, live: Live, service: Service) -> None:
    def client(*arguments: str | Path) -> list[str]:
        done = run(sys.executable, CLIENT, "--url", live.url, *arguments, "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def made(name: str) -> bytes:
        return (tmp_path / "out" / name).read_bytes()

    face = tmp_path / "face.png"
    face.write_bytes(base64.b64decode(_PICTURE))
    assert len(client("generate", "-n", "3", "--seed", "4", "--settings", '{"neighbours": 2}')) == 3
    sent = traffic.as_json({"seed": 5, "settings": {"neighbours": 2}})
    assert made("0001.png") == traffic.expected(service, sent).body
    assert [row["seed"] for row in json.loads(made("report.json"))["images"]] == [4, 5, 6]
    client("inpaint", face, "--box", "16,32,80,96", "--image-format", "webp")
    sent = traffic.as_json({"operation": "inpaint", "image": _PICTURE, **_BOX, "image_format": "webp"})
    assert made("0000.webp") == traffic.expected(service, sent).body
    client("edit", face, "--mask", face, "--donor", "source:3")
    sent = traffic.as_json({"operation": "edit", "image": _PICTURE, "mask": _PICTURE, "donor": "source:3"})
    assert made("0000.png") == traffic.expected(service, sent).body
    refused = run(sys.executable, CLIENT, "--url", live.url, "generate", "-n", "999", "-o", tmp_path)
    assert (refused.returncode, refused.stderr) == (1, "client: 413 too_many_images: n: 999 pictures; at most 64\n")
    nobody = run(sys.executable, CLIENT, "--url", "http://127.0.0.1:9", "info")
    assert nobody.returncode == 1
    assert "refused" in nobody.stderr


def test_the_curl_client(tmp_path: Path, service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    (tmp_path / "face.png").write_bytes(base64.b64decode(_PICTURE))
    out = tmp_path / "out"
    with Live(service, token="s3cret") as live:
        done = run("sh", ROOT / "examples/client.sh", tmp_path / "face.png", out, URL=live.url, TOKEN="s3cret")
        assert done.returncode == 0, done.stdout + done.stderr
        refused = run("sh", ROOT / "examples/client.sh", tmp_path / "face.png", out / "none", URL=live.url)
        assert refused.returncode == 22
    assert (out / "seven.png").read_bytes() == traffic.expected(service, traffic.as_json({"seed": 7})).body
    assert (out / "reconstructed.png").read_bytes() == (out / "reconstructed-too.png").read_bytes()
    assert (out / "like-it.png").read_bytes() == (out / "like-it-too.png").read_bytes()
    for path in sorted(out.iterdir()):
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                assert len(archive.namelist()) in (4, 5)
        elif path.suffix in (".png", ".jpg", ".webp"):
            assert Image.open(io.BytesIO(path.read_bytes())).size == (128, 128)
    assert len(list(out.glob("*.*"))) == 16


# --- documents -------------------------------------------------------------------------------------------


def test_the_schema_in_the_documents_is_current() -> None:
    path = ROOT / "docs" / "serving-schema.json"
    current = path.read_text() == json.dumps(json_schema(), indent=2) + "\n"  # what the module prints
    assert current, f"python -m latentpatch.serving.schema > {path.relative_to(ROOT)}"


def test_the_client_names_the_largest_source(live: Live, tmp_path: Path) -> None:
    done = run(sys.executable, CLIENT, "--url", live.url, "generate", "-n", "2", "-o", tmp_path / "new")
    rows = json.loads((tmp_path / "new" / "report.json").read_text())["images"]
    for line, row in zip(done.stdout.splitlines(), rows, strict=True):
        assert f"({max(row['shares'].values()):.0%})" in line
