"""The diffusers family against diffusers' own calls, with random weights of tiny configurations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentpatch.autoencoders.hf_diffusers import DiffusersAutoencoder
from latentpatch.autoencoders.registry import load_autoencoder
from latentpatch.errors import MissingDependencyError, WeightsError
from latentpatch.runs.defaults import plain_torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of weights for every test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@plain_torch()
def build(kind: str, levels: int = 3, **changes: Any) -> nn.Module:
    """A tiny network of a class, downsampling by ``2 ** (levels - 1)``, with seeded random weights."""
    torch.manual_seed(0)
    widths = (16,) * levels
    if kind == "AutoencoderTiny":
        options = {
            "encoder_block_out_channels": widths,
            "decoder_block_out_channels": widths,
            "num_encoder_blocks": (1,) * levels,
            "num_decoder_blocks": (1,) * levels,
            "latent_channels": 2,
        }
    else:
        options = {
            "block_out_channels": widths,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "norm_num_groups": 4,
            "sample_size": 48,
            "latent_channels": 2,
        }
    if kind == "VQModel":
        options |= {"num_vq_embeddings": 20, "vq_embed_dim": 3}
    network = getattr(diffusers, kind)(**options, **changes).eval().requires_grad_(False)
    if kind == "VQModel":
        nn.init.normal_(network.quantize.embedding.weight)  # as wide as the latents
    return network


@plain_torch()
def images(count: int = 2, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float32)


def folded(latents: Tensor, fold: int) -> Tensor:
    """Stack blocks of cells into channels, by reshaping alone."""
    n, c, h, w = latents.shape
    blocks = latents.reshape(n, c, h // fold, fold, w // fold, fold)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, c * fold**2, h // fold, w // fold)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # Not exact: the reference's convolutions are not in channels-last and take the batch at once.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("levels", "fold"), [(3, 4), (4, 2), (5, 1), (6, 1)])
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "VQModel"])
def test_equals_direct_calls(kind: str, levels: int, fold: int, tmp_path: Path) -> None:
    network = build(kind, levels)
    network.save_pretrained(tmp_path)
    model = load_autoencoder(f"diffusers:{tmp_path}")
    step = max(16, 2 ** (levels - 1))
    x = images(height=2 * step, width=3 * step)

    encoded = network.encode(2 * x - 1)
    expected = encoded.latent_dist.mode() if kind == "AutoencoderKL" else encoded.latents
    latents = model.encode(x)
    assert latents.shape == (2, model.spec.latent_channels, 2, 3)
    assert model.spec.downsampling == step
    assert_close(latents, folded(expected, fold))

    options = {"force_not_quantize": True} if kind == "VQModel" else {}
    decoded = ((network.decode(expected, **options).sample + 1) / 2).clamp(0, 1)
    assert decoded.shape == x.shape
    assert_close(model.decode(latents), decoded)
    assert model.decode(latents[:0]).shape == (0, 3, 2 * step, 3 * step)

    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (model.codebook is None) == (kind != "VQModel")
    assert model.spec.argument == str(tmp_path)


def test_codebook_of_folded_latents(tmp_path: Path) -> None:
    network = build("VQModel", levels=3)
    network.save_pretrained(tmp_path)
    model = load_autoencoder(f"diffusers:{tmp_path}")
    assert torch.equal(model.codebook, network.quantize.embedding.weight)
    assert model.spec.codebook_size == 20
    fine = torch.randn(
        2, 3, 8, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float32
    )  # f4, before folding
    latents = folded(fine, 4)
    expected, _, (_, _, indices) = network.quantize(fine)
    codes = model.codes(latents)
    assert codes.shape == (2, model.fold**2, 8 // model.fold, 12 // model.fold)
    assert torch.equal(torch.nn.functional.pixel_shuffle(codes, model.fold).flatten(), indices.flatten())
    # Not exact: diffusers gives z + (code - z) for straight-through gradients.
    assert_close(model.quantize(latents), folded(expected, 4))
    assert torch.equal(model.lookup(codes), model.quantize(latents))
    assert torch.equal(model.quantize(model.quantize(latents)), model.quantize(latents))
    assert model.codes(latents[:0]).shape == (0, *codes.shape[1:])
    # Decoding takes latents as they are.
    assert (model.decode(latents) - model.decode(model.quantize(latents))).abs().max() > 1e-3


@pytest.mark.usefixtures("float32")
def test_lookup_from_codebook_does_not_turn_latents_into_indices(tmp_path: Path) -> None:
    network = build("VQModel", lookup_from_codebook=True)
    network.save_pretrained(tmp_path)
    model = load_autoencoder(f"diffusers:{tmp_path}")
    latents = torch.randn(1, 3, 8, 8)
    expected = (network.decoder(network.post_quant_conv(latents)) + 1) / 2
    assert_close(model.decode(folded(latents, 4)), expected.clamp(0, 1))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    network = build("AutoencoderTiny").half()
    network.save_pretrained(tmp_path)
    model = load_autoencoder(f"diffusers:{tmp_path}")
    for built in (model, DiffusersAutoencoder(build("AutoencoderTiny").half())):
        assert {value.dtype for value in built.state_dict().values()} == {torch.float32}
    assert_close(model.encode(images()), folded(network.float().encode(2 * images() - 1).latents, 4))


def test_subfolders_and_names_with_an_at(tmp_path: Path) -> None:
    network = build("AutoencoderTiny")
    network.save_pretrained(tmp_path / "repository" / "vae")
    network.save_pretrained(tmp_path / "taesd@256")
    inside = load_autoencoder(f"diffusers:{tmp_path / 'repository'}@vae")
    beside = load_autoencoder(f"diffusers:{tmp_path / 'taesd@256'}")
    assert inside.fingerprint() == beside.fingerprint()


def test_random_weights_need_a_local_config(tmp_path: Path) -> None:
    build("AutoencoderTiny").save_config(tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    model = load_autoencoder(f"diffusers:{tmp_path}", pretrained=False)
    assert model.decode(model.encode(images())).shape == images().shape
    for argument in ("nobody/nothing", str(tmp_path / "missing")):
        with refuses("autoencoder"):
            load_autoencoder(f"diffusers:{argument}", pretrained=False)


@pytest.mark.parametrize("pretrained", [True, False])
def test_argument_is_required(pretrained: bool) -> None:
    with refuses("autoencoder"):
        load_autoencoder("diffusers", pretrained=pretrained)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    build("AutoencoderTiny").save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "diffusion_pytorch_model.bin").is_file()
    with pytest.raises(WeightsError, match=WEIGHTS):
        load_autoencoder(f"diffusers:{tmp_path}")


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("garbage", WEIGHTS),
        ("truncated", WEIGHTS),
        ("missing", "encoder.layers.0.weight"),
        ("unknown", "extra.weight"),
        ("misshapen", "encoder.layers.0.bias"),
        ("nan", "NaN"),
        ("class", "UNet2DModel"),
        ("json", "config"),
        ("list", "got None"),
        ("channels", "got 4 in"),
    ],
)
def test_unusable_files(fault: str, complaint: str, tmp_path: Path) -> None:
    changes = {"in_channels": 4} if fault == "channels" else {}
    build("AutoencoderTiny", **changes).save_pretrained(tmp_path)
    weights, config = tmp_path / WEIGHTS, tmp_path / "config.json"
    tensors = load_file(weights)
    match fault:
        case "garbage":
            weights.write_bytes(b"<html>gone</html>")
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "missing":
            del tensors["encoder.layers.0.weight"]
        case "unknown":
            tensors["extra.weight"] = torch.ones(1)
        case "misshapen":
            tensors["encoder.layers.0.bias"] = torch.ones(5)
        case "nan":
            tensors["encoder.layers.0.weight"][0] = torch.nan
        case "class":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "UNet2DModel"}))
        case "json":
            config.write_text("{")
        case "list":
            config.write_text("[]")
    if fault in ("missing", "unknown", "misshapen", "nan"):
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(f"diffusers:{tmp_path}")
    assert str(tmp_path) in str(caught.value)
    assert complaint in str(caught.value)


def test_failed_download_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", fail)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder("diffusers:somebody/something@vqvae")
    message = str(caught.value)
    assert "https://huggingface.co/somebody/something" in message
    assert f"config.json and {WEIGHTS} of its folder vqvae" in message
    assert "the folder that holds them after the colon" in message


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependencyError) as caught:
        load_autoencoder(f"diffusers:{tmp_path}")
    assert (caught.value.package, caught.value.extra) == ("diffusers", "diffusers")
