"""Exported graphs: what they compute, what they refuse, and that they need nothing of the package."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import golden_cases as golden
from helpers.errors import refuses
from helpers.paths import ROOT
from helpers.slow_raster import slow_raster
from helpers.traced_once import traced_once
from torch import Tensor

from latentpatch import LatentPatch, RasterSettings, load_autoencoder
from latentpatch.autoencoders import vqgan as taming
from latentpatch.cli.entry import main
from latentpatch.export import formats, graphs
from latentpatch.export.formats import export
from latentpatch.methods.latent.presets import PRESETS
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search.keys import KEY_NORM
from latentpatch.methods.latent.search.prepared import Groups, PreparedSources
from latentpatch.methods.latent.settings import ResynthesisSettings
from latentpatch.methods.latent.traceable import TraceableRaster, TraceableResynthesis
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import SAMPLERS
from latentpatch.search_op import search

NEAR = 1 / 255


def some_keys(count: int, grid: tuple[int, int], depth: int = 3, spread: int = 400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-spread, spread + 1, (count, *grid, depth), generator=generator).to(torch.int16)


@pytest.fixture(scope="module")
def pictures(face_images: Tensor) -> Tensor:
    """(12, 3, 32, 32)"""
    return torch.nn.functional.avg_pool2d(face_images, 2)


@pytest.fixture(scope="module", params=golden.EXPORTED)
def small(request: pytest.FixtureRequest) -> LatentPatch:
    """The golden model of six sources of 8x8 cells, with the settings of its exported graphs."""
    model = copy.deepcopy(golden.load("tiny"))  # other tests have it, too
    model.settings = golden.settings_of(golden.EXPORTED[request.param])
    return model


@pytest.fixture(scope="module")
def traces(small: LatentPatch) -> dict[str, Any]:
    """Traces of its graphs, which all formats share."""
    return {}


@pytest.fixture(scope="module")
def written(small: LatentPatch, traces: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: ONNX was not tested")
    folder = tmp_path_factory.mktemp("onnx")
    only = None if isinstance(small.settings, ResynthesisSettings) else ("generate", "reference")
    with traced_once(traces):
        # The file's settings are of another sampler, so that these are chosen for the export.
        export(golden.load("tiny"), folder, settings=small.settings, only=only)
    return folder


#: Graphs of networks alone are the same for all samplers.
networks_alone = pytest.mark.parametrize("small", ["resynthesis"], indirect=True)


def steps_of(folder: Path, graph: str) -> int:
    return json.loads((folder / "export.json").read_text())["graphs"][graph]["inputs"]["noise"]["shape"][1]


def run_onnx(path: Path, **inputs: Tensor) -> list[Tensor]:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: ONNX was not run")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(out) for out in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


# --- the search ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "patch", "stride", "neighbours", "scales", "start", "guided"),
    [
        ((16, 16), 6, None, 3, 5, None, False),
        ((16, 16), 6, None, 3, 1, None, True),
        ((9, 9), 5, None, 2, 4, 6, False),  # stride 2 does not divide the patch
        ((9, 9), 5, 3, 9, 2, 6, True),
        ((8, 8), 4, 3, 1, 2, 5, False),  # the first patch cuts a block
        ((7, 12), 3, None, 4, 3, None, False),
        ((6, 6), 6, 6, 2, 1, None, False),  # one place
        ((6, 6), 1, None, 3, 2, None, False),  # all places blind
    ],
)
def test_search_equals_the_sampler(grid, patch, stride, neighbours, scales, start, guided):
    keys = some_keys(9, grid, seed=patch)
    settings = RasterSettings(patch, stride, neighbours, scales, start)
    noise = noise_from_seeds(range(3), raster_steps(grid, settings, guided))
    reference = some_keys(3, grid, seed=99) if guided else None
    found = TraceableRaster(keys, settings, guided)(noise, reference)
    assert torch.equal(found, raster(keys, noise, settings, reference))


@pytest.mark.parametrize("spread", [1, 1100])  # ties; float64
def test_search_equals_plain_loops(spread):
    keys = some_keys(7, (6, 6), 2, spread)
    settings = RasterSettings(3, None, 3, 2, 4)
    noise = noise_from_seeds(range(2), raster_steps((6, 6), settings))
    found = TraceableRaster(keys, settings)(noise)
    assert found[1].tolist() == slow_raster(keys.tolist(), noise[1].tolist(), 3, 3, 2, None, 4)


def test_search_of_the_longest_keys():
    keys = torch.zeros(4, 16, 16, 2, dtype=torch.int16)
    keys[0, ..., 0], keys[1, ..., 0], keys[2, ..., 1], keys[3, ..., 1] = KEY_NORM, -KEY_NORM, KEY_NORM, -KEY_NORM + 1
    settings = RasterSettings(12, 2, 4, 1)
    noise = noise_from_seeds(range(2), raster_steps((16, 16), settings))
    assert torch.equal(TraceableRaster(keys, settings)(noise), raster(keys, noise, settings))


@pytest.mark.parametrize("seed", range(24))
def test_resynthesis_equals_the_sampler(seed):
    chance = np.random.default_rng(seed)
    grid = int(chance.integers(4, 9)), int(chance.integers(4, 9))
    side = int(chance.integers(1, 5))
    keys = some_keys(int(chance.integers(4, 12)), grid, spread=int(chance.choice([2, 400])), seed=seed)  # with 2, ties
    settings = ResynthesisSettings(
        patch_size=side,
        stride=int(chance.integers(1, side + 1)),
        neighbors=int(chance.integers(1, 4)),
        sweeps=int(chance.integers(1, 4)),
        start_candidates=int(chance.integers(1, 4)),
        allow_start_as_donor=bool(chance.integers(2)),
        donors=int(chance.integers(3, 6)) if seed % 2 else 0.9,
        symmetric=bool(chance.integers(2)),
        max_share=float(chance.choice([0.8, 1.0])),
        switch_cost=float(chance.choice([0, 0.5])),
        reuse_cost=float(chance.choice([0, 0.05])),
        best_of=int(chance.integers(1, 4)),
    )
    reference = some_keys(3, grid, seed=seed + 99) if seed % 3 == 0 else None
    noise = noise_from_seeds(range(3), resynthesis_steps(grid, settings, reference is not None))
    found = TraceableResynthesis(keys, settings, reference is not None)(noise, reference)
    assert torch.equal(found, resynthesis(keys, noise, settings, reference))


@pytest.mark.parametrize("patch", [4, 16])  # 32 and 64-bit sums
def test_resynthesis_of_the_longest_keys(patch):
    keys = torch.zeros(4, 16, 16, 2, dtype=torch.int16)
    keys[0, ..., 0], keys[1, ..., 0], keys[2, ..., 1], keys[3, ..., 1] = KEY_NORM, -KEY_NORM, KEY_NORM, -KEY_NORM + 1
    settings = ResynthesisSettings(patch, 4, max_share=0.6)
    noise = noise_from_seeds(range(4), resynthesis_steps((16, 16), settings))
    assert torch.equal(TraceableResynthesis(keys, settings)(noise), resynthesis(keys, noise, settings))


@pytest.mark.parametrize("cost", [0.0, 0.1])
@pytest.mark.parametrize(
    "settings",
    [
        ResynthesisSettings(max_share=0.6),
        ResynthesisSettings(3, 2, best_of=2, reuse_cost=0.05, max_share=0.8),
        RasterSettings(3),
    ],
    ids=["resynthesis", "with costs", "raster"],
)
def test_search_of_variants_equals_the_sampler(settings, cost):
    keys = some_keys(24, (7, 8))
    groups = Groups(torch.arange(24) // 4, torch.tensor([0, 1, 1, 2]).repeat(6), cost)
    sources = PreparedSources(keys, groups=groups)
    sample, steps, traceable = (
        (raster, raster_steps, TraceableRaster)
        if isinstance(settings, RasterSettings)
        else (resynthesis, resynthesis_steps, TraceableResynthesis)
    )
    noise = noise_from_seeds(range(4), steps((7, 8), settings, False))
    found = traceable(sources, settings)(noise)
    assert torch.equal(found, sample(sources, noise, settings))
    if cost or not isinstance(settings, RasterSettings):
        assert not torch.equal(found, sample(keys, noise, settings))


# --- ONNX ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_generates_the_same(written, small, count):
    expected = small.generate(count, seed=3)
    images, index = run_onnx(written / "generate.onnx", noise=noise_from_seeds(range(3, 3 + count), small.steps))
    assert torch.equal(index, expected.index)
    assert (images - expected.images).abs().max() <= NEAR


@pytest.mark.usefixtures("float32")
def test_golden_maps(written, program, small):
    """Index maps that version 0.1.0 exported, of ONNX and of programs."""
    name = SAMPLERS.name_of(small.settings)
    digests = json.loads((golden.FIXTURES.parent / "digests.json").read_text())["index"]
    steps = {graph: steps_of(written, graph) for graph in ("generate", "reference")}
    references = torch.stack([golden.pattern(32, 32).roll(seed, 2) for seed in golden.SEEDS])
    inputs = {"generate": {}, "reference": {"reference": references}}
    for graph, more in inputs.items():
        _, index = run_onnx(written / f"{graph}.onnx", noise=golden.noise(steps[graph]), **more)
        assert golden.digest(index) == digests[f"export/{name}/{graph}"]
    assert golden.digest(program(golden.noise(steps["generate"]))[1]) == digests[f"export/{name}/generate"]


@pytest.mark.slow(25)
def test_a_network_with_costs_and_variants(face_images, tmp_path):
    """All that a resynthesis may have: copies mirrored and moved, costs, bands, several tries, residuals."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: ONNX was not tested")
    settings = ResynthesisSettings(
        3,
        2,
        neighbors=2,
        sweeps=1,
        best_of=2,
        allow_start_as_donor=True,
        donors=4,
        bands=2,
        symmetric=False,
        max_share=0.6,
        switch_cost=1.0,
        reuse_cost=0.05,
    )
    pictures = torch.nn.functional.interpolate(face_images[:6], scale_factor=2, mode="bilinear")
    varied = LatentPatch("embedded", 4, settings).fit(pictures, groups=False, mirrored=True, offsets=1)
    facts = export(varied, tmp_path, only=("reference",))
    references, noise = pictures[:3] * 0.8 + 0.1, noise_from_seeds(range(3), steps_of(tmp_path, "reference"))
    images, index = run_onnx(tmp_path / "reference.onnx", reference=references, noise=noise)
    # Latents may differ in the last bits, and with them a key between two integers.
    assert (index == varied.generate(3, reference=references).index).float().mean() > 0.98
    assert (images - varied.decode(index, "detail")).abs().max() <= NEAR
    assert (images - varied.decode(index, "blend")).abs().max() > 4 * NEAR  # residuals are no trifle
    # Without references only the start differs, whose operations are in the graphs of the golden model.
    method, chosen = varied.sampler_and_settings(None, None)
    free = method.resolve(chosen, varied.context())
    images, index = graphs.graphs(varied, "resynthesis", free, free)[0].module(
        noise_from_seeds(range(3), varied.noise_dim)
    )
    expected = varied.generate(3)
    assert torch.equal(index, expected.index)
    assert (images - expected.images).abs().max() <= NEAR
    assert facts["autoencoder"]["name"] == "embedded"
    assert facts["sources_sha256"] == varied.bank.digest()


