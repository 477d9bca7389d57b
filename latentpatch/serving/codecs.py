"""Requests and results as they travel: JSON, multipart, bare pictures, the Open Inference Protocol; and back.

A server gives each request as a :class:`Call` and gets a :class:`Response`; what is in between is the same for all.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from ..io.images import encode_lossy, encode_png
from .schema import Answer, InfoRequest, PictureFormat, Request, parse
from .service import Failure, Refusal, Result

__all__ = ["REQUEST_HEADER", "Call", "Response", "respond"]

_log = logging.getLogger(__name__)

#: JSON of the other fields, beside a body that is a bare picture.
REQUEST_HEADER = "LatentPatch-Request"

_PICTURES = ("image", "mask", "donor", "reference")
_TEXTS = ("operation", "where", "sampler", "decoding", "answer", "image_format")
_CODECS: dict[PictureFormat, str] = {"jpeg": "JPEG", "webp": "WEBP"}
_PNG_LEVEL = 3  # a tenth larger than at most effort, in half the time
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest there is: equal answers are equal bytes
_SHOWN = 80  # characters of a wrong value in a message
_MOST_FIELDS = 100  # more than there are; what validation says of a million of them takes longer than an answer may
_MOST_SIDES = 8  # of an Open Inference shape: the product of millions takes minutes


@dataclass(frozen=True)
class Call:
    """A request as a server received it.

    Attributes:
        body: bytes or text of the body, or its JSON where the server has parsed it; None where there is none.
        headers: of the request.
        fields: of a form, in place of a body.
    """

    body: bytes | str | dict[str, Any] | list[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # it may hold a token
    fields: Mapping[str, bytes | str] | None = None

    def header(self, name: str) -> str:
        """A header's value, whatever the case of its name; empty where it is absent."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")


