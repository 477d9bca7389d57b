"""Efros & Leung: exact window search, growth of known textures, holes, offsets."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from helpers.copied_pictures import assert_copied, random_picture
from helpers.errors import refuses
from torch import Tensor

from latentpatch.methods.picture import PictureResult
from latentpatch.methods.single_image import efros_leung
from latentpatch.methods.single_image.efros_leung import EfrosLeung, WindowSearch, window_weights
from latentpatch.methods.single_image.quilting_blocks import levels_of
from latentpatch.methods.single_image.texture_settings import EfrosLeungSettings
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs.defaults import plain_torch

SMALL = EfrosLeungSettings(window=5)


@plain_torch()
def waves(height: int, width: int) -> Tensor:
    """A pattern of period 4 in rows and 3 in columns."""
    rows, columns = torch.arange(height)[:, None] % 4 / 4, torch.arange(width) % 3 / 3
    return torch.stack([rows.expand(height, width), columns.expand(height, width), (rows + columns) / 2])


def make(pictures: list[Tensor], size: tuple[int, int], settings: EfrosLeungSettings, *seeds: int) -> PictureResult:
    return EfrosLeung()(pictures, size, seeds or (0,), settings, task="texture")


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_searches_are_exact(tolerance: float, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [random_picture(16, 13, channels=channels), random_picture(9, 20, seed=1, channels=channels)]
    search = WindowSearch(pictures, 5)
    search.allowed[::7] = False
    rng = np.random.default_rng(0)
    levels, known = rng.integers(0, 256, (5, 5, channels)).astype(np.int32), rng.random((5, 5)) < 0.5
    expected = []
    for picture in pictures:
        values = levels_of(picture).reshape(*picture.shape[1:], channels).astype(np.int64)
        for row, column in product(range(picture.shape[1] - 4), range(picture.shape[2] - 4)):
            part = np.square(values[row : row + 5, column : column + 5] - levels).sum(2)
            expected.append(int((part * window_weights(5) * known).sum()))
    assert search.differences(levels, known).tolist() == expected
    costs = np.where(search.allowed, expected, np.inf)
    wanted = np.flatnonzero(costs <= costs.min() * (1 + tolerance)).tolist()
    for hints in ([], [0, 1, 40, len(expected) - 1]):
        found, least = search.find(levels, known, np.array(hints, np.int64), tolerance)
        assert found.tolist() == wanted
    monkeypatch.setattr(efros_leung, "has_numba", lambda: False)
    slow, slow_least = search.find(levels, known, np.empty(0, np.int64), tolerance)
    assert slow.tolist() == wanted
    assert slow_least == pytest.approx(least)


def test_weights_are_gaussian() -> None:
    weights = window_weights(11)
    assert weights[5, 5] == 1024
    assert (weights == weights.T).all()
    assert (weights == weights[::-1]).all()
    assert weights[5, 6] == round(1024 * np.exp(-1 / (2 * (11 / 6.4) ** 2)))


def test_a_periodic_texture_goes_on() -> None:
    source = waves(14, 13)
    result = make([source], (16, 15), SMALL)
    made = result.images[0]
    assert any(torch.equal(made, waves(24, 24)[:, r : r + 16, c : c + 15]) for r in range(4) for c in range(3))
    assert_copied(result, [source])


def test_tiles_are_periodic() -> None:
    made = make([waves(14, 13)], (12, 12), SMALL.changed(tileable=True)).images[0]
    assert torch.equal(made.roll((4, 3), (1, 2)), made)


def test_a_hole_in_a_periodic_texture_is_filled() -> None:
    source = waves(20, 21)
    mask = torch.zeros(20, 21, dtype=torch.bool)
    mask[6:13, 7:12] = True
    damaged = torch.where(mask, 0.37, source)
    result = EfrosLeung()([damaged], (20, 21), [0], SMALL, task="inpaint", mask=mask)
    assert torch.equal(result.images[0], source)
    assert result.offsets is not None
    assert ((result.offsets[0, ..., 0] == 0) == mask).all(), "what was known is no copy"
    assert not mask[result.offsets[0, ..., 1], result.offsets[0, ..., 2]][mask].any(), "nothing is copied from the hole"


def test_a_hole_is_filled_from_another_picture() -> None:
    source, hole = waves(20, 21), waves(12, 12)
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[4:8, 4:8] = True
    result = EfrosLeung()(
        [source], (12, 12), [0], SMALL, task="inpaint", target=torch.where(mask, 0.0, hole), mask=mask
    )
    assert torch.equal(result.images[0], hole)
    assert result.offsets is not None
    assert ((result.offsets[0, ..., 0] == 0) == mask).all(), "what was known has no position in the source"


def test_seeds_give_the_same_alone_and_in_a_batch() -> None:
    pictures = [random_picture(12, 14), random_picture(10, 11, seed=1)]
    batch = make(pictures, (9, 10), SMALL.changed(tolerance=1.0), 3, 4)
    assert_copied(batch, pictures)
    assert torch.equal(make(pictures, (9, 10), SMALL.changed(tolerance=1.0), 4).images[0], batch.images[1])
    assert not torch.equal(batch.images[0], batch.images[1])


def test_refusals() -> None:
    source = random_picture(12, 12)
    with refuses("window"):
        EfrosLeungSettings(window=4)
    with refuses("window"):
        make([source], (20, 20), EfrosLeungSettings(window=13))
    for mask in (None, torch.zeros(12, 12, dtype=torch.bool), torch.ones(12, 12, dtype=torch.bool)):
        with refuses("mask"):
            EfrosLeung()([source], (12, 12), [0], SMALL, task="inpaint", mask=mask)
    holes = torch.zeros(12, 12, dtype=torch.bool)
    holes[::4, ::4] = True
    with refuses("mask"):
        EfrosLeung()([source], (12, 12), [0], SMALL, task="inpaint", mask=holes)


def test_the_registry_has_it() -> None:
    assert isinstance(PICTURE_METHODS["efros-leung"], EfrosLeung)
