"""Trained models and inversion: arguments as people have them, and global state that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from PIL import Image
from test_global_state import STATES
from test_memory import MODELS
from torch import Tensor

import latentpatch
from latentpatch.generators import load_generator
from latentpatch.methods.inversion import Generator, InversionSettings, interpolate, invert, weights_of
from latentpatch.methods.inversion.degradations import parse_degradation
from latentpatch.methods.trained.base import load_trained
from latentpatch.methods.trained.settings import SinGANSettings
from latentpatch.methods.trained.singan import SinGAN
from latentpatch.training.methods import train_model

STEPS = InversionSettings(steps=10)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator("stylegan2", pretrained=False)


#: Makes of a picture what is none.
NO_PICTURES: dict[str, Callable[[Tensor], Any]] = {
    "sparse": lambda p: p.to_sparse(),
    "meta": lambda p: p.to("meta"),
    "objects": lambda p: p.numpy().astype(object),
    "complex": lambda p: p.numpy() + 1j,
    "text": lambda p: p.numpy().astype(str),
    "NaN": lambda p: p * float("nan"),
    "infinite": lambda p: p / 0,
    "five channels": lambda p: torch.cat([p, p[:2]]),
    "no pixels": lambda p: p[:, :0],
    "none": lambda _: None,
    "bytes": lambda _: b"x",
    "a number": lambda _: 3,
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_refused(kind: str, picture: Tensor, generator: Generator) -> None:
    """Sparse tensors, those of meta, and arrays of objects ended in errors of PyTorch."""
    value = NO_PICTURES[kind](picture)
    model: Any = SinGAN("singan", [(12, 16), (24, 32)], width=4)
    mask = torch.zeros(24, 32, dtype=torch.bool)
    mask[4:9] = True
    for call in (
        lambda: latentpatch.analogy(value, model),
        lambda: latentpatch.edit(value, mask, sources=model),
        lambda: latentpatch.texture([picture, value], 24, method="quilting"),
    ):
        with refuses("pictures"):
            call()
    for count in (model.enlarge, lambda each, factor: invert(generator, each, STEPS)):
        with refuses("picture" if count == model.enlarge else "targets"):
            count(value, 2)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0, -1, 1e-300, True, "2", None, 65, 10**400])
def test_factors_are_checked(factor: Any, picture: Tensor) -> None:
    with refuses("factor"):
        SinGAN("singan", [(12, 16), (24, 32)], width=4).enlarge(picture, factor)


def test_factors_are_numbers_of_any_kind(picture: Tensor) -> None:
    model = SinGAN("singan", [(12, 16), (24, 32)], width=4)
    for factor in (np.float64(1.5), torch.tensor(1.5), np.float32(1.5)):
        assert model.enlarge(picture, factor).shape == (3, 36, 48)
    with refuses("picture"):
        model.enlarge(picture[:1], 1.5)


def test_seeds_of_any_kind(picture: Tensor, generator: Generator) -> None:
    model: Any = MODELS["singan"]()
    for seeds in (
        [3],
        (3,),
        range(3, 4),
        np.array([3]),
        torch.tensor([3]),
        iter([3]),
        [np.int64(3)],
        [torch.tensor(3)],
    ):
        seeds = list(seeds) if hasattr(seeds, "__next__") else seeds
        assert torch.equal(generator.sample(seeds), generator.sample([3]))
        found = latentpatch.reshuffle(model, seeds=seeds)
        assert torch.equal(found.images, latentpatch.reshuffle(model, seed=3).images)
    assert generator.sample([]).shape == (0, 3, 32, 32)
    with refuses("seeds"):
        latentpatch.reshuffle(model, seeds=[])
    for wrong in (3, "12", b"12", None):
        if wrong is not None:
            with refuses("seeds", TypeError):
                latentpatch.reshuffle(model, seeds=wrong)
            with refuses("seeds", TypeError):
                generator.sample(wrong)
    targets = torch.rand(1, 3, 32, 32, dtype=torch.float32)
    for value in (-1, 2**64, 1.5, True, None, "1"):
        with refuses("seed"):
            generator.sample([value])
        with refuses("seed"):
            invert(generator, targets, STEPS, seed=value)
    one, two = (invert(generator, targets, STEPS, seed=seed) for seed in (3, np.int64(3)))
    assert torch.equal(one.styles, two.styles)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, 1e300, True])
def test_truncations_are_checked(value: Any, generator: Generator) -> None:
    with refuses("truncation"):
        generator.sample([0], value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("settings", each) for each in ({"steps": 10}, "x", 3)),
        *(("degrade", each) for each in ("grey", 3, ["grey"], lambda _: None)),
        ("perceptual", 3),
        ("initial", 3),
    ],
)
def test_arguments_of_inversions_are_checked(name: str, value: Any, generator: Generator) -> None:
    targets = torch.rand(1, 3, 32, 32, dtype=torch.float32)
    with refuses(name, TypeError):
        invert(generator, targets, **{"settings": STEPS, name: value})


def made(picture: Tensor, folder: Path) -> list[Tensor]:
    """Train, save, load and invert, in whatever state PyTorch is."""
    settings = SinGANSettings(steps=1, width=2, coarsest=12, ratio=0.5)
    targets = picture[:, :, :24].repeat_interleave(2, 1).repeat_interleave(2, 2)[None, :, :32, :32]
    model = train_model("singan", [picture], folder, settings, seed=3)
    model.save(folder / "m.safetensors")
    loaded: Any = load_trained(folder / "m.safetensors")
    generator = load_generator("embedded", size=(32, 32))
    found = invert(generator, targets, STEPS, degrade=[parse_degradation("blur:1"), parse_degradation("jpeg:50")])
    weights = weights_of("random", 2, 3)
    mixed = interpolate(generator, found.styles.repeat(2, 1, 1), [], weights)
    return [
        latentpatch.analogy(picture, loaded, 2).images, loaded.enlarge(picture, 1.5), found.styles, found.images,
        weights, mixed, generator.sample([1]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def plain(picture: Tensor, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Tensor], Path]:
    """What is made in the usual state, and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    return made(picture, folder), folder