@dataclass(frozen=True)
class Response:
    """What a server is to answer."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Runner(Protocol):
    """What answers requests: a :class:`~latentpatch.serving.Service`, or one like it."""

    def run(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """The outcome of each request."""


@dataclass(frozen=True)
class _Asked:
    """A request, and the form its answer is to have."""

    request: Request
    answer: Answer | None
    picture: PictureFormat
    protocol: dict[str, Any] | None = None  # the id and the like of an Open Inference request


def respond(service: Runner, calls: Sequence[Call]) -> list[Response]:
    """Answer a batch of requests: each its own response, whatever the others are. Nothing is raised."""
    try:
        asked = [_read(call) for call in calls]
        results = iter(service.run([one.request for one in asked if isinstance(one, _Asked)]))
        return [failed(one) if isinstance(one, Failure) else _answer(next(results), one) for one in asked]
    except Exception:  # a defect: raised, it would cost all of them their connections, or the server its thread
        _log.exception("a batch failed")
        return [internal_failure() for _ in calls]


def internal_failure() -> Response:
    """What is answered where the fault is ours."""
    return failed(Failure(500, "internal", "the server's log has the reason"))


def _answer(outcome: Result | Failure, asked: _Asked) -> Response:
    if isinstance(outcome, Failure):
        return failed(outcome)
    try:
        return _written(outcome, asked)
    except Refusal as refusal:
        return failed(refusal.failure)
    except Exception:  # memory, for one: the others of the batch still have their answers
        _log.exception("an answer could not be written")
        return failed(Failure(500, "internal", "this answer could not be written; the server's log has the reason"))


def failed(failure: Failure) -> Response:
    """A refusal as JSON: ``{"error": {"status", "code", "message", "field"}}``."""
    error = {"status": failure.status, "code": failure.code, "message": failure.message, "field": failure.field}
    headers = {"Retry-After": "1"} if failure.status == 503 else {}
    return Response(failure.status, "application/json", _json({"error": error}), headers)


# --- in --------------------------------------------------------------------------------------------------


def _read(call: Call) -> _Asked | Failure:
    try:
        fields, protocol = _fields(call)
        for part in (fields, fields.get("settings")):
            if isinstance(part, dict) and len(part) > _MOST_FIELDS:
                raise _malformed(f"{len(part)} fields; there are not as many")
        try:
            request = parse(fields)
        except ValidationError as error:
            raise Refusal(_invalid(error)) from error
        if isinstance(request, InfoRequest):
            return _Asked(request, "json", "png", protocol)
        answer, picture = _accepted(call.header("Accept")) if protocol is None else (None, None)
        return _Asked(request, request.answer or answer, request.image_format or picture or "png", protocol)
    except Refusal as refusal:
        return refusal.failure
    except RecursionError:  # where the server parsed the JSON, it got further down than we do
        return Failure(400, "malformed", "the body: nested too deeply")


def _fields(call: Call) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """-> fields of a request; of the Open Inference Protocol what its answer repeats"""
    if call.fields is not None:
        return _form(call.fields), None
    body, kind = call.body, call.header("Content-Type").partition(";")[0].strip().lower()
    if body is None or (isinstance(body, (bytes, str)) and not body):
        if kind or call.header("Content-Length").strip("0 "):  # a form gone wrong, or null
            raise _malformed("the body: nothing in it can be read; JSON goes with Content-Type: application/json")
        return {"operation": "info"}, None
    json_or_text = kind == "application/json" or kind.startswith("text/")  # some servers give text as str
    if isinstance(body, bytes) and (kind.startswith("image/") or not (json_or_text or _looks_json(body))):
        return _bare_picture(body, call.header(REQUEST_HEADER)), None
    if isinstance(body, (bytes, str)):
        body = _parsed(body, "the body")
    if not isinstance(body, dict):
        raise _malformed(f"the body: a JSON object is expected, got {_shown(body)}")
    return _open_inference(body) if "inputs" in body else (body, None)


def _looks_json(body: bytes) -> bool:
    return body.lstrip()[:1] in (b"{", b"[", b'"')


def _bare_picture(picture: bytes, header: str) -> dict[str, Any]:
    fields = _parsed(header, REQUEST_HEADER) if header else {"operation": "reconstruct"}
    if not isinstance(fields, dict):
        raise _malformed(f"{REQUEST_HEADER}: a JSON object is expected, got {_shown(fields)}")
    drawn = fields.get("operation", "generate") in ("generate", "provenance")
    return {**fields, "reference" if drawn else "image": picture}


def _form(form: Mapping[str, bytes | str]) -> dict[str, Any]:
    """Fields of a form: pictures as bytes, texts as they are, the others as JSON."""
    fields: dict[str, Any] = {}
    for name, value in form.items():
        if name in _PICTURES:
            data = value.encode() if isinstance(value, str) else bytes(value)
            fields[name] = _text(data, name) if name == "donor" and data.startswith(b"source:") else data
            continue
        text = value if isinstance(value, str) else _text(bytes(value), name)
        fields[name] = text if name in _TEXTS else _parsed(text, name)
    return fields


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"{_shown(name)}: UTF-8 text is expected") from error


def _parsed(text: bytes | str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{_shown(name)}: JSON is expected: {error}") from error


def _open_inference(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request of the Open Inference Protocol (KServe v2): each input is a field, as are the parameters."""
    unknown = sorted(set(body) - {"id", "inputs", "outputs", "parameters"})
    inputs, parameters = body["inputs"], body.get("parameters", {})
    if unknown or not isinstance(inputs, list) or not isinstance(parameters, dict):
        raise _malformed('an Open Inference request {"inputs": [...], "parameters": {...}} is expected')
    fields = {name: value for name, value in parameters.items() if name != "binary_data_output"}
    for tensor in inputs:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise _malformed("inputs: each has a name, a shape, a datatype and data")
        name, data = tensor["name"], _flat(tensor.get("data"))
        shape = tensor.get("shape")
        sides = shape if isinstance(shape, list) and len(shape) <= _MOST_SIDES else [-1]
        if not all(type(side) is int and side >= 0 for side in sides) or not data:
            raise _malformed(f"inputs: {_shown(name)}: a shape and data (not a binary extension) are expected")
        size = 1
        for side in sides:
            size *= side
        if size != len(data):
            raise _malformed(f"inputs: {_shown(name)}: shape {_shown(shape)} does not hold {len(data)} values")
        whole = name in ("seeds", "box")
        fields[name] = data if whole else data[0]
        if not whole and len(data) != 1:
            raise _malformed(f"inputs: {_shown(name)}: one value is expected, got {len(data)}")
        if name == "settings" and isinstance(fields[name], str):
            fields[name] = _parsed(fields[name], name)
    identifier = body.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise _malformed(f"id: text is expected, got {_shown(identifier)}")
    return fields, {} if identifier is None else {"id": identifier}


def _flat(data: Any) -> list[Any]:
    """Values of a possibly nested list, in order."""
    values: list[Any] = []
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += reversed(value)
        else:
            values.append(value)
    return values


def _malformed(message: str) -> Refusal:
    return Refusal(Failure(400, "malformed", message))


def _invalid(error: ValidationError) -> Failure:
    """The first of the things that are wrong, without the value of a whole picture."""
    errors = error.errors(include_url=False, include_context=False)
    first = errors[0]
    # The class a union took is no part of the request.
    names = [str(part) for part in first["loc"]][1:]
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {_shown(first['input'])}"
    name = ".".join(names) or None
    return Failure(422, "invalid_value", f"{_shown(name) + ': ' if name else ''}{message}{shown}", name)


def _shown(value: Any) -> str:
    """A value for a message, of bounded length."""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


