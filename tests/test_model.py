"""LatentPatch as a user meets it, on drawn faces with pixels for latents."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.coded_pixels import CodedPixels
from helpers.errors import refuses
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from latentpatch import (
    PRESETS,
    FileError,
    LatentPatch,
    RandomCellsSettings,
    RasterSettings,
    ResynthesisSettings,
    SourceBank,
    WeightsError,
    load_autoencoder,
)

# --- generation ----------------------------------------------------------------------------------------


def test_generated_images_are_decoded_sources(model, face_images):
    result = model.generate(5, seed=3, decoding="gather")
    assert result.images.shape == (5, 3, 64, 64)
    assert result.seeds == (3, 4, 5, 6, 7)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    # Pixels as latents: every 4x4 block of an image is that of the source its index map names.
    for image, index in zip(result.images, result.index, strict=True):
        for y, x in [(0, 0), (7, 9), (15, 15)]:
            block = (slice(None), slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            torch.testing.assert_close(image[block], face_images[int(index[y, x])][block], atol=1e-3, rtol=0)


def test_image_does_not_depend_on_its_batch(model):
    batch = model.generate(4, seed=10)
    alone = model.generate(1, seed=12)
    assert torch.equal(alone.index[0], batch.index[2])
    assert torch.equal(alone.images[0], batch.images[2])
    mixed = model.generate(seeds=[12, 99, 12])
    assert torch.equal(mixed.images[0], batch.images[2])
    assert torch.equal(mixed.images[2], batch.images[2])


def test_seeds_differ(model):
    index = model.generate(6).index
    assert len({tuple(row.flatten().tolist()) for row in index}) == 6


def test_reference_guides(model, face_images):
    own = model.generate(2, reference=face_images[4], settings=RasterSettings(neighbors=1))
    assert (own.index == 4).all()
    guided = model.generate(8, reference=face_images[4], settings=RasterSettings(patch_size=4))
    free = model.generate(8, settings=RasterSettings(patch_size=4))
    target = face_images[4]
    assert (guided.images - target).square().mean() < 0.5 * (free.images - target).square().mean()
    assert guided.settings.scales == 1
    each = model.generate(2, reference=face_images[[4, 6]], settings=RasterSettings(neighbors=1))
    assert each.index.flatten(1).unique(dim=1).flatten().tolist() == [4, 6]


def test_reference_result_does_not_depend_on_its_batch(model, face_images):
    batch = model.generate(3, seed=5, reference=face_images[:3])
    alone = model.generate(1, seed=6, reference=face_images[1])
    assert torch.equal(alone.images[0], batch.images[1])


def test_attributes_constrain(face_images):
    known = {str(i): {"mood": "glad" if i % 3 == 0 else "calm", "age": str(20 + i)} for i in range(11)}
    model = LatentPatch("pixels:4", 8).fit(face_images, attributes=known)
    index = model.generate(10, where="mood=glad and age<30", settings=RasterSettings(neighbors=2)).index
    assert set(index.unique().tolist()) == {0, 3, 6, 9}
    assert set(model.generate(3, where=lambda row: row.get("age") in {"21", "22", "25"}).index.unique().tolist()) <= {
        1,
        2,
        5,
    }
    with refuses("where") as caught:
        model.generate(1, where="hat=yes")
    assert "age, mood" in str(caught.value)
    with refuses("where"):
        model.generate(1, where="age>90")
    with refuses("neighbors"):
        model.generate(1, where="age>=29", sampler="raster")


def test_baselines_through_the_model(model):
    assert model.generate(2, sampler="random-cells").sampler == "random-cells"
    assert model.generate(2, settings=RandomCellsSettings()).sampler == "random-cells"
    with refuses("settings", TypeError):
        model.generate(2, settings=RandomCellsSettings(), sampler="raster")
    with refuses("reference"):
        model.generate(2, sampler="random-cells", reference=torch.rand(3, 64, 64))
    with refuses("sampler"):
        model.generate(2, sampler="magic")


def test_grids_that_are_not_square():
    images = torch.rand(6, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    result = LatentPatch("pixels:4").fit(images).generate(2)
    assert result.index.shape == (2, 24, 32)
    assert result.images.shape == (2, 3, 96, 128)


def test_unprojected_decoding_is_exact_at_full_rank(face_images):
    model = LatentPatch("pixels:4", 48).fit(face_images)
    index = model.generate(2).index
    # Keys hold some eleven bits of the largest norm, so pixels to about a hundredth.
    difference = model.decode(index, "unproject") - model.decode(index, "gather")
    assert difference.abs().max() < 0.02
    coarse = LatentPatch("pixels:4", 2).fit(face_images)
    assert (coarse.decode(index, "unproject") - coarse.decode(index)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"n": 0}, ValueError, "n"),
        ({"n": 1.5}, TypeError, "n"),
        ({"seed": -3}, ValueError, "seed"),
        ({"seeds": [4, -1]}, ValueError, "seed"),
        ({"decoding": "magic"}, ValueError, "decoding"),
        ({"reference": torch.rand(3, 32, 64)}, ValueError, "reference"),
        ({"n": 3, "reference": torch.rand(2, 3, 64, 64)}, ValueError, "reference"),
        ({"reference": torch.ones(3, 64, 64, dtype=torch.int64)}, ValueError, "reference"),
        ({"reference": torch.full((3, 64, 64), 255.0)}, ValueError, "reference"),
        ({"reference": torch.full((3, 64, 64), float("nan"))}, ValueError, "reference"),
    ],
)
def test_bad_arguments_are_named(model, arguments, error, name):
    with refuses(name, error):
        model.generate(**arguments)


def test_unfitted_model_says_so():
    with pytest.raises(RuntimeError, match="no sources yet"):
        LatentPatch("pixels:4").generate(1)


def test_one_source_can_only_be_copied(face_images):
    model = LatentPatch("pixels:4").fit(face_images[:1])
    with refuses("sources"):
        model.generate(1)
    with refuses("neighbors"):
        model.generate(1, sampler="raster")
    result = model.generate(1, settings=RasterSettings(neighbors=1))
    torch.testing.assert_close(result.images[0], face_images[0], atol=1e-3, rtol=0)


# --- provenance ----------------------------------------------------------------------------------------


def test_provenance_adds_up(model):
    result = model.generate(3)
    for shares, index in zip(result.shares(), result.index, strict=True):
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        for name, share in shares.items():
            assert share == pytest.approx(float((index == int(name)).float().mean()))
    maps = result.provenance()
    assert maps.shape == result.images.shape
    same = result.index[0, 0, 0] == result.index[0]
    colour = maps[0, :, 0, 0]
    drawn = (maps[0, :, ::4, ::4] == colour[:, None, None]).all(0)
    assert torch.equal(drawn, same), "one colour a source, another for every other"


# --- sources that come and go --------------------------------------------------------------------------


def test_removed_source_is_gone(face_images):
    model = LatentPatch("pixels:4", 8).fit(face_images)
    used = [name for name, _ in sorted(model.generate(20).shares()[0].items(), key=lambda item: -item[1])]
    gone = used[0]
    keys, latents = model.bank.keys[int(gone)].clone(), model.bank.latents[int(gone)].clone()
    model.remove(gone)
    assert gone not in model.bank.ids
    assert not (model.bank.latents == latents).flatten(1).all(1).any()
    result = model.generate(40)
    assert all(gone not in shares for shares in result.shares())
    never = LatentPatch("pixels:4", 8).fit(
        face_images[[i for i in range(12) if str(i) != gone]], ids=[str(i) for i in range(12) if str(i) != gone]
    )
    for name, value in never.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), f"{name} is what it would be without the source"
    assert torch.equal(never.generate(40).images, result.images)
    assert keys.shape == model.bank.keys[0].shape


def test_adding_and_removing_leaves_the_others_alone(model, face_images):
    before = {name: model.bank.keys[i].clone() for i, name in enumerate(model.bank.ids)}
    model.add(face_images[:2].flip(3), ids=["left", "right"])
    model.remove(["3", "left"], refit=False)
    assert model.bank.ids == [str(i) for i in range(12) if i != 3] + ["right"]
    for i, name in enumerate(model.bank.ids[:-1]):
        assert torch.equal(model.bank.keys[i], before[name])
    result = model.generate(4, reference=face_images[1].flip(2), settings=RasterSettings(neighbors=1))
    assert (result.index == 11).all(), "the added source is found"


def test_ids_are_checked(model, face_images):
    with refuses("ids"):
        model.add(face_images[:1], ids=["3"])
    for ids in ("x", ["x", *model.bank.ids]):
        with refuses("source") as caught:
            model.remove(ids)
        assert "'x'" in str(caught.value)
    with refuses("ids"):
        model.remove(list(model.bank.ids))
    with refuses("ids", TypeError):
        LatentPatch("pixels:4").fit(face_images[:3], ids="abc")
    for ids in (["a"], ["a", "a"], ["a", 1]):
        with refuses("ids"):
            LatentPatch("pixels:4").fit(face_images[:2], ids=ids)
    with refuses("sources"):
        LatentPatch("pixels:4").fit((face_images > 0.5).float() * 255)
    with refuses("sources", TypeError):
        LatentPatch("pixels:4").fit((face_images * 255).long())
    with refuses("sources"):
        LatentPatch("pixels:4").fit(face_images[0])
    assert len(model.bank) == 12


def test_fitting_in_pieces_is_fitting_at_once(monkeypatch, face_images):
    whole = LatentPatch("pixels:4", 8).fit(face_images)
    monkeypatch.setattr("latentpatch.bank.encode._BATCH", 5)
    pieces = LatentPatch("pixels:4", 8).fit(face_images)
    for name, value in whole.state_dict().items():
        assert torch.equal(pieces.state_dict()[name], value), name


# --- opening, subsets, precision -----------------------------------------------------------------------


def test_open_loads_a_file_or_fits(tmp_path, faces, face_images):
    known = {f"face{i:02d}": {"mood": "glad" if i < 6 else "calm"} for i in range(12)}
    fitted = LatentPatch.open(
        faces, autoencoder="pixels:4", components=8, device="cpu", size=64, attributes=known, mirrored=None
    )
    assert torch.equal(fitted.bank.latents, LatentPatch("pixels:4", 8).fit(face_images).bank.latents)
    assert fitted.bank.attributes[0] == {"mood": "glad"}
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    settings = RasterSettings(neighbors=1)
    for sources in (path, [str(path)]):
        loaded = LatentPatch.open(sources, settings=settings, device="cpu", precision="bfloat16", size=None)
        assert (loaded.settings, loaded.precision, loaded.components) == (settings, "bfloat16", 8)
        assert loaded.bank.digest() == fitted.bank.digest()
    for name, value in {"components": 8, "size": 64, "attributes": known, "mirrored": False}.items():
        with refuses(name):
            LatentPatch.open(path, device="cpu", **{name: value})
    with refuses("device"):
        LatentPatch.open(path, device="abacus")
    with refuses("precision"):
        LatentPatch.open(path, device="cpu", precision="double")


def test_a_subset_makes_what_a_predicate_makes(face_images):
    known = {str(i): {"mood": "glad" if i % 2 else "calm"} for i in range(12)}
    model = LatentPatch("embedded", 8).fit(face_images, attributes=known, mirrored=True)
    part = model.subset("mood=glad")
    assert part.bank.sources == ["1", "3", "5", "7", "9", "11"]
    assert part.autoencoder is model.autoencoder
    whole, alone = model.generate(3, where="mood=glad"), part.generate(3)
    assert torch.equal(whole.images, alone.images)
    assert whole.shares() == alone.shares()
    assert torch.equal(model.generate(3, where=model.bank.select(lambda row: row["mood"] == "glad")).index, whole.index)
    assert part.bank.digest() != model.bank.digest()
    with refuses("positions"):
        model.bank.subset([1, 2])
    with refuses("positions"):
        model.bank.subset([])


def test_precision_is_of_the_call_or_of_the_model(face_images):
    model = LatentPatch("embedded", 8).fit(face_images)
    exact, quick = model.generate(2), model.generate(2, precision="bfloat16")
    assert not torch.equal(exact.images, quick.images)
    assert (exact.images - quick.images).abs().max() < 0.1
    model.precision = "bfloat16"
    assert torch.equal(model.generate(2).images, quick.images)
    assert torch.equal(model.generate(2, precision="float32").images, exact.images)
    operations = [
        model.generating(seeds=[seed], precision=precision) for seed in (0, 1) for precision in ("float32", None)
    ]
    for result, images in zip(model.run_together(operations), (exact.images, quick.images) * 2, strict=True):
        assert torch.equal(result.images[0], images[result.seeds[0]])
    with refuses("precision"):
        model.precision = "half"
    with refuses("precision"):
        model.generate(1, precision="half")


# --- codebooks -----------------------------------------------------------------------------------------


def test_codebook_banks_hold_two_bytes_a_cell(face_images):
    network = CodedPixels()
    model = LatentPatch(network, 8).fit(face_images)
    assert model.bank.latents.dtype == torch.int16
    assert model.bank.latents[0].numel() * 2 == 512
    result = model.generate(3, decoding="gather")
    torch.testing.assert_close(result.images, network.decode(network.quantize(network.encode(result.images))))
    # Through the PCA the nearest codes come back, mostly the same.
    unprojected = model.decode(result.index, "unproject")
    torch.testing.assert_close(unprojected, network.decode(network.quantize(network.encode(unprojected))))
    model.remove("3")
    assert all("3" not in shares for shares in model.generate(5).shares())


# --- editing -------------------------------------------------------------------------------------------


def test_edit_copies_the_donor_under_the_mask(model, face_images):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:32, 8:40] = True
    result = model.edit(face_images[0], face_images[1], mask)
    torch.testing.assert_close(result.images[0][:, mask], face_images[1][:, mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.images[0][:, ~mask], face_images[0][:, ~mask], atol=1e-5, rtol=0)
    assert result.shares() == [{"donor": pytest.approx(float(mask.float().mean()))}]
    assert (result.index[0, 4:8, 2:10] == 0).all()
    named = model.edit(face_images[0], "source:1", mask)
    assert named.shares() == [{"1": pytest.approx(float(mask.float().mean()))}]
    torch.testing.assert_close(named.images, result.images, atol=1e-3, rtol=0)
    bare = LatentPatch("pixels:4").edit(face_images[0], face_images[1], mask, composite=True)
    assert torch.equal(bare.images[0][:, ~mask], face_images[0][:, ~mask])


def test_edit_takes_cells_that_are_half_covered(model, face_images):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[0:6, 0:5] = True  # covers cell (0, 0), half of (1, 0), a quarter of (0, 1)
    index = model.edit(face_images[0], face_images[1], mask).index[0]
    assert (index == 0).nonzero().tolist() == [[0, 0], [1, 0]]


def test_inpainting_keeps_what_is_not_masked(model, face_images):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[30:51, 20:45] = True
    result = model.inpaint(face_images[2], mask, 5, settings=RasterSettings(patch_size=4))
    assert torch.equal(result.images[:, :, ~mask], face_images[2][:, ~mask].expand(5, -1, -1))
    assert len({tuple(row.flatten().tolist()) for row in result.index}) > 1, "several different fillings"
    blank = torch.where(mask, 0.0, face_images[2])
    torch.testing.assert_close(
        model.inpaint(blank, mask, 5, settings=RasterSettings(patch_size=4)).images, result.images
    )
    alone = model.inpaint(face_images[2], mask, 1, seed=3, settings=RasterSettings(patch_size=4))
    assert torch.equal(alone.images[0], result.images[3])


def test_inpainting_a_source_finds_it_again(model, face_images):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[24:36, 24:36] = True
    result = model.inpaint(face_images[2], mask, settings=RasterSettings(neighbors=1))
    torch.testing.assert_close(result.images[0], face_images[2], atol=2e-3, rtol=0)


def test_masks_are_checked(model, face_images):
    with refuses("mask"):
        model.edit(face_images[0], face_images[1], torch.zeros(64, 64, dtype=torch.bool))
    for mask in (torch.ones(64, 64), torch.ones(32, 32, dtype=torch.bool)):
        with refuses("mask"):
            model.inpaint(face_images[0], mask)


def test_reconstruction_checks_its_range(model, face_images):
    with refuses("image"):
        model.reconstruct(face_images * 255)


def test_attributes_are_read_before_encoding(tmp_path, face_images, monkeypatch):
    monkeypatch.setattr("latentpatch.fitting.encode_sources", lambda *_, **__: pytest.fail("encoding began"))
    with pytest.raises(FileError) as caught:
        LatentPatch("pixels:4").fit(face_images, attributes=tmp_path / "none.csv")
    assert caught.value.path == tmp_path / "none.csv"


def test_reconstruction(model, face_images):
    torch.testing.assert_close(model.reconstruct(face_images[3])[0], face_images[3], atol=1e-6, rtol=0)
    reduced = model.reconstruct(face_images, reduced=True)
    error = (reduced - face_images).square().mean()
    left_out = (model.pca.total_variance - model.pca.explained_variance.sum()) / 48
    torch.testing.assert_close(error, left_out, rtol=0.1, atol=0)


# --- as a module ---------------------------------------------------------------------------------------


def test_forward_inside_a_larger_model(model):
    network = nn.Sequential(model, nn.AvgPool2d(4))
    noise = torch.rand(3, model.steps, generator=torch.Generator().manual_seed(0))
    images = network(noise)
    assert images.shape == (3, 3, 16, 16)
    assert torch.equal(network(noise[1:2])[0], images[1])
    assert torch.equal(model(torch.ones(1, model.steps)), model(torch.full((1, model.steps), 1 - 2**-24)))
    with refuses("noise"):
        model(torch.rand(3, 7))


def test_state_dict_round_trip(tmp_path, model):
    path = tmp_path / "state.pt"
    torch.save(model.state_dict(), path)
    fresh = LatentPatch("pixels:4", 8)
    fresh.load_state_dict(torch.load(path, weights_only=True))
    assert fresh.bank.ids == model.bank.ids
    assert torch.equal(fresh.generate(3).images, model.generate(3).images)
    assert fresh.generate(3).shares() == model.generate(3).shares()


def test_state_dict_carries_settings_and_components(face_images):
    model = LatentPatch("pixels:4", 8, RasterSettings(neighbors=1, scales=2)).fit(face_images)
    fresh = LatentPatch("pixels:4", 16)
    fresh.load_state_dict(model.state_dict())
    assert (fresh.settings, fresh.components) == (model.settings.in_cells(model.bank.grid), 8)
    assert torch.equal(fresh.generate(2).index, model.generate(2).index)
    state = model.state_dict()
    state["bank.keys"] = state["bank.keys"][:3]
    with refuses("ids"):
        LatentPatch("pixels:4", 8).load_state_dict(state)


@pytest.mark.parametrize("convert", ["float", "half", "double", "bfloat16"])
def test_conversions_leave_what_was_fitted_alone(tmp_path, face_images, convert):
    network = load_autoencoder("embedded", pretrained=False)
    model = LatentPatch(network, settings=RasterSettings(patch_size=2)).fit(face_images[:4])
    expected, original = model.generate(2), copy.deepcopy(network)
    getattr(model, convert)()
    result = model.generate(2)
    assert torch.equal(result.index, expected.index)
    assert result.images.dtype == torch.float32
    assert (result.images - expected.images).abs().max() < 0.05
    assert model.bank.latents.dtype == torch.float16
    assert model.pca.basis.dtype == torch.float32
    assert model.reconstruct(face_images[0]).isfinite().all()
    if convert != "float":
        model.float()
    model.save(tmp_path / "model.safetensors")
    assert len(LatentPatch.load(tmp_path / "model.safetensors", original).bank) == 4


def test_gradients_reach_a_decoder_that_wants_them(face_images):
    network = load_autoencoder("embedded", pretrained=False)
    model = LatentPatch(network, settings=RasterSettings(patch_size=2)).fit(face_images[:4])
    noise = torch.rand(1, model.steps)
    assert not model(noise).requires_grad
    network.decoder.requires_grad_(True)
    model(noise).mean().backward()
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())
    assert not model.generate(1).images.requires_grad
    model.train()
    assert not network.training, "pretrained networks stay in evaluation mode"


def test_autocast_around_it_does_not_change_what_is_encoded(face_images):
    network = load_autoencoder("embedded", pretrained=False)
    with torch.autocast("cpu", torch.bfloat16):
        inside = network.encode(face_images[:1])
    assert torch.equal(inside, network.encode(face_images[:1]))


def test_skipped_files_leave_no_memory_behind(tmp_path, faces):
    for path in faces.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "face03.png").write_text("no picture")
    model = LatentPatch("pixels:4", 8).fit(tmp_path, size=64, skip_bad=True)
    assert len(model.bank) == 11
    assert model.bank.latents.untyped_storage().nbytes() == model.bank.latents.numel() * 2
    assert [path.name for path, _ in model.skipped] == ["face03.png"]


def test_codes_beyond_the_codebook_are_refused(tmp_path, face_images):
    model = LatentPatch(CodedPixels(), 8).fit(face_images)
    path = tmp_path / "model.safetensors"
    model.bank.latents[0, 0, 0] = 64
    model.save(path)
    with pytest.raises(FileError, match="codes must be below the 64 of coded"):
        LatentPatch.load(path, model.autoencoder)


@pytest.mark.slow(4)
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory as Linux reports it")
def test_memory_beside_a_large_bank_is_small():
    """Fitting and searching 8,000 sources takes little more than the bank takes itself."""
    script = """
