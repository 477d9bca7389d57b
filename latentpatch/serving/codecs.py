"""Requests and answers over HTTP: JSON, forms, bare pictures, the Open Inference Protocol; and results back.

A server passes each request as a :class:`Call` and gets a :class:`Response`; all servers share what is in between.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError
from torch import Tensor

from ..errors import SettingError
from ..io.channels import encode_channels, on_white
from ..io.images import encode_lossy
from ..io.metadata import record_metadata
from .failures import Failure, Refusal, failure_of, malformed, truncate_for_message
from .kserve import encode_kserve, parse_kserve
from .schema import Answer, InfoRequest, PictureFormat, Request, parse
from .service import Result

__all__ = ["REQUEST_HEADER", "Call", "Response", "encode_failure", "internal_failure", "parse_json", "respond"]

_log = logging.getLogger(__name__)

#: Name of the header that has the other fields as JSON, where the body is a bare picture.
REQUEST_HEADER = "LatentPatch-Request"

_PICTURES = ("image", "mask", "donor", "reference", "target", "map")
_TEXTS = ("operation", "task", "method", "trained", "where", "sampler", "preset", "symmetric", "decoding", "answer",
          "image_format")  # fmt: skip
_CODECS: dict[PictureFormat, str] = {"jpeg": "JPEG", "webp": "WEBP"}
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: equal answers are equal bytes
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
MAX_VALUES = 20_000  # signs that separate values in JSON; a real request has fewer than 1,000
MAX_MESSAGE = 1000  # characters: refusals do not repeat what was sent without bound
MAX_FIELDS = 100  # fields or settings of a request: reporting a million unknown ones would take too long


@dataclass(frozen=True)
class Call:
    """A request as a server received it.

    Attributes:
        body: bytes or text of the body, or its JSON where the server has parsed it; None without a body.
        headers: of the request.
        fields: of a form, in place of a body.
    """

    body: bytes | str | dict[str, Any] | list[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # it may hold a token
    fields: Mapping[str, bytes | str] | None = None

    def header(self, name: str) -> str:
        """Return the value of a header, whatever the case of its name; empty where it is absent."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")


