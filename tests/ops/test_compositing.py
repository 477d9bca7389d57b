"""Masks, smooth continuations and joins, with answers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentpatch.ops.compositing import cell_mask, fill_smoothly, join


def box(height: int, width: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def random_images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# --- Cells -------------------------------------------------------------------------------------


def test_cells_by_the_share_of_their_pixels() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[0, 0] = True  # a quarter of cell (0, 0)
    mask[0, 2:4] = True  # half of (0, 1)
    mask[0:2, 4:6] = True  # all of (0, 2)
    mask[2, 6:8] = mask[3, 6] = True  # three quarters of (1, 3)
    expected = {
        0: [(0, 0), (0, 1), (0, 2), (1, 3)],
        0.25: [(0, 0), (0, 1), (0, 2), (1, 3)],
        0.5: [(0, 1), (0, 2), (1, 3)],
        0.75: [(0, 2), (1, 3)],
        1: [(0, 2)],
    }
    for least, cells in expected.items():
        selected = cell_mask(mask, (2, 4), least)
        assert selected.dtype == torch.bool
        assert [tuple(cell) for cell in selected.nonzero().tolist()] == cells, least


def test_cells_that_are_not_square() -> None:
    assert cell_mask(box(6, 8, 0, 3, 0, 2), (2, 4), 1).nonzero().tolist() == [[0, 0]]
    assert cell_mask(box(6, 8, 2, 4, 1, 2), (2, 4), 0).nonzero().tolist() == [[0, 0], [1, 0]]


def test_an_empty_mask_selects_nothing() -> None:
    assert not cell_mask(torch.zeros(4, 4, dtype=torch.bool), (2, 2), 0).any()


# --- Continuations -----------------------------------------------------------------------------


def test_continuations_are_the_same_with_any_number_of_threads() -> None:
    image, mask, found = random_images(1, 3, 250, 250), box(250, 250, 20, 230, 30, 240), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(fill_smoothly(image, mask))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


SIZES = [(16, 16), (7, 13), (1, 9), (31, 2), (5, 5)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_constant_surroundings_give_that_constant(height: int, width: int) -> None:
    mask = box(height, width, height // 4, height // 4 + max(1, height // 2), width // 4, width // 4 + width // 2)
    assert mask.any()
    assert not mask.all()
    image = torch.where(mask, random_images(2, 3, height, width), torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1))
    filled = fill_smoothly(image, mask)
    expected = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand_as(image)
    torch.testing.assert_close(filled, expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_other_pixels_do_not_change_and_masked_ones_do_not_matter(height: int, width: int) -> None:
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(1)) < 0.6
    image = random_images(2, 3, height, width)
    filled = fill_smoothly(image, mask)
    assert filled.shape == image.shape
    assert torch.equal(filled[..., ~mask], image[..., ~mask])
    assert torch.equal(fill_smoothly(torch.where(mask, 77.0, image), mask), filled)
    assert filled.min() >= image[..., ~mask].min() - 1e-6
    assert filled.max() <= image[..., ~mask].max() + 1e-6


def test_no_mask_and_nothing_but_mask() -> None:
    image = random_images(1, 3, 6, 9)
    assert torch.equal(fill_smoothly(image, torch.zeros(6, 9, dtype=torch.bool)), image)
    assert not fill_smoothly(image, torch.ones(6, 9, dtype=torch.bool)).any()


@pytest.mark.parametrize("axis", [2, 3])
def test_ramps_go_on(axis: int) -> None:
    shape = [1, 1, 1, 1]
    shape[axis] = 64
    ramp = torch.linspace(0, 1, 64).view(shape).expand(1, 3, 64, 64)
    mask = box(64, 64, 20, 44, 20, 44)
    filled = fill_smoothly(ramp, mask)
    assert (filled - ramp)[..., mask].abs().max() < 0.15, "24 of 64 pixels span 0.375, their mean is off by 0.19"
    assert (filled - ramp)[..., mask].square().mean().sqrt() < 0.06
    rows = filled[..., 20:44, 20:44].movedim(axis, 0).flatten(1).mean(1)
    assert (rows.diff() > 0).all(), "it rises all the way"


def test_colours_and_images_do_not_mix() -> None:
    image = random_images(3, 3, 20, 20)
    mask = box(20, 20, 4, 13, 6, 19)
    whole = fill_smoothly(image, mask)
    for i in range(3):
        for channel in range(3):
            alone = fill_smoothly(image[i : i + 1, channel : channel + 1], mask)
            torch.testing.assert_close(whole[i : i + 1, channel : channel + 1], alone, atol=0, rtol=0)


# --- Joins -------------------------------------------------------------------------------------


def test_outside_of_a_join_is_untouched() -> None:
    inside, outside = random_images(4, 3, 24, 18), 1 - random_images(1, 3, 24, 18)
    mask = box(24, 18, 5, 17, 3, 12)
    joined = join(inside, outside, mask)
    assert joined.shape == inside.shape
    assert torch.equal(joined[..., ~mask], outside[..., ~mask].expand(4, -1, -1))
    assert joined.min() >= 0
    assert joined.max() <= 1


OFFSET = torch.tensor([0.2, -0.1, 0.25]).view(1, 3, 1, 1)


@pytest.mark.parametrize("region", [(24, 72, 24, 72), (3, 94, 2, 96), (0, 50, 0, 96)])
def test_an_offset_disappears_along_the_border(region: tuple[int, int, int, int]) -> None:
    outside = 0.3 + 0.4 * random_images(1, 3, 96, 96)
    inside = outside + OFFSET
    mask = box(96, 96, *region)
    for selected in (mask, ~mask):  # outer corners, and inner ones
        left = (join(inside, outside, selected) - outside) / OFFSET  # share of the offset that is left
        beside = selected & (torch.nn.functional.max_pool2d((~selected)[None].float(), 3, 1, 1)[0] > 0)
        assert beside.any()
        assert left[..., beside].abs().max() < 0.01


def test_far_from_the_border_nothing_changes() -> None:
    outside = 0.3 + 0.4 * random_images(1, 3, 96, 96)
    mask = box(96, 96, 8, 88, 8, 88)
    for reach, depth in ((16, 17), (4, 5), (1, 2)):
        joined = join(outside + OFFSET, outside, mask, reach=reach)
        left = ((joined - outside) / OFFSET)[0, 0, 48, 8:48]
        assert (left.diff() > -1e-5).all(), "what is left grows with the depth"
        core = slice(8 + depth, 88 - depth)
        assert torch.equal(joined[..., core, core], (outside + OFFSET)[..., core, core])


def test_detail_inside_stays() -> None:
    outside = torch.full((1, 3, 32, 32), 0.5)
    inside = outside.clone()
    inside[..., 14:18, 14:18] = 0.8  # within the mask: the images agree across its border
    mask = box(32, 32, 8, 24, 8, 24)
    torch.testing.assert_close(join(inside, outside, mask), inside)


def test_joining_all_or_nothing() -> None:
    inside, outside = random_images(1, 3, 8, 8), 1 - random_images(1, 3, 8, 8)
    everything = torch.ones(8, 8, dtype=torch.bool)
    assert torch.equal(join(inside, outside, everything), inside)
    assert torch.equal(join(inside, outside, ~everything), outside)
