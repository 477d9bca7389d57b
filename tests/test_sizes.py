"""Presets on a grid of 32 x 32 cells: every way in gives the same pictures, and records keep sizes in cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.command_line import indices, record, run

from latentpatch import PRESETS, LatentPatch, ResynthesisSettings
from latentpatch.bank.format import ModelFile
from latentpatch.export.graphs import graphs
from latentpatch.hub import latentpatch
from latentpatch.ops.blending import blend
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import SAMPLERS, settings_from_record

FINE = ["--autoencoder", "pixels:2", "--size", "64"]
SIZES = {"few": (20, 8), "balanced": (10, 2), "paper": (12, 4)}


@pytest.fixture(scope="module")
def fine(faces: Path) -> LatentPatch:
    return LatentPatch("pixels:2", 12, PRESETS["balanced"]).fit(faces, size=64)


@pytest.fixture(scope="module")
def fine_file(fine: LatentPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fine") / "fine.safetensors"
    fine.save(path)
    return path


@pytest.mark.parametrize("preset", SIZES)
def test_a_preset_is_the_same_by_every_way_in(fine: LatentPatch, fine_file: Path, tmp_path: Path, preset: str) -> None:
    made = fine.generate(2, seed=3, settings=PRESETS[preset])
    found = made.settings_record()["settings"]
    assert (found["patch_size"], found["stride"]) == SIZES[preset]

    run("generate", fine_file, "-n", 2, "--seed", 3, "--preset", preset, "-o", tmp_path / "out")
    assert torch.equal(indices(tmp_path / "out"), made.index)
    written = record(tmp_path / "out")
    assert (written["settings"]["patch_size"], written["settings"]["stride"]) == SIZES[preset]
    again = settings_from_record({"sampler": written["sampler"], **written["settings"]})
    assert torch.equal(fine.generate(2, seed=3, settings=again).index, made.index)

    hub = latentpatch(fine_file, preset=preset)
    assert torch.equal(hub.generate(2, seed=3).index, made.index)


def test_a_model_file_holds_cells(fine: LatentPatch, fine_file: Path) -> None:
    stored = ModelFile.read(fine_file).settings
    assert stored == ResynthesisSettings(patch_size=10, stride=2, unit=2)
    loaded = LatentPatch.load(fine_file)
    assert torch.equal(loaded.generate(2).index, fine.generate(2).index)
    fresh = LatentPatch("pixels:2", 12)
    fresh.load_state_dict(fine.state_dict())
    assert fresh.settings == stored
    assert loaded.noise_dim == fine.noise_dim == 256 // 2 + 3  # pairs of blocks, two candidates, the donors
    noise = torch.rand(1, fine.noise_dim, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(noise), fine(noise))


def test_records_of_cells_are_replayed_in_cells(fine: LatentPatch) -> None:
    """Of files and pictures that were written when presets were so many cells on every grid."""
    old = settings_from_record({"sampler": "resynthesis", "patch_size": 5, "stride": 1})
    made = fine.generate(2, settings=old)
    assert made.settings_record()["settings"].items() >= {"patch_size": 5, "stride": 1, "unit": 1}.items()
    assert not torch.equal(made.index, fine.generate(2).index)
    assert torch.equal(made.images, fine.decode_latents(blend(fine.bank.gather, made.index)))  # as far as at 16 cells


def test_the_commands_take_cells_and_shares(faces: Path, tmp_path: Path) -> None:
    for name, sizes in {"cells": (10, 2), "shares": (0.3125, 0.0625)}.items():
        options = ["--patch-size", sizes[0], "--stride", sizes[1]]
        run("generate", faces, *FINE, "--components", 12, "-n", 1, *options, "-o", tmp_path / name)
    assert torch.equal(indices(tmp_path / "cells"), indices(tmp_path / "shares"))
    assert record(tmp_path / "cells")["settings"] == record(tmp_path / "shares")["settings"]


def test_a_server_takes_the_same_presets(fine: LatentPatch) -> None:
    pytest.importorskip("pydantic", reason="the serve extra is not installed")
    from helpers.traffic import ask

    from latentpatch.serving import Service

    service = Service(fine)
    for preset, (patch_size, stride) in SIZES.items():
        body = {"seeds": [3, 4], "preset": preset, "answer": "json"}
        answer = json.loads(ask(service, body).body)
        ids = [[[answer["ids"][b] for b in line] for line in row["index"]] for row in answer["images"]]
        made = fine.generate(2, seed=3, settings=PRESETS[preset])
        assert ids == [[[made.ids[b] for b in line] for line in index] for index in made.index.tolist()]
        assert (answer["settings"]["patch_size"], answer["settings"]["stride"]) == (patch_size, stride)
    info = json.loads(ask(service, {"operation": "info"}).body)
    assert info["settings"]["patch_size"] == 10
    assert {name: info["presets"][name]["patch_size"] for name in SIZES} == {"few": 20, "balanced": 10, "paper": 12}
    body = {"seed": 3, "settings": {"patch_size": 0.3125, "stride": 0.0625}, "answer": "json"}
    assert json.loads(ask(service, body).body)["settings"]["patch_size"] == 10


@pytest.mark.parametrize("preset", ["few", "paper"])
def test_a_graph_to_export_takes_the_same_presets(fine: LatentPatch, preset: str) -> None:
    sampler = SAMPLERS.of(PRESETS[preset])
    free, guided = (sampler.resolve(PRESETS[preset], fine.context(has_reference=has)) for has in (False, True))
    graph = next(each for each in graphs(fine, sampler.name, free, guided) if each.name == "generate")
    noise = noise_from_seeds([3, 4], graph.inputs["noise"].shape[1])
    made = fine.generate(2, seed=3, settings=PRESETS[preset])
    images, index = graph.module(noise)[:2]
    assert torch.equal(index, made.index)
    torch.testing.assert_close(images, made.images, atol=1e-4, rtol=0)  # blended as far, too