_TYPES: dict[str, tuple[Answer | None, PictureFormat | None]] = {
    "image/png": ("image", "png"),
    "image/jpeg": ("image", "jpeg"),
    "image/webp": ("image", "webp"),
    "image/*": ("image", None),
    "application/json": ("json", None),
    "application/zip": ("zip", None),
    "*/*": (None, None),
    "application/*": ("json", None),
}


def _accepted(header: str) -> tuple[Answer | None, PictureFormat | None]:
    """The first of the most wanted forms of an Accept header that there are."""
    if not header.strip():
        return None, None
    wanted: list[tuple[float, int, str]] = []
    for i, part in enumerate(header.split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if kind in _TYPES and 0 < quality <= 1:
            wanted.append((-quality, i, kind))
    if not wanted:
        kinds = ", ".join(kind for kind in _TYPES if "*" not in kind)
        raise Refusal(Failure(406, "not_acceptable", f"Accept {_shown(header)}: one of {kinds} is expected"))
    return _TYPES[min(wanted)[2]]


# --- out -------------------------------------------------------------------------------------------------


def _written(result: Result, asked: _Asked) -> Response:
    if result.pictures is None:
        return _in_protocol(result, [], asked) if asked.protocol is not None else _as_json(result.report)
    files = _files(result, asked.picture)
    if asked.protocol is not None:
        return _in_protocol(result, files, asked)
    answer = asked.answer or ("image" if len(files) == 1 else "zip")
    if answer == "image":
        if len(files) != 1:
            raise Refusal(
                Failure(406, "not_acceptable", f"{len(files)} pictures are not one: ask for application/zip or json")
            )
        return Response(200, f"image/{asked.picture}", files[0])
    if answer == "json":
        rows = [
            {**record, "image": base64.b64encode(file).decode()}
            for record, file in zip(result.records, files, strict=True)
        ]
        return _as_json(
            {
                "operation": result.operation,
                **result.report,
                "content_type": f"image/{asked.picture}",
                "images": rows,
            }
        )
    return Response(200, "application/zip", _zip(result, files, asked.picture))


def _files(result: Result, kind: PictureFormat) -> list[bytes]:
    """Each picture as a file; a PNG says what it takes to make it again."""
    assert result.pictures is not None
    if kind != "png":
        return [encode_lossy(picture, _CODECS[kind]) for picture in result.pictures]
    shared = {name: value for name, value in result.report.items() if name != "ids"} | {"operation": result.operation}
    files = []
    for picture, record in zip(result.pictures, result.records, strict=True):
        facts = shared | ({"seed": record["seed"]} if "seed" in record else {})
        files.append(encode_png(picture, {"latentpatch": json.dumps(facts, sort_keys=True)}, _PNG_LEVEL))
    return files


def _zip(result: Result, files: Sequence[bytes], kind: PictureFormat) -> bytes:
    """The pictures and ``report.json``."""
    suffix = "jpg" if kind == "jpeg" else kind
    names = [f"{i:04d}.{suffix}" for i in range(len(files))]
    rows = [{"file": name, **record} for name, record in zip(names, result.records, strict=True)]
    report = _json({"operation": result.operation, **result.report, "images": rows})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [*zip(names, files, strict=True), ("report.json", report)]:
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data)
    return buffer.getvalue()


def _in_protocol(result: Result, files: Sequence[bytes], asked: _Asked) -> Response:
    """An answer of the Open Inference Protocol: ``images`` as base64, ``seeds`` and ``index`` where there are any,
    and ``report`` as JSON.
    """
    records = result.records
    outputs = []
    if files:
        data: list[Any] = [base64.b64encode(file).decode() for file in files]
        outputs.append(_tensor("images", "BYTES", [len(files)], data) | _content(f"image/{asked.picture}"))
    if records and records[0].get("seed") is not None:
        outputs.append(_tensor("seeds", "INT64", [len(records)], [record["seed"] for record in records]))
    if records and "index" in records[0]:
        grid = records[0]["index"]
        data = [b for record in records for row in record["index"] for b in row]
        outputs.append(_tensor("index", "INT64", [len(records), len(grid), len(grid[0])], data))
    facts = [{name: value for name, value in record.items() if name != "index"} for record in records]
    report = {"operation": result.operation, **result.report, "images": facts}
    outputs.append(_tensor("report", "BYTES", [1], [json.dumps(report)]) | _content("application/json"))
    version = str(result.report["version"])
    return _as_json(
        {"model_name": "latentpatch", "model_version": version, **(asked.protocol or {}), "outputs": outputs}
    )


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _content(kind: str) -> dict[str, Any]:
    return {"parameters": {"content_type": kind}}


def _as_json(value: dict[str, Any]) -> Response:
    return Response(200, "application/json", _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
