"""The same service without TorchServe: an ASGI application with a batcher of its own.

``python -m latentpatch.serving.app PORTRAITS`` runs it on uvicorn. Needs ``pip install latentpatch[http]``.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import torch
import uvicorn
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response as HTTPResponse
from starlette.routing import Route

from .. import __version__
from ..autoencoders.registry import DEFAULT
from ..errors import FileError, LatentPatchError
from ..io import images
from ..model import LatentPatch
from .codecs import Call, Response, failed, internal_failure, respond
from .schema import json_schema
from .service import Failure, Refusal, Service

__all__ = ["Batcher", "Options", "application", "main"]

_NAME = "latentpatch"
_INFER = f"/v2/models/{_NAME}/infer"
_PROBES = ("/ping", "/v2/health/ready")  # tell nothing but that it runs, and are asked without a token
_MOST_PARTS = 100  # of a form; there are fewer fields
_log = logging.getLogger(__name__)

_Endpoint = Callable[[Request], Awaitable[HTTPResponse]]


@dataclass(frozen=True)
class Options:
    """How requests are taken in and batched.

    Attributes:
        batch_size: requests answered together, at most.
        max_batch_delay: seconds a request waits for company, at most, while the worker is free.
        queue_size: requests held at once, from the first byte of a body to the answer: those at work too.
        max_body_bytes: of one request. With queue_size it bounds the memory that requests take.
        max_body_seconds: for a body to arrive.
        threads: of torch, for the worker; None leaves it the number it has.
        token: what every request but probes must bear; None where none is asked for.
    """

    batch_size: int = 16
    max_batch_delay: float = 0.01
    queue_size: int = 64
    max_body_bytes: int = 24 * 2**20
    max_body_seconds: float = 30.0
    threads: int | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue_size", "max_body_bytes", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} {value!r}: an integer of at least 1 is expected")
        for name in ("max_batch_delay", "max_body_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)!r}: a number of seconds is expected")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ValueError("the token: printable ASCII is expected, and not nothing")


# --- batches ---------------------------------------------------------------------------------------------


class Batcher:
    """Gives calls to one thread, several at a time.

    Args:
        service: used by that thread alone.
        options: sizes, delay and threads. How many calls may wait is for the caller to bound.
    """

    def __init__(self, service: Service, options: Options) -> None:
        self._service, self._options = service, options
        self._changed = threading.Condition()
        self._waiting: dict[Future[Response], tuple[Call, float]] = {}  # in order of arrival, with its time
        self._closed = False
        self._since: float | None = None  # when the batch at work was begun
        # A daemon, so that a process told to end at once does; close() waits for it.
        self._thread = threading.Thread(target=self._work, name="latentpatch-batches", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether calls are being answered: not once a batch has taken far longer than its limit allows."""
        since, patience = self._since, 3 * self._service.limits.max_seconds
        return self._thread.is_alive() and (since is None or time.monotonic() - since < patience)

    def submit(self, call: Call) -> Future[Response]:
        """Queue a call; its response comes, always one, from the thread."""
        future: Future[Response] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting[future] = call, time.monotonic()
            self._changed.notify()
        return future

    def forget(self, future: Future[Response]) -> None:
        """Nobody wants this response any more: it is not worked on, if that has not begun."""
        with self._changed:
            self._waiting.pop(future, None)

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)  # of the thread that calls it
        while (batch := self._next()) is not None:
            for future, response in zip(batch, respond(self._service, list(batch.values())), strict=True):
                future.set_result(response)
            self._since = None
            del batch, future, response  # not kept while waiting for the next

    def _next(self) -> dict[Future[Response], Call] | None:
        """The next batch; None when there is none to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            # Who came while the worker was busy has waited enough.
            deadline = next(iter(self._waiting.values()))[1] + self._options.max_batch_delay
            while len(self._waiting) < self._options.batch_size and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._since = time.monotonic()
            taken = list(islice(self._waiting, self._options.batch_size))
            return {future: self._waiting.pop(future)[0] for future in taken}


# --- HTTP ------------------------------------------------------------------------------------------------


def application(service: Service, options: Options | None = None) -> Starlette:
    """The ASGI application; its worker lives from startup to shutdown, which leaves nobody waiting."""
    server = _Server(service, options or Options())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.batcher = server.batcher = Batcher(service, server.options)
        try:
            yield
        finally:
            await asyncio.to_thread(server.batcher.close)

    routes: list[tuple[str, str, _Endpoint]] = [
        (f"/predictions/{_NAME}", "GET POST", server.predict),
        (_INFER, "POST", server.predict),
        (f"/v2/models/{_NAME}", "GET", server.metadata),
        ("/v2/health/ready", "GET", server.ready),
        ("/ping", "GET", server.ping),
        ("/schema", "GET", server.schema),
    ]
    return Starlette(
        routes=[
            Route(path, endpoint if path in _PROBES else server.guarded(endpoint), methods=methods.split())
            for path, methods, endpoint in routes
        ],
        exception_handlers={HTTPException: _no_such_thing, Exception: _our_fault},
        lifespan=lifespan,
    )


class _Incoming:
    """A body on its way; ``more`` of it may be to come."""

    def __init__(self, request: Request) -> None:
        self.headers, self.more = request.headers, True
        self._receive = request.receive

    async def chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.more = message.get("more_body", False)
        return bytes(message.get("body", b""))


class _Server:
    """The endpoints."""

    batcher: Batcher

    def __init__(self, service: Service, options: Options) -> None:
        self.service, self.options = service, options
        self._held = 0

    def guarded(self, endpoint: _Endpoint) -> _Endpoint:
        """The endpoint for who bears the token."""
        if self.options.token is None:
            return endpoint
        token = self.options.token.encode()

        async def guard(request: Request) -> HTTPResponse:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token):
                return await endpoint(request)
            await self._discard(_Incoming(request))
            refusal = failed(Failure(401, "unauthorized", "a right token is expected: Authorization: Bearer TOKEN"))
            return _sent(refusal, {"WWW-Authenticate": "Bearer"})

        return guard

    async def predict(self, request: Request) -> HTTPResponse:
        incoming = _Incoming(request)
        if self._held >= self.options.queue_size:
            await self._discard(incoming)
            return _sent(failed(Failure(503, "busy", "too many requests are waiting; try again in a moment")))
        self._held += 1
        try:
            body = await asyncio.wait_for(self._body(incoming), self.options.max_body_seconds)
            if body is None:
                await self._discard(incoming)
                most = self.options.max_body_bytes
                return _sent(failed(Failure(413, "body_too_large", f"the body has more than {most} bytes")))
            call = await asyncio.to_thread(_call, dict(request.headers), body)  # forms take a while to take apart
            return _sent(await self._answer(call, request))
        except Refusal as refusal:
            return _sent(failed(refusal.failure))
        except asyncio.TimeoutError:
            seconds = self.options.max_body_seconds
            return _sent(failed(Failure(408, "too_slow", f"the body took longer than {seconds:g} s to arrive")))
        except ClientDisconnect:
            return HTTPResponse(status_code=499)  # to nobody
        finally:
            self._held -= 1

    async def metadata(self, _: Request) -> HTTPResponse:
        h, w = self.service.model.bank.grid
        return _json(
            {
                "name": _NAME,
                "versions": [__version__],
                "platform": "pytorch",
                "inputs": _inputs(),
                "outputs": [
                    {"name": "images", "datatype": "BYTES", "shape": [-1]},
                    {"name": "seeds", "datatype": "INT64", "shape": [-1]},
                    {"name": "index", "datatype": "INT64", "shape": [-1, h, w]},
                    {"name": "report", "datatype": "BYTES", "shape": [1]},
                ],
            }
        )

    async def ready(self, _: Request) -> HTTPResponse:
        healthy = self.batcher.healthy
        return _json({"ready": healthy}, 200 if healthy else 503)

    async def ping(self, _: Request) -> HTTPResponse:
        healthy = self.batcher.healthy
        return _json({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 503)

    async def schema(self, _: Request) -> HTTPResponse:
        return _json(json_schema())

    async def _body(self, incoming: _Incoming) -> bytes | None:
        """The whole body; None where it is too large, of which no more is kept than is allowed."""
        most = self.options.max_body_bytes
        if int(incoming.headers.get("Content-Length", 0)) > most:
            return None
        body = bytearray()
        while incoming.more:
            body += await incoming.chunk()
            if len(body) > most:
                return None
        return bytes(body)

    async def _discard(self, incoming: _Incoming) -> None:
        """Let the rest of a refused body pass, within limits: most clients listen once they have sent all of it,
        and with the connection closed before that they would not learn why.
        """

        async def discard() -> None:
            left = 4 * self.options.max_body_bytes
            while incoming.more and left > 0:
                left -= len(await incoming.chunk())

        if "Expect" not in incoming.headers:  # who sends that asks first
            with suppress(asyncio.TimeoutError, ClientDisconnect):
                await asyncio.wait_for(discard(), self.options.max_body_seconds)

    async def _answer(self, call: Call, request: Request) -> Response:
        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        future = self.batcher.submit(call)
        answer, leaving = asyncio.wrap_future(future), asyncio.ensure_future(gone())
        either: tuple[asyncio.Future[Any], ...] = answer, leaving
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise ClientDisconnect
        finally:
            self.batcher.forget(future)
            leaving.cancel()


def _call(headers: dict[str, str], body: bytes) -> Call:
    kind, options = parse_options_header(headers.get("content-type"))
    if kind == b"multipart/form-data":
        return Call(None, headers, _multipart(body, options.get(b"boundary", b"")) or None)
    if kind == b"application/x-www-form-urlencoded":
        return Call(None, headers, _urlencoded(body) or None)
    return Call(body, headers)


def _multipart(body: bytes, boundary: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    parts, complete = 0, False

    def take(part: Field | File) -> None:
        nonlocal parts
        parts += 1
        if parts > _MOST_PARTS:
            raise FormParserError(f"more than {_MOST_PARTS} parts")
        if isinstance(part, File):
            part.file_object.seek(0)
            data = part.file_object.read()
        else:
            data = part.value or b""
        fields[(part.field_name or b"").decode(errors="replace")] = data

    def end() -> None:
        nonlocal complete
        complete = True

    try:
        # Nothing goes to the disk: all of it is in memory already.
        form = FormParser("multipart/form-data", take, take, end, boundary, config={"MAX_MEMORY_FILE_SIZE": math.inf})
        form.write(body)
    except FormParserError as error:
        raise Refusal(Failure(400, "malformed", f"the form: {error}")) from error
    if not complete:
        raise Refusal(Failure(400, "malformed", "the form: it ends before its last boundary"))
    return fields


def _urlencoded(body: bytes) -> dict[str, bytes]:
    if body.count(b"&") >= _MOST_PARTS:
        raise Refusal(Failure(400, "malformed", f"the form: more than {_MOST_PARTS} parts"))
    pairs = (part.replace(b"+", b" ").partition(b"=") for part in body.split(b"&") if part)
    return {unquote_to_bytes(name).decode(errors="replace"): unquote_to_bytes(value) for name, _, value in pairs}


def _inputs() -> list[dict[str, Any]]:
    """The fields of all operations as tensors of the Open Inference Protocol."""
    schema = json_schema()
    kinds = [schema["$defs"][path.rpartition("/")[2]] for path in schema["discriminator"]["mapping"].values()]
    fields = {name: value for kind in kinds for name, value in kind["properties"].items()}
    tensors = []
    for name, value in sorted(fields.items()):
        known = {form["type"]: form for form in (value, *value.get("anyOf", ())) if "type" in form}
        datatype, shape = "BYTES", [1]
        if "array" in known:
            datatype, shape = "INT64", [known["array"].get("maxItems", -1)]
        elif "integer" in known:
            datatype = "INT64"
        elif "boolean" in known:
            datatype = "BOOL"
        tensors.append({"name": name, "datatype": datatype, "shape": shape})
    return tensors


def _sent(response: Response, headers: dict[str, str] | None = None) -> HTTPResponse:
    together = {**response.headers, **(headers or {})}
    return HTTPResponse(response.body, response.status, together, response.content_type)


def _json(value: dict[str, Any], status: int = 200) -> HTTPResponse:
    return HTTPResponse(json.dumps(value, sort_keys=True), status, media_type="application/json")


async def _no_such_thing(request: Request, error: Exception) -> HTTPResponse:
    """404 and 405, in the form of all other refusals."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    failure = Failure(error.status_code, code, f"{request.method} {request.url.path[:80]}: {error.detail}")
    return _sent(failed(failure), dict(error.headers or {}))


