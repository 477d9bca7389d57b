"""GPDM: patch distributions that are matched, seeds, several sources and borders."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.methods.picture import PictureStep
from latentpatch.methods.single_image.gpdm import GPDM, _Run, edge_places, scale_factors, steps_of_scales
from latentpatch.methods.single_image.presets import PICTURE_PRESETS
from latentpatch.methods.single_image.texture_settings import GPDMSettings
from latentpatch.ops.wasserstein import sliced_wasserstein
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs.defaults import plain_torch

QUICK = GPDMSettings(patch_size=5, steps=40, last_steps=40, coarsest=12, projections=32)


@plain_torch()
def spots(height: int = 28, width: int = 36, seed: int = 0, channels: int = 3) -> Tensor:
    """Return blurred noise with more contrast."""
    noise = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)[0] * 6 - 2.5).clamp(0, 1)


def distance(first: Tensor, second: Tensor) -> float:
    return float(sliced_wasserstein(first[None], second[None], side=5, seed=99))


def test_patches_become_distributed_as_those_of_the_source() -> None:
    source = spots()
    result = GPDM()([source], (28, 36), [0], QUICK)
    assert result.images.shape == (1, 3, 28, 36)
    assert result.offsets is None
    assert distance(result.images[0], source) < 0.8 * distance(spots(seed=1), source), "nearer than another of its kind"
    assert (result.images[0] - source).abs().mean() > 0.1, "another picture, not a copy"
    assert result.losses is not None
    last = result.losses[-40:]
    assert last[-5:].mean() < 0.5 * last[:3].mean()


def test_a_seed_gives_one_picture_alone_in_a_batch_and_with_any_threads() -> None:
    source, few = spots(), QUICK.changed(steps=8, last_steps=8)
    batch = GPDM()([source], (20, 30), [3, 4], few).images
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = GPDM()([source], (20, 30), [4], few).images
    finally:
        torch.set_num_threads(before)
    assert torch.equal(batch[1], alone[0])
    assert not torch.equal(batch[0], batch[1])


def test_one_picture_of_two_sources_has_the_patches_of_both() -> None:
    dark, light = spots() * 0.2, 0.8 + spots(40, 24, seed=1) * 0.2
    made = GPDM()([dark, light], (30, 30), [0], QUICK).images[0]
    assert 0.2 < float((made > 0.5).float().mean()) < 0.8
    assert float(((made > 0.3) & (made < 0.7)).float().mean()) < 0.3, "few pixels have tones of neither"


def test_results_together_may_differ_where_each_by_itself_may_not() -> None:
    sources = [spots() * 0.1, 0.9 + spots(seed=1) * 0.1]
    long, own, pooled = QUICK.changed(steps=150, last_steps=100, projections=16), {}, {}
    for matching in ("each", "together"):
        images = GPDM()(sources, (20, 20), [0, 1], long.changed(matching=matching)).images
        own[matching] = min(float(sliced_wasserstein(image[None], torch.stack(sources))) for image in images)
        pooled[matching] = float(sliced_wasserstein(images, torch.stack(sources)))
    assert pooled["together"] < 0.3 * own["together"], "one is dark and one is light"
    assert own["each"] < 0.7 * own["together"], "each has both tones, and joints between them"


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_pictures_and_alpha_are_kept(channels: int) -> None:
    assert GPDM()([spots(channels=channels)], (16, 16), [0], QUICK).images.shape == (1, channels, 16, 16)


@pytest.mark.usefixtures("float32")
def test_tiles_count_the_patches_across_their_edges() -> None:
    """One scale without noise: a target that is rolled gives the same tile, rolled, unless the seams count for less."""
    source, target = spots(20, 20), spots(16, 18, seed=1)
    settings = QUICK.changed(coarsest=64, noise=0.0, steps=3, last_steps=3)
    for tileable in (True, False):
        made = []
        for each in (target, target.roll((5, 7), (1, 2))):
            run = _Run(settings.changed(tileable=tileable), [2 * source[None] - 1], (16, 18), [0])
            made.append(run._descend(each[None], [source[None]], 3, torch.Generator().manual_seed(0), []))
        rolled = made[0].roll((5, 7), (2, 3))
        assert bool(torch.isclose(rolled, made[1], atol=1e-4).float().mean() > 0.98) == tileable


def test_edge_places() -> None:
    assert edge_places(5, 3, "plain").tolist() == [0, 1, 2, 3, 4]
    assert edge_places(5, 5, "mirrored").tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert edge_places(5, 3, "wrapped").tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_scales_and_steps_are_those_of_the_public_code() -> None:
    """Its heights for a picture of 167 rows: times .85, rounded down, until one is at most 21."""
    settings = PICTURE_PRESETS["gpdm-original"]
    assert isinstance(settings, GPDMSettings)
    sides = [167, 141, 119, 101, 85, 72, 61, 51, 43, 36, 30, 25, 21]
    assert [round(167 * each) for each in scale_factors(167, settings)] == sides[::-1]
    assert steps_of_scales(3, settings) == [300, 300, 300]
    assert steps_of_scales(3, settings.changed(last_steps=3)) == [300, 30, 3]


def test_steps_are_observed() -> None:
    seen: list[PictureStep] = []
    GPDM()([spots()], (28, 36), [0, 1], QUICK, observe=seen.append)
    assert [step.done for step in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].done == seen[-1].total
    assert seen[0].images.shape[2] < seen[len(seen) // 2 - 1].images.shape[2] == 28


def test_refusals() -> None:
    for name, value in (("start", "there"), ("matching", "all"), ("edges", "none"), ("unequal", "no"), ("steps", 0)):
        with refuses(name):
            GPDMSettings(**{name: value})
    with refuses("size"):
        GPDM()([spots()], (4, 40), [0], QUICK)
    with refuses("pictures"):
        GPDM()([spots() * float("nan")], (20, 20), [0], QUICK)


def test_the_registry_has_it() -> None:
    assert isinstance(PICTURE_METHODS["gpdm"], GPDM)
