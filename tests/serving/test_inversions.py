"""Jobs that invert pictures: progress, results, bounds and refusals."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers.live_app import JSON, Live

from latentpatch.generators import load_generator
from latentpatch.io.images import encode_png, read_image
from latentpatch.methods.inversion import StoredInversion
from latentpatch.serving import Service
from latentpatch.serving.inversions import Inversions


def asked(**fields: Any) -> bytes:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures = [base64.b64encode(encode_png(picture)).decode()]
    return json.dumps({"pictures": pictures, "unaligned": True, **fields}).encode()


@pytest.fixture(scope="module")
def live(service: Service) -> Any:
    inversions = Inversions(load_generator("stylegan2", pretrained=False))
    with Live(service, inversions) as server:
        yield server


def finished(live: Live, name: str) -> dict[str, Any]:
    for _ in range(400):
        answer = live.ask("GET", f"/inversions/{name}")
        report: dict[str, Any] = json.loads(answer.body)
        if answer.status != 200 or report["state"] == "done":
            return report
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def test_a_job_gives_pictures_and_latents(live: Live, tmp_path: Path) -> None:
    answer = live.ask("POST", "/inversions", asked(settings={"steps": 10}), JSON)
    assert answer.status == 202
    report = finished(live, json.loads(answer.body)["id"])
    assert report["done"] == report["steps"] == report["total"] == 10
    assert read_image(base64.b64decode(report["images"][0])).shape == (3, 32, 32)
    (tmp_path / "latents.safetensors").write_bytes(base64.b64decode(report["latents"]))
    assert StoredInversion.read(tmp_path / "latents.safetensors").ids == ("pictures.0",)


def test_one_job_at_a_time_and_a_cancelled_one_gives_the_best_so_far(live: Live) -> None:
    name = json.loads(live.ask("POST", "/inversions", asked(settings={"steps": 5000}), JSON).body)["id"]
    assert live.ask("POST", "/inversions", asked(), JSON).status == 503
    while not json.loads(live.ask("GET", f"/inversions/{name}").body)["done"]:
        time.sleep(0.05)
    assert live.ask("DELETE", f"/inversions/{name}").status == 200
    report = finished(live, name)
    assert 0 < report["steps"] < 5000
    assert report["loss"][0] > 0


def test_a_job_ends_when_its_time_is_over() -> None:
    inversions = Inversions(load_generator("stylegan2", pretrained=False), max_seconds=0.0)
    name = inversions.submit(asked())["id"]
    while (report := inversions.report(name)) is not None and report["state"] == "running":
        time.sleep(0.02)
    assert report is not None
    assert report["steps"] == 1


def test_pictures_unlike_the_generators_own_are_refused(live: Live) -> None:
    answer = live.ask("POST", "/inversions", asked(unaligned=False), JSON)
    failure = finished(live, json.loads(answer.body)["id"])
    assert failure["error"]["status"] == 422
    assert "aligned" in failure["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b"[]", 400),
        (asked(colour="red"), 400),
        (asked(settings={"steps": 1}), 422),
        (asked(settings={"steps": 20000}), 422),
        (b'{"pictures": []}', 422),
        (b'{"pictures": ["bm90aGluZw=="]}', 422),
        (b'{"pictures": [' + b"[]," * 10**6 + b"[]]}", 400),  # refused before it is parsed
        (b'{"pictures": ' + b"[" * 10**4 + b"]" * 10**4 + b"}", 400),
        (asked(pictures=[base64.b64encode(b"x" * (9 << 20)).decode()]), 413),
        (asked(settings={"arc": 2**64}), 422),
        (asked(settings={"arc": 5e-324}), 422),
        (asked(settings={"noise_regularization": 1e308}), 422),
        (asked(seed=10**400), 400),
    ],
)
def test_other_bodies_are_refused(live: Live, body: bytes, status: int) -> None:
    answer = live.ask("POST", "/inversions", body, JSON)
    assert answer.status == status, answer.body


def test_unknown_jobs_and_servers_without_a_generator(live: Live, service: Service) -> None:
    assert live.ask("GET", "/inversions/none").status == 404
    with Live(service) as other:
        assert other.ask("POST", "/inversions", asked(), JSON).status == 404


def test_bodies_of_jobs_count_among_the_requests(service: Service) -> None:
    """Before, they had no part in ``queue_size``: thirty bodies took a gigabyte."""
    with Live(
        service, Inversions(load_generator("stylegan2", pretrained=False)), queue_size=1, max_body_seconds=0.5
    ) as server:
        slow = server.raw(b"POST /inversions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        while server.ask("GET", "/ping").status != 200 or server.ask("POST", "/inversions", b"[]", JSON).status == 400:
            time.sleep(0.01)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
        slow.close()


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["[", "[]", "[::1", "http://[", "{[]}"])
def test_malformed_names_are_refused(live: Live, name: str, value: str) -> None:
    """Brackets that hold no address were an internal failure."""
    host = b"" if name == "Host" else b"Host: localhost\r\n"
    connection = live.raw(b"GET /schema HTTP/1.1\r\n" + host + f"{name}: {value}\r\n\r\n".encode())
    assert connection.recv(100)[9:12] in (b"400", b"403")
    connection.close()
