"""Generators: layouts of state dicts, other files, and what they compute."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses, refuses_file
from safetensors.torch import save_file
from torch import Tensor

from latentpatch.errors import MissingDependencyError, WeightsError
from latentpatch.generators import GENERATORS, load_generator, parse_generator
from latentpatch.methods.inversion.stylegan2 import StyleGAN2, random_state
from latentpatch.runs.defaults import plain_torch

#: Of the public implementation (rosinality's), for ``random_state(32)`` and the styles of :func:`_styles`: mean and
#: deviation of its pictures in [-1, 1], and two pixels.
MEAN, DEVIATION = 0.10574102, 0.87014848
PIXELS = ((-0.97943300, 1.32693672, 0.06082695), (-0.11013996, 0.25055084, -0.12867406))


@plain_torch()
def _styles() -> Tensor:
    return torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(6))


def to_nvidia(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of rosinality's layout in NVIDIA's."""
    result = {"synthesis.b4.const": state["input.input"][0], "mapping.w_avg": torch.zeros(32)}
    result |= {f"mapping.fc{i - 1}.{p}": state[f"style.{i}.{p}"] for i in range(1, 9) for p in ("weight", "bias")}
    for layer, name in enumerate(["conv1", *(f"convs.{i}" for i in range(6))]):
        block = f"synthesis.b{2 ** ((layer + 5) // 2)}.conv{0 if layer % 2 else 1}"
        result |= {
            f"{block}.weight": state[f"{name}.conv.weight"][0],
            f"{block}.affine.weight": state[f"{name}.conv.modulation.weight"],
            f"{block}.affine.bias": state[f"{name}.conv.modulation.bias"],
            f"{block}.noise_strength": state[f"{name}.noise.weight"][0],
            f"{block}.noise_const": state[f"noises.noise_{layer}"][0, 0],
            f"{block}.bias": state[f"{name}.activate.bias"],
        }
    for i, name in enumerate(["to_rgb1", "to_rgbs.0", "to_rgbs.1", "to_rgbs.2"]):
        block = f"synthesis.b{4 * 2**i}.torgb"
        result |= {
            f"{block}.weight": state[f"{name}.conv.weight"][0],
            f"{block}.affine.weight": state[f"{name}.conv.modulation.weight"],
            f"{block}.affine.bias": state[f"{name}.conv.modulation.bias"],
            f"{block}.bias": state[f"{name}.bias"].flatten(),
        }
    return result


def test_stylegan2_equals_the_public_implementation() -> None:
    generator = StyleGAN2(random_state(32))
    pictures = generator.synthesize(_styles(), generator.noise(0)) * 2 - 1
    assert float(pictures.mean()) == pytest.approx(MEAN, abs=1e-5)
    assert float(pictures.std()) == pytest.approx(DEVIATION, abs=1e-5)
    assert pictures[0, :, 5, 7].tolist() == pytest.approx(PIXELS[0], abs=1e-4)
    assert pictures[1, :, 31, 0].tolist() == pytest.approx(PIXELS[1], abs=1e-4)


def test_both_layouts_give_the_same_pictures(tmp_path: Path) -> None:
    state = random_state(32)
    torch.save({"g_ema": state, "latent_avg": torch.ones(32)}, tmp_path / "rosinality.pt")
    save_file({name: value.contiguous() for name, value in to_nvidia(state).items()}, tmp_path / "nvidia.safetensors")
    first = load_generator("stylegan2", str(tmp_path / "rosinality.pt"))
    second = load_generator(f"stylegan2:{tmp_path / 'nvidia.safetensors'}")
    assert torch.allclose(first.synthesize(_styles(), first.noise(0)), second.synthesize(_styles(), second.noise(0)))
    assert torch.equal(first.mean_styles(), torch.ones(8, 32))
    assert torch.equal(second.mean_styles(), torch.zeros(8, 32))
    assert first.spec.image_size == (32, 32)
    assert first.spec.noise_sizes[:3] == ((4, 4), (8, 8), (8, 8))