@pytest.mark.parametrize("state", STATES)
def test_trained_models_and_inversions_are_the_same_in_any_state(
    state: str, plain: tuple[list[Tensor], Path], picture: Tensor, tmp_path: Path
) -> None:
    (expected, folder), random = plain, torch.get_rng_state()
    with STATES[state]():
        found = made(picture, tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    for number, (one, two) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == two.dtype, number
        assert torch.equal(one, two), number
    assert (tmp_path / "m.safetensors").read_bytes() == (folder / "m.safetensors").read_bytes()


@pytest.mark.parametrize("radius", [2**31, 2**63 - 1])
def test_radii_have_an_end(radius: int, picture: Tensor) -> None:
    """OpenCV's own error came through."""
    pytest.importorskip("cv2.ximgproc", reason="no contributed modules of OpenCV")
    for method in ("box", "median", *(["guided"] if radius == 2**31 else [])):  # guided takes seconds
        assert latentpatch.denoise(picture, method=method, radius=radius).images.isfinite().all()


@pytest.mark.parametrize("sigma", [2.0**-126, 1e-30])
def test_the_least_noise_leaves_a_picture(sigma: float, picture: Tensor) -> None:
    """Squares that are 0 ended in an IndexError."""
    found = latentpatch.denoise(picture, method="nl-pca", sigma=sigma, window=5, neighbors=4).images
    assert torch.allclose(found[0], picture, atol=1e-3)


@pytest.mark.parametrize("values", [[5e-324, 5e-324], [1e308, 1e308], [2, 2], np.array([1, 1]), torch.tensor([3, 3])])
def test_weights_of_any_size(values: Any, picture: Tensor) -> None:
    both = [picture, picture.flip(2)]
    expected = latentpatch.texture(both, 24, method="patch-diffusion", weights=[1, 1], steps=1, coarsest=16).images
    found = latentpatch.texture(both, 24, method="patch-diffusion", weights=values, steps=1, coarsest=16).images
    assert torch.equal(found, expected)
    for wrong in ([float("nan"), 1], [10**400, 1], [True, False], ["1", "2"], [None, 1], [1], [0, 0], [-1, 1]):
        with refuses("weights"):
            latentpatch.texture(both, 24, method="patch-diffusion", weights=wrong)


def test_pictures_of_pillow_for_trained_models(picture: Tensor) -> None:
    model: Any = MODELS["hp-vae-gan"]()
    levels = (picture.movedim(0, -1) * 255).byte().numpy()
    expected = latentpatch.analogy(levels, model).images
    assert torch.equal(latentpatch.analogy(Image.fromarray(levels), model).images, expected)
