"""Image quilting: exact search, cuts of least error, exact offsets, tiles."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers.copied_pictures import assert_copied, random_picture
from helpers.errors import refuses
from torch import Tensor

from latentpatch.methods.picture import PictureResult
from latentpatch.methods.single_image.quilting import Quilting
from latentpatch.methods.single_image.quilting_blocks import (
    Exemplars,
    Search,
    band_widths,
    least_cut,
    levels_of,
    nearest_positions,
    place_starts,
)
from latentpatch.methods.single_image.texture_settings import QuiltingSettings
from latentpatch.methods.single_image.texture_transfer import shares
from latentpatch.ops.palettes import luminance
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs.defaults import plain_torch

SMALL = QuiltingSettings(block=8, overlap=3)


@plain_torch()
def stripes(height: int, width: int, period: int = 4) -> Tensor:
    return (torch.arange(width) % period / period).expand(3, height, width).contiguous()


def make(pictures: list[Tensor], size: tuple[int, int], settings: QuiltingSettings, *seeds: int) -> PictureResult:
    return Quilting()(pictures, size, seeds or (0,), settings, task="texture")


def test_the_search_is_exact() -> None:
    pictures = [random_picture(20, 17), random_picture(11, 30, seed=1)]
    exemplars = Exemplars.of(pictures, 6)
    known = np.zeros((6, 6), bool)
    known[:2] = known[:, :3] = True
    block = np.random.default_rng(0).integers(0, 256, (6, 18)).astype(np.int32)
    found = Search(exemplars).differences(block, known)
    expected = []
    for picture in pictures:
        levels = levels_of(picture)
        for row, column in product(range(picture.shape[1] - 5), range(picture.shape[2] - 5)):
            part = levels[row : row + 6, 3 * column : 3 * column + 18]
            expected.append(int((np.square(part - block) * np.repeat(known, 3, 1)).sum()))
    assert found.tolist() == expected


def test_a_block_of_an_exemplar_is_found() -> None:
    pictures = [random_picture(20, 17), random_picture(11, 30, seed=1)]
    exemplars = Exemplars.of(pictures, 6)
    position = 15 * 12 + 25 * 2 + 7
    assert exemplars.place(position) == (1, 2, 7)
    block, _ = exemplars.pixels_of(position)
    costs = Search(exemplars).differences(block, np.ones((6, 6), bool))
    assert nearest_positions(costs, 0.1).tolist() == [position]


def test_cuts_are_the_cheapest_paths() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        error = generator.integers(0, 9, (5, 3)).astype(float)
        paths = [p for p in product(range(3), repeat=5) if all(abs(a - b) < 2 for a, b in pairwise(p))]
        costs = [sum(error[row, column] for row, column in enumerate(path)) for path in paths]
        cut = least_cut(error)
        assert tuple(cut) in paths
        assert sum(error[row, column] for row, column in enumerate(cut)) == min(costs)
    assert least_cut(np.zeros((4, 3))).tolist() == [0, 0, 0, 0]


def test_known_bands_along_all_sides_are_cut() -> None:
    known = np.zeros((9, 9), bool)
    known[:2] = known[-3:] = known[:, :4] = known[:, -1:] = True
    assert band_widths(known) == [4, 2, 1, 3]


def test_offsets_are_exact_and_seeds_count() -> None:
    pictures = [random_picture(24, 20), random_picture(16, 30, seed=1)]
    batch = make(pictures, (30, 33), SMALL, 5, 6)
    assert batch.images.shape == (2, 3, 30, 33)
    assert_copied(batch, pictures)
    assert torch.equal(make(pictures, (30, 33), SMALL, 6).images[0], batch.images[1])
    assert not torch.equal(batch.images[0], batch.images[1])
    assert batch.offsets is not None
    assert batch.offsets[..., 0].unique().tolist() == [0, 1]


def test_periodic_stripes_go_on() -> None:
    made = make([stripes(24, 26)], (40, 41), SMALL).images[0]
    first = int((made[0, 0, 0] * 4).round())
    expected = (torch.arange(41) + first) % 4 / 4
    assert torch.equal(made, expected.expand(3, 40, 41))


def test_tiles_of_stripes_meet() -> None:
    made = make([stripes(24, 26)], (20, 24), SMALL.changed(tileable=True)).images[0]
    assert torch.equal(made.roll(4, 2), made)
    assert torch.equal(made.roll(7, 1), made)


def test_tiles_meet_better_than_others() -> None:
    source = torch.nn.functional.avg_pool2d(random_picture(64, 64)[None], 5, 1)[0]
    jumps = {}
    for tileable in (True, False):
        images = make([source], (32, 32), SMALL.changed(tileable=tileable), 0, 1, 2).images
        jumps[tileable] = float((images[..., 0] - images[..., -1]).abs().mean())
    assert jumps[True] < 0.6 * jumps[False]


def test_a_small_texture_is_one_block() -> None:
    source = random_picture(24, 20)
    result = make([source], (6, 7), SMALL)
    assert result.offsets is not None
    _, top, left = result.offsets[0, 0, 0].tolist()
    assert torch.equal(result.images[0], source[:, top : top + 6, left : left + 7])


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha(channels: int) -> None:
    pictures = [random_picture(20, 20, channels=channels)]
    result = make(pictures, (21, 19), SMALL)
    assert result.images.shape == (1, channels, 21, 19)
    assert_copied(result, pictures)


def test_places_cover_the_texture() -> None:
    assert place_starts(20, 8, 3, False) == [0, 5, 10, 15]
    assert place_starts(18, 8, 3, False) == [0, 5, 10]
    assert place_starts(5, 8, 3, False) == [0]
    assert place_starts(18, 8, 3, True) == [0, 4, 9, 13]


def test_refusals() -> None:
    source = random_picture(20, 20)
    with refuses("block"):
        make([source], (40, 40), QuiltingSettings(block=21))
    with refuses("overlap"):
        make([source], (40, 40), QuiltingSettings(block=8, overlap=8))
    with refuses("size"):
        make([source], (10, 40), SMALL.changed(tileable=True))
    with refuses("tolerance"):
        QuiltingSettings(tolerance=-1.0)


def test_the_texture_counts_more_in_later_passes() -> None:
    assert [shares(n) for n in (1, 2, 3, 5)] == [[10], [10, 90], [10, 50, 90], [10, 30, 50, 70, 90]]


@pytest.mark.parametrize(("channels", "passes"), [(1, 3), (3, 1), (3, 3), (4, 2)])
def test_transfer_lays_copies_out_like_the_content(channels: int, passes: int) -> None:
    styles = [random_picture(24, 30, channels=channels), random_picture(16, 30, seed=1, channels=channels) * 0.5]
    content = torch.full((channels, 27, 34), 0.2)
    content[:, :, 17:] = 0.8
    settings = SMALL.changed(passes=passes, palette="content", tolerance=0.0)
    made = Quilting()(styles, (27, 34), (3, 4), settings, task="stylize", target=content)
    assert_copied(made, styles)
    light = luminance(made.images[0])
    assert light[..., :14].mean() + 0.15 < light[..., 20:].mean()
    alone = Quilting()(styles, (27, 34), (4,), settings, task="stylize", target=content)
    assert torch.equal(alone.images[0], made.images[1])


def test_transfer_of_the_content_itself_gives_it_back() -> None:
    source = random_picture(24, 28)
    made = Quilting()([source], (24, 28), (0,), SMALL.changed(tolerance=0.0), task="stylize", target=source)
    assert (made.images[0] == source).float().mean() > 0.9


def test_the_registry_has_it() -> None:
    assert isinstance(PICTURE_METHODS["quilting"], Quilting)


def test_the_estimate_of_time_knows_the_task() -> None:
    method, settings, size = Quilting(), QuiltingSettings(), (160, 192)
    texture = method.seconds([(160, 160)], size, 1, settings)
    assert method.task_seconds("texture", [(160, 160)], size, 1, settings) == texture
    painted = method.task_seconds("stylize", [(160, 160)], size, 1, settings)
    assert 3 < painted < 9, "4.8 s were measured"
    assert texture < 0.3, "0.2 s were measured"
    assert method.task_seconds("stylize", [(160, 160)], size, 2, settings) == pytest.approx(2 * painted)
    assert method.task_seconds("stylize", [(160, 160)], size, 1, QuiltingSettings(passes=1)) < 0.3 * painted
