"""Patch diffusion in the latents of an autoencoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.errors import refuses
from helpers.paths import ROOT
from torch import Tensor

import latentpatch
from latentpatch.autoencoders.registry import load_autoencoder
from latentpatch.io.channels import read_channels
from latentpatch.methods.picture import PictureStep
from latentpatch.methods.single_image.latent_space import LatentSpace, cells_of, pixel_offsets

QUICK: dict[str, Any] = {"space": "embedded", "iterations": 1, "steps": 4}


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    return read_channels(ROOT / "examples" / "portraits" / "portrait-24.jpg")


def test_latents_come_back_as_the_autoencoder_decodes_them(portrait: Tensor) -> None:
    network = load_autoencoder("embedded")
    space = LatentSpace("embedded", [portrait[:, :96, :128]])
    assert space.latents[0].shape == (32, 12, 16)
    wanted = network.decode(network.encode(portrait[None, :, :96, :128]))[0]
    assert torch.allclose(space.decode(space.latents[0], (96, 128)), wanted, atol=1e-4)
    odd = LatentSpace("embedded", [portrait[:, :100, :70]])
    assert odd.latents[0].shape == (32, *cells_of((100, 70))) == (32, 13, 9)
    assert (odd.decode(odd.latents[0], (100, 70)) - portrait[:, :100, :70]).abs().mean() < 0.05


def test_offsets_of_cells_become_those_of_pixels() -> None:
    cells = torch.tensor([[[1, 2, 0], [0, 0, 1]]])
    found = pixel_offsets(cells, [(20, 20), (22, 30)], (8, 12))
    assert found.shape == (8, 12, 3)
    assert found[3, 2].tolist() == [1, 19, 2]
    assert found[3, 9].tolist() == [0, 3, 9]
    assert found[7, 0].tolist() == [1, 21, 0]


def test_without_noise_the_reconstruction_comes_back_in_place(portrait: Tensor) -> None:
    picture = portrait[:, 40:168, 40:168]
    result = latentpatch.retarget(picture, (128, 128), noise=0, neighbors=1, alpha=1000, **QUICK)
    space = LatentSpace("embedded", [picture])
    assert (result.images[0] - space.decode(space.latents[0], (128, 128))).abs().mean() < 0.01
    assert result.offsets is not None
    assert torch.equal(result.offsets[0, ..., 1], torch.arange(128)[:, None].expand(128, 128))


def test_several_sources_of_any_size_and_equal_seeds(portrait: Tensor) -> None:
    sources = [portrait[:, :120, :150], portrait[:, 100:230, 60:200]]
    batch = latentpatch.compose(sources, 2, size=(118, 140), **QUICK)
    assert batch.images.shape == (2, 3, 118, 140)
    assert batch.offsets is not None
    for number, (height, width) in enumerate(batch.sizes):
        inside = batch.offsets[batch.offsets[..., 0] == number]
        assert len(inside)
        assert inside[:, 1].max() < height
        assert inside[:, 2].max() < width
    alone = latentpatch.compose(sources, seed=1, size=(118, 140), **QUICK)
    assert torch.equal(alone.images[0], batch.images[1])
    guided = latentpatch.compose(sources, size=(118, 140), structure=portrait, **QUICK)
    assert not torch.equal(guided.images[0], batch.images[0])


def test_steps_are_pictures_and_grey_stays_grey(portrait: Tensor) -> None:
    told: list[PictureStep] = []
    result = latentpatch.reshuffle(portrait[:1, :100, :110], observe=told.append, **QUICK)
    assert result.images.shape == (1, 1, 100, 110)
    assert torch.equal(told[-1].images, result.images)
    assert all(step.images.shape[1] == 1 for step in told)


def test_bad_input_is_refused(portrait: Tensor) -> None:
    with refuses("space"):
        latentpatch.reshuffle(torch.rand(4, 100, 100), **QUICK)
    with refuses("space"):
        latentpatch.reshuffle(portrait, space="taef2:weights")
    with refuses("size"):
        latentpatch.reshuffle(portrait[:, :30, :100], **QUICK)
    with refuses("coarsest"):
        latentpatch.reshuffle(portrait, space="embedded", coarsest=4)
