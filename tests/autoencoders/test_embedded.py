"""The autoencoders the package carries, and the examples: what a fresh clone without a network has."""

from __future__ import annotations

import copy
import pickle
import socket
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

from latentpatch import LatentPatch, WeightsError, load_autoencoder
from latentpatch.autoencoders import embedded
from latentpatch.io.images import list_images, read_image

EXAMPLES = ROOT / "examples" / "portraits"


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    return torch.stack([read_image(path) for path in list_images(EXAMPLES)[:16]])


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_examples_are_complete_and_small():
    paths = list_images(EXAMPLES)
    assert len(paths) == 64
    assert sum(path.stat().st_size for path in paths) < 2 * 2**20
    assert all(read_image(path).shape == (3, 256, 256) for path in paths)


def test_weights_are_small_and_half_precision():
    files = sorted(embedded._FOLDER.glob("*.safetensors"))
    assert {path.name for path in files} == set(embedded._SHA256)
    assert all(path.stat().st_size <= 8 * 10**6 for path in files)


@pytest.mark.parametrize(("name", "least"), [("embedded", 32), ("embedded-vq", 27)])
def test_reconstructs_portraits(name, least, portraits):
    network = load_autoencoder(name)
    made = network.decode(network.quantize(network.encode(portraits)))
    psnr = -10 * (made - portraits).square().mean((1, 2, 3)).log10().mean()
    assert psnr > least


def test_is_the_default_and_generates_offline(portraits):
    model = LatentPatch().fit(portraits)
    assert model.autoencoder.spec.name == "embedded"
    result = model.generate(4)
    assert result.images.shape == (4, 3, 256, 256)
    assert result.images.std() > 0.1


@pytest.mark.parametrize("name", ["embedded", "embedded-vq"])
def test_mosaics_are_blended(name, portraits):
    """Along the borders between cells of different sources, pictures change hardly more than elsewhere."""
    pixels = LatentPatch("pixels").fit(portraits).generate(8, sampler="random-cells").images
    made = LatentPatch(name).fit(portraits).generate(8, sampler="random-cells").images

    def squares(images: torch.Tensor) -> float:
        """Mean change across cell borders over that two pixels beside them."""
        change = images.diff(dim=3).abs().mean((0, 1, 2))
        return float(change[15::16].mean() / (change[13::16].mean() + change[17::16].mean()) * 2)

    assert squares(pixels) > 3
    assert squares(made) < 1.5


def test_image_does_not_depend_on_its_batch(portraits):
    network = load_autoencoder("embedded")
    latents = network.encode(portraits[:6])
    assert torch.equal(network.encode(portraits[4:5])[0], latents[4])
    images = network.decode(latents)
    assert torch.equal(network.decode(latents[5:6])[0], images[5])


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for path in embedded._FOLDER.glob("*.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(embedded, "_FOLDER", tmp_path)
    load_autoencoder("embedded")
    path = tmp_path / "embedded_decoder.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"embedded_decoder.safetensors: not the file"):
        load_autoencoder("embedded")
    path.unlink()
    with pytest.raises(WeightsError, match=r"embedded_decoder.safetensors: not a readable"):
        load_autoencoder("embedded")


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["embedded", "embedded-vq"])
def test_packed_networks_compute_the_same(name, half):
    network = getattr(load_autoencoder(name), half).to(torch.bfloat16).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 64, 64), (1, 3, 80, 112)]
    if half == "decoder":
        shapes = [(number, network[0].in_channels, side // 4, wide // 4) for number, _, side, wide in shapes]
    example, other = (
        torch.randn(shape, generator=generator).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        for shape in shapes
    )
    with torch.inference_mode():
        if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            pytest.skip("oneDNN packs no convolutions in bfloat16 on this machine")
        quick = embedded._packed(network, example)
        assert quick is not network
        for x in (example, other):
            found, expected = quick(x), network(x)
            assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_what_cannot_be_packed_is_used_as_it_is(monkeypatch):
    decoder = load_autoencoder("embedded").decoder
    example = torch.zeros(1, 128, 4, 4)
    with torch.inference_mode():
        monkeypatch.setattr(embedded, "works", lambda packed, example, expected: False)
        assert embedded._packed(decoder, example) is decoder
        monkeypatch.undo()
        monkeypatch.setattr(embedded, "PackedConvolution", lambda *arguments: torch.ops.mkldnn._no_such_operator)
        assert embedded._packed(decoder, example) is decoder


def test_bfloat16_survives_copies():
    network = load_autoencoder("embedded")
    latents = torch.randn(2, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    images = network.decode(latents, torch.bfloat16)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other.decode(latents, torch.bfloat16), images)
    assert torch.equal(network.decode(latents, torch.bfloat16), images)


def test_bfloat16_follows_weights_that_change():
    """Weights are cast once, and again after they were written to; the state is that of the network alone."""
    network = load_autoencoder("embedded")
    latents = torch.randn(2, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    names = set(network.state_dict())
    exact = network.decode(latents)
    first, again = (network.decode(latents, torch.bfloat16) for _ in range(2))
    assert torch.equal(first, again)
    assert (first - exact).abs().max() < 0.05
    with torch.no_grad():
        network.decoder[0].weight.mul_(0)
    assert not torch.equal(network.decode(latents, torch.bfloat16), first)
    assert set(network.state_dict()) == names