def test_styles_and_noise_maps_have_gradients() -> None:
    generator = StyleGAN2(random_state(16))
    styles = generator.random_styles([1]).detach().clone().requires_grad_()
    noise = [each.clone().requires_grad_() for each in generator.noise(0)]
    generator.synthesize(styles, noise).square().mean().backward()
    assert styles.grad is not None
    assert bool((styles.grad.abs().sum(2) > 0).all())
    assert all(each.grad is not None and float(each.grad.abs().sum()) > 0 for each in noise)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    state = random_state(16)
    torch.save({"g_ema": {k: v for k, v in state.items() if k != "to_rgb1.bias"}}, tmp_path / "lacking.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save(state | {"conv1.conv.weight": torch.full((1, 16, 16, 3, 3), float("nan"))}, tmp_path / "nan.pt")
    (tmp_path / "ffhq.pkl").write_bytes(pickle.dumps({"G_ema": print}))
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print, 2))
    (tmp_path / "text.safetensors").write_text("text")
    for file, words in {
        "lacking.pt": "to_rgb1.bias", "other.pt": "rosinality", "nan.pt": "finite", "ffhq.pkl": "runs code",
        "code.pt": "run code", "text.safetensors": "not a readable", "none.pt": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(WeightsError, match=words):
            load_generator("stylegan2", str(tmp_path / file))
    with pytest.raises(WeightsError, match="needs a file"):
        load_generator("stylegan2")
    with pytest.raises(WeightsError, match="fit"):
        load_generator("dcgan", str(tmp_path / "other.pt"))


def test_names() -> None:
    assert parse_generator("stylegan2:a/b.pt") == ("stylegan2", "a/b.pt")
    for bad in ("stylegan9", "stylegan2:", ""):
        with refuses("generator"):
            parse_generator(bad)
    assert {"dcgan", "stylegan1", "stylegan2", "mobile-stylegan", "latentpatch", "embedded", "taef2"} <= set(GENERATORS)
    with pytest.raises(WeightsError, match="model file"):
        load_generator("latentpatch")


@pytest.mark.parametrize(("name", "module"), [("dcgan", "gan_face_generate"), ("mobile-stylegan", "random_face")])
def test_a_missing_package_is_named(name: str, module: str) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(MissingDependencyError, match=module.replace("_", "-")):
        load_generator(name)


def test_dcgan_of_the_package() -> None:
    pytest.importorskip("gan_face_generate.models", reason="the package gan-face-generate is not installed")
    pictures = load_generator("dcgan").sample([1, 2])
    assert pictures.shape == (2, 3, 64, 64)
    assert float(pictures.std()) > 0.1


def test_mobile_stylegan_of_the_package() -> None:
    """Small versions give what the whole network gives; OpenVINO, where it is installed, gives the same."""
    if importlib.util.find_spec("random_face") is None:
        pytest.skip("the package random-face (MobileStyleGAN) is not installed")
    whole, small = load_generator("mobile-stylegan"), load_generator("mobile-stylegan:@128")
    styles = whole.random_styles([5])
    with torch.no_grad():
        picture, reduced = (each.synthesize(styles, each.noise(0)) for each in (whole, small))
    assert whole.fingerprint() == small.fingerprint() == whole.resized(32).fingerprint()
    assert float((F.avg_pool2d(picture, 8) - reduced).clamp(0, 1).square().mean()) < 10**-2.5
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    path = Path(str(whole.spec.argument)) / "SynthesisNetwork.xml"
    network = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = torch.from_numpy(network({"style": styles[:, 0].numpy()})[0])
    assert float((picture * 2 - 1 - expected).abs().max()) < 1e-3


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    with refuses_file("MappingNetwork.xml", "cannot be read"):
        load_generator("mobile-stylegan", str(tmp_path))
    (tmp_path / "MappingNetwork.bin").write_bytes(b"")
    for text in ("<net>", "<net><layers/><edges/></net>"):
        (tmp_path / "MappingNetwork.xml").write_text(text)
        with refuses_file("MappingNetwork.xml", "not the graph"):
            load_generator("mobile-stylegan", str(tmp_path))
    with refuses("size"):
        load_generator("mobile-stylegan", f"{tmp_path}@100")
