"""StyleGAN: layouts of state dicts, and what they compute."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentpatch.errors import WeightsError
from latentpatch.generators import load_generator
from latentpatch.methods.inversion.stylegan1 import StyleGAN1, random_state
from latentpatch.methods.inversion.stylegan2 import random_state as stylegan2_state
from latentpatch.runs.defaults import plain_torch

#: Of the public implementation (rosinality's), for ``random_state(128)`` and the styles and noise of :func:`_inputs`:
#: mean and deviation of its pictures in [-1, 1], two pixels, and the first mapped numbers of a vector.
MEAN, DEVIATION = -0.36585471, 2.09195852
PIXELS = ((1.48056507, 1.62971234, 0.87042588), (-2.88347030, -4.35760546, 1.16540623))
MAPPED = (0.83597779, 0.24886870, 0.29059166)


@plain_torch()
def _inputs(generator: StyleGAN1) -> tuple[Tensor, list[Tensor]]:
    """Return styles and noise maps that are the same in both layers of a block, as they are in rosinality's."""
    styles = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(6)).repeat_interleave(2, 1)
    noise = generator.noise(0)
    return styles, [noise[i // 2 * 2] for i in range(len(noise))]


def to_lernapparat(state: dict[str, Tensor], rate: float = 0.01) -> dict[str, Tensor]:
    """Return a state dict of rosinality's layout, below 128 pixels, in lernapparat's, biases of upsampling aside."""
    result = {"g_synthesis.blocks.4x4.const": state["generator.progression.0.conv1.input"]}
    channels = result["g_synthesis.blocks.4x4.const"].shape[1]
    result["g_synthesis.blocks.4x4.bias"] = torch.zeros(channels)
    for i in range(8):
        for part, own in (("weight", "weight_orig"), ("bias", "bias")):
            result[f"g_mapping.dense{i}.{part}"] = state[f"style.{2 * i + 1}.linear.{own}"] / rate
    for i in range(sum(name.endswith("conv2.conv.bias") for name in state)):
        old, new = f"generator.progression.{i}", f"g_synthesis.blocks.{4 * 2**i}x{4 * 2**i}"
        for part in (1, 2):
            strength = state[f"{old}.noise{part}.weight_orig"].flatten() * math.sqrt(2 / channels)
            style = f"{old}.adain{part}.style.linear"
            result |= {
                f"{new}.epi{part}.top_epi.noise.weight": strength,
                f"{new}.epi{part}.style_mod.lin.weight": state[f"{style}.weight_orig"] * math.sqrt(2),
                f"{new}.epi{part}.style_mod.lin.bias": state[f"{style}.bias"]
                - (torch.arange(2 * channels) < channels).float(),
            }
        names = {"conv2.conv": "conv1" if i else "conv"} | ({"conv1.1.conv": "conv0_up"} if i else {})
        for own, other in names.items():
            result[f"{new}.{other}.weight"] = state[f"{old}.{own}.weight_orig"]
            result[f"{new}.{other}.bias"] = state[f"{old}.{own}.bias"]
        last = f"generator.to_rgb.{i}.conv"
        result["g_synthesis.torgb.weight"] = state[f"{last}.weight_orig"] * math.sqrt(2)
        result["g_synthesis.torgb.bias"] = state[f"{last}.bias"]
    return result


def test_it_equals_the_public_implementation() -> None:
    generator = StyleGAN1(random_state(128))
    styles, noise = _inputs(generator)
    pictures = generator.synthesize(styles, noise) * 2 - 1
    assert float(pictures.mean()) == pytest.approx(MEAN, abs=1e-5)
    assert float(pictures.std()) == pytest.approx(DEVIATION, abs=1e-5)
    assert pictures[0, :, 5, 7].tolist() == pytest.approx(PIXELS[0], abs=1e-4)
    assert pictures[1, :, 127, 0].tolist() == pytest.approx(PIXELS[1], abs=1e-4)
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float32)
    assert generator.map(vector)[0, 5, :3].tolist() == pytest.approx(MAPPED, abs=1e-5)


def test_both_layouts_give_the_same_pictures(tmp_path: Path) -> None:
    state = random_state(64)
    for i in range(1, 5):  # filtered at the border in rosinality's alone
        state[f"generator.progression.{i}.conv1.1.conv.bias"].zero_()
    torch.save({"generator": {}, "g_running": state}, tmp_path / "rosinality.model")
    save_file({name: value.contiguous() for name, value in to_lernapparat(state).items()}, tmp_path / "l.safetensors")
    first = load_generator("stylegan1", str(tmp_path / "rosinality.model"))
    second = load_generator(f"stylegan1:{tmp_path / 'l.safetensors'}")
    assert first.spec.noise_sizes == second.spec.noise_sizes == tuple((4 * 2 ** (i // 2),) * 2 for i in range(10))
    made = [each.synthesize(each.random_styles([1]), each.noise(2)) for each in (first, second)]
    assert torch.allclose(*made, atol=1e-4)


def test_a_side_leaves_out_layers_that_were_not_trained(tmp_path: Path) -> None:
    torch.save(random_state(64), tmp_path / "64.pt")
    generator = load_generator(f"stylegan1:{tmp_path / '64.pt'}@32")
    assert generator.spec.image_size == (32, 32)
    assert generator.sample([1]).shape == (1, 3, 32, 32)
    for side in (48, 128):
        with pytest.raises(WeightsError, match=f"{side} pixels in place of 4, 8, 16, 32, 64"):
            load_generator(f"stylegan1:{tmp_path / '64.pt'}@{side}")


def test_styles_and_noise_maps_have_gradients() -> None:
    generator = StyleGAN1(random_state(16))
    styles = generator.random_styles([1]).detach().clone().requires_grad_()
    noise = [each.clone().requires_grad_() for each in generator.noise(0)]
    generator.synthesize(styles, noise).square().mean().backward()
    assert styles.grad is not None
    assert bool((styles.grad.abs().sum(2) > 0).all())
    assert all(each.grad is not None and float(each.grad.abs().sum()) > 0 for each in noise)


def test_other_files_are_refused(tmp_path: Path) -> None:
    state = random_state(16)
    torch.save({k: v for k, v in state.items() if k != "style.3.linear.weight_orig"}, tmp_path / "lacking.pt")
    torch.save({**state, "style.1.linear.bias": torch.full((32,), float("nan"))}, tmp_path / "nan.pt")
    torch.save({"g_ema": stylegan2_state(16)}, tmp_path / "two.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "ffhq.pkl").write_bytes(b"")
    for file, words in {
        "lacking.pt": "style.3.linear", "nan.pt": "finite", "two.pt": "layout of stylegan2: --generator stylegan2:",
        "other.pt": "lernapparat", "ffhq.pkl": "runs code", "none.pt": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(WeightsError, match=words):
            load_generator("stylegan1", str(tmp_path / file))
    torch.save(state, tmp_path / "one.pt")
    with pytest.raises(WeightsError, match="layout of stylegan1"):
        load_generator("stylegan2", str(tmp_path / "one.pt"))
    with pytest.raises(WeightsError, match="needs a file"):
        load_generator("stylegan1")
