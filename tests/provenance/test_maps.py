"""Shares, regions and provenance maps, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from latentpatch import Generation
from latentpatch.provenance.maps import largest_regions, provenance_images, source_shares


def test_shares_count_cells() -> None:
    index = torch.tensor([[[0, 0, 2], [1, 0, 2]], [[3, 3, 3], [3, 3, 3]]])
    expected = torch.tensor([[3, 1, 2, 0], [0, 0, 0, 6]], dtype=torch.float32) / 6
    assert torch.equal(source_shares(index, 4), expected)


def test_the_input_image_has_no_share() -> None:
    index = torch.tensor([[[-1, 1], [-1, -1]], [[-1, -1], [-1, -1]]])
    assert source_shares(index, 2).tolist() == [[0, 0.25], [0, 0]]


def test_shares_of_nothing() -> None:
    assert source_shares(torch.zeros(0, 2, 2, dtype=torch.int64), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        (["0123"], 1),
        (["0000"], 4),
        (["01", "10"], 1),  # diagonal neighbors do not connect
        (["010", "010", "000"], 7),
        (["0010", "1111", "0000"], 5),
        (["00.", ".0.", "..."], 3),
        (["....", ".11.", "1..."], 2),
        (["....", "...."], 0),  # the input image does not count
        (["0.0", "0.0", "000"], 7),
        (["0000", "1110", "0110", "0000"], 11),
    ],
)
def test_largest_regions(rows: list[str], cells: int) -> None:
    index = torch.tensor([[[-1 if sign == "." else int(sign) for sign in row] for row in rows]])
    assert largest_regions(index).tolist() == pytest.approx([cells / index.numel()])


def test_regions_of_each_image() -> None:
    index = torch.tensor([[[0, 0], [1, 1]], [[2, 2], [2, 1]], [[-1, -1], [-1, 0]]])
    assert largest_regions(index).tolist() == [0.5, 0.75, 0.25]


def test_one_hue_a_source() -> None:
    index = torch.tensor([[[0, 1, 2], [3, -1, 0]]])
    picture = provenance_images(index, 4, cell=2)
    assert picture.shape == (1, 3, 4, 6)
    # Hues 0, 90, 180 and 270 degrees; value 0.95 and saturation 0.85 make 0.95, 0.1425 and halfway 0.54625.
    high, low, half = 0.95, 0.1425, 0.54625
    expected = torch.tensor(
        [
            [[high, low, low], [half, high, low], [low, high, high]],
            [[half, low, high], [0.5, 0.5, 0.5], [high, low, low]],
        ],
        dtype=torch.float32,
    ).permute(2, 0, 1)
    for y in range(4):
        for x in range(6):
            torch.testing.assert_close(picture[0, :, y, x], expected[:, y // 2, x // 2])


def test_as_a_record() -> None:
    index = torch.tensor([[[1, 1], [2, 1]], [[-1, -1], [-1, 0]]])
    result = Generation(torch.zeros(2, 3, 32, 32), index, ("a", "b", "c"), seeds=(7, 8))
    assert len(result) == 2
    assert [list(shares.items()) for shares in result.shares()] == [[("b", 0.75), ("c", 0.25)], [("a", 0.25)]]
    assert result.provenance().shape == result.images.shape
    assert result.records() == [
        {"seed": 7, "index": [[1, 1], [2, 1]], "shares": {"b": 0.75, "c": 0.25}, "largest_region": 0.75},
        {"seed": 8, "index": [[-1, -1], [-1, 0]], "shares": {"a": 0.25}, "largest_region": 0.25},
    ]
    assert result.settings_record() == {"sampler": None, "settings": None}
