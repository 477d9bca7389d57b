"""Completion: holes, edits and pasted things."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import CompletionSettings
from latentpatch.methods.picture import PictureStep
from latentpatch.methods.single_image import completion
from latentpatch.methods.single_image.completion import Completion
from latentpatch.ops import patchmatch
from latentpatch.ops.patchmatch import BACKENDS
from latentpatch.runs.defaults import plain_torch

SMALL = CompletionSettings(patch_size=5, iterations=4)


@plain_torch()
def stripes(height: int = 48, width: int = 56) -> Tensor:
    """Return a picture of wavy stripes of period 8, darker to the right."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = ((rows + 2 * (columns / 7).sin()) % 8 < 4).float()
    return (torch.stack([wave, 0.8 * wave, 1 - wave]) * (0.9 - 0.4 * columns / width) * 255).round() / 255


def region(picture: Tensor, top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(picture.shape[1:], dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def made(task: str, picture: Tensor, mask: Tensor, settings: CompletionSettings = SMALL, **inputs: object) -> Tensor:
    size = (picture.shape[1], picture.shape[2])
    return Completion()([picture], size, [0], settings, task=task, mask=mask, **inputs).images[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "box", [(16, 20, 30, 34), (0, 0, 12, 14), (40, 10, 48, 56)], ids=["inside", "corner", "along the edge"]
)
def test_a_hole_is_filled_from_the_picture(box: tuple[int, int, int, int]) -> None:
    source = stripes()
    mask = region(source, *box)
    damaged = torch.where(mask, 0.5, source)
    result = Completion()([damaged], (48, 56), [0], SMALL, task="inpaint", mask=mask)
    image = result.images[0]
    assert torch.equal(image[:, ~mask], source[:, ~mask]), "known pixels stay"
    error = (image - source)[:, mask].abs().mean()
    assert error < 0.08 < 0.3 * (damaged - source)[:, mask].abs().mean()
    assert result.offsets is not None
    number, row, column = result.offsets[0].unbind(-1)
    assert ((number >= 0) == mask).all(), "known pixels are no copies"
    assert not mask[row[mask], column[mask]].any(), "nothing is copied from the hole"
    assert (damaged[:, row[mask], column[mask]] - image[:, mask]).abs().mean() < 0.08


def test_the_best_of_several_starts_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = torch.rand(1, 3, 24, 28, generator=torch.Generator().manual_seed(2))
    source = torch.nn.functional.interpolate(coarse, (96, 112), mode="bicubic")[0].clamp(0, 1)
    mask = region(source, 30, 36, 62, 76)
    settings = replace(SMALL, coarsest=16, margin=0, noise=0.5)
    scales = completion._scales([source], source, mask, mask, settings, "inpaint")
    energies = []
    for starts in ((2,), (2, 2), (2, 2, 1), (2, 2, 1, 0)):
        monkeypatch.setattr(completion, "_STARTS", starts)
        run, first = completion._best_start(scales, settings, 1)
        assert 0 < first < len(scales)
        assert run.image.shape[1:] == scales[first - 1].region.shape, "all starts end at the same scale"
        energies.append(run.energy)
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < energies[0]
    alone, first = completion._best_start(scales, replace(settings, noise=0.0), 1)
    assert first == 0
    assert alone.grids is None, "without noise all starts would be the same"


def test_beside_the_region_only_tone_counts() -> None:
    known, made = torch.full((3, 1, 5), 0.5), torch.full((3, 1, 5), 0.55)
    made[0, 0, 1] = 0.9  # in one channel only
    made[:, 0, 2] = torch.nan  # nothing was made
    made[:, 0, 4] = 0.9  # in the region
    found = completion._alike(made, known, torch.tensor([[False, False, False, False, True]]))
    assert torch.equal(found[:, 0], torch.tensor([0.55, 0.5, 0.5, 0.55, 0.9]).expand(3, -1))


def test_a_hole_is_filled_from_other_pictures() -> None:
    source, other = stripes(), torch.full((3, 20, 20), 0.1)
    mask = region(source, 16, 20, 30, 34)
    damaged = torch.where(mask, 0.5, source)
    result = Completion()([other, source], (48, 56), [0], SMALL, task="inpaint", target=damaged, mask=mask)
    assert (result.images[0] - source)[:, mask].abs().mean() < 0.05, "the whole picture is among them"
    assert result.offsets is not None
    assert (result.offsets[0, ..., 0][mask] == 1).double().mean() > 0.9


def test_an_edit_becomes_coherent() -> None:
    source = stripes()
    mask = region(source, 16, 20, 28, 40)
    naive = torch.where(mask, source.roll(3, 1), source)
    image = made("edit", naive, mask, replace(SMALL, coarsest=16))
    near = region(source, 11, 15, 33, 45)
    assert torch.equal(image[:, ~near], naive[:, ~near])
    assert (image - source)[:, mask].abs().mean() < 0.5 * (naive - source)[:, mask].abs().mean()
    from_source = Completion()(
        [source], (48, 56), [0], replace(SMALL, coarsest=16), task="edit", target=naive, mask=mask
    )
    assert (from_source.images[0] - source)[:, mask].abs().mean() < 0.08


def test_a_pasted_thing_takes_the_colors_and_keeps_its_form() -> None:
    source = stripes()[:1].expand(3, -1, -1) * 0.7 + 0.2  # in grey
    mask = region(source, 12, 16, 36, 40)
    naive = torch.where(mask, torch.tensor([0.9, 0.1, 0.1])[:, None, None], source)
    naive[:, 20:28, 24:32] = torch.tensor([0.2, 0.0, 0.0])[:, None, None]
    image = made("harmonize", naive, mask, replace(SMALL, coarsest=32))
    assert (image[0] - image[2])[mask].abs().mean() < 0.1, "the red is gone"
    assert image[:, 21:27, 25:31].mean() < image[:, 13:19, 17:39].mean() - 0.1, "the dark square is there"
    faithful = made("harmonize", naive, mask, replace(SMALL, coarsest=32, fidelity=1.0, palette=0.0))
    assert torch.equal(faithful[:, ~region(source, 10, 14, 38, 42)], naive[:, ~region(source, 10, 14, 38, 42)])


@pytest.mark.parametrize("task", ["inpaint", "harmonize", "edit"])
def test_backends_fill_holes_of_few_sources(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to nothing may be copied, so random patches seldom may."""
    source = stripes()
    mask = ~region(source, 0, 0, 9, 11)
    for backend in BACKENDS:
        monkeypatch.setattr(patchmatch, "has_numba", lambda backend=backend: backend == "numba")
        result = Completion()([source], (48, 56), [0], replace(SMALL, iterations=1), task=task, mask=mask)
        assert not result.images.isnan().any()
        assert result.offsets is not None
        _, row, column = result.offsets[0][mask].T
        assert int(row.max()) < 9
        assert int(column.max()) < 11


def test_seeds_differ_and_steps_are_told() -> None:
    source, steps = stripes(), list[PictureStep]()
    mask = region(source, 10, 10, 40, 40)
    result = Completion()([source], (48, 56), [0, 1], SMALL, task="inpaint", mask=mask, observe=steps.append)
    assert not torch.equal(*result.images)
    assert [step.done for step in steps] == list(range(1, steps[0].total + 1))
    assert steps[0].images.shape[1] == steps[-1].images.shape[1] == 3


def test_small_and_plain_pictures() -> None:
    plain = torch.full((3, 12, 40), 0.4)
    mask = region(plain, 3, 8, 9, 30)
    assert (made("inpaint", torch.where(mask, 0.9, plain), mask) - plain).abs().max() < 0.01
    assert made("harmonize", plain, mask).shape == plain.shape


def test_bad_input_is_refused() -> None:
    source = stripes()
    holes = torch.zeros(48, 56, dtype=torch.bool)
    holes[::4, ::4] = True
    with refuses("mask"):
        made("inpaint", source, holes)  # no whole patch is left
    with refuses("size"):
        made("inpaint", source[:, :4], holes[:4])
    with refuses("size"):
        Completion()([source], (40, 40), [0], SMALL, task="edit", mask=holes)
    with refuses("fidelity"):
        CompletionSettings(fidelity=2.0)