@pytest.mark.parametrize("graph", ["generate", "reference"])
def test_onnx_can_be_quantized(written, tmp_path, graph, small, pictures):
    """Defect P21: an empty list had no type; and sources as integers of 8 bits make a graph that cannot be loaded."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    path = tmp_path / "small.onnx"
    quantization.quantize_dynamic(str(written / f"{graph}.onnx"), str(path), op_types_to_quantize=["Conv"])
    noise = noise_from_seeds(range(2), steps_of(written, graph))
    more = {} if graph == "generate" else {"reference": pictures[:2]}
    whole, less = (run_onnx(each, noise=noise, **more) for each in (written / f"{graph}.onnx", path))
    assert torch.equal(whole[1], less[1])
    quantization.quantize_dynamic(str(written / f"{graph}.onnx"), str(tmp_path / "default.onnx"))


def empty_inputs(path: Path) -> dict[str, Tensor]:
    """Inputs for no images, as a graph's record describes them."""
    graphs = json.loads((path.parent / "export.json").read_text())["graphs"]
    return {
        name: torch.zeros(0, *each["shape"][1:], dtype=getattr(torch, each["type"]))
        for name, each in graphs[path.stem]["inputs"].items()
    }


def test_no_images_make_no_images(written, small, tmp_path):
    """Defect P9: ONNX Runtime ended the process with a division by zero, and eager decoding could not reshape."""
    assert small(torch.empty(0, small.noise_dim)).shape == (0, 3, 32, 32)
    assert small.search(torch.empty(0, small.noise_dim)).shape == (0, 8, 8)
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: ONNX was not run")
    script = """
import sys, onnxruntime, torch
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = torch.load(path + ".inputs")
    for result in session.run(None, {name: value.numpy() for name, value in inputs.items()}):
        print(*result.shape)
"""
    paths = sorted(map(str, written.glob("*.onnx")))
    for path in paths:
        torch.save(empty_inputs(Path(path)), f"{path}.inputs")
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = ["0 3 32 32"]
    expected = {"decoder": images, "edit": images, "encoder": ["0 48 8 8"]}
    for name in ("generate", "reference"):
        expected[name] = [*images, "0 8 8"]
    assert done.stdout.splitlines() == [line for path in paths for line in expected[Path(path).stem]]


