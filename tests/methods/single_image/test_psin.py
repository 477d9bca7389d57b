"""PSin: weights, pyramids and gradients against plain computations, copies, seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.copied_pictures import random_picture
from helpers.errors import refuses

import latentpatch
from latentpatch.methods.single_image import psin
from latentpatch.methods.single_image.psin import PSIN, halved, join, with_gradients
from latentpatch.methods.single_image.settings import PSINSettings
from latentpatch.ops.patchmatch import Field, Sources
from latentpatch.registry import PICTURE_METHODS

SMALL = PSINSettings(patch_size=5, scales=2, iterations=3, sweeps=3)


def test_joints_are_weighted_by_distance_and_its_percentile() -> None:
    random = torch.Generator().manual_seed(0)
    pictures = [torch.randint(-128, 128, (2, *size), generator=random).float() for size in ((9, 8), (7, 11))]
    rows, columns, side = 6, 5, 3
    number = torch.randint(2, (rows, columns), generator=random)
    matches = torch.stack([number, *(torch.randint(5, (rows, columns), generator=random) for _ in range(2))], -1)
    scores = torch.rand(rows, columns, generator=random) * 9 * 255**2
    made = join(Field(matches.int()[:, :, None], scores[:, :, None]), Sources(pictures, side), (8, 7))
    for y, x in ((0, 0), (3, 3), (7, 2), (6, 6)):
        inside = [(i, j) for i in range(rows) for j in range(columns) if 0 <= y - i < side and 0 <= x - j < side]
        distances = [float(scores[at]) / 255**2 for at in inside]
        sigma = max(1.0, float(np.percentile(distances, 75)))
        weights = [math.exp(-d / (2 * sigma**2)) for d in distances]
        mean = torch.zeros(2)
        for (i, j), weight in zip(inside, weights, strict=True):
            source, row, column = matches[i, j].tolist()
            mean += weight * pictures[source][:, row + y - i, column + x - j]
        assert (made[:, y, x] - mean / sum(weights)).abs().max() <= 0.51


def test_pyramids_and_gradients() -> None:
    ramp = (torch.arange(12) / 51).expand(3, 10, 12).contiguous()
    features = with_gradients(ramp, 5.0)
    assert features.shape == (5, 10, 12)
    assert (features[3], features[4]) == (pytest.approx(0), pytest.approx(25, abs=0.01))
    whole = with_gradients(random_picture(11, 14), 1.0)
    half = halved(whole)
    assert half.shape == (5, 6, 7)
    weights = torch.tensor([math.exp(-1 / 4.5), 1, math.exp(-1 / 4.5)])
    weights = weights[:, None] * weights / weights.sum() ** 2
    expected = (whole[:, 3:6, 5:8] * weights).sum((1, 2))
    assert (half[:, 2, 3] - expected).abs().max() <= 0.51


def test_results_are_of_the_picture_and_of_their_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.nn.functional.avg_pool2d(random_picture(40, 44)[None], 3, 1)[0]
    both = PSIN()([source], (30, 34), [3, 4], SMALL)
    assert both.images.shape == (2, 3, 30, 34)
    assert both.offsets is not None
    _, row, column = both.offsets[1].unbind(-1)
    error = (source[:, row, column] - both.images[1]).abs().mean()
    assert error < 0.6 * (source[:, row.flip(0), column.flip(1)] - both.images[1]).abs().mean()
    monkeypatch.setattr(psin, "_BLOCK_PIXELS", 100)
    alone = PSIN()([source], (30, 34), [4], SMALL)
    assert torch.equal(alone.images[0], both.images[1])
    assert alone.offsets is not None
    assert torch.equal(alone.offsets[0], both.offsets[1])
    assert not torch.equal(both.images[0], both.images[1])


def test_a_picture_in_its_own_size_comes_back() -> None:
    source = (random_picture(24, 28) * 255).round() / 255
    made = latentpatch.retarget(source, (24, 28), settings=SMALL.changed(scales=1, sweeps=10))
    assert (made.method, made.task) == ("psin", "retarget")
    assert (made.images[0] - source).abs().mean() < 0.02
    assert made.copying()[0]["in_place"] > 0.9


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_and_several_pictures(channels: int) -> None:
    pictures = [random_picture(16, 20, seed=seed, channels=channels) for seed in (0, 1)]
    made = latentpatch.reshuffle(pictures, settings=SMALL, size=(18, 14))
    assert made.images.shape == (1, channels, 18, 14)


def test_refusals() -> None:
    assert isinstance(PICTURE_METHODS["psin"], PSIN)
    with refuses("size"):
        latentpatch.reshuffle(random_picture(10, 30), method="psin")
    with refuses("gradients"):
        PSINSettings(gradients=-1.0)
