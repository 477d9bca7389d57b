"""The ASGI server, live: the same answers as without it, in every form of request and answer."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers import traffic
from helpers.live_app import INFER, PREDICT, Live, alike, fault, same
from helpers.paths import ROOT

from latentpatch import __version__
from latentpatch.serving import Call, Service, json_schema, respond

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
    assert live.send(form({})).status == 400  # an empty form
    whole = form(fields)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    bad = [traffic.Sent(body, whole.headers) for body in (whole.body[:-12], b"", b"--xyz\r\nA")]
    bad.append(traffic.Sent(whole.body.replace(b"xyz", b"abc"), whole.headers))
    bad.append(traffic.Sent(b"x", {"Content-Type": "multipart/form-data"}))
    many = {f"f{i}": b"1" for i in range(1000)}
    bad += [form(many), traffic.Sent(urllib.parse.urlencode(many).encode(), headers)]
    for sent in bad:
        assert fault(live.send(sent), 400)["code"] == "malformed"


def test_fields_that_a_user_left_empty_are_absent(live: Live, service: Service) -> None:
    (wanted,) = respond(service, [Call({"seed": 5, "preset": "few"})])
    fields = {"seed": b"5", "preset": b"few", "reference": b"", "n": b"", "where": b"", "sampler": b""}
    assert alike(live.send(form(fields, ("reference",))), wanted)
    coded = traffic.Sent(urllib.parse.urlencode(fields).encode(), {"Content-Type": "application/x-www-form-urlencoded"})
    assert alike(live.send(coded), wanted)


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
    metadata = live.ask("GET", "/v2/models/latentpatch").json()
    assert (metadata["name"], metadata["versions"]) == ("latentpatch", [__version__])
    for output in metadata["outputs"]:
        actual = outputs.pop(output["name"])
        assert actual["datatype"] == output["datatype"]
        assert all(side in (-1, actual["shape"][i]) for i, side in enumerate(output["shape"]))
    assert not outputs
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
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


def test_the_schema_in_the_documents_is_current() -> None:
    path = ROOT / "docs" / "serving-schema.json"
    current = path.read_text() == json.dumps(json_schema(), indent=2) + "\n"  # what the module prints
    assert current, f"python -m latentpatch.serving.schema > {path.relative_to(ROOT)}"
