"""Tasks on pictures over HTTP: answers as those of the functions, limits, and requests that cannot be used."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import random
import time
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers.live_app import INFER, JSON, PREDICT, Live, alike, fault
from helpers.paths import ROOT
from helpers.traffic import Sent, ask, error, text

from latentpatch import picture_tasks
from latentpatch.io.channels import encode_channels, read_channels
from latentpatch.methods.single_image.gpnn import GPNN
from latentpatch.methods.trained.base import load_trained
from latentpatch.registry import PICTURE_METHODS, TASKS
from latentpatch.results import PictureGeneration
from latentpatch.runs import system
from latentpatch.scene_tasks import texture
from latentpatch.serving import Call, Limits, Service, json_schema, respond
from latentpatch.serving.kserve import model_metadata

#: A quick request; ``operation`` is "picture" where there is a task.
QUICK: dict[str, Any] = {"task": "reshuffle", "method": "gpnn", "settings": {"coarsest": 10, "iterations": 1}}


def png(height: int = 24, width: int = 32, mode: str = "RGB", seed: int = 0) -> bytes:
    """Return the file of a picture of stones."""
    rows, columns = np.mgrid[:height, :width]
    levels = 120 + 80 * np.sin(rows / 3 + seed) * np.cos(columns / 4)
    picture = Image.fromarray(np.stack([levels, levels + 20, 0 * levels + 90], -1).astype(np.uint8)).convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray((columns * 255 // width).astype(np.uint8)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


STONES, OTHER = png(), png(30, 26, seed=2)


def made(data: bytes = STONES, **arguments: Any) -> PictureGeneration:
    tensor = read_channels(data)
    return picture_tasks.reshuffle(tensor, method="gpnn", coarsest=10, iterations=1, **arguments)


def test_an_answer_is_that_of_the_function(service: Service) -> None:
    answer = ask(service, {**QUICK, "pictures": text(STONES), "seed": 3, "n": 2, "answer": "json"})
    assert answer.status == 200, answer.body
    report, result = json.loads(answer.body), made(n=2, seed=3)
    assert (report["operation"], report["task"], report["method"]) == ("picture", "reshuffle", "gpnn")
    assert report["size"] == [24, 32]
    assert report["settings"] == json.loads(json.dumps(result.settings.record()))
    (source,) = report["sources"]
    assert (source["size"], len(source["sha256"])) == ([24, 32], 64)
    for row, record, image in zip(report["images"], result.records(), result.images, strict=True):
        assert {name: row[name] for name in record} == record
        with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as picture:
            assert np.abs(np.asarray(picture) - 255 * image.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-4
            assert (
                json.loads(picture.info["latentpatch"])["task"] == "reshuffle"
                if "latentpatch" in picture.info
                else True
            )
    assert service.costs.images["task"] == 2
    maps = ask(service, {**QUICK, "pictures": text(STONES), "seed": 3, "provenance": True})
    shown = made(seed=3).provenance()
    assert shown is not None
    with Image.open(io.BytesIO(maps.body)) as picture:
        assert np.abs(np.asarray(picture) - 255 * shown[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-4


def test_every_form_of_request_has_the_same_answer(service: Service) -> None:
    fields = {**QUICK, "seed": 5}
    wanted = ask(service, {**fields, "pictures": [text(STONES), text(OTHER)]})
    assert (wanted.status, wanted.content_type) == (200, "image/png")
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    assert respond(service, [Call(None, {}, {**form, "pictures": STONES, "pictures.1": OTHER})])[0] == wanted
    both = [text(STONES), text(OTHER)]
    tensors = [{"name": "pictures", "shape": [2], "datatype": "BYTES", "data": both}]
    answer = ask(service, {"inputs": tensors, "parameters": {**fields, "settings": fields["settings"]}})
    outputs = {tensor["name"]: tensor for tensor in json.loads(answer.body)["outputs"]}
    assert base64.b64decode(outputs["images"]["data"][0]) == wanted.body
    assert outputs["seeds"]["data"] == [5]
    inputs = {tensor["name"]: tensor for tensor in model_metadata("1", (8, 8))["inputs"]}
    assert (inputs["pictures"]["datatype"], inputs["size"]["datatype"]) == ("BYTES", "INT64")
    bare = {"Content-Type": "image/png", "LatentPatch-Request": json.dumps(fields)}
    one = ask(service, {**fields, "pictures": text(STONES)})
    assert respond(service, [Call(STONES, bare)])[0] == one
    assert respond(service, [Call({"seed": 1}), Call({**fields, "pictures": text(STONES)})])[1] == one


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_channels_are_kept(service: Service, mode: str) -> None:
    data = png(mode=mode)
    answer = ask(service, {**QUICK, "pictures": text(data)})
    assert answer.status == 200, answer.body
    assert Image.open(io.BytesIO(answer.body)).mode == mode
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(answer.body))),
        np.asarray(Image.open(io.BytesIO(encode_channels(made(data).images[0])))),
    )
    assert ask(service, {**QUICK, "pictures": text(data), "image_format": "jpeg"}).content_type == "image/jpeg"


@pytest.mark.parametrize("task", [task for task in TASKS if PICTURE_METHODS.having(task)])
def test_every_task_can_be_asked_for(service: Service, task: str) -> None:
    fields: dict[str, Any] = {"task": task, "pictures": text(STONES)}
    if task in ("analogy", "stylize"):
        fields |= {"target": text(OTHER)}
    if task == "compose":
        fields |= {"pictures": [text(STONES), text(OTHER)]}
    if task in ("inpaint", "harmonize", "edit"):
        buffer = io.BytesIO()
        mask = Image.new("L", (32, 24))
        mask.paste(255, (10, 8, 18, 14))
        mask.save(buffer, "PNG")
        fields |= {"mask": text(buffer.getvalue())}
    if task in ("texture", "retarget"):
        fields |= {"size": [20, 40]}
    if task == "inpaint" and "efros-leung" in PICTURE_METHODS.having(task):
        fields |= {"method": "efros-leung", "settings": {"window": 5}}
    answer = ask(service, {**fields, "answer": "json"})
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["size"] == fields.get("size", [30, 26] if "target" in fields else [24, 32])


def test_exemplars_have_weights_a_map_and_a_symmetry(service: Service) -> None:
    both = [read_channels(STONES), read_channels(OTHER)]
    fields = {"task": "texture", "pictures": [text(STONES), text(OTHER)], "size": [24, 32], "answer": "json"}
    fade = png(24, 32, "L")
    for own, arguments in (
        ({"weights": [3.0, 1.0]}, {"weights": (3, 1)}),
        ({"map": text(fade)}, {"source_map": read_channels(fade)}),
        ({"symmetric": "mirrored"}, {"symmetric": "mirrored"}),
    ):
        answer = ask(service, fields | own)
        assert answer.status == 200, answer.body
        report = json.loads(answer.body)
        image = texture(both, (24, 32), **arguments).images[0]
        with Image.open(io.BytesIO(base64.b64decode(report["images"][0]["image"]))) as picture:
            assert np.abs(np.asarray(picture) - 255 * image.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-4
        assert set(own) <= set(report)
    form = {"task": "texture", "size": "[24, 32]", "pictures": STONES, "pictures.1": OTHER, "map": fade}
    assert respond(service, [Call(None, {}, form)])[0].status == 200
    tensors = [
        {"name": "pictures", "shape": [2], "datatype": "BYTES", "data": fields["pictures"]},
        {"name": "weights", "shape": [2], "datatype": "FP64", "data": [3.0, 1.0]},
    ]
    assert ask(service, {"inputs": tensors, "parameters": {"task": "texture"}}).status == 200
    inputs = {tensor["name"]: tensor for tensor in model_metadata("1", (8, 8))["inputs"]}
    assert (inputs["weights"]["datatype"], inputs["weights"]["shape"]) == ("FP64", [-1])
    for name, wrong in (
        ("weights", {"weights": [1.0]}),
        ("weights", {"weights": [1.0, 2.0], "map": text(fade)}),
        ("weights", {"weights": [1.0, 2.0], "task": "reshuffle"}),
        ("symmetric", {"symmetric": "p4m"}),
        ("map", {"map": text(fade), "pictures": text(STONES)}),
    ):
        refused = error(ask(service, fields | wrong))
        assert (refused["status"], refused["field"]) == (422, "size" if wrong == {"symmetric": "p4m"} else name)


def test_info_and_schema_have_the_tasks(service: Service) -> None:
    info = json.loads(ask(service, {"operation": "info"}).body)
    assert info["tasks"]["texture"]["methods"][0] == PICTURE_METHODS.default("texture")
    assert "gpnn-original" in info["tasks"]["reshuffle"]["presets"]
    definitions = json_schema()["$defs"]
    fields = definitions["PictureRequest"]["properties"]
    assert set(fields["task"]["enum"]) == set(info["tasks"])
    assert "quilting" in fields["method"]["anyOf"][0]["enum"]
    settings = definitions["PictureSettings"]["properties"]
    assert settings["alpha_unit"]["anyOf"][0]["enum"] == ["relative", "squared", "distance"]
    assert set(settings) >= set(PICTURE_METHODS.settings())


# --- requests that cannot be used ------------------------------------------------------------------------

#: Changes of a quick request, and the field that is named.
REFUSED: list[tuple[dict[str, Any], int, str | None]] = [
    ({"task": "paint"}, 422, "task"),
    ({"task": None}, 422, "task"),
    ({"method": "quilting"}, 422, "method"),
    ({"method": "magic"}, 422, "method"),
    ({"method": "gpnn", "preset": "gpnn-original"}, 422, "preset"),
    ({"preset": "few"}, 422, "preset"),
    ({"settings": {"block": 8}}, 422, "settings"),
    ({"settings": {"iterations": 51}}, 422, "settings.iterations"),
    ({"settings": {"iterations": 10**400}}, 422, "settings.iterations"),
    ({"settings": {"iterations": "3"}}, 422, "settings.iterations"),
    ({"settings": {"alpha": 0}}, 422, "settings.alpha"),
    ({"settings": {"ratio": True}}, 422, "settings.ratio"),
    ({"settings": {"patch_size": 33}}, 422, "size"),
    ({"settings": {"alpha_unit": "mile"}}, 422, "settings.alpha_unit"),
    ({"settings": {"coarsest": 5}}, 422, "settings.coarsest"),
    ({"pictures": []}, 422, "pictures"),
    ({"pictures": ""}, 422, "pictures.0"),
    ({"pictures": [text(STONES), ""]}, 422, "pictures.1"),
    ({"pictures": [text(STONES), text(b"no picture")]}, 422, "pictures.1"),
    ({"pictures": text(png(1, 1))}, 422, "pictures"),
    ({"pictures": [text(STONES)] * 17}, 422, "pictures"),
    ({"pictures": 3}, 422, "pictures"),
    ({"size": [24]}, 422, "size.1"),
    ({"size": [0, 24]}, 422, "size.0"),
    ({"size": [24.0, 24]}, 422, "size.0"),
    ({"size": "24x24"}, 422, "size"),
    ({"size": [4, 24]}, 422, "size"),
    ({"size": [60000, 60000]}, 413, "size"),
    ({"size": [10**30, 10]}, 422, "size.0"),
    ({"n": 65}, 413, "n"),
    ({"n": 40, "size": [200, 200]}, 413, "n"),
    ({"n": 0}, 422, "n"),
    ({"seeds": [-1]}, 422, "seeds.0"),
    ({"seed": 1.5}, 422, "seed"),
    ({"target": text(STONES)}, 422, "target"),
    ({"mask": text(STONES)}, 422, "mask"),
    ({"task": "stylize"}, 422, "target"),
    ({"task": "stylize", "target": text(png(mode="L"))}, 422, "target"),
    ({"task": "denoise", "method": "nl-means", "settings": {}, "target": text(STONES)}, 422, "target"),
    ({"task": "denoise", "method": "nl-means", "settings": {}, "size": [20, 20]}, 422, "size"),
    ({"task": "denoise", "method": "nl-means", "settings": {}, "provenance": True}, 422, "provenance"),
    ({"task": "texture", "method": "efros-leung", "settings": {"window": 4}}, 422, "settings.window"),
    ({"task": "texture", "method": "quilting", "settings": {"block": 500}}, 422, "settings.block"),
    ({"where": "x=1"}, 422, "where"),
    ({"image": text(STONES)}, 422, "image"),
    ({"operation": "generate"}, 422, "task"),
]


@pytest.mark.parametrize("i", range(len(REFUSED)))
def test_wrong_fields_are_named(service: Service, i: int) -> None:
    change, status, field = REFUSED[i]
    refused = error(ask(service, {**QUICK, "pictures": text(STONES), **change}))
    assert (refused["status"], refused["field"]) == (status, field), refused
    assert len(refused["message"]) < 400


def test_hostile_settings_are_answered(service: Service) -> None:
    """No value of a setting is an error of the server's own."""
    rng, small = random.Random(1), limited(service, max_seconds=0.5)
    values = [0, 1, -1, 2, 3, 33, 5e-324, 1e-300, 1e300, -0.0, 1e-9, 0.5, True, None, "", "picture", [], [4], [2**40]]
    values.append(float("nan"))
    statuses: dict[int, int] = {}
    for _ in range(100):
        task = rng.choice([each for each in TASKS if PICTURE_METHODS.having(each)])
        method = rng.choice(PICTURE_METHODS.having(task))
        names = [name for name, by_method in PICTURE_METHODS.settings().items() if method in by_method]
        chosen = {name: rng.choice(values) for name in rng.sample(names, min(len(names), rng.randrange(1, 3)))}
        fields = {"task": task, "method": method, "settings": chosen, "pictures": text(png(16, rng.choice([16, 20])))}
        if task in ("analogy", "stylize", "inpaint", "harmonize", "edit") or rng.random() < 0.1:
            fields["target"] = text(png(17, 16))
        if task in ("inpaint", "harmonize", "edit"):
            fields["mask"] = text(png(17, 16))
        answer = ask(small, fields)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status in (200, 413, 422, 503), (fields["task"], method, chosen, answer.body)
    assert min(statuses[200], statuses[422]) > 3