async def _our_fault(_: Request, error: Exception) -> HTTPResponse:
    return _sent(internal_failure())


# --- running it ------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop. Returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        options = Options(
            batch_size=given.batch_size,
            max_batch_delay=given.max_batch_delay / 1000,
            queue_size=given.queue_size,
            max_body_bytes=given.max_body_bytes,
            threads=given.threads,
            token=_token(given.token_file),
        )
        if options.threads is not None:
            torch.set_num_threads(options.threads)  # here too: the service measures how fast it is
        model = _model([Path(source) for source in given.sources], given.autoencoder, given.device)
        model.precision = given.precision
        service = Service(model)
    except (LatentPatchError, ValueError, TypeError) as error:
        print(f"latentpatch: {error}", file=sys.stderr)
        return 1
    who = "who bears the token" if options.token is not None else "anyone who reaches it: there is no token"
    print(f"latentpatch: {len(model.bank)} sources, for {who}", file=sys.stderr)
    rounds = math.ceil(options.queue_size / options.batch_size)
    uvicorn.run(
        application(service, options),
        host=given.host,
        port=given.port,
        http="h11",
        ws="none",
        lifespan="on",
        server_header=False,
        # Who is reading bodies or waiting for batches gets to the end of it.
        timeout_graceful_shutdown=math.ceil(options.max_body_seconds + rounds * service.limits.max_seconds),
    )
    return 0


