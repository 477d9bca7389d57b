"""A service's limits, its defects, and bodies that are made to cost time or memory."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import time
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers.errors import refuses
from helpers.traffic import ask, error, text

from latentpatch.serving import Call, Limits, Service, parse, respond


@pytest.fixture
def service(default_service: Service) -> Service:
    return default_service


def test_work_beyond_the_time_given_is_refused_before_it_starts(service: Service) -> None:
    impatient = Service(service.model, Limits(max_seconds=1e-6))
    fault = error(ask(impatient, {"n": 1}))
    assert (fault["status"], fault["code"]) == (413, "too_much_work")
    assert impatient.costs.images["search"] == 0
    seconds = impatient._estimate(parse({"n": 8})) * 1.5
    busy = Service(service.model, Limits(max_seconds=seconds))
    busy._seconds_per_image, busy._seconds_per_work = impatient._seconds_per_image, impatient._seconds_per_work
    answers = respond(busy, [Call({"n": 8}), Call({"n": 8}), Call({"operation": "info"})])
    assert answers[1].status == 503
    assert answers[1].headers == {"Retry-After": "1"}
    assert answers[2].status == 200


def test_a_batch_of_many_pictures_goes_in_rounds(service: Service) -> None:
    small = Service(service.model, Limits(max_batch_images=4))
    answers = respond(small, [Call({"n": 3, "seed": seed}) for seed in range(4)])
    assert answers == [ask(small, {"n": 3, "seed": seed}) for seed in range(4)]


@pytest.mark.parametrize("change", [{"max_images": 0}, {"max_seconds": float("nan")}])
def test_limits_are_checked(change: dict[str, Any]) -> None:
    with refuses(next(iter(change))):
        Limits(**change)
    with refuses("max_pixels", TypeError):
        Limits(max_pixels="many")  # type: ignore[arg-type]


def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret path /root")

    monkeypatch.setattr(service.model.bank, "sample", broken)
    fault = error(ask(service, {"n": 1}))
    assert (fault["status"], "secret" in fault["message"]) == (500, False)
    assert "secret" in caplog.text


def test_headers_with_tokens_are_not_shown() -> None:
    assert "s3cret" not in repr(Call(None, {"Authorization": "Bearer s3cret"}))


def test_no_server_is_imported() -> None:
    code = (
        "import sys, latentpatch.serving; sys.exit(bool({'ts', 'fastapi', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- bodies made to cost time ----------------------------------------------------------------------------


def quickly(service: Service, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    start = time.process_time()
    fault = error(respond(service, [Call(body, headers or {})])[0])
    assert time.process_time() - start < 3  # these took half a minute and more
    return fault


def test_bodies_made_to_cost_time_cost_little(service: Service) -> None:
    shape = {"inputs": [{"name": "n", "shape": [10**4000] * 2000, "datatype": "INT64", "data": [1]}]}
    assert quickly(service, shape)["status"] == 400
    assert quickly(service, {"seeds": ["x"] * 1_000_000})["status"] == 422
    assert quickly(service, {str(i): i for i in range(100_000)})["status"] == 400
    assert quickly(service, {"settings": {str(i): i for i in range(100_000)}})["status"] == 400
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert quickly(service, {"where": deep})["status"] in (400, 422)


def test_a_jpeg_of_very_many_scans_is_refused(service: Service) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    many = data[:last] + data[last:-2] * 2000 + data[-2:]
    fault = quickly(service, many, {"Content-Type": "image/jpeg"})
    assert (fault["status"], fault["code"]) == (422, "unusable_picture")
    assert respond(service, [Call(data, {"Content-Type": "image/jpeg"})])[0].status == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json"])
def test_a_body_of_which_nothing_is_left_is_no_request_for_information(service: Service, kind: str) -> None:
    assert error(respond(service, [Call(None, {"content-type": kind})])[0])["status"] == 400
    assert respond(service, [Call(None, {"content-length": "0"})])[0].status == 200


def test_a_refusal_keeps_nothing_of_its_batch(service: Service) -> None:
    calls = [Call({"seed": 1}), Call({"where": "colour=blue"}), Call({"reference": text(b"x")})]
    respond(service, calls)
    gc.collect(0)
    gc.disable()  # then what is made stays in the youngest generation: millions of objects may be in the oldest
    try:
        respond(service, calls)
        made = [thing for thing in gc.get_objects(generation=0) if issubclass(type(thing), Tensor)]
        assert not any(thing.numel() >= 3 * 256 * 256 for thing in made)
    finally:
        gc.enable()