# --- limits ----------------------------------------------------------------------------------------------


def limited(service: Service, **limits: Any) -> Service:
    """Return the service with other limits, without measuring it again."""
    other = Service.__new__(Service)
    other.__dict__.update(service.__dict__, limits=Limits(**limits))
    return other


def test_work_is_refused_before_it_starts(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPNN, "make", lambda *_, **__: pytest.fail("something was computed"))
    body = {**QUICK, "pictures": text(STONES)}
    much = error(ask(limited(service, max_seconds=1e-3), {**body, "n": 64}))
    assert (much["status"], much["code"]) == (413, "too_much_work")
    large = error(ask(limited(service, max_task_pixels=700), body))
    assert (large["status"], large["code"], large["field"]) == (413, "picture_too_large", "pictures")
    files = error(ask(limited(service, max_image_bytes=100), body))
    assert (files["status"], files["field"]) == (413, "pictures")
    monkeypatch.setattr(system, "machine_memory", lambda: 1 << 20)
    memory = error(ask(service, body))
    assert (memory["status"], memory["field"]) == (422, "size")


def test_work_that_takes_too_long_is_ended(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {**QUICK, "pictures": text(STONES), "n": 64}
    monkeypatch.setattr(GPNN, "seconds", lambda *_: 0.0)  # an estimate that is wrong
    small = limited(service, max_seconds=0.25)
    start = time.monotonic()
    much = error(ask(small, body))
    assert time.monotonic() - start < 10
    assert (much["status"], much["code"]) == (413, "too_much_work")
    answers = respond(small, [Call(body), Call({**body, "seed": 9})])
    assert [answer.status for answer in answers] == [413, 503]


def test_tasks_can_be_turned_off(service: Service) -> None:
    without = limited(service, max_task_pixels=0)
    refused = error(ask(without, {**QUICK, "pictures": text(STONES)}))
    assert (refused["status"], refused["field"]) == (422, "operation")
    assert json.loads(ask(without, {"operation": "info"}).body)["tasks"] == {}
    assert ask(without, {"seed": 1}).status == 200


# --- servers ---------------------------------------------------------------------------------------------


def test_the_handler_of_torchserve(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forms come as byte arrays, one value a name; headers and statuses go to the context."""
    path = ROOT / "handlers" / "latentpatch_handler.py"
    spec = importlib.util.spec_from_file_location("latentpatch_handler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    emitted: set[str] = set()
    monkeypatch.setattr(module, "_emit", lambda _, kind, name, *values: emitted.add(name))
    handler, context = module.LatentPatchHandler(), MagicMock()
    handler.service, handler.batch_size = service, 16
    context.get_all_request_header.return_value = {}
    form = {"task": b"reshuffle", "method": b"gpnn", "settings": json.dumps(QUICK["settings"]).encode()}
    items: list[dict[str, Any]] = [
        {"body": {**QUICK, "pictures": [text(STONES), text(OTHER)]}},
        {name: bytearray(value) for name, value in {**form, "pictures": STONES, "pictures.1": OTHER}.items()},
        {"body": {**QUICK, "pictures": text(STONES), "n": 0}},
    ]
    bodies = handler.handle(items, context)
    assert bodies[0] == bodies[1] == ask(service, items[0]["body"]).body
    assert [call.args[0] for call in context.set_response_status.call_args_list] == [200, 200, 422]
    assert emitted >= {"TaskSeconds", "ImagesMade", "Refusals"}
    declared = (ROOT / "handlers" / "metrics.yaml").read_text()
    assert all(f"name: {name}\n" in declared for name in emitted)


def test_a_live_server(live: Live, service: Service) -> None:
    body = {**QUICK, "pictures": text(STONES), "seed": 4}
    wanted = ask(service, body)
    assert alike(live.post(body), wanted)
    several = live.post({**body, "n": 2})
    with zipfile.ZipFile(io.BytesIO(several.body)) as archive:
        assert archive.read("0000.png") == wanted.body
        assert json.loads(archive.read("report.json"))["images"][0]["contiguity"] >= 0
    parts = [
        ("task", b"reshuffle"),
        ("method", b"gpnn"),
        ("seed", b"4"),
        ("settings", json.dumps(body["settings"]).encode()),
    ]
    parts.append(("pictures", STONES))
    head = '--xyz\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    data = b"".join(head.format(name).encode() + value + b"\r\n" for name, value in parts) + b"--xyz--\r\n"
    assert live.send(Sent(data, {"Content-Type": "multipart/form-data; boundary=xyz"})).body == wanted.body
    assert fault(live.post({**body, "size": [4, 4]}), 422)["field"] == "size"
    tensors = {"inputs": [{"name": "pictures", "shape": [1], "datatype": "BYTES", "data": [body["pictures"]]}]}
    tensors["parameters"] = {name: value for name, value in body.items() if name != "pictures"}  # type: ignore[assignment]
    assert live.ask("POST", INFER, json.dumps(tensors), JSON).status == 200
    assert live.ask("POST", PREDICT, json.dumps({**body, "task": 3}), JSON).status == 422


def test_a_trained_model_takes_the_place_of_pictures(service: Service, taught: Path) -> None:
    model = load_trained(taught)
    served = Service(service.model, trained={"stones": model})
    info = json.loads(ask(served, {"operation": "info"}).body)
    assert info["trained"] == {"stones": {"method": "singan", "tasks": list(model.tasks), "size": [24, 32]}}
    answer = ask(served, {"task": "reshuffle", "trained": "stones", "seeds": [5, 2], "answer": "json"})
    assert answer.status == 200, answer.body
    report = json.loads(answer.body)
    assert (report["trained"], report["method"]) == ("stones", "singan")
    for row, image in zip(report["images"], model.make("reshuffle", [5, 2]), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as picture:
            assert np.abs(np.asarray(picture) - 255 * image.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-4
    mask = Image.new("L", (26, 30))
    mask.paste(255, (5, 5, 15, 15))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    region = {"task": "harmonize", "trained": "stones", "target": text(OTHER), "mask": text(buffer.getvalue())}
    with Image.open(io.BytesIO(ask(served, region).body)) as picture, Image.open(io.BytesIO(OTHER)) as before:
        pixels, old = np.asarray(picture).astype(int), np.asarray(before).astype(int)
    assert np.abs(pixels[20:] - old[20:]).max() <= 1  # outside of the mask


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": "reshuffle", "trained": "other"}, "trained"),
        ({"task": "reshuffle", "trained": "stones", "pictures": text(STONES)}, "pictures"),
        ({"task": "reshuffle"}, "pictures"),
        ({"task": "stylize", "trained": "stones", "target": text(STONES)}, "task"),
        ({"task": "reshuffle", "trained": "stones", "method": "gpnn"}, "method"),
        ({"task": "reshuffle", "trained": "stones", "settings": {"start_scale": 99}}, "settings.start_scale"),
        ({"task": "edit", "trained": "stones", "mask": text(STONES)}, "target"),
        ({"task": "reshuffle", "trained": "stones", "provenance": True}, "provenance"),
    ],
)
def test_requests_to_trained_models_that_cannot_be_used(
    service: Service, taught: Path, fields: dict[str, Any], field: str
) -> None:
    answer = ask(Service(service.model, trained={"stones": load_trained(taught)}), fields)
    assert answer.status == 422, answer.body
    assert error(answer)["field"] == field


def test_a_trained_model_is_bounded(service: Service, taught: Path) -> None:
    served = Service(service.model, Limits(max_task_pixels=4000), {"stones": load_trained(taught)})
    assert ask(served, {"task": "reshuffle", "trained": "stones", "n": 6}).status == 413
    assert ask(service, {"task": "reshuffle", "trained": "stones"}).status == 422