@dataclass(frozen=True)
class Response:
    """The answer that a server sends."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Runner(Protocol):
    """The interface of :class:`~latentpatch.serving.Service` and :class:`~.exported.GraphService`."""

    def run(self, requests: Sequence[Request]) -> list[Result | Failure]:
        """Return the outcome of each request."""


@dataclass(frozen=True)
class ParsedRequest:
    """A request, and the form of its answer.

    Attributes:
        request: validated.
        answer: form of the answer; None for a picture, or a zip of several.
        image_format: of the pictures.
        kserve: what an answer of the Open Inference Protocol repeats of its request; None for other requests.
    """

    request: Request
    answer: Answer | None
    image_format: PictureFormat
    kserve: dict[str, Any] | None = None


def respond(service: Runner, calls: Sequence[Call]) -> list[Response]:
    """Return the answers to a batch of requests. A failure concerns its own request; nothing is raised."""
    try:
        parsed = [_parse_call(call) for call in calls]
        results = iter(service.run([one.request for one in parsed if isinstance(one, ParsedRequest)]))
        return [encode_failure(one) if isinstance(one, Failure) else _answer(next(results), one) for one in parsed]
    except Exception:  # a defect: if it were raised, all of the batch would lose their connections
        _log.exception("a batch failed")
        return [internal_failure() for _ in calls]


def internal_failure() -> Response:
    """Return the answer for a defect of the server."""
    return encode_failure(Failure(500, "internal", "the server's log has the reason"))


def _answer(outcome: Result | Failure, parsed: ParsedRequest) -> Response:
    if isinstance(outcome, Failure):
        return encode_failure(outcome)
    try:
        return encode_result(outcome, parsed)
    except Refusal as refusal:
        return encode_failure(refusal.failure)
    except Exception:  # such as a lack of memory: the others of the batch still have their answers
        _log.exception("an answer could not be written")
        message = "this answer could not be written; the server's log has the reason"
        return encode_failure(Failure(500, "internal", message))


def encode_failure(failure: Failure) -> Response:
    """Return a failure as JSON: ``{"error": {"status", "code", "message", "field"}}``."""
    headers = {"Retry-After": "1"} if failure.status == 503 else {}
    field = None if failure.field is None else truncate_for_message(failure.field)
    error = asdict(failure) | {"field": field, "message": failure.message[:MAX_MESSAGE]}
    return Response(failure.status, "application/json", _json({"error": error}), headers)


# --- requests ------------------------------------------------------------------------------------------------


def _parse_call(call: Call) -> ParsedRequest | Failure:
    try:
        fields, kserve = _fields(call)
        for part in (fields, fields.get("settings")):
            if isinstance(part, dict) and len(part) > MAX_FIELDS:
                raise malformed(f"a request has at most {MAX_FIELDS} fields, not {len(part)}")
        try:
            request = parse(fields)
        except ValidationError as error:
            return _invalid(error)
        if isinstance(request, InfoRequest):
            return ParsedRequest(request, "json", "png", kserve)
        answer, image_format = _accepted(call.header("Accept")) if kserve is None else (None, None)
        return ParsedRequest(request, request.answer or answer, request.image_format or image_format or "png", kserve)
    except Refusal as refusal:
        return refusal.failure
    except RecursionError:  # a server that parsed the JSON itself may get deeper than this
        return Failure(400, "malformed", "the body is nested too deeply")


def _fields(call: Call) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the fields of a request, and for the Open Inference Protocol what its answer repeats."""
    if call.fields is not None:
        return _form_fields(call.fields), None
    body, kind = call.body, call.header("Content-Type").partition(";")[0].strip().lower()
    if body is None or (isinstance(body, (bytes, str)) and not body):
        if kind or call.header("Content-Length").strip("0 "):  # a malformed form, or null
            raise malformed("the body is empty or unreadable; JSON needs Content-Type: application/json")
        return {"operation": "info"}, None
    json_or_text = kind == "application/json" or kind.startswith("text/")  # some servers pass text as str
    if isinstance(body, bytes) and (kind.startswith("image/") or not (json_or_text or _looks_json(body))):
        return _picture_fields(body, call.header(REQUEST_HEADER)), None
    if isinstance(body, (bytes, str)):
        body = parse_json(body, "the body")
    if not isinstance(body, dict):
        raise malformed(f"the body must be a JSON object, got {truncate_for_message(body)}")
    return parse_kserve(body) if "inputs" in body else (body, None)


def _looks_json(body: bytes) -> bool:
    return body.lstrip()[:1] in (b"{", b"[", b'"')


def _picture_fields(picture: bytes, header: str) -> dict[str, Any]:
    """Return the fields of a bare picture and a header with the others."""
    fields = parse_json(header, REQUEST_HEADER) if header else {"operation": "reconstruct"}
    if not isinstance(fields, dict):
        raise malformed(f"{REQUEST_HEADER} must be a JSON object, got {truncate_for_message(fields)}")
    operation = fields.get("operation", "picture" if "task" in fields else "generate")
    name = {"generate": "reference", "provenance": "reference", "picture": "pictures"}
    return {**fields, name.get(str(operation), "image"): picture}


def _form_fields(form: Mapping[str, bytes | str]) -> dict[str, Any]:
    """Return the fields of a form: pictures as bytes, texts unchanged, the others from JSON.

    A browser sends every field of a form, empty where the user left it alone: such a field counts as absent.
    """
    fields: dict[str, Any] = {}
    for name, value in form.items():
        if not value:
            continue
        if name.partition(".")[0] == "pictures":  # pictures, pictures.1, pictures.2
            fields.setdefault("pictures", []).append(value.encode() if isinstance(value, str) else bytes(value))
            continue
        if name in _PICTURES:
            data = value.encode() if isinstance(value, str) else bytes(value)
            fields[name] = _decode(data, name) if name == "donor" and data.startswith(b"source:") else data
            continue
        text = value if isinstance(value, str) else _decode(bytes(value), name)
        fields[name] = text if name in _TEXTS else parse_json(text, name)
    return fields


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        pictures = f"; a picture is sent as one of {', '.join(_PICTURES)}"
        raise malformed(f"{truncate_for_message(name)} must be UTF-8 text{pictures}") from error


