"""Contract of generators (:class:`latentpatch.methods.inversion.Generator`), most with random weights."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.errors import refuses

from latentpatch.generators import load_generator
from latentpatch.methods.inversion import Generator, InversionSettings, invert

NAMES = ["dcgan", "stylegan1", "stylegan2", "embedded", "embedded-vq", "taef2", "pixels"]


@pytest.fixture(scope="module", params=NAMES)
def generator(request: pytest.FixtureRequest) -> Generator:
    torch.manual_seed(0)
    return load_generator(request.param, size=(32, 32), pretrained=request.param.startswith("embedded"))


def test_styles_and_pictures_have_the_shapes_of_the_spec(generator: Generator) -> None:
    spec = generator.spec
    styles = generator.random_styles([1, 2])
    assert styles.shape == (2, spec.num_styles, spec.style_dim)
    noise = generator.noise(0)
    assert [tuple(each.shape) for each in noise] == [(1, 1, *size) for size in spec.noise_sizes]
    assert generator.synthesize(styles, noise).shape == (2, 3, *spec.image_size)
    generator.check_styles(styles, noise)
    with refuses("styles"):
        generator.check_styles(styles[:, :, 1:], noise)


def test_pictures_are_those_of_their_seeds(generator: Generator) -> None:
    pictures = generator.sample([1, 2])
    assert bool(((pictures >= 0) & (pictures <= 1)).all())
    assert torch.equal(generator.sample([2]), pictures[1:])
    assert not torch.equal(pictures[0], pictures[1])


def test_weights_are_frozen_and_styles_have_gradients(generator: Generator) -> None:
    assert not generator.training
    assert not any(each.requires_grad for each in generator.parameters())
    styles = generator.random_styles([3]).detach().clone().requires_grad_()
    generator.synthesize(styles, generator.noise(0)).square().sum().backward()
    assert styles.grad is not None
    assert float(styles.grad.abs().max()) > 0


def test_it_can_be_inverted(generator: Generator) -> None:
    start = "random" if generator.default_start == "random" else "mean"
    targets = generator.sample([7])
    for precision in ("float32", "bfloat16"):
        settings = InversionSettings(steps=10, learning_rate=0.05, start=start, precision=precision)
        found = invert(generator, targets, settings)
        assert float(found.loss) < float(found.losses[0])
        assert found.images.dtype == torch.float32


def test_its_identity_is_plain_and_its_own(generator: Generator) -> None:
    record = json.loads(json.dumps(generator.identity()))
    assert record["argument"] is None
    assert record["sha256"] == generator.fingerprint()
    assert len(record["sha256"]) == 64
