"""What does not fit into memory is refused before the work starts, by the argument that is to blame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch.generators import load_generator
from latentpatch.io.images import read_image, write_image
from latentpatch.methods.memory import check_memory
from latentpatch.methods.trained.base import TrainedModel
from latentpatch.methods.trained.fewgan import FewGAN
from latentpatch.methods.trained.hp_vae_gan import HPVAEGAN
from latentpatch.methods.trained.singan import SinGAN
from latentpatch.runs import system

SIZES = [(12, 16), (24, 32)]
MODELS: dict[str, Callable[[], TrainedModel]] = {
    "singan": lambda: SinGAN("singan", SIZES, width=4),
    "hp-vae-gan": lambda: HPVAEGAN("hp-vae-gan", SIZES, width=4, latent=4),
    "hp-vae-gan of one scale": lambda: HPVAEGAN("hp-vae-gan", SIZES[:1], width=4, latent=4),
    "fewgan": lambda: FewGAN("fewgan", SIZES, width=4, codes=8, code_size=4),
}
HUGE = 100_000


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_trained_models_refuse_sizes_and_numbers(name: str, picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of 100,000 pixels ended in "out of memory" after 14 seconds, a number of 10^12 not at all."""
    model: Any = MODELS[name]()
    for make in (latentpatch.reshuffle, latentpatch.retarget):
        with refuses("size"):
            make(model, size=(HUGE, HUGE))
    for count in (10**12, 10**30):
        with refuses("n"):
            latentpatch.reshuffle(model, count)
        with refuses("n"):
            latentpatch.analogy(picture, model, count)
    monkeypatch.setattr(system, "machine_memory", lambda: 100_000)
    mask = torch.zeros(24, 32, dtype=torch.bool)
    mask[8:12, 8:12] = True
    for call in (
        lambda: latentpatch.analogy(picture, model),
        lambda: latentpatch.edit(picture, mask, sources=model),
        lambda: latentpatch.harmonize(picture, mask, sources=model),
    ):
        with refuses("size"):
            call()


def test_enlarging_refuses_factors(picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SinGAN("singan", SIZES, width=4)
    monkeypatch.setattr(system, "machine_memory", lambda: 1 << 20)
    with refuses("size"):
        model.enlarge(picture, 16)
    monkeypatch.setattr(system, "machine_memory", lambda: 1 << 25)
    assert model.enlarge(picture, 2).shape == (3, 48, 64)


@pytest.mark.parametrize("name", latentpatch.PICTURE_METHODS)
def test_methods_on_pictures_refuse_numbers(name: str) -> None:
    method: Any = latentpatch.PICTURE_METHODS[name]
    settings = method.Settings()
    check_memory(method, [(64, 64)], (64, 64), 1, settings)
    for size, count, wrong in (((64, 64), 10**12, "n"), ((64, 64), 10**30, "n"), ((HUGE, HUGE), 1, "size")):
        with refuses(wrong):
            check_memory(method, [(64, 64)], size, count, settings)


@pytest.mark.parametrize("count", [10**12, 10**30])
def test_tasks_refuse_numbers(count: int, picture: Tensor) -> None:
    for call in (
        lambda: latentpatch.reshuffle(picture, count),
        lambda: latentpatch.texture(picture, 32, count),
        lambda: latentpatch.compose([picture, picture], count),
        lambda: latentpatch.compose([picture, picture], count, structure=[picture, picture]),
        lambda: latentpatch.stylize(picture, picture, count),
    ):
        with refuses("n"):
            call()


@pytest.mark.parametrize("size", [(HUGE, HUGE), (10**18, 10**18), (10**400, 1), (1, 10**400)])
def test_sizes_are_refused_where_they_enter(size: tuple[int, int], picture: Tensor, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture)
    for call in (
        lambda: latentpatch.reshuffle(picture, size=size),
        lambda: latentpatch.retarget(picture, size),
        lambda: latentpatch.texture(picture, size),
        lambda: latentpatch.texture([picture, picture], size, weights=[1, 2]),
        lambda: latentpatch.compose([picture, picture], size=size),
        lambda: latentpatch.compose([picture, picture], size=size, structure=picture),
        lambda: read_image(tmp_path / "a.png", size),
        lambda: load_generator("embedded", size=size),
        lambda: load_generator("pixels", size=size),
    ):
        with refuses("size"):
            call()


def test_the_amounts_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "machine_memory", lambda: 10 << 30)
    with refuses("size") as caught:
        system.check_memory("size", 3, 9 << 30)
    assert "9.0 GiB" in str(caught.value)
    assert "8.0 usable" in str(caught.value)
    system.check_memory("size", 3, 7 << 30)
    monkeypatch.setattr(system, "machine_memory", lambda: 0)  # unknown
    system.check_memory("size", 3, 9 << 50)