import resource, torch
from latentpatch import PCA, SourceBank, RasterSettings
from latentpatch.bank.latents import chunks
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.ops.noise import noise_from_seeds
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
torch.set_num_threads(1)
small = torch.rand(50, 16, 16, 48).half()
def run(latents, n=1):
    pca = PCA().fit(chunks(latents), 16)
    bank = SourceBank().fill(latents, [str(i) for i in range(len(latents))], pca)
    settings = RasterSettings(scales=2)
    raster(bank.keys, noise_from_seeds(range(n), raster_steps((16, 16), settings)), settings)
    return bank
run(small)
latents = torch.empty(8000, 16, 16, 48, dtype=torch.float16)
for chunk in latents.split(100):
    chunk.copy_(torch.rand(chunk.shape))
before = peak()
bank = run(latents)
own = bank.keys.nbytes + bank.latents.nbytes
print((peak() - before) / own)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(output) < 1.5


def test_copies_and_pickles_are_equal(model):
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.generate(2).images, model.generate(2).images)
    model.remove("1")
    assert "1" in other.bank.ids


def test_save_and_load(tmp_path, face_images):
    known = {str(i): {"name": f"Zoë {i}"} for i in range(12)}
    model = LatentPatch("pixels:4", 8, RasterSettings(patch_size=5, neighbors=2)).fit(face_images, attributes=known)
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = LatentPatch.load(path)
    assert loaded.settings == model.settings
    assert loaded.bank.attributes == model.bank.attributes
    assert torch.equal(loaded.generate(4).images, model.generate(4).images)
    with safe_open(path, "pt") as stored:
        header = json.loads(stored.metadata()["latentpatch"])
    assert header["autoencoder"]["name"] == "pixels"
    assert header["autoencoder"]["license"] == "none"
    assert header["autoencoder"]["sha256"] == model.autoencoder.fingerprint()
    assert header["settings"]["patch_size"] == 5
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_load_refuses_other_weights(tmp_path, face_images):
    network = load_autoencoder("taef2", pretrained=False)
    path = tmp_path / "model.safetensors"
    LatentPatch(network).fit(face_images[:4]).save(path)
    loaded = LatentPatch.load(path, network)
    assert len(loaded.bank) == 4
    with pytest.raises(WeightsError, match="was fitted with taef2 of SHA-256"):
        LatentPatch.load(path, load_autoencoder("taef2", pretrained=False))