def test_the_axis_of_images_is_called_n_and_no_attribute_is_empty(written):
    """Defects P22 and P21: axes were s30, s34, s48, and an attribute was an empty list."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")

    def visit(graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for axis in value.type.tensor_type.shape.dim:
                assert not re.search(r"\bs\d+\b", axis.dim_param), (value.name, axis.dim_param)
        for node in graph.node:
            for item in node.attribute:
                if item.type == onnx.AttributeProto.GRAPH:
                    visit(item.g)
                lists = {onnx.AttributeProto.INTS: item.ints, onnx.AttributeProto.FLOATS: item.floats}
                assert len(lists.get(item.type, [0])), (node.name, item.name)

    for path in written.glob("*.onnx"):
        graph = onnx.load(path).graph
        for value in (*graph.input, *graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "N"
        visit(graph)


@networks_alone
def test_onnx_networks_and_edits(written, small, pictures):
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[0, 8:20, 4:16] = True
    mask[1, 15:, 15:] = True  # cuts cells
    (latents,) = run_onnx(written / "encoder.onnx", images=pictures[:3])
    torch.testing.assert_close(latents, small.latents_of(pictures[:3]), atol=1e-4, rtol=1e-4)
    (images,) = run_onnx(written / "decoder.onnx", latents=latents)
    assert (images - small.reconstruct(pictures[:3])).abs().max() <= NEAR
    (edited,) = run_onnx(written / "edit.onnx", image=pictures[:2], mask=mask, donor=pictures[2:4])
    for i in range(2):
        expected = small.edit(pictures[i], pictures[2 + i], mask[i])
        assert (edited[i] - expected.images[0]).abs().max() <= NEAR


def test_onnx_follows_references(written, small, pictures):
    noise = noise_from_seeds(range(3), steps_of(written, "reference"))
    references = pictures[:3] * 0.8 + 0.1
    images, index = run_onnx(written / "reference.onnx", reference=references, noise=noise)
    expected = small.generate(3, reference=references)
    assert torch.equal(index, expected.index)
    assert (images - expected.images).abs().max() <= NEAR


def test_onnx_refuses_other_shapes_and_types(written, small):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(written / "generate.onnx"), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="noise"):
        session.run(None, {"noise": np.zeros((2, small.steps + 1), np.float32)})
    with pytest.raises(Exception, match="float"):
        session.run(None, {"noise": np.zeros((2, small.steps), np.float64)})


@networks_alone
def test_onnx_edits_refuse_other_shapes_and_types(written):
    ort = pytest.importorskip("onnxruntime")
    edit = ort.InferenceSession(str(written / "edit.onnx"), providers=["CPUExecutionProvider"])
    image, mask = np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 32, 32), np.bool_)
    with pytest.raises(Exception, match="bool"):
        edit.run(None, {"image": image, "donor": image, "mask": mask.astype(np.float32)})
    with pytest.raises(Exception, match="donor"):
        edit.run(None, {"image": image, "donor": image[:, :, :16], "mask": mask})


def test_onnx_takes_noise_outside_as_the_nearest_inside(written, small):
    noise = noise_from_seeds([0], small.steps)
    outside = torch.where(noise < 0.3, -1 - noise, torch.where(noise > 0.7, noise + 1, noise))
    inside = torch.where(noise < 0.3, 0.0, torch.where(noise > 0.7, 1.0, noise.double())).float()
    (_, found), (_, expected) = (run_onnx(written / "generate.onnx", noise=each) for each in (outside, inside))
    assert torch.equal(found, expected)


def test_onnx_says_what_it_was_made_from(written, small):
    onnx = pytest.importorskip("onnx")
    properties = {entry.key: entry.value for entry in onnx.load(str(written / "generate.onnx")).metadata_props}
    facts = json.loads(properties["latentpatch"])
    assert facts["sources"] == small.bank.ids
    assert facts["sources_sha256"] == small.bank.digest()
    settings = SAMPLERS.settings_class(facts["sampler"])(**facts["settings"]["generate"])
    assert settings == small.generate(1).settings
    assert properties["license"] == "none"
    assert "default_rng" in properties["seeds"]


def network(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An autoencoder: with the weights of the package, or of a published layout with random ones."""
    if name == "vqgan-ffhq":
        pytest.importorskip("taming.modules.diffusionmodules.model", reason="taming-transformers is not installed")
        sizes: Any = {"n_embed": 24, "embed_dim": 6, "z_channels": 8, "resolution": 32, "ch": 32, "ch_mult": (1, 1)}
        monkeypatch.setitem(taming._CONFIGS, name, taming.VQGANConfig(**sizes, num_res_blocks=1))
    torch.manual_seed(0)
    made = load_autoencoder(name, pretrained=name == "embedded")
    if made.codebook is not None:
        torch.nn.init.normal_(made.codebook, std=0.2)  # as wide as the latents; else all codes are alike
    return made