def parse_json(text: bytes | str, name: str) -> Any:
    """Return JSON of a bounded number of values.

    Raises:
        Refusal: 400 for other text.
    """
    # Counted before they become objects, each of which takes many times its bytes. Base64 has none of them.
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    count = sum(data.count(sign) for sign in (b"[", b"{", b",", b":"))
    if count > MAX_VALUES:
        raise malformed(f"{truncate_for_message(name)} must be JSON of at most {MAX_VALUES} values, got about {count}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{truncate_for_message(name)} must be JSON: {error}") from error


def _invalid(error: ValidationError) -> Failure:
    """Return the first fault of a request; of a picture it shows the size only."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SettingError):
        return failure_of(cause)
    names = [str(part) for part in first["loc"]][1:]  # the operation, which comes first, is no field
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {truncate_for_message(first['input'])}"
    name = ".".join(names) or None
    return Failure(422, "invalid_value", f"{truncate_for_message(name) + ': ' if name else ''}{message}{shown}", name)


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
    """Return form and image format of an Accept header: the most wanted of those that exist, the first among equals."""
    if not header.strip():
        return None, None
    wanted: list[tuple[float, int, str]] = []
    for i, part in enumerate(header.split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        texts = [text[2:] for text in parameters if text.startswith("q=")]
        quality = float(texts[-1]) if texts and _NUMBER.fullmatch(texts[-1]) else 0.0 if texts else 1.0
        if kind in _TYPES and 0 < quality <= 1:
            wanted.append((-quality, i, kind))
    if not wanted:
        kinds, shown = ", ".join(kind for kind in _TYPES if "*" not in kind), truncate_for_message(header)
        raise Refusal(Failure(406, "not_acceptable", f"Accept must name one of {kinds}, got {shown}"))
    return _TYPES[min(wanted)[2]]


# --- answers -------------------------------------------------------------------------------------------------


def encode_result(result: Result, parsed: ParsedRequest) -> Response:
    """Return a result in the form of its request.

    Raises:
        Refusal: 406 for several pictures as one.
    """
    content_type = f"image/{parsed.image_format}"
    files = [] if result.pictures is None else _encode_pictures(result, result.pictures, parsed.image_format)
    if parsed.kserve is not None:
        return _as_json(encode_kserve(result, files, content_type, parsed.kserve))
    if result.pictures is None:
        return _as_json(result.report)
    answer = parsed.answer or ("image" if len(files) == 1 else "zip")
    if answer == "zip":
        return Response(200, "application/zip", _zip(result, files, parsed.image_format))
    if answer == "json":
        texts = (base64.b64encode(file).decode() for file in files)
        images = [{**record, "image": text} for record, text in zip(result.records, texts, strict=True)]
        report = {"operation": result.operation, **result.report, "content_type": content_type}
        return _as_json(report | {"images": images})
    if len(files) != 1:
        message = f"an image is one picture, not {len(files)}: ask for application/zip or json"
        raise Refusal(Failure(406, "not_acceptable", message))
    return Response(200, content_type, files[0])


def _encode_pictures(result: Result, pictures: Tensor, image_format: PictureFormat) -> list[bytes]:
    """Return each picture as a file; a PNG has the facts that reproduce it."""
    if image_format != "png":
        return [encode_lossy(picture, _CODECS[image_format]) for picture in on_white(pictures)]
    shared = {name: value for name, value in result.report.items() if name != "ids"} | {"operation": result.operation}
    files = []
    for picture, record in zip(pictures, result.records, strict=True):
        facts = shared | ({"seed": record["seed"]} if "seed" in record else {})
        files.append(encode_channels(picture, record_metadata(facts)))
    return files


def _zip(result: Result, files: Sequence[bytes], image_format: PictureFormat) -> bytes:
    """Return a zip of the pictures and ``report.json``."""
    suffix = "jpg" if image_format == "jpeg" else image_format
    names = [f"{i:04d}.{suffix}" for i in range(len(files))]
    rows = [{"file": name, **record} for name, record in zip(names, result.records, strict=True)]
    report = _json({"operation": result.operation, **result.report, "images": rows})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [*zip(names, files, strict=True), ("report.json", report)]:
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data)
    return buffer.getvalue()


def _as_json(value: dict[str, Any]) -> Response:
    return Response(200, "application/json", _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
