"""Global state of PyTorch changes nothing and is not changed: types, devices, autocast, modes, the random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentpatch import PICTURE_METHODS, LatentPatch, explain
from latentpatch.autoencoders import load_autoencoder
from latentpatch.generators import load_generator
from latentpatch.methods.inversion import InversionSettings, interpolate, invert, weights_of
from latentpatch.methods.picture import REGION_TASKS, TARGET_TASKS
from latentpatch.methods.trained.fewgan_side import drawn_landscapes
from latentpatch.picture_tasks import make_pictures
from latentpatch.provenance.copying import copying
from latentpatch.provenance.registered import RegisteredSources
from latentpatch.registration.agreement import disagreement_of_sources
from latentpatch.registration.alignment import estimate


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def path(pictures: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "m.safetensors"
    LatentPatch(components=4).fit(pictures).save(file)
    return file


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "meta": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("state", STATES)
def test_models_are_the_same_in_any_state(state: str, pictures: Tensor, path: Path, tmp_path: Path) -> None:
    """Defect: a model was refused or another one under set_default_dtype and in autocast."""
    plain = LatentPatch(components=4)
    expected = LatentPatch.load(path)
    made = expected.generate(2)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    edited = expected.edit(pictures[0], pictures[1], mask)
    with STATES[state]():
        before = torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu")
        model = LatentPatch.load(path)
        assert torch.equal(model.generate(2).images, made.images)
        assert torch.equal(model.edit(pictures[0], pictures[1], mask).images, edited.images)
        fitted = (plain if state == "meta" else LatentPatch(components=4)).fit(pictures)
        fitted.save(tmp_path / "m.safetensors")
        assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu")) == before
    assert (tmp_path / "m.safetensors").read_bytes() == path.read_bytes()
    assert torch.equal(LatentPatch.load(tmp_path / "m.safetensors").generate(2).images, made.images)


def test_the_random_state_stays(pictures: Tensor, path: Path, tmp_path: Path) -> None:
    """Defect: building and loading moved PyTorch's generator."""
    before = torch.get_rng_state()
    LatentPatch()
    model = LatentPatch.load(path)
    model.fit(pictures)
    model.generate(1)
    model.save(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    load_autoencoder("embedded", pretrained=False)  # random weights are drawn from it, as of any module
    assert not torch.equal(torch.get_rng_state(), before)


_ON_PICTURES = [(name, min(PICTURE_METHODS[name].tasks - {"compose"})) for name in PICTURE_METHODS]


@pytest.mark.parametrize(("name", "task"), _ON_PICTURES)
def test_methods_on_pictures_are_the_same_in_any_state(name: str, task: str) -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[12:18, 12:18] = True
    options: dict[str, Any] = {"target": picture.flip(2)} if task in TARGET_TASKS + REGION_TASKS else {}
    options |= {"mask": mask} if task in REGION_TASKS else {}

    def make() -> Tensor:
        return make_pictures(task, [picture], None, [3], method=name, **options).images

    expected = make()
    for state in ("float64", "autocast", "meta"):
        with STATES[state]():
            assert torch.equal(make(), expected), state


@pytest.mark.parametrize("name", ["dcgan", "stylegan1", "stylegan2", "embedded", "pixels"])
def test_generators_are_the_same_with_any_type(name: str) -> None:
    """Defect: styles, noise maps and kernels were float64 beside float32 weights, and drawn otherwise."""
    weights = load_generator(name, size=(32, 32), pretrained=False).state_dict()
    size = (64, 64) if name == "dcgan" else (32, 32)
    settings = InversionSettings(steps=10, start="random")

    def made(dtype: torch.dtype) -> list[Tensor]:
        generator = load_generator(name, size=size, pretrained=False)
        generator.load_state_dict(weights)
        styles, noise = generator.random_styles([1, 2]), generator.noise(3)
        targets = generator.sample([4]).to(dtype)
        found = invert(generator, targets, settings)
        initial = replace(found, styles=found.styles.to(dtype), noise=tuple(each.to(dtype) for each in found.noise))
        again = invert(generator, targets, settings, initial=initial)
        between = interpolate(generator, styles.to(dtype), [], weights_of("line", 2, 3).to(dtype))
        with torch.no_grad():
            return [generator.synthesize(styles, noise), styles, targets.float(), again.images, between, *noise]

    expected = [*made(torch.float32), drawn_landscapes(2, size)]
    with STATES["float64"]():
        found = [*made(torch.float64), drawn_landscapes(2, size)]
    assert all(each.dtype == torch.float32 for each in found)
    assert all(map(torch.equal, found, expected))


def test_what_judges_pictures_is_the_same_in_any_state(pictures: Tensor, path: Path) -> None:
    """Defect: audits, comparisons and alignments failed under set_default_dtype."""
    model = LatentPatch.load(path)

    def judged() -> list[Tensor]:
        seen = copying(model, pictures[:2])
        compared = RegisteredSources([pictures]).compare(pictures[:1])
        aligned = estimate(list(pictures), (64, 64), min_agreement=-1.0)
        disagreement_of_sources(model.bank)
        page = explain(model, model.generate(1), 0).page().encode()
        return [
            seen.relative,
            compared.distance,
            aligned.matrices,
            torch.frombuffer(bytearray(page), dtype=torch.uint8),
        ]

    expected = judged()
    for state in ("float64", "autocast"):
        with STATES[state]():
            for found, wanted in zip(judged(), expected, strict=True):
                assert torch.equal(found, wanted), state
