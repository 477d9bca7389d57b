"""Pictures of a scene from a few that are not registered, by patch diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch.io.channels import write_channels
from latentpatch.methods.picture import PictureStep
from latentpatch.runs.defaults import plain_torch

QUICK: dict[str, Any] = {"patch_size": 5, "coarse_patch_size": 5, "coarsest": 10, "steps": 2, "iterations": 1}
#: Colors of sky and ground.
COLORS = (
    ((0.3, 0.5, 0.9), (0.2, 0.5, 0.1)),
    ((0.8, 0.8, 0.9), (0.5, 0.4, 0.2)),
    ((0.9, 0.6, 0.4), (0.3, 0.3, 0.3)),
    ((0.5, 0.7, 0.9), (0.7, 0.7, 0.3)),
)


@plain_torch()
def landscape(number: int, height: int = 30, width: int = 36) -> Tensor:
    """Return a noisy sky above noisy ground, at levels of 8 bits."""
    generator = torch.Generator().manual_seed(number)
    sky, ground = (torch.tensor(each)[:, None, None] for each in COLORS[number])
    horizon = height * (5 + number % 2) // 10
    rows = torch.arange(height)[None, :, None]
    picture = torch.where(rows < horizon, sky, ground).expand(3, height, width)
    picture = picture + 0.04 * torch.randn(3, height, width, generator=generator)
    return (picture.clamp(0, 1) * 255).round() / 255


def scenes(*sizes: tuple[int, int]) -> list[Tensor]:
    return [landscape(i, *size) for i, size in enumerate(sizes or [(30, 36)] * 4)]


def test_results_are_landscapes_of_several_sources_and_offsets_explain_them() -> None:
    sources = scenes((30, 36), (38, 30), (27, 33), (30, 45))
    result = latentpatch.compose(sources, 4, seed=3, size=(30, 39), **QUICK)
    shares = result.shares()
    assert result.images.shape == (4, 3, 30, 39)
    assert result.offsets is not None
    assert shares is not None
    assert result.sizes == ((30, 36), (38, 30), (27, 33), (30, 45))
    assert float(((shares > 0.01).sum(1) >= 2).float().mean()) >= 0.75
    assert [row["num_sources"] for row in result.records()] == (shares >= 0.01).sum(1).tolist()
    assert int((shares > 0).sum(1).max()) <= 3
    for image, offsets in zip(result.images, result.offsets, strict=True):
        number, row, _ = offsets.unbind(-1)
        copied = torch.stack([sources[n][:, y, x] for n, y, x in offsets.flatten(0, 1).tolist()], 1).view(3, 30, 39)
        assert (copied - image).abs().mean() < 0.05
        heights = torch.tensor([each.shape[1] for each in sources])[number]
        assert (row / heights - (torch.arange(30) / 30)[:, None]).abs().mean() < 0.25


def test_larger_sources_are_reduced_to_the_results() -> None:
    result = latentpatch.compose(scenes((60, 72), (45, 60)), size=(30, 36), **QUICK)
    assert result.sizes == ((30, 36), (30, 40))
    assert result.offsets is not None
    assert int(result.offsets[..., 1].max()) < 30


def test_endless_continuity_gives_one_source() -> None:
    result = latentpatch.compose(scenes(), 4, continuity=1000, **QUICK)
    assert {row["num_sources"] for row in result.records()} == {1}
    assert len({int(each.argmax()) for each in result.shares()}) > 1  # type: ignore[union-attr]


def test_continuity_joins_what_is_at_one_height() -> None:
    changes = []
    for continuity in (1, 100):
        offsets = latentpatch.compose(scenes(), 3, continuity=continuity, **QUICK).offsets
        assert offsets is not None
        number = offsets[..., 0]
        changes.append(float((number[..., 1:] != number[..., :-1]).float().mean()))
    assert changes[1] < 0.7 * changes[0]


@pytest.mark.parametrize("continuity", [0, 20])
def test_endless_position_gives_copies_in_place(continuity: float) -> None:
    result = latentpatch.compose(scenes(), 2, position=1000, continuity=continuity, **QUICK)
    assert result.offsets is not None
    assert torch.equal(result.offsets[..., 1], torch.arange(30)[:, None].expand(2, 30, 36))
    assert torch.equal(result.offsets[..., 2], torch.arange(36).expand(2, 30, 36))
    assert all(row["in_place"] == 1 for row in result.records())


def test_position_keeps_patches_near_their_height() -> None:
    moved = []
    for position in (0, 10):
        offsets = latentpatch.compose(scenes(), 3, position=position, **QUICK).offsets
        assert offsets is not None
        moved.append(float((offsets[..., 1] - torch.arange(30)[:, None]).abs().float().mean()))
    assert moved[1] < 0.7 * moved[0]


def test_structures_take_turns_and_are_followed() -> None:
    level = torch.zeros(3, 30, 36)
    level[:, :15] = 1
    upright = torch.zeros(3, 30, 36)
    upright[:, :, :18] = 1
    sources = scenes()
    result = latentpatch.compose(sources, 2, structure=[level, upright], position=0, noise=0.2, mixed=2, **QUICK)
    grey = result.images.mean(1)
    down = (grey[:, :12].mean((1, 2)) - grey[:, 18:].mean((1, 2))).tolist()
    across = (grey[..., :15].mean((1, 2)) - grey[..., 21:].mean((1, 2))).tolist()
    assert down[0] > abs(across[0])
    assert across[1] > abs(down[1])
    alone = latentpatch.compose(sources, structure=upright, seed=1, position=0, noise=0.2, mixed=2, **QUICK)
    assert torch.equal(alone.images[0], result.images[1])


def test_equal_seeds_give_equal_pictures_alone_in_a_batch_and_with_any_threads() -> None:
    batch = latentpatch.compose(scenes(), 2, **QUICK)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        alone = latentpatch.compose(scenes(), seed=1, **QUICK)
    finally:
        torch.set_num_threads(threads)
    assert batch.offsets is not None
    assert alone.offsets is not None
    assert torch.equal(alone.images[0], batch.images[1])
    assert torch.equal(alone.offsets[0], batch.offsets[1])
    assert not torch.equal(batch.images[0], batch.images[1])


def test_steps_of_several_structures_are_told_as_one_run() -> None:
    told: list[PictureStep] = []
    latentpatch.compose(scenes(), 2, structure=scenes()[:2], observe=told.append, **QUICK)
    done = [step.done for step in told]
    assert done == sorted(set(done))
    assert {step.total for step in told} == {done[-1]}


def test_folders_are_read(tmp_path: Path) -> None:
    for i, each in enumerate(scenes()):
        write_channels(tmp_path / f"{i}.png", each)
    assert torch.equal(latentpatch.compose(tmp_path, **QUICK).images, latentpatch.compose(scenes(), **QUICK).images)


def test_bad_input_is_refused() -> None:
    with refuses("pictures"):
        latentpatch.compose(scenes()[:1])
    with refuses("size"):
        latentpatch.compose(scenes(), size=(0, 40))
    with refuses("size"):
        latentpatch.compose(scenes(), size=(4, 40))
    with refuses("continuity"):
        latentpatch.compose(scenes(), continuity=-1)
    with refuses("mixed"):
        latentpatch.compose(scenes(), mixed=0)
    with refuses("method"):
        latentpatch.compose(scenes(), method="quilting")