@pytest.mark.slow(4)
def test_onnx_with_a_continuous_network(face_images, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = LatentPatch(load_autoencoder("taef2", pretrained=False), 4).fit(face_images, groups=False)
    facts = export(model, tmp_path, only=("encoder", "decoder"))
    references = face_images[:3] * 0.8 + 0.1
    (latents,) = run_onnx(tmp_path / "encoder.onnx", images=references)
    torch.testing.assert_close(latents, model.latents_of(references), atol=1e-4, rtol=1e-4)
    (images,) = run_onnx(tmp_path / "decoder.onnx", latents=latents)
    assert (images - model.reconstruct(references)).abs().max() <= NEAR
    properties = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "decoder.onnx")).metadata_props}
    assert json.loads(properties["latentpatch"]) == {**facts, "graph": "decoder"}
    assert properties["license"] == model.autoencoder.spec.license
    assert facts["autoencoder"]["name"] == "taef2"


@pytest.mark.slow(7)
def test_onnx_of_codes_and_moved_copies_with_data_beside(face_images, tmp_path, monkeypatch):
    """A network with a codebook, raster of moved copies, and weights and sources in a second file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("taming.modules.diffusionmodules.model", reason="taming-transformers is not installed")
    sizes: Any = {"n_embed": 24, "embed_dim": 6, "z_channels": 8, "resolution": 32, "ch": 32, "ch_mult": (1, 1)}
    monkeypatch.setitem(taming._CONFIGS, "vqgan-ffhq", taming.VQGANConfig(**sizes, num_res_blocks=1))
    torch.manual_seed(0)
    autoencoder = load_autoencoder("vqgan-ffhq", pretrained=False)
    torch.nn.init.normal_(autoencoder.codebook, std=0.2)  # as wide as the latents; else all codes are alike
    pictures = torch.nn.functional.interpolate(face_images, size=(32, 32), mode="bilinear", antialias=True)
    # Decoded by random weights all pictures are nearly one color, so that they would count as one.
    model = LatentPatch(autoencoder, 4, RasterSettings(4, neighbors=2, scales=1)).fit(pictures, groups=False, offsets=1)
    assert len({str(keys.tolist()) for keys in model.bank.keys[::9]}) == 12  # or there would be nothing to tell apart
    facts = export(model, tmp_path, only=("generate", "encoder"), external_from=0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "export.json",
        *(f"{name}.onnx{end}" for name in ("generate", "encoder") for end in ("", ".data")),
    }
    images, index = run_onnx(tmp_path / "generate.onnx", noise=noise_from_seeds(range(3), model.steps))
    expected = model.generate(3)
    assert torch.equal(index, expected.index)
    assert (images - expected.images).abs().max() <= NEAR
    references = pictures[:3] * 0.8 + 0.1
    # Latents may differ in the last bits, and with them the nearest code.
    (latents,) = run_onnx(tmp_path / "encoder.onnx", images=references)
    assert torch.isclose(latents, model.latents_of(references), atol=1e-4, rtol=1e-4).float().mean() > 0.98
    graph = onnx.load(str(tmp_path / "generate.onnx"), load_external_data=False)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(properties["latentpatch"]) == {**facts, "graph": "generate"}
    assert properties["license"] == autoencoder.spec.license
    assert facts["autoencoder"]["name"] == "vqgan-ffhq"


def test_the_command_exports_chosen_sources(faces, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: ONNX was not tested")
    table, folder = tmp_path / "known.csv", tmp_path / "inside"
    table.write_text("image,mood\n" + "".join(f"face{i:02d}.png,{'glad' if i < 9 else 'calm'}\n" for i in range(12)))
    arguments = [str(faces), "--autoencoder", "pixels:8", "--size", "64", "--components", "8"]
    arguments += ["--attributes", str(table), "--where", "mood=glad", "--sampler", "raster", "--scales", "1"]
    arguments += ["--patch-size", "4", "--graphs", "generate", "--external-data", "1", "-q", "-o", str(folder)]
    assert main(["export", *arguments]) == 0
    model = LatentPatch("pixels:8", components=8).fit(faces, attributes=table, size=64)
    settings = RasterSettings(4, scales=1)
    assert [path.name for path in sorted(folder.iterdir())] == ["export.json", "generate.onnx"]
    images, index = run_onnx(folder / "generate.onnx", noise=noise_from_seeds(range(3), raster_steps((8, 8), settings)))
    expected = model.generate(3, settings=settings, where="mood=glad")
    assert torch.equal(index, expected.index)  # the first nine are the glad
    assert (images - expected.images).abs().max() <= NEAR
    facts = json.loads((folder / "export.json").read_text())
    assert facts["sources"] == model.bank.ids[:9]


# --- torch ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(small: LatentPatch, traces: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, in a folder with its record."""
    folder = tmp_path_factory.mktemp("pt2")
    with traced_once(traces):
        export(small, folder, "pt2", only=("generate",))
    return folder


