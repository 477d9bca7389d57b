"""Symmetric pictures."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses

from latentpatch.ops.symmetry import SYMMETRIES, fundamental_size, unfold_symmetric


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (5, 8)])
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_whole_equals_its_mirror_images_and_begins_with_its_part(size: tuple[int, int], symmetry: str) -> None:
    if symmetry == "p4m" and size[0] != size[1]:
        with refuses("size"):
            fundamental_size(size, symmetry)
        return
    part = torch.rand(2, 3, *fundamental_size(size, symmetry))
    whole = unfold_symmetric(part, size, symmetry, (2, 3))
    assert whole.shape == (2, 3, *size)
    assert torch.equal(whole, whole.flip(2))
    assert torch.equal(whole, whole.flip(3))
    if symmetry == "p4m":
        assert torch.equal(whole, whole.transpose(2, 3))
        assert torch.equal(whole[0, 0, 0, : part.shape[3]], part[0, 0, 0])
    else:
        assert torch.equal(whole[..., : part.shape[2], : part.shape[3]], part)


def test_unknown_symmetries_are_refused() -> None:
    with refuses("symmetric"):
        fundamental_size((4, 4), "p6m")