def test_load_refuses_other_files(tmp_path, model):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileError, match="not a readable model file") as caught:
        LatentPatch.load(path)
    assert caught.value.path == path
    path.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(FileError, match="not a readable model file"):
        LatentPatch.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="not a latentpatch model file"):
        LatentPatch.load(path)
    model.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="not a readable model file"):
        LatentPatch.load(path)
    path.write_bytes(whole)
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys() if name != "bank.keys"}  # noqa: SIM118
    save_file(tensors, path, metadata)
    with pytest.raises(FileError, match="malformed model file: ids"):
        LatentPatch.load(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda header, tensors: header["autoencoder"].update(name=5), "name must be text, got 5"),
        (lambda header, tensors: header["autoencoder"].update(argument=[1]), "argument must be text"),
        (lambda header, tensors: header["autoencoder"].update(name="magic"), "autoencoder must be one of"),
        (lambda header, tensors: header.update(components=5), "with 5 components"),
        (lambda header, tensors: header["settings"].update(neighbors="3"), "neighbors must be"),
        (lambda header, tensors: header.pop("autoencoder"), "autoencoder"),
        (lambda header, tensors: tensors.update({"bank.keys": tensors["bank.keys"].float()}), "keys must be int16"),
        (
            lambda header, tensors: tensors.update({"bank.keys": tensors["bank.keys"][:5]}),
            "ids must be one for",
        ),
        (lambda header, tensors: tensors.update({"bank.keys": torch.tensor(3, dtype=torch.int16)}), "ids must be one"),
        (lambda header, tensors: tensors["bank.keys"].fill_(9000), "keys must not be longer than 2047"),
        (lambda header, tensors: tensors["bank.latents"].fill_(float("nan")), "latents must be finite"),
        (lambda header, tensors: tensors.update({"bank.latents": tensors["bank.latents"][:, :8]}), "latents of shape"),
        (lambda header, tensors: tensors["bank.key_step"].fill_(float("nan")), "key_step"),
        (lambda header, tensors: tensors.update({"pca.basis": tensors["pca.basis"][:, :9]}), "PCA of shapes"),
        (lambda header, tensors: tensors["pca.mean"].fill_(float("inf")), "pca.mean must be finite"),
        (lambda header, tensors: tensors.update(extra=torch.zeros(1)), "unexpected tensor 'extra'"),
    ],
)
def test_load_checks_that_parts_fit(tmp_path, model, change, text):
    path = tmp_path / "model.safetensors"
    model.save(path)
    with safe_open(path, "pt") as stored:
        header = json.loads(stored.metadata()["latentpatch"])
        tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {"latentpatch": json.dumps(header)})
    with pytest.raises(FileError, match=text):
        LatentPatch.load(path)


