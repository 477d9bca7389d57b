"""Who may ask a server for what: chosen operations, and no pages of other sites where there is no token."""

from __future__ import annotations

import base64
import io
import json

import pytest
from helpers.draw_faces import draw_face
from helpers.errors import refuses
from helpers.live_app import JSON, PREDICT, Live

from latentpatch import LatentPatch
from latentpatch.serving import Limits, Service


def test_a_server_for_pictures_alone_shows_no_source(model: LatentPatch) -> None:
    """Defect M13: ``edit`` with a source as donor over the whole picture is that source, and nothing turned it off."""
    with Live(Service(model, Limits(operations=("generate",)))) as live:
        assert live.post({"n": 1}).status == 200
        with io.BytesIO() as file:
            draw_face(0, 64).save(file, "PNG")
            image = base64.b64encode(file.getvalue()).decode()
        edit = {"operation": "edit", "donor": "source:face01", "box": [0, 0, 64, 64], "image": image}
        for fields in (edit, {"operation": "info"}, {"operation": "provenance"}):
            answer = live.post(fields)
            assert (answer.status, json.loads(answer.body)["error"]["field"]) == (422, "operation")
    with refuses("operations"):
        Limits(operations=("generate", "everything"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null", "Content-Type": "text/plain"}, 403),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
        ({"Host": "pictures.example"}, 200),
    ],
)
def test_pages_of_other_sites_are_kept_out(model: LatentPatch, headers: dict[str, str], status: int) -> None:
    """Defect M13: with DNS rebinding a page could read the portraits of a server on the loopback address."""
    body = json.dumps({"n": 1})
    with Live(Service(model), hosts=("localhost", "127.0.0.1", "::1", "pictures.example")) as live:
        assert live.ask("POST", PREDICT, body, {**JSON, **headers}).status == status
        assert live.ask("GET", "/ping", None, headers).status == 200
    if status == 403:
        with Live(Service(model), token="secret") as live:
            assert live.ask("POST", PREDICT, body, {**JSON, **headers}).status == 401
            allowed = {"Authorization": "Bearer secret"}
            assert live.ask("POST", PREDICT, body, {**JSON, **headers, **allowed}).status == 200
