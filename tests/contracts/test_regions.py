"""What every registered method on pictures promises for the tasks of a region."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.methods.picture import REGION_TASKS
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs.defaults import plain_torch

CASES = [(task, method) for task in REGION_TASKS for method in PICTURE_METHODS.having(task)]


@pytest.fixture(scope="module")
@plain_torch()
def blobs() -> Tensor:
    """A smooth random picture, ``(3, 32, 40)``."""
    noise = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (32, 40), mode="bilinear")[0]


def mask_of(picture: Tensor) -> Tensor:
    mask = torch.zeros(picture.shape[1:], dtype=torch.bool)
    mask[18:26, 24:35] = True
    return mask


@pytest.mark.parametrize(("task", "method"), CASES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_regions_are_the_same_alone_in_a_batch_and_with_any_threads(
    task: str, method: str, channels: int, blobs: Tensor, pretend_threads: Callable[[int], None]
) -> None:
    picture = torch.cat([blobs, blobs[:1]])[:channels].contiguous()
    before, mask = picture.clone(), mask_of(picture)
    together = PICTURE_METHODS[method]([picture], (32, 40), [3, 4], task=task, mask=mask)
    pretend_threads(3)
    alone = PICTURE_METHODS[method]([picture], (32, 40), [4], task=task, mask=mask)
    assert torch.equal(together.images[1], alone.images[0])
    assert together.images.shape == (2, channels, 32, 40)
    assert together.images.dtype == torch.float32
    assert 0 <= float(together.images.min()) <= float(together.images.max()) <= 1
    assert torch.equal(picture, before)
    assert together.offsets is not None
    assert alone.offsets is not None
    assert torch.equal(together.offsets[1], alone.offsets[0])
    far = torch.nn.functional.max_pool2d(mask[None].float(), 13, 1, 6)[0] == 0
    assert torch.equal(together.images[:, :, far], picture[:, far].expand(2, -1, -1)), "what is elsewhere stays"
    assert (together.offsets[:, far] == -1).all()
    assert (together.offsets[:, mask] >= 0).all()


@pytest.mark.parametrize(("task", "method"), CASES)
def test_regions_that_cannot_be_made_are_refused(task: str, method: str, blobs: Tensor) -> None:
    made, mask = PICTURE_METHODS[method], mask_of(blobs)
    for wrong in (None, mask[:, 1:], torch.zeros_like(mask), torch.ones_like(mask), mask.float()):
        with refuses("mask"):
            made([blobs], (32, 40), [0], task=task, mask=wrong)
    with refuses("size"):
        made([blobs], (32, 41), [0], task=task, mask=mask)
    with refuses("pictures"):
        made([torch.where(mask, torch.nan, blobs)], (32, 40), [0], task=task, mask=mask)