def test_a_bank_can_be_decoded_by_an_autoencoder_of_the_same_latent_space(tmp_path, face_images):
    teacher, student = (load_autoencoder(name, pretrained=False) for name in ("taef2", "embedded"))
    model = LatentPatch(teacher, settings=RasterSettings(patch_size=2)).fit(face_images[:4])
    path = tmp_path / "model.safetensors"
    model.save(path)
    other = LatentPatch.load(path, student)
    assert torch.equal(other.generate(1).index, model.generate(1).index)
    assert not torch.equal(other.generate(1).images, model.generate(1).images)
    with pytest.raises(WeightsError, match="was fitted with taef2"):
        LatentPatch.load(path, "pixels")


def test_load_refuses_other_pixels(tmp_path, model):
    path = tmp_path / "model.safetensors"
    model.save(path)
    with pytest.raises(WeightsError, match="was fitted with pixels"):
        LatentPatch.load(path, "pixels:8")


def test_components_are_checked():
    for components in (0, 49, True, 8.0):
        with refuses("components"):
            LatentPatch("pixels:4", components)


def test_empty_bank_has_no_sources():
    assert len(SourceBank()) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the model on CUDA was not tested")
def test_moves_to_a_gpu(model):
    on_cpu = model.generate(5)
    on_gpu = model.to("cuda").generate(5)
    assert torch.equal(on_gpu.index.cpu(), on_cpu.index)
    torch.testing.assert_close(on_gpu.images.cpu(), on_cpu.images)