@pytest.fixture(scope="module")
def program(packed: Path) -> torch.nn.Module:
    """The program as a module."""
    return torch.export.load(packed / "generate.pt2").module()


#: Runs both programs on all batches, or the first alone where there is no second.
BARE = """
import sys; sys.modules['latentpatch'] = None
import numpy as np, torch
graphs = [torch.export.load('generate.pt2').module()]
graphs += [torch._inductor.aoti_load_package(path) for path in sys.argv[1:]]
with torch.no_grad():
    batches = [torch.from_numpy(noise) for noise in np.load('noise.npz').values()]
    found = [out for graph in graphs for noise in batches for out in graph(noise)]
np.savez('out.npz', *found)
"""


@pytest.mark.slow(20)
def test_programs_run_without_the_package(packed, small, traces, request):
    """Run programs of ``torch.export``, and of AOTInductor where there is a compiler, for several batches.

    That of resynthesis takes a minute to compile: it is left to ``make test-all``.
    """
    compiled: list[str] = []
    is_left_out = request.config.option.markexpr == "not long" and isinstance(small.settings, ResynthesisSettings)
    if not is_left_out and shutil.which("g++") is not None:
        with traced_once(traces):
            export(small, packed / "aoti", "aoti", only=("generate",))
        compiled = ["aoti/generate.pt2"]
    batches = [noise_from_seeds(range(count), small.steps) for count in (1, 5, 0)]
    np.savez(packed / "noise.npz", *(noise.numpy() for noise in batches))
    subprocess.run([sys.executable, "-I", "-c", BARE, *compiled], cwd=packed, check=True)
    found = [torch.from_numpy(out) for out in np.load(packed / "out.npz").values()]
    assert len(found) == 2 * len(batches) * (1 + len(compiled))
    for number, noise in enumerate(2 * batches if compiled else batches):
        images, index = found[2 * number : 2 * number + 2]
        with torch.no_grad():
            assert torch.equal(index, small.search(noise))
            assert (images - small(noise)).abs().le(NEAR).all()
        assert (images.shape[0], index.shape[0]) == (len(noise), len(noise))
    if not compiled and not is_left_out:
        pytest.skip("no g++: AOTInductor was not tested")


