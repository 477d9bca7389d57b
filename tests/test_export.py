"""Exported graphs: what they compute, what they refuse, and that they need nothing of the package."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from slow_raster import slow_raster
from torch import Tensor

from latentpatch import LatentPatch, RandomPatchesSettings, RasterSettings
from latentpatch.cli import main
from latentpatch.compiling import search
from latentpatch.export import export
from latentpatch.export.raster import TraceableRaster
from latentpatch.sampling import noise_from_seeds, raster, raster_steps
from latentpatch.sampling.keys import KEY_NORM

SETTINGS = RasterSettings(patch_size=4, neighbours=2, scales=2)
NEAR = 1 / 255


def some_keys(count: int, grid: tuple[int, int], depth: int = 3, spread: int = 400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-spread, spread + 1, (count, *grid, depth), generator=generator).to(torch.int16)


@pytest.fixture(scope="module")
def small(face_images: Tensor) -> LatentPatch:
    """Twelve sources of 8x8 cells."""
    return LatentPatch("pixels:8", components=8, settings=SETTINGS).fit(face_images)


@pytest.fixture(scope="module")
def written(small: LatentPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: ONNX was not tested")
    folder = tmp_path_factory.mktemp("onnx")
    export(small, folder)
    return folder


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


# --- ONNX ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_generates_the_same(written, small, count):
    expected = small.generate(count, seed=3)
    images, index = run_onnx(written / "generate.onnx", noise=noise_from_seeds(range(3, 3 + count), small.steps))
    assert torch.equal(index, expected.index)
    assert (images - expected.images).abs().max() <= NEAR


def test_onnx_networks_and_edits(written, small, face_images):
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 16:40, 8:32] = True
    mask[1, 30:, 30:] = True  # cuts cells
    (latents,) = run_onnx(written / "encoder.onnx", images=face_images[:3])
    torch.testing.assert_close(latents, small.latents_of(face_images[:3]), atol=1e-4, rtol=1e-4)
    (images,) = run_onnx(written / "decoder.onnx", latents=latents)
    assert (images - small.reconstruct(face_images[:3])).abs().max() <= NEAR
    (edited,) = run_onnx(written / "edit.onnx", image=face_images[:2], mask=mask, donor=face_images[2:4])
    for i in range(2):
        expected = small.edit(face_images[i], face_images[2 + i], mask[i])
        assert (edited[i] - expected.images[0]).abs().max() <= NEAR


def test_onnx_follows_references(written, small, face_images):
    steps = json.loads((written / "export.json").read_text())["graphs"]["reference"]["inputs"]["noise"]["shape"][1]
    references = face_images[:3] * 0.8 + 0.1
    _, index = run_onnx(written / "reference.onnx", reference=references, noise=noise_from_seeds(range(3), steps))
    expected = small.generate(3, reference=references)
    assert torch.equal(index, expected.index)


def test_onnx_refuses_other_shapes_and_types(written, small):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(written / "generate.onnx"), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="noise"):
        session.run(None, {"noise": np.zeros((2, small.steps + 1), np.float32)})
    with pytest.raises(Exception, match="float"):
        session.run(None, {"noise": np.zeros((2, small.steps), np.float64)})


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
    assert facts["settings"]["generate"]["neighbours"] == 2
    assert properties["license"] == "none"
    assert "default_rng" in properties["seeds"]


def test_external_data_and_chosen_sources(faces, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    table = tmp_path / "known.csv"
    table.write_text("image,mood\n" + "".join(f"face{i:02d}.png,{'glad' if i < 9 else 'calm'}\n" for i in range(12)))
    arguments = [
        str(faces),
        "--autoencoder",
        "pixels:8",
        "--size",
        "64",
        "--components",
        "8",
        "--attributes",
        str(table),
    ]
    arguments += ["--where", "mood=glad", "--sampler", "raster", "--scales", "2", "--patch-size", "4"]
    arguments += ["--graphs", "generate", "-q"]
    assert main(["export", *arguments, "--external-data", "1", "-o", str(tmp_path / "inside")]) == 0
    model = LatentPatch("pixels:8", components=8).fit(faces, attributes=table, size=64)
    settings = RasterSettings(4, scales=2)
    export(model, tmp_path / "beside", settings=settings, where="mood=glad", only=("generate",), external_from=0)
    assert [path.name for path in sorted((tmp_path / "inside").iterdir())] == ["export.json", "generate.onnx"]
    names = [path.name for path in sorted((tmp_path / "beside").iterdir())]
    assert names == ["export.json", "generate.onnx", "generate.onnx.data"]
    noise = noise_from_seeds(range(3), raster_steps((8, 8), settings))
    expected = model.generate(3, settings=settings, where="mood=glad")
    for folder in ("inside", "beside"):
        images, index = run_onnx(tmp_path / folder / "generate.onnx", noise=noise)
        assert torch.equal(index, expected.index)  # the first nine are the glad
        assert (images - expected.images).abs().max() <= NEAR
    facts = json.loads((tmp_path / "beside" / "export.json").read_text())
    assert facts["sources"] == model.bank.ids[:9]
    assert onnx.load(str(tmp_path / "beside" / "generate.onnx"), load_external_data=False)


# --- torch ---------------------------------------------------------------------------------------------


def test_pt2_runs_without_the_package(small, tmp_path):
    export(small, tmp_path, "pt2", only=("generate",))
    expected = small.generate(3)
    np.savez(tmp_path / "noise.npz", noise=noise_from_seeds(range(3), small.steps).numpy())
    script = (
        "import sys; sys.modules['latentpatch'] = None\n"
        "import numpy as np, torch\n"
        "noise = torch.from_numpy(np.load('noise.npz')['noise'])\n"
        "images, index = torch.export.load('generate.pt2').module()(noise)\n"
        "np.savez('out.npz', images=images, index=index)"
    )
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "out.npz")
    assert (found["index"] == expected.index.numpy()).all()
    assert np.abs(found["images"] - expected.images.numpy()).max() <= NEAR


def test_compiled_forward_has_no_graph_breaks(small):
    compiled = torch.compile(small, fullgraph=True, backend="eager")
    noise = noise_from_seeds(range(3), small.steps)
    with torch.no_grad():
        assert torch.equal(compiled(noise), small(noise))


def test_a_copy_searches_its_own_sources(small):
    copied = copy.deepcopy(small)
    copied.remove(copied.bank.ids[:6])
    noise = noise_from_seeds(range(2), small.steps)
    index = search(noise, copied.bank.keys, copied._number)
    assert int(index.max()) < 6
    assert torch.equal(index, copied.search(noise))


# --- refusals and noise --------------------------------------------------------------------------------


def test_refusals_name_what_cannot_be_exported(small, tmp_path):
    with pytest.raises(ValueError, match="sampler 'random-patches': cannot be exported"):
        export(small, tmp_path / "a", "pt2", sampler="random-patches", settings=RandomPatchesSettings())
    with pytest.raises(ValueError, match="format 'tflite'"):
        export(small, tmp_path / "a", "tflite")
    with pytest.raises(ValueError, match="graph 'inpaint'"):
        export(small, tmp_path / "a", "pt2", only=("inpaint",))
    coarse = copy.deepcopy(small)
    coarse.autoencoder.decode_dtype = torch.bfloat16
    with pytest.raises(ValueError, match="bfloat16"):
        export(coarse, tmp_path / "a", "pt2")
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js: the browser's noise was not tested")
def test_noise_in_javascript_is_numpys(tmp_path):
    seeds = [0, 1, 7, 2**32 - 1, 2**32, 2**64 - 1, 2**160 + 12345]
    module = (Path(__file__).parent.parent / "examples" / "browser" / "noise.js").as_uri()
    script = tmp_path / "noise.mjs"
    script.write_text(
        f"import {{ noiseFromSeed }} from '{module}';\n"
        f"const seeds = [{','.join(f'{seed}n' for seed in seeds)}];\n"
        "console.log(JSON.stringify(seeds.map((seed) => [...noiseFromSeed(seed, 231)])));"
    )
    printed = subprocess.run(["node", str(script)], check=True, capture_output=True, text=True).stdout
    assert torch.equal(torch.tensor(json.loads(printed)), noise_from_seeds(seeds, 231))
