"""Trained models: their files, their pictures, and their tasks, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.errors import refuses, refuses_file

from latentpatch import LatentPatch, analogy, edit, harmonize, reshuffle, retarget, texture
from latentpatch.io.stored import read_stored, write_stored
from latentpatch.methods.trained.base import FORMAT, TrainedModel, is_trained, load_trained
from latentpatch.methods.trained.hp_vae_gan import HPVAEGAN
from latentpatch.methods.trained.settings import TrainedSettings
from latentpatch.methods.trained.singan import SinGAN
from latentpatch.runs.defaults import plain_torch

SIZES = [(14, 21), (20, 30), (28, 42)]


@pytest.fixture(params=["singan", "hp-vae-gan"])
@plain_torch()
def model(request: pytest.FixtureRequest) -> TrainedModel:
    torch.manual_seed(0)
    made = SinGAN("singan", SIZES, width=4) if request.param == "singan" else HPVAEGAN("hp-vae-gan", SIZES, width=4)
    with torch.no_grad():
        if isinstance(made, SinGAN):
            made.anchor.normal_()
        for k in range(1, 3):
            made.amplitude(k).fill_(0.3)
    return made.requires_grad_(False)


@pytest.fixture
@plain_torch()
def picture() -> torch.Tensor:
    return torch.rand(3, 28, 42, generator=torch.Generator().manual_seed(1))


def test_a_picture_is_the_same_alone_in_a_batch_and_after_loading(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    images = model.make("reshuffle", [0, 1, 2])
    assert images.shape == (3, 3, 28, 42)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(load_trained(path).make("reshuffle", [1])[0], images[1])
    assert not torch.equal(images[0], images[1])
    again = tmp_path / "again.safetensors"
    load_trained(path).save(again)
    assert path.read_bytes() == again.read_bytes()


def test_any_size_can_be_made(model):
    result = retarget(model, (28, 60), 2)
    assert result.images.shape == (2, 3, 28, 60)
    assert result.method == model.method
    assert reshuffle(model, 1, seed=5).images.shape == (1, 3, 28, 42)
    with refuses("size"):
        retarget(model, (4, 60))


def test_tasks_start_from_the_target_at_their_scale(model, picture):
    mask = torch.zeros(28, 42, dtype=torch.bool)
    mask[8:20, 10:30] = True
    for task, start in ((edit, 1), (harmonize, 1)):
        result = task(picture, mask, sources=model)
        assert result.settings == TrainedSettings(start)
        assert torch.equal(result.images[0][:, ~mask], picture[:, ~mask])
        assert not torch.equal(result.images[0][:, mask], picture[:, mask])
    late, early = (analogy(picture, model, start_scale=k, seed=3).images[0] for k in (2, 1))
    other = analogy(picture.flip(2), model, start_scale=1, seed=3).images[0]
    assert not torch.equal(early, other), "the target decides"
    assert not torch.equal(early, late)
    with refuses("start_scale"):
        analogy(picture, model, start_scale=3)


def test_a_reconstruction_is_kept_below_the_start(picture):
    torch.manual_seed(0)
    model = SinGAN("singan", SIZES, width=4).requires_grad_(False)
    model.anchor.normal_()
    for k in (1, 2):
        model.amplitude(k).zero_()
    first, second = model.make("reshuffle", [0, 1], settings=TrainedSettings(1))
    assert torch.equal(first, second), "without noise of the finer scales there is only the reconstruction"
    with refuses("start_scale"):
        analogy(picture, model, start_scale=0)


def test_codes_of_a_picture_are_noise_free(picture):
    torch.manual_seed(0)
    model = HPVAEGAN("hp-vae-gan", SIZES, width=4).requires_grad_(False)
    for k in (1, 2):
        model.amplitude(k).zero_()
    first, second = analogy(picture, model, 2, start_scale=0).images
    assert torch.equal(first, second)


def test_super_resolution_enlarges_by_the_ratio_of_the_scales(picture):
    model = SinGAN("singan", SIZES, width=4).requires_grad_(False)
    steps = []
    model.scales[-1].register_forward_pre_hook(lambda _, inputs: steps.append(tuple(inputs[0].shape[2:])))
    enlarged = model.enlarge(picture, 2)
    assert enlarged.shape == (3, 56, 84)
    assert steps == [(40, 59), (56, 84)], "two steps of about 1.4"
    assert 0 <= enlarged.min() < enlarged.max() <= 1
    with refuses("factor"):
        model.enlarge(picture, 0.5)


def test_what_a_model_cannot_do_is_refused(model, picture, tmp_path):
    mask = torch.ones(28, 42, dtype=torch.bool)
    with refuses("task"):
        texture(model, (28, 28))
    with refuses("method"):
        reshuffle(model, method="gpnn")
    with refuses("settings"):
        reshuffle(model, patch_size=3)
    with refuses("mask"):
        edit(picture, mask[:5], sources=model)
    with refuses("seed"):
        reshuffle(model, seeds=[-1])
    with refuses("target"):
        analogy(picture[:1], model)


def test_files_that_are_no_trained_models_are_refused(model, tmp_path):
    path, other = tmp_path / "m.safetensors", tmp_path / "other.safetensors"
    model.save(path)
    assert is_trained(path)
    LatentPatch("pixels", components=2).fit(torch.rand(3, 3, 64, 64)).save(other)
    assert not is_trained(other)
    assert not is_trained(tmp_path)
    with refuses_file("other.safetensors", FORMAT):
        load_trained(other)
    header, tensors = read_stored(path, FORMAT)
    header.pop("format")
    for changed in (
        {"method": "magic"},
        {"sizes": "large"},
        {"arguments": {"width": 5}},
        {"arguments": {"depth": 5}},
    ):
        write_stored(other, FORMAT, {**header, **changed}, tensors)
        with refuses_file("other.safetensors", "malformed"):
            load_trained(other)
    write_stored(
        other,
        FORMAT,
        header,
        {name: value * float("nan") if value.is_floating_point() else value for name, value in tensors.items()},
    )
    with refuses_file("other.safetensors", "finite"):
        load_trained(other)
    Path(other).write_bytes(path.read_bytes()[:-9])
    with refuses_file("other.safetensors", "not a readable file"):
        load_trained(other)
