"""The contract of methods on pictures: every registered method tells its steps, and takes any floating type."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from latentpatch.methods.picture import REGION_TASKS, TARGET_TASKS, PictureStep
from latentpatch.registry import PICTURE_METHODS

#: Settings that are quick, by method; the others are.
QUICK: dict[str, dict[str, Any]] = {
    "patch-diffusion": {"coarsest": 10, "iterations": 1},
    "gpnn": {"coarsest": 10, "iterations": 1},
    "gpdm": {"coarsest": 16, "steps": 3, "last_steps": 1, "projections": 8, "pool": 16},
    "texture-optimization": {"patch_sizes": (8, 4), "scales": 2, "iterations": 2},
    "completion": {"coarsest": 12, "iterations": 1},
    "efros-leung": {"window": 5},
    "style-optimization": {"coarsest": 12, "iterations": 1},
}
#: Methods with several steps a picture: scales, or rows of what is made.
COARSE_TO_FINE = ("patch-diffusion", "gpnn", "gpdm", "texture-optimization", "style-optimization", "completion")
ROW_BY_ROW = ("quilting", "efros-leung")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, 6, 8, generator=generator)
    return torch.nn.functional.interpolate(small, (24, 32), mode="bilinear")[0].clamp(0, 1)


@pytest.mark.parametrize("name", PICTURE_METHODS)
def test_steps_are_told_up_to_the_result(name: str, picture: Tensor) -> None:
    method = PICTURE_METHODS[name]
    if "filters" in type(method).__module__ and importlib.util.find_spec("cv2") is None:
        pytest.skip("OpenCV is not installed")
    task = next(each for each in sorted(method.tasks) if each != "inpaint")
    settings = method.resolve(method.Settings().changed(**QUICK.get(name, {})), [picture])
    target = picture.flip(2) if task in TARGET_TASKS else None
    mask = None
    if task in REGION_TASKS:
        mask = torch.zeros(24, 32, dtype=torch.bool)
        mask[9:14, 12:20] = True
    told: list[PictureStep] = []
    result = method([picture], (24, 32), [5, 6], settings, task=task, target=target, mask=mask, observe=told.append)
    done = [step.done for step in told]
    assert done == sorted(set(done))
    assert (done[-1], {step.total for step in told}) == (told[-1].total, {told[-1].total})
    assert torch.allclose(told[-1].images[-1], result.images[-1], atol=1e-5)
    longer = None if target is None else target.double()
    again = method([picture.double()], (24, 32), [5, 6], settings, task=task, target=longer, mask=mask)
    assert again.images.dtype == torch.float32
    assert torch.equal(again.images, result.images), "pictures of any floating type are taken"
    firsts = [step for step in told if step.done * 2 <= step.total]
    if name in (*COARSE_TO_FINE, *ROW_BY_ROW):
        assert len(firsts) >= 2
        assert torch.allclose(firsts[-1].images[0], result.images[0], atol=1e-5)
        assert all(float(step.images.min()) >= 0 and float(step.images.max()) <= 1 for step in told)
    if name in COARSE_TO_FINE:
        assert firsts[0].images.shape[2] < 24
