"""Patch diffusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch import PatchDiffusionSettings
from latentpatch.methods.picture import PictureStep
from latentpatch.methods.single_image.patch_diffusion import PatchDiffusion
from latentpatch.methods.single_image.presets import PICTURE_PRESETS
from latentpatch.runs.defaults import plain_torch

SMALL = PatchDiffusionSettings(patch_size=5, coarsest=10, steps=2, iterations=1)
PLAIN = replace(SMALL, neighbors=1)


@plain_torch()
def scene(height: int = 40, width: int = 56) -> Tensor:
    """Return a picture of a large noisy sky and a small field of bright stripes, at levels of 8 bits."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([0.2 + 0.002 * rows, 0.3 + 0.002 * columns, 0.6 + 0.0 * rows])
    image += 0.02 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    stripes = torch.where((columns // 3) % 2 == 0, 0.9, 0.4)
    is_field = (rows >= height * 5 // 8) & (columns >= width // 2)
    image[0] = torch.where(is_field, stripes, image[0])
    image[2] = torch.where(is_field, 0.1, image[2])
    return (image.clamp(0, 1) * 255).round() / 255


def field_share(image: Tensor) -> float:
    """Return the share of pixels that look like the field: without blue."""
    return float((image[2] < 0.35).float().mean())


def test_results_are_new_and_their_offsets_explain_the_pixels() -> None:
    source = scene()
    result = PatchDiffusion()([source], (44, 60), [0, 1], replace(SMALL, steps=4, iterations=3))
    assert result.images.shape == (2, 3, 44, 60)
    assert result.offsets is not None
    for image, offsets in zip(result.images, result.offsets, strict=True):
        number, row, column = offsets.unbind(-1)
        assert int(number.abs().max()) == 0
        assert (int(row.min()), int(column.min())) >= (0, 0)
        assert int(row.max()) < 40
        assert int(column.max()) < 56
        error = (source[:, row, column] - image).abs().mean()
        assert error < 0.03
        assert error < 0.3 * (source.mean((1, 2), keepdim=True) - image).abs().mean()
    assert (result.images[0] - result.images[1]).abs().mean() > 0.02


def test_without_noise_the_picture_comes_back() -> None:
    source = scene()
    result = PatchDiffusion()([source], (40, 56), [0], replace(PLAIN, noise=0.0, shift=0.0), task="retarget")
    assert torch.equal(result.images[0], source)
    assert result.offsets is not None
    rows, columns = torch.arange(40)[:, None], torch.arange(56)[None]
    assert torch.equal(result.offsets[0, ..., 1], rows.expand(40, 56))
    assert torch.equal(result.offsets[0, ..., 2], columns.expand(40, 56))


def test_transport_keeps_the_shares_of_things() -> None:
    source = scene()
    wanted = field_share(source)
    off = {}
    for balanced in (True, False):
        settings = replace(SMALL, balanced=balanced, alpha=1000.0, steps=4)
        images = PatchDiffusion()([source], (40, 56), range(3), settings).images
        off[balanced] = sum(abs(field_share(image) - wanted) for image in images) / 3
    assert 0.1 < wanted < 0.3
    assert off[True] < 0.35 * wanted < off[False]


def test_shift_keeps_results_from_copying_in_place() -> None:
    source = scene()
    rows, columns = torch.arange(40)[:, None], torch.arange(56)[None]
    shares = {}
    for shift in (0.0, 0.3):
        offsets = PatchDiffusion()([source], (40, 56), [0], replace(PLAIN, noise=0.2, shift=shift)).offsets
        assert offsets is not None
        near = ((offsets[0, ..., 1] - rows).abs() <= 2) & ((offsets[0, ..., 2] - columns).abs() <= 2)
        shares[shift] = float(near.float().mean())
    assert shares[0.3] < 0.1


def test_a_seed_gives_the_same_alone_in_a_batch_and_with_any_threads() -> None:
    source, threads = scene(), torch.get_num_threads()
    together = PatchDiffusion()([source], (40, 56), [3, 4], SMALL)
    try:
        torch.set_num_threads(3)
        alone = PatchDiffusion()([source], (40, 56), [4], SMALL)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together.images[1], alone.images[0])
    assert together.offsets is not None
    assert alone.offsets is not None
    assert torch.equal(together.offsets[1], alone.offsets[0])


def test_several_pictures_of_any_sizes_give_patches() -> None:
    one, other = scene(), 1 - scene(36, 30)
    result = PatchDiffusion()([one, other], (40, 44), [0, 1], SMALL)
    assert result.offsets is not None
    shares = torch.bincount(result.offsets[..., 0].flatten(), minlength=2) / result.offsets[..., 0].numel()
    assert shares.min() > 0.1
    inside = result.offsets[result.offsets[..., 0] == 1]
    assert int(inside[:, 1].max()) < 36
    assert int(inside[:, 2].max()) < 30


def test_retargeting_keeps_the_order_of_things() -> None:
    source = scene()
    wide = PatchDiffusion()([source], (40, 84), [0], SMALL, task="retarget")
    assert wide.offsets is not None
    columns = wide.offsets[0, :, :, 2].double()
    assert (columns[:, 63:].mean() - columns[:, :21].mean()) > 15


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_may_have_other_channels(channels: int) -> None:
    source = torch.cat([scene(), scene().mean(0, keepdim=True)])[-channels:].contiguous()
    assert PatchDiffusion()([source], (30, 30), [0], SMALL).images.shape == (1, channels, 30, 30)


@pytest.mark.parametrize("size", [(7, 7), (9, 60), (20, 20)])
def test_a_picture_of_one_color_stays_so(size: tuple[int, int]) -> None:
    source = torch.full((3, 16, 20), 102 / 255)
    assert (PatchDiffusion()([source], size, [0], SMALL).images - 102 / 255).abs().max() < 1e-6


def test_pictures_of_one_scale_are_made_of_patches() -> None:
    source = scene()[:, 20:29, 25:40].contiguous()
    result = PatchDiffusion()([source], (9, 15), [0], replace(PLAIN, noise=0.0, shift=0.0), task="retarget")
    assert torch.equal(result.images[0], source)


def test_steps_are_told() -> None:
    told: list[PictureStep] = []
    PatchDiffusion()([scene()], (40, 56), [0, 1], SMALL, observe=told.append)
    assert [each.done for each in told] == list(range(1, told[0].total + 1))
    assert told[-1].images.shape == (1, 3, 40, 56)


def test_bad_input_is_refused() -> None:
    method, source = PatchDiffusion(), scene()
    with refuses("size"):
        method([source], (4, 40), [0], SMALL)
    with refuses("pictures"):
        method([source.index_fill(1, torch.tensor([3]), torch.nan)], (40, 40), [0], SMALL)
    with refuses("pictures"):
        method([], (40, 40), [0], SMALL)
    with refuses("task"):
        method([source], (40, 40), [0], SMALL, task="denoise")
    with refuses("coarsest"):
        PatchDiffusionSettings(coarsest=4)
    with refuses("noise"):
        PatchDiffusionSettings(noise=1.5)


def test_the_preset_small_pieces_copies_smaller_pieces() -> None:
    source = scene(48, 60)
    default, small = (
        latentpatch.reshuffle(source, settings=settings).copying()
        for settings in (PatchDiffusionSettings(), PICTURE_PRESETS["small-pieces"])
    )
    for one, other in zip(small, default, strict=True):
        assert one["contiguity"] < 0.8 * other["contiguity"]


def test_coarse_patches_may_be_the_larger_ones() -> None:
    """The pyramid of a narrow picture ends where a coarse patch still fits."""
    source = scene(14, 90)
    settings = replace(SMALL, coarse_patch_size=9, steps=2)
    assert PatchDiffusion()([source], (14, 90), [0], settings).images.shape == (1, 3, 14, 90)
