"""Requests and answers without a server: every operation, every form, every refusal, and sameness in any batch."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers import traffic
from helpers.traffic import ask, error, text

from latentpatch.io.images import encode_png, read_image
from latentpatch.registry import SAMPLERS
from latentpatch.serving import Call, Response, Service, json_schema, respond


@pytest.fixture
def service(default_service: Service) -> Service:
    return default_service


@pytest.fixture(scope="module")
def face() -> bytes:
    return traffic.face(40)


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


#: Bounded by the grid, the number of sources, the declaration, and the limit of requests.
_RANGES = {
    "patch_size": [0, 16],
    "neighbors": [1, 12],
    "donors": [0, 12],
    "max_share": [0, 1],
    "sweeps": [0, 16],
    "symmetric": [False, True],
}


def test_info_tells_all_a_client_needs(service: Service) -> None:
    for body in ({"operation": "info"}, None, b""):
        info = json.loads(ask(service, body).body)
        assert info["sources"] == 12
        assert info["image_size"] == [256, 256]
        assert info["ranges"].items() >= _RANGES.items()
        assert info["ranges"].keys() == SAMPLERS.settings().keys()
        assert info["samplers"] == sorted(SAMPLERS)
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

#: Bodies with their status, code and field.
BAD: list[tuple[Any, int, str, str | None]] = [
    ({"n": 0}, 422, "invalid_value", "n"),
    ({"n": 65}, 413, "too_many_images", "n"),
    ({"n": 2**70}, 422, "invalid_value", "seed"),
    ({"seeds": list(range(65))}, 413, "too_many_images", "seeds"),
    ({"seeds": []}, 422, "invalid_value", "seeds"),
    ({"seeds": [1], "n": 2}, 422, "invalid_value", "seeds"),
    ({"n": "3"}, 422, "invalid_value", "n"),
    ({"n": True}, 422, "invalid_value", "n"),
    ({"n": 1.5}, 422, "invalid_value", "n"),
    ({"seed": -1}, 422, "invalid_value", "seed"),
    ({"seed": 2**63}, 422, "invalid_value", "seed"),
    ({"seed": 2**63 - 1, "n": 2}, 422, "invalid_value", "seed"),
    ({"preset": "few", "sampler": "raster"}, 422, "invalid_value", "preset"),
    ({"settings": {"patch_size": 40}}, 422, "invalid_value", "settings.patch_size"),
    ({"settings": {"patch_size": 3, "stride": 4}}, 422, "invalid_value", "settings.stride"),
    ({"settings": {"neighbours": 13}}, 422, "invalid_value", "settings.neighbors"),
    ({"settings": {"neighbours": 2, "neighbors": 2}}, 422, "invalid_value", "settings.neighbors"),
    ({"sampler": "raster", "settings": {"scales": 1000}}, 422, "invalid_value", "settings.scales"),
    ({"settings": {"sweeps": 17}}, 422, "invalid_value", "settings.sweeps"),
    ({"settings": {"patch_size": "3"}}, 422, "invalid_value", "settings.patch_size"),
    ({"settings": {"patch_size": 3.0}}, 422, "invalid_value", "settings.patch_size"),
    ({"settings": {"patch_size": True}}, 422, "invalid_value", "settings.patch_size"),
    ({"settings": {"patch_size": [3]}}, 422, "invalid_value", "settings.patch_size"),
    ({"settings": {"symmetric": 1}}, 422, "invalid_value", "settings.symmetric"),
    ({"settings": {"donors": True}}, 422, "invalid_value", "settings.donors"),
    ({"settings": {"max_share": 5e-324}}, 422, "invalid_value", "settings.max_share"),
    ({"settings": {"max_share": 1e-310}}, 422, "invalid_value", "settings.max_share"),
    ({"sampler": "diffusion", "settings": {"end_noise": 5e-324}}, 422, "invalid_value", "settings.end_noise"),
    ({"settings": {"donors": 1e308}}, 422, "invalid_value", "settings.donors"),
    ({"sampler": "diffusion", "settings": {"windows": [3] * 65}}, 422, "invalid_value", "settings.windows"),
    ({"sampler": "diffusion", "settings": {"windows": [[3]]}}, 422, "invalid_value", "settings.windows"),
    ('{"settings": {"switch_cost": Infinity}}', 422, "invalid_value", "settings.switch_cost"),
    ('{"settings": {"max_share": NaN}}', 422, "invalid_value", "settings.max_share"),
    ({"settings": {"omega": 3}}, 422, "invalid_value", "settings"),
    ({"settings": [3]}, 422, "invalid_value", "settings"),
    ({"sampler": "random-cells", "settings": {"scales": 3}}, 422, "invalid_value", "settings"),
    ({"sampler": "magic"}, 422, "invalid_value", "sampler"),
    ({"sampler": ["raster"]}, 422, "invalid_value", "sampler"),
    ({"where": "colour=blue"}, 422, "invalid_value", "where"),
    ({"where": "shape=round"}, 422, "invalid_value", "where"),
    ({"where": "colour=="}, 422, "invalid_value", "where"),
    ({"reference": "%%%"}, 422, "invalid_value", "reference"),
    ({"reference": ""}, 422, "invalid_value", "reference"),
    ({"reference": text(b"no picture")}, 422, "unusable_picture", "reference"),
    ({"operation": "explode"}, 422, "invalid_value", None),
    ({"operation": "edit"}, 422, "invalid_value", "image"),
    ({"operation": ["edit"]}, 422, "invalid_value", None),
    ({"colour": "red"}, 422, "invalid_value", "colour"),
    ({"operation": "info", "answer": "zip"}, 422, "invalid_value", "answer"),
    ([1, 2], 400, "malformed", None),
    ("17", 400, "malformed", None),
    (b"{", 400, "malformed", None),
    (b"[" * 100_000, 400, "malformed", None),
    (b'{"n": ' + b"9" * 10_000 + b"}", 400, "malformed", None),
    ('{"n": NaN}', 422, "invalid_value", "n"),
    (b"\xff\xd8\xff garbage", 422, "unusable_picture", "image"),
    ({"inputs": 3}, 400, "malformed", None),
    ({"inputs": [{"name": "n", "shape": [2], "datatype": "INT64", "data": [1]}]}, 400, "malformed", None),
    ({"inputs": [{"name": "n", "shape": [0], "datatype": "INT64", "data": []}]}, 400, "malformed", None),
    ({"inputs": [{"name": "n", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}, 400, "malformed", None),
    ({"inputs": [{"name": ["n"], "shape": [1], "datatype": "INT64", "data": [1]}]}, 400, "malformed", None),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), BAD)
def test_a_bad_request_is_refused_by_code_and_field(
    service: Service, body: Any, status: int, code: str, field: str | None
) -> None:
    fault = error(ask(service, body))
    assert (fault["status"], fault["code"], fault["field"]) == (status, code, field), fault
    assert field is None or field.rpartition(".")[2] in fault["message"]
    assert len(fault["message"]) < 1000


def test_bad_pictures_and_regions_are_refused(service: Service, face: bytes) -> None:
    base = {"operation": "inpaint", "image": text(face)}
    bomb = io.BytesIO()
    Image.new("L", (5000, 5000)).save(bomb, "PNG")
    for change, status, field in [
        ({}, 422, None),
        ({"box": [0, 0, 9, 9], "mask": text(face)}, 422, None),
        ({"box": [0, 0, 9]}, 422, "box"),
        ({"box": [9, 0, 9, 9]}, 422, "box"),
        ({"box": [0, 0, 257, 9]}, 422, "box"),
        ({"box": [-1, 0, 5, 9]}, 422, "box"),
        ({"mask": text(encode_png(torch.zeros(3, 256, 256)))}, 422, "mask"),
        ({"box": [0, 0, 9, 9], "image": text(face[: len(face) // 2])}, 422, "image"),
        ({"box": [0, 0, 9, 9], "image": text(bomb.getvalue())}, 413, "image"),
        ({"mask": text(bomb.getvalue())}, 413, "mask"),
        ({"box": [0, 0, 9, 9], "image": text(bytes(8 * 2**20 + 1))}, 413, "image"),
    ]:
        fault = error(ask(service, base | change))
        assert (fault["status"], (fault["field"] or "").partition(".")[0] or None) == (status, field), fault
    donor = {"operation": "edit", "image": text(face), "box": [0, 0, 99, 99], "donor": "source:nobody"}
    fault = error(ask(service, donor))
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
    for i, (bad, *_) in enumerate(BAD):
        bodies += [bad, good[i % len(good)]]
        wanted += [None, alone[i % len(good)]]
    answers = respond(service, [Call(body) for body in bodies])
    for answer, expected in zip(answers, wanted, strict=True):
        if expected is None:
            assert answer.status in (400, 413, 422)
        else:
            assert answer == expected
