"""Weights, pictures between inverted ones, and files of latents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses, refuses_file

from latentpatch.generators import load_generator
from latentpatch.io.atomic import write_tensors
from latentpatch.methods.inversion import Generator, StoredInversion, interpolate, weights_of
from latentpatch.methods.inversion.stylegan2 import StyleGAN2, random_state


@pytest.fixture(scope="module")
def generator() -> Generator:
    return StyleGAN2(random_state(16))


@pytest.fixture(scope="module")
def stored(generator: Generator) -> StoredInversion:
    styles = generator.random_styles([1, 2, 3])
    noise = tuple(torch.randn(3, 1, *size, dtype=torch.float32) for size in generator.spec.noise_sizes[:2])
    return StoredInversion(("a", "b", "c"), styles, noise, 0, generator.identity())


@pytest.mark.parametrize(
    ("kind", "inputs", "count"), [("line", 2, 5), ("line", 4, 9), ("grid", 4, 9), ("random", 3, 8)]
)
def test_weights_add_up_to_one(kind: str, inputs: int, count: int) -> None:
    weights = weights_of(kind, inputs, count, seed=3)
    assert weights.shape == (count, inputs)
    assert torch.allclose(weights.sum(1), torch.ones(count, dtype=torch.float32), atol=1e-6)
    assert bool((weights >= 0).all())


def test_lines_and_grids_begin_and_end_at_inputs() -> None:
    line = weights_of("line", 3, 5)
    assert torch.equal(line[[0, 2, 4]], torch.eye(3))
    assert line[1].tolist() == [0.5, 0.5, 0]
    assert weights_of("line", 2, 1).tolist() == [[0.5, 0.5]]
    assert torch.equal(weights_of("grid", 4, 9)[[0, 2, 6, 8]], torch.eye(4))
    assert torch.allclose(weights_of("grid", 3, 4)[3], torch.full((3,), 1 / 3, dtype=torch.float32))


def test_random_weights_are_those_of_their_seed() -> None:
    assert torch.equal(weights_of("random", 3, 4, seed=2)[2:], weights_of("random", 3, 2, seed=4))


def test_ends_are_the_inputs_and_middles_are_means(generator: Generator, stored: StoredInversion) -> None:
    styles, noise = stored.styles, stored.noise
    pictures = interpolate(generator, styles, noise, torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]))
    fixed = generator.noise(0)[2:]
    first = generator.synthesize(styles[:1], [*(each[:1] for each in noise), *fixed]).clamp(0, 1)
    middle = generator.synthesize(
        styles[:2].mean(0, keepdim=True), [*(n[:2].mean(0, keepdim=True) for n in noise), *fixed]
    )
    assert torch.allclose(pictures[0], first[0], atol=1e-6)
    assert torch.allclose(pictures[1], middle[0].clamp(0, 1), atol=1e-5)


def test_wrong_weights_are_refused(generator: Generator, stored: StoredInversion) -> None:
    for bad in ([[0.5, 0.4, 0.0]], [[float("nan"), 0.5, 0.5]], [[1.0, 0.0]]):
        with refuses("weights"):
            interpolate(generator, stored.styles, stored.noise, torch.tensor(bad))
    with refuses("inputs"):
        weights_of("line", 1, 4)
    with refuses("by"):
        weights_of("grid", 2, 4)
    with refuses("by"):
        weights_of("grid", 4, 5)
    with refuses("styles"):
        interpolate(generator, stored.styles[:, :2], stored.noise, torch.eye(3))


def test_a_file_holds_all(tmp_path: Path, generator: Generator, stored: StoredInversion) -> None:
    stored.write(tmp_path / "latents.safetensors")
    again = StoredInversion.read(tmp_path / "latents.safetensors")
    assert torch.equal(again.styles, stored.styles)
    assert all(torch.equal(a, b) for a, b in zip(again.noise, stored.noise, strict=True))
    assert again.ids == stored.ids
    assert again.generator == json.loads(json.dumps(stored.generator))
    again.check(generator, "file")


def test_other_files_and_generators_are_refused(tmp_path: Path, generator: Generator, stored: StoredInversion) -> None:
    path = tmp_path / "latents.safetensors"
    with refuses_file(path, "not a readable file"):
        StoredInversion.read(path)
    path.write_bytes(b"nothing of the kind")
    with refuses_file(path, "not a readable file"):
        StoredInversion.read(path)
    write_tensors(path, {"styles": stored.styles})
    with refuses_file(path, "not a file of format"):
        StoredInversion.read(path)
    for bad in (replace(stored, ids=("a",)), replace(stored, styles=stored.styles.double())):
        bad.write(path)
        with refuses_file(path, "malformed"):
            StoredInversion.read(path)
    with refuses_file("latents", "made with stylegan2"):
        stored.check(load_generator("embedded", size=(32, 32)), "latents")
    broken = replace(stored, styles=stored.styles * float("nan"))
    with refuses_file("latents", "finite"):
        broken.check(generator, "latents")
