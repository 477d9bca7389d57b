"""Work has bounds, whatever comes from outside: searches end at the deadline, bodies and pictures before they grow."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers.picture_files import chunk, png
from helpers.traffic import ask, error

from latentpatch import LatentPatch
from latentpatch.errors import ImageError
from latentpatch.io.images import parse_record, read_image
from latentpatch.registry import SAMPLERS
from latentpatch.runs.interruption import interruptible
from latentpatch.serving import Limits, Service
from latentpatch.serving.codecs import _form_fields
from latentpatch.serving.failures import Refusal


@pytest.fixture(scope="module")
def model() -> LatentPatch:
    pictures = torch.rand(8, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    return LatentPatch("pixels", components=4).fit(pictures)


@pytest.fixture(scope="module")
def service(model: LatentPatch) -> Service:
    return Service(model)


@pytest.mark.parametrize("has_numba", [True, False])
@pytest.mark.parametrize("sampler", ["resynthesis", "raster", "diffusion"])
def test_a_search_checks_the_time_while_it_runs(
    model: LatentPatch, sampler: str, has_numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect H1: a search was one step, and nothing ended it before its end."""
    monkeypatch.setattr("latentpatch.methods.latent.search.numba_backend.installed", lambda: has_numba)
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise TimeoutError

    method, settings = SAMPLERS[sampler], model.with_settings(sampler)
    settings = method.resolve(settings, model.context())
    noise = torch.rand(2, method.noise_dim(settings, model.context()))
    with interruptible(check), pytest.raises(TimeoutError):
        model.bank.sample(method, noise, settings)
    assert len(calls) == 3


def test_a_request_that_takes_too_long_by_itself_is_told_so(model: LatentPatch) -> None:
    """Defect H1: the client of a request that ran out of time was told to try again."""
    service = Service(model, Limits(max_seconds=0.05))
    service._seconds_per_image = service._seconds_per_work = 0.0  # a wrong estimate
    fault = error(ask(service, {"n": 64, "settings": {"best_of": 16, "sweeps": 16}}))
    assert (fault["status"], fault["code"]) == (413, "too_much_work")


def test_the_estimate_counts_window_cells_and_not_how_busy_the_machine_is(
    model: LatentPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defects H1 and L12: patch_size was not counted; a busy machine at the start made every request too long."""
    service = Service(model)
    small, large = (service._work(replace(model.settings, patch_size=side, stride=1, sweeps=16)) for side in (3, 15))
    assert large > 6 * small
    quiet = service._seconds_per_image + service._seconds_per_work * service._work(model.settings)
    sample = type(model.bank).sample

    def slow(*arguments: object) -> object:
        time.sleep(0.5)  # other programs have the processor
        return sample(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model.bank), "sample", slow)
    busy = Service(model)
    assert busy._seconds_per_image + busy._seconds_per_work * busy._work(model.settings) < quiet + 0.06


@pytest.mark.parametrize(
    "body",
    [
        '{"where":[' + "[]," * 100_000 + "[]]}",
        '{"seeds":[' + "0," * 100_000 + "0]}",
        '{"settings":{' + '"a":1,' * 100_000 + '"b":1}}',
        '{"inputs":[{"name":"n","shape":[1],"datatype":"INT64","data":[' + "[]," * 100_000 + "1]}]}",
        "[" * 100_000,
    ],
)
def test_json_of_many_values_is_refused_unparsed(service: Service, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect M3: parsing was outside of all limits."""
    with monkeypatch.context() as patch:
        patch.setattr("latentpatch.serving.codecs.json.loads", lambda _: pytest.fail("it was parsed"))
        answers = [ask(service, form, Content_Type="application/json") for form in (body, body.encode())]
    assert [answer.status for answer in answers] == [400, 400]


@pytest.mark.parametrize("body", [{"operation": "x" * 100_000}, {"x" * 100_000: 1}, {"sampler": "x" * 100_000}])
def test_refusals_do_not_repeat_all_that_was_sent(service: Service, body: dict[str, object]) -> None:
    """Defect L14: a refusal was as long as the request."""
    answer = ask(service, body)
    assert answer.status == 422
    assert len(answer.body) < 2000


NUMBERS = [5e-324, 1e-310, 1e-300, 0.9999999999999999, 2.0, 1e300, 1.7e308, -1e-320, float("nan"), float("inf"),
           -(2**63), 2**64, 10**400, -1, 0, 1]  # fmt: skip


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_no_number_is_a_fault_of_the_server(service: Service, sampler: str) -> None:
    """Defect: {"settings": {"max_share": 5e-324}} was a 500, as others of its kind."""
    for name, by_sampler in SAMPLERS.settings().items():
        if sampler not in by_sampler:
            continue
        for number in NUMBERS:
            body = {"operation": "provenance", "sampler": sampler, "settings": {name: number}}
            answer = ask(service, json.dumps(body), Content_Type="application/json")
            assert answer.status in (200, 400, 413, 422), (name, number, answer.body)


def test_a_png_of_many_chunks_is_refused_at_once() -> None:
    """Defect L13: 650,000 empty chunks took four seconds."""
    for small in (chunk(b"teSt", b"") * 300_000, chunk(b"tEXt", b"k\0v") * 300_000):
        start = time.process_time()
        with pytest.raises(ImageError, match="chunks"):
            read_image(png(16, 16, 8, 2, bytes(48), small))
        assert time.process_time() - start < 0.5
    read_image(io.BytesIO(png(16, 16, 8, 2, bytes(48), *[chunk(b"tEXt", b"k\0v")] * 100)))


def test_a_long_record_stays_text() -> None:
    """Defect L13: JSON in a picture took a hundred times its size in memory."""
    text = "[" + "[]," * 500_000 + "[]]"
    assert parse_record({"latentpatch": text}) == {"latentpatch": text}


def test_a_picture_under_another_name_is_told_the_names() -> None:
    """Defect P30: of TorchServe's usual field, data, it was said only that it is no UTF-8 text."""
    with pytest.raises(Refusal) as caught:
        _form_fields({"data": b"\xff\xd8\xff\xe0"})
    assert "image, mask, donor, reference" in str(caught.value)
