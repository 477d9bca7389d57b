"""Requests and answers without a server: every operation, every form, every refusal, and sameness in any batch."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from latentpatch import LatentPatch
from latentpatch.io.images import encode_png, read_image
from latentpatch.serving import Call, Limits, Response, Service, json_schema, respond


@pytest.fixture(scope="module")
def service() -> Service:
    """A service of drawn faces with the embedded autoencoder: what is the same in any batch must be so there."""
    from helpers.draw_faces import draw_face

    pictures = torch.stack([_tensor(draw_face(seed, 64)) for seed in range(12)])
    return Service(LatentPatch("embedded", components=8).fit(_large(pictures), attributes=_COLOURS))


_COLOURS = {str(i): {"colour": "red" if i % 2 else "green"} for i in range(12)}


def _tensor(picture: Image.Image) -> Tensor:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return read_image(buffer.getvalue())


def _large(pictures: Tensor) -> Tensor:
    return pictures.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.fixture(scope="module")
def face() -> bytes:
    from helpers.draw_faces import draw_face

    return encode_png(_large(_tensor(draw_face(40, 64))[None])[0])


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(service: Service, body: Any, **headers: str) -> Response:
    (answer,) = respond(service, [Call(body, {name.replace("_", "-"): value for name, value in headers.items()})])
    return answer


def error(answer: Response) -> dict[str, Any]:
    assert answer.content_type == "application/json"
    fault: dict[str, Any] = json.loads(answer.body)["error"]
    assert fault["status"] == answer.status
    return fault


# --- operations ------------------------------------------------------------------------------------------


def test_one_picture_is_what_the_model_makes(service: Service) -> None:
    answer = ask(service, {"seed": 7})
    assert (answer.status, answer.content_type) == (200, "image/png")
    assert torch.equal(read_image(answer.body), _levels(service.model.generate(1, seed=7).images[0]))
    facts = json.loads(Image.open(io.BytesIO(answer.body)).text["latentpatch"])
    assert facts["seed"] == 7
    assert facts["sources_sha256"] == service.model.bank.digest()


def _levels(image: Tensor) -> Tensor:
    return (image * 255).round() / 255


def test_generate_takes_what_the_model_takes(service: Service, face: bytes) -> None:
    body = {
        "operation": "generate",
        "seeds": [3, 9],
        "settings": {"patch_size": 4, "neighbours": 2},
        "where": "colour=red",
        "reference": text(face),
        "answer": "json",
    }
    answer = json.loads(ask(service, body).body)
    settings = service.model.with_settings(patch_size=4, neighbors=2)
    wanted = service.model.generate(seeds=[3, 9], settings=settings, where="colour=red", reference=read_image(face))
    assert answer["settings"]["patch_size"] == 4
    for i, row in enumerate(answer["images"]):
        assert torch.equal(read_image(base64.b64decode(row["image"])), _levels(wanted.images[i]))
        ids = [[answer["ids"][b] for b in line] for line in row["index"]]
        assert ids == [[wanted.ids[b] for b in line] for line in wanted.index[i].tolist()]
        assert row["seed"] == [3, 9][i]
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)


def test_provenance_is_that_of_the_same_request(service: Service) -> None:
    made = json.loads(ask(service, {"seed": 5, "answer": "json"}).body)["images"][0]
    answer = json.loads(ask(service, {"operation": "provenance", "seed": 5, "answer": "json"}).body)["images"][0]
    assert (answer["index"], answer["shares"]) == (made["index"], made["shares"])
    picture = read_image(ask(service, {"operation": "provenance", "seed": 5}).body)
    assert torch.equal(picture, _levels(service.model.generate(1, seed=5).provenance()[0]))


def test_inpaint_edit_and_reconstruct(service: Service, face: bytes) -> None:
    model, picture = service.model, read_image(face)
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[64:128, 32:96] = True
    box = [32, 64, 96, 128]
    white = encode_png(mask.float().expand(3, -1, -1))
    wanted = _levels(model.inpaint(picture, mask, 1, seed=2).images[0])
    for region in ({"box": box}, {"mask": text(white)}):
        answer = ask(service, {"operation": "inpaint", "image": text(face), "seed": 2, **region})
        assert torch.equal(read_image(answer.body), wanted)
    for donor in (f"source:{model.bank.ids[3]}", text(encode_png(picture.flip(2)))):
        answer = ask(service, {"operation": "edit", "image": text(face), "box": box, "donor": donor})
        made = model.edit(picture, donor if ":" in donor else picture.flip(2), mask, composite=True)
        assert torch.equal(read_image(answer.body), _levels(made.images[0]))
    answer = ask(service, {"operation": "reconstruct", "image": text(face), "reduced": True})
    assert torch.equal(read_image(answer.body), _levels(model.reconstruct(picture, reduced=True)[0]))


def test_info_tells_all_a_client_needs(service: Service) -> None:
    for body in ({"operation": "info"}, None, b""):
        info = json.loads(ask(service, body).body)
        assert info["sources"] == 12
        assert info["image_size"] == [256, 256]
        assert info["ranges"]["neighbours"] == [1, 12]
        assert info["attributes"] == ["colour"]
        assert info["schema"] == json.loads(json.dumps(json_schema()))


# --- forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
def test_a_picture_comes_in_the_form_asked_for(service: Service, kind: str) -> None:
    by_header = ask(service, {"seed": 1}, accept=f"text/html;q=0.9, image/{kind}")
    by_field = ask(service, {"seed": 1, "answer": "image", "image_format": kind}, Accept="application/json")
    assert by_header == by_field
    assert by_header.content_type == f"image/{kind}"
    assert Image.open(io.BytesIO(by_header.body)).format == kind.upper()


def test_several_pictures_come_as_a_zip_or_json_and_not_as_one(service: Service) -> None:
    answer = ask(service, {"n": 3, "seed": 4}, accept="*/*")
    assert answer.content_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.namelist() == ["0000.png", "0001.png", "0002.png", "report.json"]
        report = json.loads(archive.read("report.json"))
        assert [row["seed"] for row in report["images"]] == [4, 5, 6]
        assert archive.read("0001.png") == ask(service, {"seed": 5}).body
    rows = json.loads(ask(service, {"n": 3, "seed": 4}, accept="application/json").body)["images"]
    assert base64.b64decode(rows[2]["image"]) == ask(service, {"seed": 6}).body
    assert error(ask(service, {"n": 3}, accept="image/png"))["status"] == 406
    assert error(ask(service, {"n": 1}, accept="text/html"))["status"] == 406


def test_a_form_a_bare_picture_and_json_as_bytes_say_the_same(service: Service, face: bytes) -> None:
    wanted = ask(service, {"n": 2, "seed": 8, "reference": text(face), "settings": {"neighbours": 2}})
    fields = {"n": b"2", "seed": "8", "reference": face, "settings": b'{"neighbours": 2}', "operation": b"generate"}
    (form,) = respond(service, [Call(None, {"Content-Type": "multipart/form-data"}, fields)])
    assert form == wanted
    header = {"LATENTPATCH-request": '{"operation": "generate", "n": 2, "seed": 8, "settings": {"neighbours": 2}}'}
    (bare,) = respond(service, [Call(face, {"content-type": "image/png", **header})])
    assert bare == wanted
    body = {"n": 2, "seed": 8, "reference": "data:image/png;base64," + text(face), "settings": {"neighbours": 2}}
    for data in (json.dumps(body).encode(), json.dumps(body)):
        assert ask(service, data) == wanted
    assert ask(service, face) == ask(service, {"operation": "reconstruct", "image": text(face)})


def test_the_open_inference_protocol(service: Service) -> None:
    body = {
        "id": "abc",
        "inputs": [
            {"name": "seeds", "datatype": "INT64", "shape": [2], "data": [5, 6]},
            {"name": "where", "datatype": "BYTES", "shape": [1], "data": ["colour=green"]},
            {"name": "settings", "datatype": "BYTES", "shape": [1], "data": ['{"neighbours": 2}']},
        ],
        "parameters": {"operation": "generate"},
    }
    answer = json.loads(ask(service, body).body)
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["id"], answer["model_name"]) == ("abc", "latentpatch")
    wanted = service.model.generate(
        seeds=[5, 6], where="colour=green", settings=service.model.with_settings(neighbors=2)
    )
    assert outputs["seeds"]["data"] == [5, 6]
    assert outputs["index"]["shape"] == [2, 16, 16]
    assert torch.equal(read_image(base64.b64decode(outputs["images"]["data"][1])), _levels(wanted.images[1]))
    info = json.loads(ask(service, {"inputs": [], "parameters": {"operation": "info"}}).body)
    assert json.loads(info["outputs"][0]["data"][0])["sources"] == 12


# --- refusals --------------------------------------------------------------------------------------------

BAD: list[tuple[Any, int, str]] = [
    ({"n": 0}, 422, "n"),
    ({"n": 65}, 413, "n"),
    ({"n": 2**70}, 422, "n"),
    ({"seeds": list(range(65))}, 413, "seeds"),
    ({"seeds": []}, 422, "seeds"),
    ({"seeds": [1], "n": 2}, 422, "seeds takes the place"),
    ({"n": "3"}, 422, "n"),
    ({"n": True}, 422, "n"),
    ({"n": 1.5}, 422, "n"),
    ({"seed": -1}, 422, "seed"),
    ({"seed": 2**63}, 422, "seed"),
    ({"seed": 2**63 - 1, "n": 2}, 422, "seed"),
    ({"settings": {"patch_size": 40}}, 422, "patch_size 40"),
    ({"settings": {"patch_size": 3, "stride": 4}}, 422, "stride 4"),
    ({"settings": {"neighbours": 13}}, 422, "neighbours 13"),
    ({"settings": {"scales": 1000}}, 422, "scales"),
    ({"settings": {"omega": 3}}, 422, "omega"),
    ({"sampler": "random-cells", "settings": {"scales": 3}}, 422, "scales"),
    ({"sampler": "magic"}, 422, "sampler"),
    ({"where": "colour=blue"}, 422, "colour=blue"),
    ({"where": "shape=round"}, 422, "shape"),
    ({"where": "colour=="}, 422, "colour"),
    ({"reference": "%%%"}, 422, "base64"),
    ({"reference": ""}, 422, "reference"),
    ({"reference": text(b"no picture")}, 422, "reference"),
    ({"operation": "explode"}, 422, "explode"),
    ({"operation": "edit"}, 422, "image"),
    ({"operation": ["edit"]}, 422, "operation"),
    ({"colour": "red"}, 422, "colour"),
    ({"operation": "info", "answer": "zip"}, 422, "answer"),
    ([1, 2], 400, "object"),
    ("17", 400, "object"),
    (b"{", 400, "JSON"),
    (b"[" * 100_000, 400, "JSON"),
    (b'{"n": ' + b"9" * 10_000 + b"}", 400, "JSON"),
    ('{"n": NaN}', 422, "n"),
    (b"\xff\xd8\xff garbage", 422, "image"),
    ({"inputs": 3}, 400, "Open Inference"),
    ({"inputs": [{"name": "n", "shape": [2], "datatype": "INT64", "data": [1]}]}, 400, "shape"),
    ({"inputs": [{"name": "n", "shape": [0], "datatype": "INT64", "data": []}]}, 400, "shape"),
    ({"inputs": [{"name": "n", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}, 400, "one value"),
    ({"inputs": [{"name": ["n"], "shape": [1], "datatype": "INT64", "data": [1]}]}, 400, "name"),
]


@pytest.mark.parametrize(("body", "status", "named"), BAD)
def test_what_is_wrong_is_said(service: Service, body: Any, status: int, named: str) -> None:
    fault = error(ask(service, body))
    assert fault["status"] == status
    assert named in fault["message"]
    assert len(fault["message"]) < 1000


def test_bad_pictures_and_regions_are_refused(service: Service, face: bytes) -> None:
    base = {"operation": "inpaint", "image": text(face)}
    bomb = io.BytesIO()
    Image.new("L", (5000, 5000)).save(bomb, "PNG")
    for change, status, named in [
        ({}, 422, "mask or box"),
        ({"box": [0, 0, 9, 9], "mask": text(face)}, 422, "mask or box"),
        ({"box": [0, 0, 9]}, 422, "box"),
        ({"box": [9, 0, 9, 9]}, 422, "box"),
        ({"box": [0, 0, 257, 9]}, 422, "box"),
        ({"box": [-1, 0, 5, 9]}, 422, "box"),
        ({"mask": text(encode_png(torch.zeros(3, 256, 256)))}, 422, "no cell"),
        ({"box": [0, 0, 9, 9], "image": text(face[: len(face) // 2])}, 422, "image"),
        ({"box": [0, 0, 9, 9], "image": text(bomb.getvalue())}, 413, "image"),
        ({"mask": text(bomb.getvalue())}, 413, "mask"),
        ({"box": [0, 0, 9, 9], "image": text(bytes(8 * 2**20 + 1))}, 413, "image"),
    ]:
        fault = error(ask(service, base | change))
        assert (fault["status"], named in fault["message"]) == (status, True), fault
    fault = error(
        ask(service, {"operation": "edit", "image": text(face), "box": [0, 0, 99, 99], "donor": "source:nobody"})
    )
    assert (fault["status"], "nobody" in fault["message"]) == (422, True)


def test_one_bad_request_costs_only_itself_and_company_changes_nothing(service: Service, face: bytes) -> None:
    good = [
        {"n": 3, "seed": 1},
        {"n": 1, "seed": 2, "reference": text(face)},
        {"seed": 3, "settings": {"neighbours": 1}},
        {"operation": "reconstruct", "image": text(face)},
        {"operation": "inpaint", "image": text(face), "box": [32, 32, 80, 80], "n": 2},
        {"operation": "provenance", "n": 2},
        {"operation": "edit", "image": text(face), "donor": "source:1", "box": [32, 32, 80, 80]},
        {"operation": "info"},
        {"seed": 2**62, "where": "colour=red"},
    ]
    alone = [ask(service, body) for body in good]
    assert all(answer.status == 200 for answer in alone)
    bodies: list[Any] = []
    wanted: list[Response | None] = []
    for i, (bad, _, _) in enumerate(BAD):
        bodies += [bad, good[i % len(good)]]
        wanted += [None, alone[i % len(good)]]
    answers = respond(service, [Call(body) for body in bodies])
    for answer, expected in zip(answers, wanted, strict=True):
        if expected is None:
            assert answer.status in (400, 413, 422)
        else:
            assert answer == expected


# --- limits ----------------------------------------------------------------------------------------------


def test_work_beyond_the_time_given_is_refused_before_it_starts(service: Service) -> None:
    impatient = Service(service.model, Limits(max_seconds=1e-6))
    fault = error(ask(impatient, {"n": 1}))
    assert (fault["status"], fault["code"]) == (413, "too_much_work")
    assert impatient.costs.images["search"] == 0
    seconds = impatient._estimate(service_request(8)) * 1.5
    busy = Service(service.model, Limits(max_seconds=seconds))
    busy._seconds_per_image, busy._seconds_per_step = impatient._seconds_per_image, impatient._seconds_per_step
    answers = respond(busy, [Call({"n": 8}), Call({"n": 8}), Call({"operation": "info"})])
    assert answers[1].status == 503
    assert answers[1].headers == {"Retry-After": "1"}
    assert answers[2].status == 200


def service_request(n: int) -> Any:
    from latentpatch.serving import parse

    return parse({"n": n})


def test_a_batch_of_many_pictures_goes_in_rounds(service: Service) -> None:
    small = Service(service.model, Limits(max_batch_images=4))
    answers = respond(small, [Call({"n": 3, "seed": seed}) for seed in range(4)])
    assert answers == [ask(small, {"n": 3, "seed": seed}) for seed in range(4)]


@pytest.mark.parametrize("change", [{"max_images": 0}, {"max_seconds": float("nan")}])
def test_limits_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Limits(**change)
    with pytest.raises(TypeError, match="max_pixels"):
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


def test_no_server_is_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, latentpatch.serving; sys.exit(bool({'ts', 'fastapi', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- bodies made to cost time ----------------------------------------------------------------------------


def quickly(service: Service, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    import time

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
    assert (fault["status"], "scans" in fault["message"]) == (422, True)
    assert respond(service, [Call(data, {"Content-Type": "image/jpeg"})])[0].status == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json"])
def test_a_body_of_which_nothing_is_left_is_no_request_for_information(service: Service, kind: str) -> None:
    assert error(respond(service, [Call(None, {"content-type": kind})])[0])["status"] == 400
    assert respond(service, [Call(None, {"content-length": "0"})])[0].status == 200


def test_a_refusal_keeps_nothing_of_its_batch(service: Service) -> None:
    import gc

    def kept() -> int:
        return sum(issubclass(type(thing), Tensor) and thing.numel() >= 3 * 256 * 256 for thing in gc.get_objects())

    calls = [Call({"seed": 1}), Call({"where": "colour=blue"}), Call({"reference": text(b"x")})]
    respond(service, calls)
    gc.collect()
    gc.disable()
    try:
        before = kept()
        respond(service, calls)
        assert kept() == before
    finally:
        gc.enable()
