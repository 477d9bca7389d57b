"""Transforms move points and pixels rightly; landmarks register pictures exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.errors import refuses, refuses_file
from helpers.misaligned import POINTS, SIZE, Misaligned, misalign, portraits, similarity, smooth
from torch import Tensor

from latentpatch.registration.alignment import from_landmarks, read_landmarks
from latentpatch.registration.transforms import invert, outside, transform_points, warp


@pytest.fixture(scope="module")
def misaligned() -> Misaligned:
    """Twelve portraits out of register."""
    return misalign(portraits(12))


# --- Transforms --------------------------------------------------------------------------------


def test_an_inverse_brings_points_back() -> None:
    matrices = misalign(portraits(3)).matrices
    there = transform_points(POINTS, matrices)
    assert (there - POINTS).abs().max() > 3
    torch.testing.assert_close(transform_points(there, invert(matrices)), POINTS.expand_as(there))
    torch.testing.assert_close(invert(invert(matrices)), matrices)


def test_the_identity_changes_nothing() -> None:
    picture = portraits(1)[0]
    torch.testing.assert_close(warp(picture, similarity(0, 1, (0, 0)), SIZE), picture, atol=1e-4, rtol=0)


def test_whole_pixels_are_moved_as_they_are() -> None:
    picture = portraits(1)[0]
    moved = warp(picture, similarity(0, 1, (5, -3)), SIZE)
    torch.testing.assert_close(moved[:, :-3, 5:], picture[:, 3:, :-5], atol=1e-4, rtol=0)


def test_beyond_the_edge_colours_go_on_smoothly() -> None:
    ramp = (torch.arange(128) / 255).expand(3, 128, 128).mT
    moved = warp(ramp, similarity(0, 1, (40, 0)), SIZE)
    torch.testing.assert_close(moved[:, :, 39], moved[:, :, 40], atol=0.03, rtol=0)
    assert float(moved[:, :, :40].diff(dim=2).abs().max()) < 0.03
    spot = torch.zeros(3, 128, 128)
    spot[:, 40:80, 5:10] = 1  # a mirror image would show it again at columns 30 to 35
    moved = warp(spot, similarity(0, 1, (40, 0)), SIZE)
    torch.testing.assert_close(moved[:, :, 40:], spot[:, :, :88], atol=1e-4, rtol=0)
    assert float(moved[:, :, :40].max()) < 0.4
    assert float(moved[:, :, :40].diff(dim=2).abs().max()) < 0.1


def test_a_picture_that_lies_wholly_outside_gives_its_edge() -> None:
    moved = warp(torch.full((3, 128, 128), 0.25), similarity(0, 1, (300, 0)), SIZE)
    torch.testing.assert_close(moved, torch.full((3, 128, 128), 0.25))


def test_a_quarter_turn_is_clockwise() -> None:
    picture = portraits(1)[0]
    turned = warp(picture, similarity(90, 1, (0, 0)), SIZE)
    torch.testing.assert_close(turned, picture.rot90(-1, (1, 2)), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("float32")
def test_shrinking_averages() -> None:
    fine = ((torch.arange(256)[:, None] + torch.arange(256)) % 2).float().expand(3, 256, 256)
    quarter = torch.tensor([[0.25, 0, 0], [0, 0.25, 0]], dtype=torch.float64)
    torch.testing.assert_close(warp(fine, quarter, (64, 64)), torch.full((3, 64, 64), 0.5), atol=0.02, rtol=0)


@pytest.mark.usefixtures("float32")
def test_there_and_back_is_the_same_picture() -> None:
    picture, matrix = smooth(0), similarity(9, 1.1, (4, -6))
    back = warp(warp(picture, matrix, SIZE), invert(matrix), SIZE)
    assert float((back - picture)[:, 32:-32, 32:-32].abs().max()) < 0.01


def test_the_share_beyond_the_edges() -> None:
    assert outside(similarity(0, 1, (0, 0)), SIZE, SIZE) == 0
    assert outside(similarity(0, 1, (64, 0)), SIZE, SIZE) == 0.5
    assert outside(similarity(0, 0.5, (0, 0)), SIZE, SIZE) == 0.75


# --- Landmarks ---------------------------------------------------------------------------------


def test_landmarks_that_agree_are_registered_exactly(misaligned: Misaligned) -> None:
    found = from_landmarks(misaligned.points, [SIZE] * 12, SIZE).matrices
    assert float(misaligned.error(found).max()) < 1e-5
    assert float(misaligned.error(similarity(0, 1, (0, 0)).expand(12, 2, 3)).median()) > 0.15


def test_the_frame_is_that_of_the_average_crop(misaligned: Misaligned) -> None:
    found = closer(misaligned, 1.0)
    linear = torch.view_as_complex(found[:, :, 0].contiguous())
    assert float(linear.log().mean(0).abs()) < 1e-5
    middle = transform_points(torch.full((1, 2), 64.0).double(), invert(found)).mean(0)
    torch.testing.assert_close(middle, torch.full((1, 2), 64.0).double(), atol=1e-3, rtol=0)


def test_a_single_picture_is_cropped_centrally() -> None:
    found = from_landmarks(torch.tensor([[[3.0, 4.0], [20.0, 9.0]]]), [(100, 200)], (50, 50)).matrices[0]
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, -25], [0, 0.5, 0]], dtype=torch.float64))


def test_cropping_leaves_no_edge_in_view(misaligned: Misaligned) -> None:
    assert max(outside(matrix, SIZE, SIZE) for matrix in closer(misaligned, 1.0)) > 0.05
    cropped = from_landmarks(misaligned.points, [SIZE] * 12, SIZE, crop=True)
    assert max(outside(matrix, SIZE, SIZE) for matrix in cropped.matrices) == 0
    assert 1 < cropped.zoom < 3
    assert max(outside(matrix, SIZE, SIZE) for matrix in closer(misaligned, cropped.zoom * 0.98)) > 0
    assert float(misaligned.error(cropped.matrices).max()) < 1e-5


def test_the_moderate_frame_leaves_little_outside(misaligned: Misaligned) -> None:
    found = from_landmarks(misaligned.points, [SIZE] * 12, SIZE)
    assert 1 < found.zoom <= 1.2
    expected = [outside(matrix, SIZE, SIZE) for matrix in found.matrices]
    assert found.outside.tolist() == pytest.approx(expected)
    assert sorted(expected)[6] < 0.06 < max(outside(matrix, SIZE, SIZE) for matrix in closer(misaligned, 1.0))
    still = from_landmarks(POINTS.expand(4, -1, -1), [SIZE] * 4, SIZE)
    assert still.zoom == 1


def test_a_picture_mostly_outside_is_not_registered() -> None:
    points = POINTS.repeat(5, 1, 1)
    points[4] += torch.tensor([70.0, 0.0])
    found = from_landmarks(points, [SIZE] * 5, SIZE)
    assert found.registered.tolist() == [True] * 4 + [False]
    assert float(found.outside[4]) > 0.2


def closer(misaligned: Misaligned, factor: float) -> Tensor:
    return from_landmarks(misaligned.points, [SIZE] * 12, SIZE, closer=factor).matrices


def test_going_closer_enlarges_about_the_landmarks(misaligned: Misaligned) -> None:
    near, far = (transform_points(misaligned.points, closer(misaligned, factor))[0] for factor in (1.5, 1.0))
    torch.testing.assert_close(near.mean(0), far.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(near - near.mean(0), 1.5 * (far - far.mean(0)), atol=1e-3, rtol=0)


def test_landmarks_that_cannot_be_used() -> None:
    with refuses("landmarks"):
        from_landmarks(torch.ones(1, 3, 2), [SIZE], SIZE)
    with refuses("landmarks"):
        from_landmarks(torch.tensor([[[0.0, float("nan")], [1.0, 1.0]]]), [SIZE], SIZE)
    with refuses("landmarks") as caught:
        from_landmarks(torch.ones(2, 1, 2), [SIZE] * 2, SIZE)
    assert caught.value.value == (2, 1, 2)
    with refuses("sizes"):
        from_landmarks(torch.ones(0, 2, 2), [], SIZE)


BAD_TABLES = {
    "": "must begin with a header",
    "file,a_x,a_y\n": "must begin with a header",
    "file,a_x,a_y,b_y,b_x\n": "must begin with a header",
    "file,a_x,a_y,b_x,b_y\nx.png,1,2,3\n": "row 2: must have 5 cells",
    "file,a_x,a_y,b_x,b_y\nx.png,1,2,3,nan\n": "row 2: must have 5 cells with finite",
    "file,a_x,a_y,b_x,b_y\nx.png,1,2,3,four\n": "row 2: could not convert string to float: 'four'",
    "file,a_x,a_y,b_x,b_y\nx.png,1,2,3,4\nx.png,1,2,3,4\n": "row 3: 'x.png' occurs twice",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_malformed_table_of_landmarks_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with refuses_file(path, BAD_TABLES[text]):
        read_landmarks(path)