def test_few_sources_get_the_preset_few(face_images):
    pictures = (
        torch.cat([face_images, face_images.flip(2)]).repeat(2, 1, 1, 1)[:40]
        * torch.linspace(0.5, 1, 40)[:, None, None, None]
    )
    ids = [f"p{i:02d}" for i in range(40)]
    attributes = {name: {"kind": "rare" if i < 8 else "usual"} for i, name in enumerate(ids)}
    model = LatentPatch("pixels:4", 8).fit(pictures, ids=ids, attributes=attributes, groups=False)
    assert min(model.bank.grid) == 16
    assert model.settings == PRESETS["balanced"]
    some = model.generate(2, where="kind=rare")
    assert some.settings == model.generate(2, where="kind=rare", settings=PRESETS["few"]).settings
    for name, few in (("rare", True), ("usual", False)):
        part = model.subset(f"kind={name}")
        assert part.settings == PRESETS["few" if few else "balanced"]
    assert model.with_settings(stride=2) == PRESETS["balanced"].changed(stride=2)
    model.settings = PRESETS["balanced"]
    assert model.generate(1, where="kind=rare").settings.stride == 1


def test_numbers_of_numpy_and_torch_are_numbers(model):
    wanted = model.generate(2, seed=3).images
    for count, seed in ((np.int64(2), np.uint8(3)), (torch.tensor(2), torch.tensor(3))):
        assert model.generate(count, seed=seed).images.equal(wanted)
    for seeds in (np.arange(3, 5), torch.arange(3, 5)):
        assert model.generate(seeds=seeds).images.equal(wanted)
    settings = ResynthesisSettings(sweeps=np.int64(3), max_share=np.float32(0.5))
    assert settings == ResynthesisSettings(sweeps=3, max_share=0.5)
    assert type(settings.sweeps) is int
    for wrong in (np.bool_(True), np.float64(2), torch.tensor(2.0), np.arange(2)):
        with refuses("n"):
            model.generate(wrong)
