"""The VQGAN family against the modules of taming-transformers, with random weights."""

from __future__ import annotations

import argparse
import os
import sys
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentpatch.autoencoders import vqgan as family
from latentpatch.autoencoders import weights
from latentpatch.autoencoders.registry import AUTOENCODERS, load_autoencoder
from latentpatch.errors import MissingDependencyError, WeightsError
from latentpatch.runs.defaults import plain_torch

pytest.importorskip("taming.modules.diffusionmodules.model", reason="taming-transformers is not installed")

NAMES = [name for name, module in AUTOENCODERS.items() if module == "vqgan"]
SMALL = family.VQGANConfig(
    n_embed=24, embed_dim=6, z_channels=8, resolution=32, ch=32, ch_mult=(1, 1), num_res_blocks=1
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights for every test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints" / "latentpatch"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a member of the family that has a small configuration in this test."""
    monkeypatch.setitem(family._CONFIGS, "vqgan-ffhq", SMALL)
    return "vqgan-ffhq"


class Reference(nn.Module):
    """taming.models.vqgan.VQModel without Lightning, put together from the package's own modules."""

    @plain_torch()
    def __init__(self, config: family.VQGANConfig, seed: int = 0) -> None:
        from taming.modules.diffusionmodules.model import Decoder, Encoder
        from taming.modules.vqvae.quantize import VectorQuantizer

        super().__init__()
        torch.manual_seed(seed)
        sizes = dict(asdict(config), in_channels=3, out_ch=3, double_z=False)
        self.encoder = Encoder(**sizes)
        self.decoder = Decoder(**sizes)
        self.quantize = VectorQuantizer(config.n_embed, config.embed_dim, beta=0.25)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        # As wide as the latents of random weights; the package's own start, within 1 / n_embed, makes all codes alike.
        nn.init.normal_(self.quantize.embedding.weight, std=0.2)
        self.eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


def with_loss(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Add what the perceptual loss and the discriminator leave in a checkpoint."""
    return OrderedDict(
        state,
        **{
            "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1),
            "loss.discriminator.main.0.weight": torch.ones(64, 3, 4, 4),
            "loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
        },
    )


def in_transformer(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Nest a VQGAN as the checkpoints of transformers do."""
    nested = OrderedDict((f"first_stage_model.{key}", value) for key, value in state.items())
    nested["transformer.tok_emb.weight"] = torch.ones(4, 4)
    nested["cond_stage_model.encoder.conv_in.weight"] = torch.ones(4, 4)
    return nested


def save_by_lightning(state: dict[str, Tensor], path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a checkpoint as Lightning 1 does: callbacks keyed by class, optimizers, hyper-parameters."""
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    adam = {"state": {140234: {"step": 5, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": np.float64(1e-4)}]}
    checkpoint = {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.5), "itself": callback()}},
        "optimizer_states": [adam],
        "lr_schedulers": [],
        "hyper_parameters": argparse.Namespace(base_learning_rate=4.5e-6),
        "state_dict": state,
    }
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callback.__module__):
            patch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[callback.__module__].ModelCheckpoint = callback
        torch.save(checkpoint, path)
    return path


@pytest.mark.slow(6)
def test_full_size_checkpoints_equal_tamings_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 72 million weights, through a file of each layout."""
    reference = Reference(family.VQGANConfig())
    state = with_loss(reference.state_dict())
    alone = save_by_lightning(state, tmp_path / "last.ckpt", monkeypatch)
    nested = save_by_lightning(in_transformer(state), tmp_path / "transformer.ckpt", monkeypatch)
    model = load_autoencoder("vqgan-imagenet-1024", str(alone))
    assert load_autoencoder("vqgan-ffhq", str(nested)).fingerprint() == model.fingerprint()

    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    latents = model.encode(image)
    quantized = model.quantize(latents)
    assert latents.shape == (1, 256, 8, 8)
    # Not exact: the reference's convolutions are not in channels-last, and kernels differ with the threads, over
    # some forty layers. The latents' spread is about 0.2.
    torch.testing.assert_close(latents, reference.encode(2 * image - 1), rtol=0, atol=1e-4)
    # Not exact: taming's forward gives z + (code - z) for straight-through gradients.
    torch.testing.assert_close(quantized, reference.quantize(latents)[0], rtol=0, atol=1e-6)
    assert not torch.equal(quantized, latents)
    expected = ((reference.decode(quantized) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.decode(quantized), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", ["alone", "bare", "nested", "half", "legacy"])
def test_layouts_of_checkpoints(layout: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(SMALL)
    state, path = with_loss(reference.state_dict()), tmp_path / "model.ckpt"
    match layout:
        case "alone":
            save_by_lightning(state, path, monkeypatch)
        case "bare":
            torch.save(state, path)
        case "nested":
            torch.save({"state_dict": in_transformer(state)}, path)
        case "half":
            reference.half().float()  # rounds the weights
            torch.save({key: value.half() for key, value in state.items()}, path)
        case "legacy":
            torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    model = load_autoencoder(small, str(path))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.network.state_dict().keys() == reference.state_dict().keys()
    for key, value in reference.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], value), key


def test_conversions_equal_tamings_modules(small: str, tmp_path: Path) -> None:
    reference = Reference(SMALL)
    torch.save(reference.state_dict(), tmp_path / "vqgan-ffhq.ckpt")
    model = load_autoencoder(small, str(tmp_path))  # the folder
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    latents = model.encode(images)
    assert latents.shape == (3, 6, 16, 24)
    torch.testing.assert_close(latents, reference.encode(2 * images - 1), rtol=0, atol=1e-5)
    quantized, _, (_, _, indices) = reference.quantize(latents)
    assert torch.equal(model.codes(latents).flatten(), indices.flatten())
    assert len(indices.unique()) > 1
    torch.testing.assert_close(model.quantize(latents), quantized, rtol=0, atol=1e-6)
    assert torch.equal(model.codebook, reference.quantize.embedding.weight)
    # Decoding takes latents as they are.
    expected = ((reference.decode(latents) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.decode(latents), expected, rtol=0, atol=1e-5)
    assert (model.decode(latents) - model.decode(quantized)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_published_sizes(name: str) -> None:
    codes = 16384 if name == "vqgan-imagenet-16384" else 1024
    config = family.VQGANConfig(codes, 256, 256, resolution=256, ch=128, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2)
    with torch.device("meta"):
        model = load_autoencoder(name, pretrained=False)
        reference = Reference(config)
    shapes = {key: value.shape for key, value in model.network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}
    spec = model.spec
    assert (spec.name, spec.codebook_size, spec.latent_channels, spec.downsampling) == (name, codes, 256, 16)


def test_construction_is_silent_and_needs_neither_lightning_nor_torchvision(
    small: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == "taming"]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("torchvision", "pytorch_lightning", "lightning"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    load_autoencoder(small, pretrained=False)
    assert "taming" in sys.modules
    assert capfd.readouterr() == ("", "")


def test_without_the_package(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == "taming"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "taming", None)
    with pytest.raises(MissingDependencyError) as caught:
        load_autoencoder(small, pretrained=False)
    assert (caught.value.package, caught.value.extra) == ("taming-transformers", "taming")


class Payload:
    """Runs a command when unpickled by a loader that lets it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_by_name(zipped: bool, small: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    checkpoint = {"callbacks": Payload(f"touch '{trace}'"), "state_dict": Reference(SMALL).state_dict()}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=rf"evil\.ckpt.*{os.system.__module__}\.system"):
        load_autoencoder(small, str(path))
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload does work
    assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_unknown_class_is_refused_by_name(zipped: bool, small: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    checkpoint = {"hyper_parameters": SimpleNamespace(a=1), "state_dict": Reference(SMALL).state_dict()}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"odd\.ckpt.*types\.SimpleNamespace"):
        load_autoencoder(small, str(path))


def test_unusable_files_are_named(small: str, tmp_path: Path) -> None:
    state = Reference(SMALL).state_dict()
    torch.save(state, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    codebook = "quantize.embedding.weight"
    contents = {
        "empty": b"",
        "garbage": b"<html>gone</html>",
        "truncated": whole[: len(whole) // 2],
        "list": [1, 2],
        "missing": {key: value for key, value in state.items() if key != codebook},
        "unknown": {**state, "extra.weight": torch.ones(1)},
        "misshapen": {**state, codebook: torch.ones(2, 6)},
        "nan": {**state, codebook: torch.full_like(state[codebook], torch.nan)},
        "number": {**state, codebook: 3},
        "gumbel": {**state, "quantize.embed.weight": state[codebook], "quantize.proj.weight": torch.ones(1)},
    }
    expected = {
        "list": "state dict",
        "missing": codebook,
        "unknown": "extra.weight",
        "misshapen": "size mismatch",
        "nan": "NaN",
        "number": f"{codebook}' must be a tensor, got int",
        "gumbel": "Gumbel",
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.ckpt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(WeightsError) as caught:
            load_autoencoder(small, str(path))
        assert str(path) in str(caught.value), name
        assert expected.get(name, "not a readable PyTorch checkpoint") in str(caught.value), name
        assert "weights_only" not in str(caught.value), name  # nobody is sent to the unsafe loader


@pytest.mark.parametrize("name", ["vqgan-imagenet-1024", "vqgan-imagenet-16384"])
def test_failed_download_says_what_to_fetch(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, *_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setitem(family._CONFIGS, name, SMALL)
    monkeypatch.setattr(weights, "download", fail)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(name)
    message = str(caught.value)
    assert "no route to host" in message
    assert "https://heibox.uni-heidelberg.de/d/" in message
    assert str(cache / f"{name}.ckpt") in message


@pytest.mark.parametrize(
    ("name", "source"),
    [("vqgan-ffhq", "k00.fr/yndvfu95"), ("vqgan-celebahq", "k00.fr/2xkmielf"), ("vqgan-faceshq", "k00.fr/uxy5usa9")],
)
def test_files_to_fetch_by_hand(name: str, source: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(family._CONFIGS, name, SMALL)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(name)
    assert source in str(caught.value)
    assert str(cache / f"{name}.ckpt") in str(caught.value)
    # Once it is there, it is used.
    cache.mkdir(parents=True)
    torch.save(Reference(SMALL).state_dict(), cache / f"{name}.ckpt")
    assert load_autoencoder(name).spec.name == name
