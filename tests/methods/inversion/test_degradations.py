"""Degradations: what they do to pictures, and that gradients pass."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses
from PIL import Image
from torch import Tensor

from latentpatch.io.images import to_pil
from latentpatch.methods.inversion import InversionSettings, invert
from latentpatch.methods.inversion.degradations import degraded_targets, jpeg, masked, parse_degradation
from latentpatch.methods.inversion.stylegan2 import StyleGAN2, random_state


@pytest.fixture(scope="module")
def images() -> Tensor:
    noise = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (48, 48), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("text", ["downsample:4", "blur:1.5", "grey", "jpeg:30"])
def test_gradients_pass(images: Tensor, text: str) -> None:
    inputs = images.clone().requires_grad_()
    degradation = parse_degradation(text)
    result = degradation(inputs)
    result.square().sum().backward()
    assert degradation.name == text
    assert inputs.grad is not None
    assert bool(inputs.grad.isfinite().all())
    assert float((inputs.grad != 0).float().mean()) > 0.9


def test_what_they_do(images: Tensor) -> None:
    small = parse_degradation("downsample:4")(images)
    assert small.shape == (2, 3, 12, 12)
    assert float((small - F.avg_pool2d(images, 4)).abs().mean()) < 0.03
    blurred = parse_degradation("blur:2")(images)
    assert float(blurred.std()) < float(images.std())
    assert torch.allclose(parse_degradation("blur:2")(torch.full((1, 3, 20, 20), 0.3)), torch.tensor(0.3))
    grey = parse_degradation("grey")(images)
    assert torch.equal(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize(("height", "width"), [(48, 48), (41, 35)])
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_equals_a_file(images: Tensor, height: int, width: int, quality: int) -> None:
    picture = images[:1, :, :height, :width]
    buffer = io.BytesIO()
    to_pil(picture[0]).save(buffer, "JPEG", quality=quality)
    file = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    loss = float((file - picture[0]).abs().mean())
    assert float((jpeg(quality)(picture)[0] - file).abs().mean()) < max(loss / 4, 0.006)


def test_targets_go_through_projections_alone(images: Tensor, tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[255, 0], [0, 0]]).repeat(24, 0).repeat(24, 1)).save(tmp_path / "mask.png")
    chain = [parse_degradation(text) for text in (f"mask:{tmp_path / 'mask.png'}", "grey", "blur:1")]
    degrade, targets = degraded_targets(chain, images, (48, 48))
    assert float(targets[:, :, :24, :24].abs().max()) == 0
    assert torch.equal(targets[:, 0], targets[:, 1])
    assert torch.allclose(degrade(images), chain[2](targets))


def test_a_small_picture_is_compared_after_downsampling() -> None:
    generator = StyleGAN2(random_state(16))
    small = F.avg_pool2d(generator.sample([1]), 2)
    found = invert(generator, small, InversionSettings(steps=40))
    assert found.images.shape == (1, 3, 16, 16)
    assert float(found.error) < 0.3 * float(found.losses[0])
    hidden = torch.zeros(16, 16, dtype=torch.bool)
    hidden[4:9] = True
    whole = generator.sample([2])
    filled = invert(generator, whole, InversionSettings(steps=40), degrade=masked(hidden))
    spoilt = invert(generator, whole.masked_fill(hidden, 0.5), InversionSettings(steps=40), degrade=masked(hidden))
    assert torch.equal(filled.images, spoilt.images)  # pixels under the mask have no influence


def test_wrong_texts_are_refused(tmp_path: Path) -> None:
    for text in (
        "sharpen",
        "blur:0",
        "blur:x",
        "jpeg:0",
        "jpeg:101",
        "downsample:0",
        "downsample:2.5",
        "grey:1",
        "mask:",
    ):
        with refuses("degrade"):
            parse_degradation(text)
    with refuses("mask"):
        masked(torch.ones(4, 4, dtype=torch.bool))
    with refuses("degrade"):
        parse_degradation("blur:9")(torch.zeros(1, 3, 20, 20))
