"""Contract of every registered autoencoder (:class:`latentpatch.autoencoders.Autoencoder`), with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.autoencoders import AUTOENCODERS, Autoencoder, load_autoencoder
from latentpatch.autoencoders import vqgan as vqgan_family

CELLS = (1, 2)
TINY_DIFFUSERS = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8],
    "num_encoder_blocks": [1, 1, 1],
    "num_decoder_blocks": [1, 1, 1],
}


def build(name: str, folder: Path) -> Autoencoder:
    """Return an autoencoder with random weights, small where the family can be built small; skip without packages."""
    torch.manual_seed(0)
    family = AUTOENCODERS[name]
    if family == "vqgan":
        pytest.importorskip("taming.modules", reason="taming-transformers is not installed")
        small = vqgan_family.VQGANConfig(16, 8, 8, resolution=32, ch=32, ch_mult=(1, 1, 2), num_res_blocks=1)
        return vqgan_family._build(name=name, config=small)
    if family == "hf_diffusers":
        pytest.importorskip("diffusers", reason="diffusers is not installed")
        (folder / "config.json").write_text(json.dumps(TINY_DIFFUSERS))
        return load_autoencoder(name, str(folder), pretrained=False)
    return load_autoencoder(name, pretrained=False)


@pytest.fixture(scope="module", params=list(AUTOENCODERS))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return build(request.param, tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module")
def images(network: Autoencoder) -> Tensor:
    """Images of 1x2 cells, one more than a chunk."""
    step = network.spec.downsampling
    generator = torch.Generator().manual_seed(1)
    return torch.rand(network.chunk_size + 1, 3, CELLS[0] * step, CELLS[1] * step, generator=generator)


@pytest.fixture(scope="module")
def latents(network: Autoencoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.encode(images)


def test_the_spec_names_it(network: Autoencoder, request: pytest.FixtureRequest) -> None:
    assert network.spec.name in AUTOENCODERS
    identity = json.loads(json.dumps(network.identity()))
    assert identity["sha256"] == network.fingerprint()
    assert (identity["name"], identity["fold"]) == (network.spec.name, network.fold)


def test_shapes_types_and_ranges(network: Autoencoder, images: Tensor, latents: Tensor) -> None:
    spec = network.spec
    assert network.grid(*images.shape[2:]) == CELLS
    assert (latents.shape, latents.dtype) == ((len(images), spec.latent_channels, *CELLS), torch.float32)
    decoded = network.decode(4 * latents)
    assert (decoded.shape, decoded.dtype) == (images.shape, torch.float32)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert network.encode(images[:0]).shape == latents[:0].shape
    assert network.decode(latents[:0]).shape == images[:0].shape


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_image_is_the_same_in_any_batch(
    network: Autoencoder, images: Tensor, latents: Tensor, dtype: torch.dtype | None
) -> None:
    with torch.no_grad():
        together, decoded = network.encode(images, dtype), network.decode(latents, dtype)
        for i in (0, len(images) - 1):
            assert torch.equal(network.encode(images[i : i + 1], dtype)[0], together[i])
            assert torch.equal(network.decode(latents[i : i + 1], dtype)[0], decoded[i])


def test_the_precision_is_that_of_the_call(network: Autoencoder, images: Tensor, latents: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(network.encode(images, torch.float32), latents)
        with torch.autocast("cpu", torch.bfloat16):  # a caller's autocast changes nothing
            assert torch.equal(network.encode(images), latents)
        quick = network.encode(images, torch.bfloat16)
        assert quick.dtype == torch.float32
        assert (quick - latents).abs().mean() < 0.1 * latents.abs().mean()
        exact, quick = network.decode(latents), network.decode(latents, torch.bfloat16)
        assert quick.dtype == torch.float32
        assert (quick - exact).abs().max() < 0.1


def test_other_sizes_are_refused(network: Autoencoder) -> None:
    step = network.spec.downsampling
    for height, width in ((step + 1, step), (step, 0), (0, step), (-step, step)):
        with refuses("size"):
            network.grid(height, width)
    with refuses("size"):
        network.encode(torch.rand(1, 3, step, step + 1))


def test_other_tensors_are_refused(network: Autoencoder, images: Tensor, latents: Tensor) -> None:
    for wrong in (images[0], images[:, :1], images.repeat(1, 2, 1, 1)):
        with refuses("images"):
            network.encode(wrong)
    for wrong in ((images * 255).byte(), images.tolist()):
        with refuses("images", TypeError):
            network.encode(wrong)
    for wrong in (latents[0], latents[:, :-1]):
        with refuses("latents"):
            network.decode(wrong)


def test_codes_stand_for_their_latents(network: Autoencoder, latents: Tensor) -> None:
    size = network.spec.codebook_size
    if size is None:
        assert network.codebook is None
        assert network.quantize(latents) is latents
        assert torch.equal(network.dequantize(latents.half()), latents.half().float())
        with pytest.raises(ValueError, match="no codebook"):
            network.codes(latents)
        return
    assert network.codebook is not None
    assert network.codebook.shape == (size, network.spec.latent_channels // network.fold**2)
    codes = network.codes(latents)
    assert (codes.shape, codes.dtype) == ((len(latents), network.fold**2, *CELLS), torch.int64)
    assert 0 <= int(codes.min()) <= int(codes.max()) < size
    quantized = network.quantize(latents)
    assert torch.equal(network.dequantize(codes.short()), quantized)
    assert torch.equal(network.codes(quantized), codes)


def test_weights_are_frozen_and_gradients_reach_the_inputs(
    network: Autoencoder, images: Tensor, latents: Tensor
) -> None:
    assert not network.train().training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for function, value in ((network.encode, images), (network.decode, latents)):
        inputs = value[:1].clone().requires_grad_(True)
        function(inputs).square().sum().backward()
        assert inputs.grad is not None
        assert inputs.grad.isfinite().all()
