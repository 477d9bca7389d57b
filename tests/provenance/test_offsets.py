"""Figures and pictures of offset maps."""

from __future__ import annotations

import torch
from torch import Tensor

from latentpatch.provenance.offsets import copying_figures, offset_images


def places(height: int, width: int, number: int = 0) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.full_like(rows, number), rows, columns], -1)


def test_a_copy_is_in_place_and_of_one_piece() -> None:
    copy = places(8, 10)[None]
    assert copying_figures(copy, [(8, 10)]) == [{"in_place": 1.0, "contiguity": 1.0, "largest_share": 1.0}]
    assert copying_figures(copy, [(9, 10)])[0]["in_place"] is None


def test_two_pieces_are_told_apart() -> None:
    halves = places(8, 10)
    halves[:, :4, 2] += 6
    halves[:, 4:, 2] -= 4  # the halves of a picture, exchanged
    figures = copying_figures(halves[None], [(8, 10)])[0]
    assert figures["in_place"] == 0
    assert figures["largest_share"] == 0.6
    assert figures["contiguity"] == round((8 * 9 - 8 + 7 * 10) / (8 * 9 + 7 * 10), 6)


def test_pieces_wind() -> None:
    spiral = torch.full((5, 5, 3), -1)
    own = places(5, 5)
    for y, x in [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (3, 0), (4, 0), (4, 1)]:
        spiral[y, x] = own[y, x]
    figures = copying_figures(spiral[None], [(5, 5)])[0]
    assert (figures["largest_share"], figures["in_place"], figures["contiguity"]) == (1, 1, 1), "of the copies"
    assert copying_figures(torch.full((1, 5, 5, 3), -1), [(5, 5)])[0]["largest_share"] == 0


def test_random_pixels_have_no_piece() -> None:
    offsets = torch.stack([torch.zeros(900), *torch.randint(30, (2, 900))], 1).long().view(1, 30, 30, 3)
    figures = copying_figures(offsets, [(30, 30)])[0]
    assert figures["contiguity"] is not None
    assert figures["contiguity"] < 0.02
    assert figures["largest_share"] is not None
    assert figures["largest_share"] < 0.02


def test_maps_show_places_and_pictures() -> None:
    offsets = torch.stack([places(4, 6), places(4, 6, 1)])
    offsets[1, 0, 0] = -1
    images = offset_images(offsets, [(4, 6), (8, 12)])
    assert images.shape == (2, 3, 4, 6)
    assert images[0, :, 0, 0].tolist() == [0, 0, 0.25]
    assert images[0, :, 3, 5].tolist() == [1, 1, 0.25]
    assert images[1, :, 0, 0].tolist() == [0.5, 0.5, 0.5]
    assert images[1, 2, 3, 3] == 0.75
