"""Textures of several exemplars with weights or a map, and symmetric ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch.scene_tasks import map_shares

SIZE = (30, 36)
METHODS: dict[str, dict[str, Any]] = {
    "quilting": {"block": 10},
    "patch-diffusion": {"patch_size": 5, "coarse_patch_size": 5, "coarsest": 10, "steps": 2, "iterations": 1},
}


def exemplars() -> list[Tensor]:
    """Return a bright and a dark noise, of different sizes."""
    generator = torch.Generator().manual_seed(0)
    bright, dark = torch.rand(3, 30, 36, generator=generator), torch.rand(3, 40, 28, generator=generator)
    return [0.6 + 0.4 * bright, 0.4 * dark]


def textures(method: str, pictures: list[Tensor] | None = None, n: int = 1, **arguments: Any) -> Any:
    return latentpatch.texture(
        exemplars() if pictures is None else pictures, SIZE, n, method=method, **METHODS[method], **arguments
    )


@cache
def alone(method: str, number: int) -> Any:
    """Return a texture of one exemplar."""
    return textures(method, [exemplars()[number]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_weight_of_nought_is_as_if_the_exemplar_were_not_there(method: str, number: int) -> None:
    weights = [0.0, 0.0]
    weights[number] = 3
    both = textures(method, weights=weights)
    assert torch.equal(both.images, alone(method, number).images)
    assert (both.offsets[..., 0] == number).all()
    assert torch.equal(both.offsets[..., 1:], alone(method, number).offsets[..., 1:])
    assert len(both.sizes) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_map_is_one_exemplar(method: str) -> None:
    white = textures(method, source_map=torch.ones(1, 5, 6))
    assert torch.equal(white.images, alone(method, 1).images)
    black = textures(method, source_map=torch.zeros(1, 5, 6))
    assert torch.equal(black.images, alone(method, 0).images)


@pytest.mark.parametrize("method", METHODS)
def test_shares_follow_the_weights(method: str) -> None:
    for weights in ((3, 1), (1, 3)):
        shares = textures(method, n=4, weights=weights).shares().mean(0)
        assert float(shares[0]) == pytest.approx(weights[0] / 4, abs=0.12)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_says_which_exemplar_is_where(method: str) -> None:
    sides = torch.zeros(1, 10, 12)
    sides[..., 6:] = 1
    number = textures(method, source_map=sides).offsets[0, ..., 0].float()
    assert number[:, :12].mean() < 0.1
    assert number[:, -12:].mean() > 0.9
    fade = textures(method, n=4, source_map=torch.linspace(0, 1, 12).expand(1, 10, 12)).offsets[..., 0].float()
    assert fade[..., :9].mean() < fade[..., -9:].mean()


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_textures_alone_and_in_a_batch(method: str) -> None:
    batch = textures(method, n=2, weights=(1, 1))
    assert torch.equal(textures(method, seed=1, weights=(1, 1)).images[0], batch.images[1])


@pytest.mark.parametrize("method", [*METHODS, "texture-optimization", "gpdm", "efros-leung"])
def test_symmetric_textures_equal_their_mirror_images(method: str) -> None:
    quick: dict[str, dict[str, Any]] = {
        "texture-optimization": {"patch_sizes": (8, 4), "scales": 1, "iterations": 2},
        "gpdm": {"steps": 2, "last_steps": 1},
    }
    settings = {"efros-leung": {"window": 5}, **quick, **METHODS}[method]
    result = latentpatch.texture(exemplars()[0], (32, 32), symmetric="p4m", method=method, **settings)
    for image in (result.images.flip(2), result.images.flip(3), result.images.transpose(2, 3)):
        assert torch.equal(image, result.images)
    if result.offsets is not None:
        assert torch.equal(result.offsets.flip(1), result.offsets)


def test_maps_are_labels_or_greys() -> None:
    labels = map_shares(torch.tensor([[0.0, 0.1, 0.2]]), 3, (1, 3))
    assert labels[:, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    greys = map_shares(torch.tensor([[0.0, 0.25, 0.75, 1.0]]), 3, (1, 4))
    assert greys[:, 0].T.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]]


def test_bad_input_is_refused() -> None:
    for weights in ((1,), (1, -1), (0, 0), (1, float("nan")), (1, float("inf"))):
        with refuses("weights"):
            textures("quilting", weights=weights)
    with refuses("weights"):
        textures("quilting", weights=(1, 1), source_map=torch.ones(1, 4, 4))
    with refuses("weights"):
        latentpatch.texture(exemplars(), SIZE, weights=(1, 1), method="gpdm")
    with refuses("map"):
        textures("quilting", exemplars()[:1], source_map=torch.ones(1, 4, 4))
    with refuses("tileable") as caught:
        latentpatch.texture(exemplars(), SIZE, method="patch-diffusion", tileable=True)
    assert "quilting" in caught.value.args[2]
    with refuses("symmetric"):
        textures("quilting", symmetric="round")
    with refuses("size"):
        textures("quilting", symmetric="p4m")
