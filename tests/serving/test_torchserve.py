"""TorchServe with the default archive, started and stopped by the tests."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import traffic
from helpers.live_server import LiveServer, missing
from PIL import Image

if missing() is not None:
    pytest.skip(f"TorchServe cannot run on this machine: it has no {missing()}", allow_module_level=True)

from latentpatch import LatentPatch, RasterSettings, __version__
from latentpatch.export.formats import export
from latentpatch.serving import Limits, Service
from latentpatch.serving.archive import build_graph_archive, load_archived
from latentpatch.serving.exported import GraphService

pytestmark = pytest.mark.slow(2)


def test_starts_as_configured(server: LiveServer) -> None:
    description = server.describe()
    assert description["modelName"] == "latentpatch"
    assert description["modelVersion"] == __version__
    assert (description["batchSize"], description["maxBatchDelay"], description["responseTimeout"]) == (16, 10, 60)
    assert description["jobQueueStatus"]["remainingCapacity"] == 64
    assert [worker["status"] for worker in description["workers"]] == ["READY", "READY"]
    assert sorted(worker["pid"] for worker in description["workers"]) == server.worker_pids()


def test_ping(server: LiveServer) -> None:
    assert server.request("GET", "/ping").json() == {"status": "Healthy"}


@pytest.mark.parametrize("token", [None, "wrong", "management"])
def test_tokens_are_asked_for(token: str | None, server: LiveServer) -> None:
    if token == "management":  # its key is not the one for inference
        token = server.token("management")
    for method, path in [
        ("POST", "/predictions/latentpatch"),
        ("GET", "/ping"),
        ("POST", "/v2/models/latentpatch/infer"),
    ]:
        answer = server.request(method, path, token=token)
        assert answer.status == 400  # sic
        assert answer.json()["type"] == "InvalidKeyException"
    assert server.request("GET", "/models", api="management", token="wrong").status == 400


def test_models_cannot_be_changed(server: LiveServer) -> None:
    for method, path in [("POST", "/models?url=http://127.0.0.1:9/x.mar"), ("DELETE", "/models/latentpatch")]:
        assert server.request(method, path, api="management").status == 405
    assert len(server.describe()["workers"]) == 2


def test_info(server: LiveServer) -> None:
    answer = server.predict({"operation": "info"})
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert '"sources"' in answer.body.decode()


def test_a_picture(server: LiveServer) -> None:
    answer = server.predict({"seed": 3})
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.body)).size == (256, 256)
    assert server.predict({"seed": 3}).body == answer.body


def test_a_task_on_a_picture(server: LiveServer) -> None:
    body = {"task": "texture", "size": [48, 64], "pictures": traffic.text(traffic.face(1))}
    answer = server.predict(body)
    assert answer.status == 200, answer.body
    assert Image.open(io.BytesIO(answer.body)).size == (64, 48)
    assert server.predict({**body, "size": [4096, 4096]}).status == 413
    assert any(name.startswith("TaskSeconds_sum") for name in server.metrics())


def test_metrics_need_no_token(server: LiveServer) -> None:
    server.predict({"seed": 0, "reference": ""})
    server.predict({"seed": 0})
    seen = {name.partition("{")[0] for name in server.metrics()}
    ours = {"QueueShare", "ImagesMade", "Refusals", "SearchSeconds_sum", "DecodeSeconds_bucket"}
    theirs = {"Requests2XX", "QueueTime", "ts_inference_latency_microseconds", "PredictionTime"}
    assert ours | theirs <= seen


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """The same model without a server."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return Service(load_archived(folder), Limits())


_IMAGE = {"image": traffic.text(traffic.face(1))}
_BOX = {"box": [48, 64, 160, 128]}
_OPERATIONS: list[dict[str, Any]] = [
    {"operation": "generate", "n": 2, "seed": 1, "settings": {"neighbours": 2}},
    {"operation": "generate", "reference": _IMAGE["image"], "decoding": "unproject"},
    {"operation": "provenance", "n": 2, "seed": 1},
    {"operation": "inpaint", **_IMAGE, **_BOX, "n": 2},
    {"operation": "inpaint", **_IMAGE, "mask": traffic.text(traffic.face(2)), "composite": False},
    {"operation": "edit", **_IMAGE, **_BOX, "donor": traffic.text(traffic.face(3))},
    {"operation": "edit", **_IMAGE, **_BOX, "donor": "source:portrait-03"},
    {"operation": "reconstruct", **_IMAGE, "reduced": True},
]


