"""TorchServe with the archive as users make it: started, asked and stopped by the tests."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from live_server import LiveServer
from PIL import Image

from latentpatch import __version__

pytestmark = pytest.mark.slow


def test_starts_as_configured(server: LiveServer) -> None:
    told = server.describe()
    assert told["modelName"] == "latentpatch"
    assert told["modelVersion"] == __version__
    assert (told["batchSize"], told["maxBatchDelay"], told["responseTimeout"]) == (16, 10, 60)
    assert told["jobQueueStatus"]["remainingCapacity"] == 64
    assert [worker["status"] for worker in told["workers"]] == ["READY", "READY"]
    assert sorted(worker["pid"] for worker in told["workers"]) == server.worker_pids()


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


def test_tokens_can_be_renewed(tmp_path: Path, archive: Path) -> None:
    # With a server of its own: the other tests' key would be gone.
    with LiveServer(archive, tmp_path / "own") as own:
        before = own.token()
        answer = own.request("GET", "/token?type=inference", api="management", token=own.token("API"))
        assert answer.status == 200
        assert own.token() != before
        assert own.request("GET", "/ping", token=before).status == 400
        assert own.request("GET", "/ping").status == 200
        pids = own.worker_pids()
        assert len(pids) == 2
    assert own.worker_pids() == []


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


def test_metrics_need_no_token(server: LiveServer) -> None:
    server.predict({"seed": 0, "reference": ""})
    server.predict({"seed": 0})
    seen = {name.partition("{")[0] for name in server.metrics()}
    ours = {"QueueShare", "ImagesMade", "Refusals", "SearchSeconds_sum", "DecodeSeconds_bucket"}
    theirs = {"Requests2XX", "QueueTime", "ts_inference_latency_microseconds", "PredictionTime"}
    assert ours | theirs <= seen