def test_pt2_makes_no_images_of_no_images(program, small):
    images, index = program(torch.empty(0, small.noise_dim, dtype=torch.float32))
    assert (images.shape, index.shape) == ((0, 3, 32, 32), (0, 8, 8))


def test_pt2_says_what_it_was_made_from(packed, small):
    extra = {"latentpatch.json": ""}
    torch.export.load(packed / "generate.pt2", extra_files=extra)
    facts = json.loads((packed / "export.json").read_text())
    assert facts["sources_sha256"] == small.bank.digest()
    assert json.loads(extra["latentpatch.json"]) == {**facts, "graph": "generate"}


def test_pt2_refuses_other_shapes_and_types(program, small):
    with pytest.raises(Exception, match=rf"noise.*{small.steps}"):
        program(torch.zeros(2, small.steps + 1))
    with pytest.raises(Exception, match=r"float|dtype"):
        program(torch.zeros(2, small.steps, dtype=torch.float64))


def test_pt2_takes_noise_outside_as_the_nearest_inside(program, small):
    noise = noise_from_seeds(range(2), small.steps) * 3 - 1
    assert torch.equal(program(noise)[1], program(noise.clamp(0, 1))[1])


def test_compiled_forward_has_no_graph_breaks(small):
    compiled = torch.compile(small, fullgraph=True, backend="eager")
    noise = noise_from_seeds(range(3), small.steps)
    with torch.no_grad():
        assert torch.equal(compiled(noise), small(noise))