@pytest.mark.parametrize("fields", _OPERATIONS, ids=lambda fields: fields["operation"])
@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/zip"])
def test_every_operation_is_answered_as_without_a_server(
    fields: dict[str, Any], accept: str, server: LiveServer, local: Service
) -> None:
    sent = traffic.as_json(fields, Accept=accept)
    answer, wanted = server.predict(sent.body, sent.headers), traffic.expected(local, sent)
    assert (answer.status, answer.headers["content-type"]) == (200, wanted.content_type), answer.body
    assert answer.body == wanted.body


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_kind_of_picture(kind: str, server: LiveServer, local: Service) -> None:
    sent = traffic.as_json({"seed": 4}, Accept=f"image/{kind}")
    answer = server.predict(sent.body, sent.headers)
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.body == traffic.expected(local, sent).body
    assert Image.open(io.BytesIO(answer.body)).format == kind.upper()


def test_forms_bare_pictures_and_gets(server: LiveServer, local: Service) -> None:
    picture = traffic.face(6)
    wanted = traffic.expected(local, traffic.as_json({"seed": 5, "n": 2, "reference": traffic.text(picture)}))
    parts = {"seed": b"5", "n": b"2", "reference": picture}
    border = b"--border"
    form = b"".join(
        border
        + b'\r\nContent-Disposition: form-data; name="'
        + name.encode()
        + b'"; filename="x"\r\n\r\n'
        + data
        + b"\r\n"
        for name, data in parts.items()
    )
    answers = [
        server.predict(form + border + b"--\r\n", {"Content-Type": "multipart/form-data; boundary=border"}),
        server.predict(picture, {"Content-Type": "image/png", "LatentPatch-Request": '{"seed": 5, "n": 2}'}),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        assert answer.body == wanted.body
    bare = server.predict(picture, {"Content-Type": "image/png"})
    assert bare.body == traffic.expected(local, traffic.Sent(picture, {})).body
    info = server.request("GET", "/predictions/latentpatch")
    assert info.json()["sources"] == len(local.model.bank)


def test_the_open_inference_protocol(server: LiveServer, local: Service) -> None:
    body = {
        "id": "7",
        "inputs": [{"name": "seeds", "datatype": "INT64", "shape": [2], "data": [8, 9]}],
        "parameters": {"operation": "generate"},
    }
    sent = traffic.as_json(body)
    answer = server.request("POST", "/v2/models/latentpatch/infer", sent.body, sent.headers)
    assert answer.status == 200, answer.body
    assert answer.body == traffic.expected(local, sent).body
    assert {output["name"] for output in answer.json()["outputs"]} == {"images", "seeds", "index", "report"}


def test_refusals_are_json_and_say_why(server: LiveServer, local: Service) -> None:
    for i in range(7):
        sent = traffic.bad(i)
        answer, wanted = server.predict(sent.body, sent.headers), traffic.expected(local, sent)
        assert (answer.status, answer.body) == (wanted.status, wanted.body)
        assert answer.headers["content-type"] == "application/json"
    too_large = server.predict(bytes(25 * 2**20), {"Content-Type": "image/png"})
    assert too_large.status == 413


def test_an_exported_graph_with_renewed_tokens(faces: Path, tmp_path: Path) -> None:
    # With a server of its own, also because the other tests' key would be gone.
    model = LatentPatch("pixels:4", 8, RasterSettings(scales=1)).fit(faces, size=64)
    export(model, tmp_path / "graphs", "pt2", only=("generate",))
    build_graph_archive(tmp_path / "graphs", tmp_path / "latentpatch.mar", settings={"minWorkers": 2, "maxWorkers": 2})
    local = GraphService(tmp_path / "graphs")
    with LiveServer(tmp_path / "latentpatch.mar", tmp_path / "own") as own:
        for fields in ({"seed": 3}, {"seed": 3, "n": 2}, {"preset": "paper"}):
            answer, wanted = own.predict(fields), traffic.expected(local, traffic.as_json(fields))
            assert (answer.status, answer.body) == (wanted.status, wanted.body)
        before = own.token()
        answer = own.request("GET", "/token?type=inference", api="management", token=own.token("API"))
        assert answer.status == 200
        assert own.token() != before
        assert own.request("GET", "/ping", token=before).status == 400
        assert own.request("GET", "/ping").status == 200
        assert len(own.worker_pids()) == 2
    assert own.worker_pids() == []
