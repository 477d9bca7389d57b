"""An ASGI application with a batcher of its own: the service without TorchServe.

``python -m latentpatch.serving.app PORTRAITS`` runs it on uvicorn. Needs the extra ``http``.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response as HTTPResponse
from starlette.routing import Route

from .. import __version__
from ..errors import LatentPatchError, SettingError
from ..generators import load_generator
from ..methods.trained.base import load_trained
from ..model import LatentPatch
from ..registry import import_plugins
from ..runs.system import slowness
from .batcher import Batcher
from .codecs import Call, Response, encode_failure, internal_failure
from .failures import Failure, Refusal, failure_of
from .forms import parse_form
from .inversions import Inversions
from .kserve import MODEL_NAME, model_metadata
from .limits import OPERATIONS, Limits
from .options import LOOPBACK, Options, read_token
from .schema import json_schema
from .service import Service
from .trained_models import name_and_file

__all__ = ["Batcher", "Options", "application", "main"]

_PREDICT = f"/predictions/{MODEL_NAME}"
_MODEL = f"/v2/models/{MODEL_NAME}"
_PROBES = ("/ping", "/v2/health/ready")  # answered without a token: they only tell that the server runs

_Endpoint = Callable[[Request], Awaitable[HTTPResponse]]


def application(service: Service, options: Options | None = None, inversions: Inversions | None = None) -> Starlette:
    """Return the ASGI application, which takes jobs, too, where ``inversions`` are there.

    Its worker starts with it, and answers the requests that wait before it ends.
    """
    server = _Server(service, options or Options(), inversions)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        chosen = server.options
        app.state.batcher = server.batcher = Batcher(service, chosen.batch_size, chosen.max_batch_delay, chosen.threads)
        try:
            yield
        finally:
            await asyncio.to_thread(server.batcher.close)
            if inversions is not None:
                await asyncio.to_thread(inversions.close)

    routes: list[tuple[str, str, _Endpoint]] = [
        (_PREDICT, "GET POST", server.predict),
        (f"{_MODEL}/infer", "POST", server.predict),
        (_MODEL, "GET", server.metadata),
        ("/v2/health/ready", "GET", server.ready),
        ("/ping", "GET", server.ping),
        ("/schema", "GET", server.schema),
    ]
    if inversions is not None:
        routes += [("/inversions", "POST", server.invert), ("/inversions/{job}", "GET DELETE", server.inversion)]
    return Starlette(
        routes=[
            Route(path, endpoint if path in _PROBES else server.require_token(endpoint), methods=methods.split())
            for path, methods, endpoint in routes
        ],
        exception_handlers={HTTPException: handle_http_exception, Exception: handle_internal_error},
        lifespan=lifespan,
    )


class _Incoming:
    """The chunks of a body as they arrive; ``has_more`` until the last."""

    def __init__(self, request: Request) -> None:
        self.headers, self.has_more = request.headers, True
        self._receive = request.receive

    async def chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.has_more = message.get("more_body", False)
        return bytes(message.get("body", b""))


class _Server:
    """The endpoints."""

    batcher: Batcher

    def __init__(self, service: Service, options: Options, inversions: Inversions | None = None) -> None:
        self.service, self.options, self.inversions = service, options, inversions
        self._num_requests = 0

    def require_token(self, endpoint: _Endpoint) -> _Endpoint:
        """Return the endpoint, closed to requests without the token; without one, to those of other sites' pages."""
        if self.options.token is None:
            return self._keep_out_pages(endpoint)
        token = self.options.token.encode()

        async def guard(request: Request) -> HTTPResponse:
            scheme, _, text = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(text.strip().encode(), token):
                return await endpoint(request)
            await self._discard(_Incoming(request))
            failure = Failure(401, "unauthorized", "the right token is needed: Authorization: Bearer TOKEN")
            return _refuse(failure, {"WWW-Authenticate": "Bearer"})

        return guard

    def _keep_out_pages(self, endpoint: _Endpoint) -> _Endpoint:
        """Return the endpoint, closed to a browser's pages of other sites, which reach loopback addresses, too."""

        async def guard(request: Request) -> HTTPResponse:
            host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
            with suppress(ValueError):  # of brackets that hold no address
                is_known = not self.options.hosts or urlsplit(f"//{host}").hostname in self.options.hosts
                if is_known and (origin is None or urlsplit(origin).netloc == host):
                    return await endpoint(request)
            await self._discard(_Incoming(request))
            return _refuse(Failure(403, "forbidden", "without a token, pages of other sites and names are refused"))

        return guard

    async def predict(self, request: Request) -> HTTPResponse:
        async def answer(body: bytes) -> HTTPResponse:
            call = await asyncio.to_thread(_call, dict(request.headers), body)  # parsing a form takes a while
            return _http_response(await self._answer(call, request))

        return await self._answer_body(request, answer)

    async def _answer_body(self, request: Request, answer: Callable[[bytes], Awaitable[HTTPResponse]]) -> HTTPResponse:
        """Return the answer to a request with a body, within the limits of bodies and of requests at once."""
        incoming = _Incoming(request)
        if self._num_requests >= self.options.queue_size:
            await self._discard(incoming)
            return _refuse(Failure(503, "busy", "too many requests are waiting; try again in a moment"))
        self._num_requests += 1
        try:
            body = await asyncio.wait_for(self._body(incoming), self.options.max_body_seconds)
            if body is None:
                await self._discard(incoming)
                most = self.options.max_body_bytes
                return _refuse(Failure(413, "body_too_large", f"the body has more than {most} bytes"))
            return await answer(body)
        except Refusal as refusal:
            return _refuse(refusal.failure)
        except asyncio.TimeoutError:
            seconds = self.options.max_body_seconds
            return _refuse(Failure(408, "too_slow", f"the body took longer than {seconds:g} s to arrive"))
        except ClientDisconnect:
            return HTTPResponse(status_code=499)  # the client has left: nobody reads it
        finally:
            self._num_requests -= 1

    async def metadata(self, _: Request) -> HTTPResponse:
        return _json(model_metadata(__version__, self.service.model.bank.grid))

    async def ready(self, _: Request) -> HTTPResponse:
        is_healthy = self.batcher.is_healthy
        return _json({"ready": is_healthy}, 200 if is_healthy else 503)

    async def ping(self, _: Request) -> HTTPResponse:
        is_healthy = self.batcher.is_healthy
        return _json({"status": "Healthy" if is_healthy else "Unhealthy"}, 200 if is_healthy else 503)

    async def schema(self, _: Request) -> HTTPResponse:
        return _json(json_schema())

    async def invert(self, request: Request) -> HTTPResponse:
        assert self.inversions is not None
        submit = self.inversions.submit

        async def answer(body: bytes) -> HTTPResponse:
            try:
                return _json(await asyncio.to_thread(submit, body), 202)
            except (LatentPatchError, SettingError) as error:
                return _refuse(failure_of(error))

        return await self._answer_body(request, answer)

    async def inversion(self, request: Request) -> HTTPResponse:
        assert self.inversions is not None
        name = request.path_params["job"]
        try:
            if request.method == "DELETE":
                self.inversions.cancel(name)
            report = self.inversions.report(name)
        except Refusal as refusal:
            return _refuse(refusal.failure)
        return _refuse(Failure(404, "not_found", "no such job")) if report is None else _json(report)

    async def _body(self, incoming: _Incoming) -> bytes | None:
        """Return the body; None for one beyond the limit, which is not read any further."""
        most = self.options.max_body_bytes
        if int(incoming.headers.get("Content-Length", 0)) > most:
            return None
        body = bytearray()
        while incoming.has_more:
            body += await incoming.chunk()
            if len(body) > most:
                return None
        return bytes(body)

    async def _discard(self, incoming: _Incoming) -> None:
        """Read the rest of a refused body, within limits.

        Most clients listen only once they have sent all of it; if the connection closed before, they would not learn
        the reason.
        """

        async def discard() -> None:
            left = 4 * self.options.max_body_bytes
            while incoming.has_more and left > 0:
                left -= len(await incoming.chunk())

        if "Expect" not in incoming.headers:  # a client that sends this header asks before it sends the body
            with suppress(asyncio.TimeoutError, ClientDisconnect):
                await asyncio.wait_for(discard(), self.options.max_body_seconds)

    async def _answer(self, call: Call, request: Request) -> Response:
        async def wait_for_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        future = self.batcher.submit(call)
        answer, leaving = asyncio.wrap_future(future), asyncio.ensure_future(wait_for_disconnect())
        either: tuple[asyncio.Future[Any], ...] = answer, leaving
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise ClientDisconnect
        finally:
            self.batcher.cancel(future)
            leaving.cancel()


