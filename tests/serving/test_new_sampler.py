"""A sampler that is registered while a server runs: requests, schema, ranges and estimates know it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers.live_app import JSON, PREDICT, Live, fault
from helpers.traffic import ask, error, face, text

from latentpatch.methods.base import Context, Sampler, register
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.registry import SAMPLERS
from latentpatch.serving import Service, json_schema
from latentpatch.settings import Settings, setting


@dataclass(frozen=True)
class ToySettings(Settings):
    shift: int = setting(
        0, "add this to the source of every row", minimum=0, limit=5, limited_by="sources", aliases=("offset",)
    )


@pytest.fixture
def toy() -> Iterator[str]:
    """A sampler whose rows come from one source after another."""

    @register
    class Toy(Sampler):
        name = "toy"
        Settings = ToySettings

        def noise_dim(self, settings: Any, context: Context) -> int:
            return 1

        def sample(
            self, sources: PreparedSources, noise: Tensor, settings: Any, reference: Tensor | None, mask: Tensor | None
        ) -> Tensor:
            count, height, width = sources.keys.shape[:3]
            rows = (torch.arange(height) + settings.shift) % count
            return rows[None, :, None].expand(len(noise), -1, width).contiguous()

    yield Toy.name
    SAMPLERS.remove(Toy.name)


def test_a_service_takes_it(service: Service, toy: str) -> None:
    fields = {"sampler": toy, "settings": {"offset": 3}, "answer": "json"}
    answer = json.loads(ask(service, fields).body)
    assert (answer["sampler"], answer["settings"]) == (toy, {"shift": 3})
    assert answer["ids"][answer["images"][0]["index"][0][0]] == service.model.bank.ids[3]
    for value in (6, -1, "3", True, 3.0):
        refused = error(ask(service, {"sampler": toy, "settings": {"shift": value}}))
        assert (refused["status"], refused["code"]) == (422, "invalid_value")
        assert refused["field"] == "settings.shift"
    foreign = error(ask(service, {"sampler": "raster", "settings": {"shift": 3}}))
    assert (foreign["status"], foreign["field"]) == (422, "settings")
    with_reference = error(ask(service, {"sampler": toy, "reference": text(face(1))}))
    assert (with_reference["status"], with_reference["field"]) == (422, "reference")


def test_schema_and_info_describe_it(service: Service, toy: str) -> None:
    definitions = json_schema()["$defs"]
    assert toy in definitions["GenerateRequest"]["properties"]["sampler"]["anyOf"][0]["enum"]
    shift = definitions["Settings"]["properties"]["shift"]
    assert shift["anyOf"] == [{"type": "integer", "minimum": 0, "maximum": 5}, {"type": "null"}]
    assert definitions["Settings"]["properties"]["offset"]["deprecated"]
    info = json.loads(ask(service, {"operation": "info"}).body)
    assert toy in info["samplers"]
    assert info["ranges"]["shift"] == [0, 5]
    assert info["schema"] == json.loads(json.dumps(json_schema()))
    SAMPLERS.remove(toy)
    try:
        assert "shift" not in json_schema()["$defs"]["Settings"]["properties"]
        assert error(ask(service, {"sampler": toy}))["field"] == "sampler"
    finally:
        SAMPLERS.declare(toy, ToySettings, "", "")


def test_a_live_server_takes_it(live: Live, request: pytest.FixtureRequest) -> None:
    assert fault(live.post({"sampler": "toy"}), 422)["field"] == "sampler"
    toy = request.getfixturevalue("toy")  # registered while the server runs
    assert live.post({"sampler": toy, "settings": {"shift": 2}}).headers["content-type"] == "image/png"
    assert fault(live.post({"sampler": toy, "settings": {"shift": 6}}), 422)["field"] == "settings.shift"
    assert toy in json.dumps(live.ask("GET", "/schema").json())
    metadata = live.ask("GET", "/v2/models/latentpatch").json()
    assert {"settings", "sampler"} <= {tensor["name"] for tensor in metadata["inputs"]}
    assert live.ask("POST", PREDICT, json.dumps({"sampler": toy, "n": 2}), JSON).status == 200
