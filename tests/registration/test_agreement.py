"""Sources and pictures out of register are told from those in register, by their keys alone."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch
from helpers.misaligned import draw_boat, similarity
from helpers.paths import PORTRAITS
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.bank.bank import SourceBank
from latentpatch.errors import RegistrationWarning
from latentpatch.io.images import list_images, read_image
from latentpatch.registration.agreement import (
    disagreement_of_pair,
    disagreement_of_picture,
    disagreement_of_sources,
)
from latentpatch.registration.transforms import warp

SIDE = 128


def registered(count: int) -> Tensor:
    return torch.stack([read_image(path, (SIDE, SIDE)) for path in list_images(PORTRAITS)[:count]])


def moved(pictures: Tensor, angle: float = 10, zoom: float = 1.2, shift: float = 14) -> Tensor:
    """Turn, zoom and shift every picture at random."""
    draw = random.Random(0)
    matrices = [
        similarity(
            draw.uniform(-angle, angle), zoom ** draw.uniform(-1, 1), [draw.uniform(-shift, shift) for _ in range(2)]
        )
        for _ in pictures
    ]
    return torch.stack(
        [warp(picture, matrix, (SIDE, SIDE)) for picture, matrix in zip(pictures, matrices, strict=True)]
    )


def fitted(pictures: Tensor, **options: object) -> LatentPatch:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        return LatentPatch().fit(pictures, residuals=False, **options)


@pytest.fixture(scope="module")
def model() -> LatentPatch:
    """A model of sixteen portraits in register."""
    return fitted(registered(16))


def keys_of(model: LatentPatch, picture: Tensor) -> Tensor:
    return model.bank.keys_of(model.latents_of(picture[None]), model.pca)


def test_registered_sources_pass(model: LatentPatch) -> None:
    assert disagreement_of_sources(model.bank) is None


def test_moved_sources_do_not() -> None:
    found = disagreement_of_sources(fitted(moved(registered(16))).bank)
    assert found is not None
    assert found.is_scattered
    assert found.total == 16


def test_boats_as_faces() -> None:
    boats = torch.stack([draw_boat(seed) for seed in range(12)])
    assert disagreement_of_sources(fitted(boats).bank) is None
    found = disagreement_of_sources(fitted(moved(boats)).bank)
    assert found is not None
    assert found.is_scattered


def test_noise_has_no_place() -> None:
    noise = torch.rand(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert disagreement_of_sources(fitted(noise).bank) is None


def test_a_few_sources_elsewhere_are_named() -> None:
    pictures = registered(20)
    for i in (3, 11):
        pictures[i] = warp(pictures[i], similarity(0, 1, (0, 17)), (SIDE, SIDE))
    found = disagreement_of_sources(fitted(pictures, ids=[f"p{i}" for i in range(20)]).bank)
    assert found is not None
    assert set(found.names) == {"p3", "p11"}


def test_copies_and_mirror_images_change_nothing(model: LatentPatch) -> None:
    pictures = moved(registered(10))
    plain, mirrored = (disagreement_of_sources(fitted(pictures, mirrored=flag).bank) for flag in (False, True))
    assert plain is not None
    assert mirrored is not None
    assert mirrored.total == plain.total == 10
    assert disagreement_of_sources(fitted(pictures, offsets=1).bank) is None  # they are meant to be out of register


def test_what_cannot_be_judged_passes() -> None:
    pictures = moved(registered(10))
    assert disagreement_of_sources(fitted(pictures[:7]).bank) is None
    assert disagreement_of_sources(LatentPatch(components=4).fit(pictures, residuals=False).bank) is None
    assert disagreement_of_sources(SourceBank()) is None


def test_a_picture_and_the_sources(model: LatentPatch) -> None:
    pictures = registered(24)[16:]
    assert [disagreement_of_picture(model.bank, keys_of(model, each)) for each in pictures] == [None] * 8
    found = [
        disagreement_of_picture(model.bank, keys_of(model, warp(each, similarity(8, 1.1, (12, 16)), (SIDE, SIDE))))
        for each in pictures
    ]
    assert all(each is not None for each in found)
    boat = disagreement_of_picture(model.bank, keys_of(model, draw_boat(0)), "boat")
    assert boat is not None
    assert boat.names == ("boat",)


def test_two_pictures(model: LatentPatch) -> None:
    pictures = registered(12)
    there = torch.stack([warp(each, similarity(0, 1, (12, 16)), (SIDE, SIDE)) for each in pictures])
    with torch.no_grad():
        latents, elsewhere = (model.autoencoder.encode(each) for each in (pictures, there))
    names = ("a", "b")
    same = [disagreement_of_pair(latents[[i, i + 1]], names) for i in range(11)]
    apart = [disagreement_of_pair(torch.stack([latents[i], elsewhere[i + 1]]), names) for i in range(11)]
    assert sum(each is not None for each in same) == 0
    assert sum(each is not None for each in apart) >= 8


def test_fitting_warns() -> None:
    with pytest.warns(RegistrationWarning, match="not in register"):
        LatentPatch().fit(moved(registered(10)), residuals=False)


def test_portraits_as_they_were_taken(shared: Path) -> None:
    folder = shared / "portraits"
    aligned = [folder / name for name in (folder / "source.txt").read_text().split()[::12]]
    raw = list_images(folder / "raw")
    draw = random.Random(0)
    for count in (16, 40):
        for paths, is_raw in ((aligned, False), (raw, True)):
            chosen = sorted(draw.sample(paths, count))
            pictures = torch.stack([read_image(path, (256, 256)) for path in chosen])
            found = disagreement_of_sources(fitted(pictures).bank)
            assert (found is not None) == is_raw