def _call(headers: dict[str, str], body: bytes) -> Call:
    form = parse_form(headers.get("content-type"), body)
    return Call(body, headers) if form is None else Call(None, headers, form or None)


def _http_response(response: Response, headers: dict[str, str] | None = None) -> HTTPResponse:
    together = {**response.headers, **(headers or {})}
    return HTTPResponse(response.body, response.status, together, response.content_type)


def _refuse(failure: Failure, headers: dict[str, str] | None = None) -> HTTPResponse:
    return _http_response(encode_failure(failure), headers)


def _json(value: dict[str, Any], status: int = 200) -> HTTPResponse:
    return HTTPResponse(json.dumps(value, sort_keys=True), status, media_type="application/json")


async def handle_http_exception(request: Request, error: Exception) -> HTTPResponse:
    """Answer 404 and 405 in the form of all other failures."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    failure = Failure(error.status_code, code, f"{request.method} {request.url.path[:80]}: {error.detail}")
    return _refuse(failure, dict(error.headers or {}))


async def handle_internal_error(_: Request, error: Exception) -> HTTPResponse:
    """Answer 500 for a defect, without its details."""
    return _http_response(internal_failure())


# --- command line ----------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until a signal ends it, and return the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        import_plugins()
        options = Options(
            batch_size=parsed.batch_size,
            max_batch_delay=parsed.max_batch_delay / 1000,
            queue_size=parsed.queue_size,
            max_body_bytes=parsed.max_body_bytes,
            threads=parsed.threads,
            token=read_token(parsed.token_file),
            hosts=(*LOOPBACK, *parsed.allow_host) if parsed.host in LOOPBACK else (),
        )
        if options.threads is not None:
            torch.set_num_threads(options.threads)  # here, too, because this thread measures the speed
        model = LatentPatch.open(
            parsed.sources,
            autoencoder=parsed.autoencoder,
            device=parsed.device,
            precision=parsed.precision,
            progress=sys.stderr.isatty(),
        )
        if note := slowness(parsed.precision, model.autoencoder.device):
            print(f"latentpatch: note: {note}", file=sys.stderr)
        limits = Limits(max_task_pixels=parsed.max_task_pixels, operations=parsed.operations)
        trained = {name: load_trained(path) for name, path in map(name_and_file, parsed.trained)}
        service = Service(model, limits, trained)
        inversions = None if parsed.generator is None else Inversions(load_generator(parsed.generator))
    except (LatentPatchError, ValueError, TypeError) as error:
        print(f"latentpatch: {error}", file=sys.stderr)
        return 1
    users = "requests with the token" if options.token is not None else "anyone who reaches it: there is no token"
    print(f"latentpatch: {len(model.bank.sources)} sources, for {users}", file=sys.stderr)
    rounds = math.ceil(options.queue_size / options.batch_size)
    uvicorn.run(
        application(service, options, inversions),
        host=parsed.host,
        port=parsed.port,
        http="h11",
        ws="none",
        lifespan="on",
        server_header=False,
        # Bodies that are arriving and requests that wait are still answered.
        timeout_graceful_shutdown=math.ceil(options.max_body_seconds + rounds * service.limits.max_seconds),
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m latentpatch.serving.app",
        description="Serve a model over HTTP, without TorchServe.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", help="a folder, pictures, a list of them, or a fitted model file")
    parser.add_argument("--autoencoder", metavar="NAME[:PATH]", help="as for latentpatch generate")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    parser.add_argument("--generator", metavar="NAME[:PATH]", help="also take jobs that invert pictures into it")
    parser.add_argument(
        "--trained", metavar="NAME=FILE", nargs="+", default=[], help="trained models that tasks on pictures may name"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch; by default torch's own number")
    group = parser.add_argument_group("requests")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=int, default=8080, help="0 for any free port")
    group.add_argument("--token-file", metavar="FILE", help="file with the token, else LATENTPATCH_TOKEN, else none")
    group.add_argument(
        "--allow-host", metavar="NAME", nargs="+", default=[], help="more names of the server, as of a proxy before it"
    )
    group.add_argument(
        "--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS, help="the only ones that are answered"
    )
    numbers = (
        ("--batch-size", int, "N", Options.batch_size, "most requests answered together"),
        ("--max-batch-delay", float, "MS", Options.max_batch_delay * 1000, "most milliseconds to wait for others"),
        ("--queue-size", int, "N", Options.queue_size, "most requests at once; more are answered 503"),
        ("--max-body-bytes", int, "N", Options.max_body_bytes, "most bytes of a request"),
        (
            "--max-task-pixels",
            int,
            "N",
            Limits.max_task_pixels,
            "most pixels of a task on pictures; 0 for no such tasks",
        ),
    )
    for option, kind, metavar, default, text in numbers:
        group.add_argument(option, type=kind, metavar=metavar, default=default, help=text)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