def test_a_copy_searches_its_own_sources(small):
    copied = copy.deepcopy(small)
    copied.remove(copied.bank.ids[:2])
    noise = noise_from_seeds(range(2), small.steps)
    index = search(noise, copied.bank.keys, copied._number)
    assert int(index.max()) < 4
    assert torch.equal(index, copied.search(noise))


# --- refusals and noise --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("raster", "resynthesis")])
def test_other_samplers_are_refused_by_name(name, model, tmp_path):
    with refuses("sampler"):
        export(model, tmp_path / "a", "pt2", sampler=name)
    assert not (tmp_path / "a").exists()


def test_refusals_name_what_cannot_be_exported(model, tmp_path):
    with refuses("format"):
        export(model, tmp_path / "a", "tflite")
    with refuses("only"):
        export(model, tmp_path / "a", "pt2", only=("inpaint",))
    with refuses("max_share"):
        export(model, tmp_path / "a", "pt2", settings=ResynthesisSettings(max_share=0.01))
    model.precision = "bfloat16"
    with refuses("precision"):
        export(model, tmp_path / "a", "pt2")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("preset", "changes"),
    [(None, {}), ("faithful", {}), ("diverse", {"max_share": 0.2}), ("balanced", {}), ("paper", {})],
)
def test_the_command_exports_presets(preset, changes, faces, face_images, tmp_path, monkeypatch):
    """The modules that are traced; how they are written does not depend on settings."""
    kept: dict[str, Any] = {}
    monkeypatch.setattr(formats, "_write", lambda graph, *_: kept.update({graph.name: graph.module}))
    arguments = [str(faces), "--autoencoder", "pixels:4", "--size", "64", "--components", "8"]
    arguments += [] if preset is None else ["--preset", preset]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in changes.items()]
    arguments += ["--format", "pt2", "--graphs", "generate,reference", "-q", "-o", str(tmp_path)]
    assert main(["export", *arguments]) == 0
    settings = replace(PRESETS[preset or "few"], **changes)  # the default of twelve sources
    model = LatentPatch("pixels:4", 8, settings).fit(faces, size=64)
    noise = noise_from_seeds(range(2), steps_of(tmp_path, "generate"))
    assert torch.equal(kept["generate"](noise)[1], model.generate(2).index)
    references, noise = face_images[:2] * 0.8 + 0.1, noise_from_seeds(range(2), steps_of(tmp_path, "reference"))
    assert torch.equal(kept["reference"](references, noise)[1], model.generate(2, reference=references).index)


def test_the_command_refuses_what_cannot_be_exported(faces, tmp_path, capsys):
    arguments = [str(faces), "--autoencoder", "pixels:4", "--size", "64", "--components", "8"]
    assert main(["export", *arguments, "--sampler", "diffusion", "-o", str(tmp_path / "a")]) == 1
    assert "sampler must be one of" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js: the browser's noise was not tested")
def test_noise_in_javascript_is_numpys(tmp_path):
    seeds = [0, 1, 7, 2**32 - 1, 2**32, 2**64 - 1, 2**160 + 12345]
    module = (ROOT / "examples" / "browser" / "noise.js").as_uri()
    script = tmp_path / "noise.mjs"
    script.write_text(
        f"import {{ noiseFromSeed }} from '{module}';\n"
        f"const seeds = [{','.join(f'{seed}n' for seed in seeds)}];\n"
        "console.log(JSON.stringify(seeds.map((seed) => [...noiseFromSeed(seed, 231)])));"
    )
    printed = subprocess.run(["node", str(script)], check=True, capture_output=True, text=True).stdout
    assert torch.equal(torch.tensor(json.loads(printed)), noise_from_seeds(seeds, 231))
