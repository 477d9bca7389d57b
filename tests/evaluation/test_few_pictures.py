"""Figures of pictures made from a few: known answers, and both collapses that FewGAN names."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.errors import refuses

from latentpatch.evaluation.few_pictures import (
    few_picture_figures,
    nearest_sources,
    pixel_diversity,
    source_figures,
)


def sources() -> torch.Tensor:
    return torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def features(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images, 4).flatten(1)


def test_diversity_is_zero_for_one_picture_and_one_for_pixels_drawn_alike():
    one = sources()[:1]
    assert pixel_diversity(one.repeat(5, 1, 1, 1), one) == 0
    drawn = one.flatten(2)[..., torch.randint(480, (400, 480), generator=torch.Generator().manual_seed(1))]
    assert pixel_diversity(drawn[0].movedim(1, 0).reshape(400, 3, 20, 24), one) == pytest.approx(1, rel=0.01)
    with refuses("images"):
        pixel_diversity(one, one)


def test_the_nearest_source_of_a_mosaic_is_that_of_its_halves():
    first, second, _ = sources()
    mosaic = torch.cat([first[:, :, 4:16], second[:, :, 2:14]], 2)[None]
    found = nearest_sources(mosaic, sources())
    assert found.shape == (1, 7, 9)
    assert (found[0, :, :3] == 0).all()
    assert (found[0, :, 6:] == 1).all()


def test_shares_of_halves_and_of_one():
    maps = torch.zeros(2, 4, 4, dtype=torch.int64)
    maps[0, :2] = 2
    maps[1, 0] = -1
    figures = source_figures(maps, 3)
    assert figures["largest_share"] == pytest.approx((0.5 + 1) / 2)
    assert figures["sources"] == pytest.approx((2 + 1) / 2)
    assert figures["entropy"] == pytest.approx((1 + 0) / 2, abs=1e-9)
    assert figures["one_source"] == 0.5
    uniform = torch.arange(4).repeat(4)[None, None]
    assert source_figures(uniform, 4)["entropy"] == pytest.approx(math.log2(4))


def test_copies_of_the_sources_are_near_and_of_one_source_and_noise_is_far():
    copies = few_picture_figures(sources().repeat(4, 1, 1, 1), sources(), features)
    noise = torch.rand(12, 3, 20, 24, generator=torch.Generator().manual_seed(2)).square()
    made = few_picture_figures(noise, sources(), features, torch.zeros(12, 20, 24, dtype=torch.int64))
    assert copies["nearest"] == 0
    assert copies["one_source"] == 1
    assert copies["is_estimated"]
    assert not made["is_estimated"]
    assert copies["kernel_distance"] < made["kernel_distance"]
    assert copies["frechet_distance"] < made["frechet_distance"]
    assert made["nearest"] > 10
    low, high = made["interval"]
    assert low <= made["kernel_distance"] <= high
