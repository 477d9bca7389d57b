"""Random pictures, and the check that a result is copied from where its offsets say."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from latentpatch.methods.picture import PictureResult
from latentpatch.runs.defaults import plain_torch

__all__ = ["assert_copied", "random_picture"]


@plain_torch()
def random_picture(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    """Return a picture ``(C, H, W)`` of uniform noise."""
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def assert_copied(result: PictureResult, pictures: list[Tensor]) -> None:
    """Fail unless every pixel equals the one that its offset names."""
    assert result.offsets is not None
    for image, offsets in zip(result.images, result.offsets, strict=True):
        for row, column in product(range(image.shape[1]), range(image.shape[2])):
            source, y, x = offsets[row, column].tolist()
            assert torch.equal(image[:, row, column], pictures[source][:, y, x])