def _model(sources: list[Path], autoencoder: str | None, device: str) -> LatentPatch:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if len(sources) == 1 and sources[0].suffix == ".safetensors":
        return LatentPatch.load(sources[0], autoencoder).to(device)
    paths = images.list_images(*sources)
    return LatentPatch(autoencoder or DEFAULT).to(device).fit(paths, progress=sys.stderr.isatty())


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get("LATENTPATCH_TOKEN")
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: no token can be read from it: {getattr(error, 'strerror', 'not ASCII')}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m latentpatch.serving.app",
        description="Serve a model over HTTP, without TorchServe.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", help="a folder, pictures, a list of them, or a fitted model file")
    parser.add_argument("--autoencoder", metavar="NAME[:PATH]", help="as for the other commands")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the decoder")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch; without it as many as torch takes")
    group = parser.add_argument_group("requests")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=int, default=8080, help="0 for any that is free")
    group.add_argument("--token-file", metavar="FILE", help="holds the token; else LATENTPATCH_TOKEN does, else none")
    group.add_argument("--batch-size", type=int, metavar="N", default=Options.batch_size, help="answered together")
    group.add_argument(
        "--max-batch-delay", type=float, metavar="MS", default=Options.max_batch_delay * 1000, help="for company"
    )
    group.add_argument(
        "--queue-size", type=int, metavar="N", default=Options.queue_size, help="held at once; more are answered 503"
    )
    group.add_argument("--max-body-bytes", type=int, metavar="N", default=Options.max_body_bytes, help="of a request")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
