"""Style transfer by patches, and analogies by GPNN."""

from __future__ import annotations

import pytest
import torch
from helpers.copied_pictures import random_picture
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch.methods.picture import PictureStep
from latentpatch.methods.single_image.style_optimization import StyleOptimization
from latentpatch.methods.single_image.texture_settings import StyleOptimizationSettings
from latentpatch.ops.palettes import transfer_palette
from latentpatch.ops.patchmatch import BACKENDS, Field, Sources, vote
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs import system
from latentpatch.runs.defaults import plain_torch

SMALL = StyleOptimizationSettings(patch_size=5, coarsest=12, iterations=3)


@plain_torch()
def stripes(height: int = 36, width: int = 48, seed: int = 0) -> Tensor:
    """Return slanted stripes of two colors with noise, at levels of 8 bits."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    is_light = ((rows + columns) // 4 % 2).bool()
    image = torch.where(
        is_light, torch.tensor([0.9, 0.8, 0.2])[:, None, None], torch.tensor([0.1, 0.2, 0.5])[:, None, None]
    )
    image = image + 0.04 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    return (image.clamp(0, 1) * 255).round() / 255


@plain_torch()
def halves(height: int = 32, width: int = 40) -> Tensor:
    """Return a picture that is dark on the left and light on the right."""
    ramp = torch.linspace(-0.1, 0.1, height)[:, None].expand(height, width // 2)
    return torch.cat([0.25 + ramp, 0.75 + ramp], 1).expand(3, -1, -1).contiguous()


def stylized(content: Tensor, style: Tensor, settings: StyleOptimizationSettings = SMALL, seed: int = 0) -> Tensor:
    size = (content.shape[1], content.shape[2])
    return StyleOptimization()([style], size, [seed], settings, task="stylize", target=content).images[0]


def test_the_style_of_the_content_is_the_content() -> None:
    picture = stripes()
    assert (stylized(picture, picture) - picture).abs().mean() < 0.01
    other = picture.flip(2)
    assert (stylized(picture, other) - picture).abs().mean() > 0.05


def test_a_style_of_one_color_gives_that_color() -> None:
    color = torch.tensor([51, 102, 204])[:, None, None] / 255
    for settings in (SMALL, SMALL.changed(strength=0.0), SMALL.changed(palette="content")):
        made = stylized(halves(), color.expand(3, 20, 24).contiguous(), settings)
        assert (made - color).abs().max() < 1e-6


def test_offsets_explain_the_pixels() -> None:
    style = stripes(50, 40)
    result = StyleOptimization()([style], (32, 40), [0], SMALL, task="stylize", target=halves())
    assert result.offsets is not None
    assert result.offsets.shape == (1, 32, 40, 3)
    number, row, column = result.offsets[0].unbind(-1)
    assert (int(number.max()), int(row.min())) == (0, 0)
    error = (style[:, row, column] - result.images[0]).abs().mean()
    shuffled = (style[:, row.flip(0), column.flip(0)] - result.images[0]).abs().mean()
    assert error < 0.1
    assert error < 0.5 * shuffled


def test_strength_goes_from_the_content_to_the_style() -> None:
    content, style = halves(), stripes(50, 60)
    goal = transfer_palette(content, [style])
    distances = [
        float((stylized(content, style, SMALL.changed(strength=strength)) - goal).abs().mean())
        for strength in (0.0, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]


def test_variety_uses_more_patches() -> None:
    used = []
    for variety in (0.0, 5.0):
        result = StyleOptimization()(
            [stripes(50, 60)], (32, 40), [0], SMALL.changed(variety=variety), task="stylize", target=halves()
        )
        assert result.offsets is not None
        used.append(len(torch.unique(result.offsets[0].flatten(0, 1), dim=0)))
    assert used[1] > used[0]


def test_hallucination_fills_plain_regions_with_the_style_and_keeps_the_rest() -> None:
    style = torch.nn.functional.avg_pool2d(random_picture(62, 62)[None], 3, 1)[0]
    content = torch.cat([torch.full((3, 48, 60), 0.5), style[:, :48, :36]], 2)
    made = [stylized(content, style, SMALL.changed(hallucination=part)) for part in (0.0, 1.0)]
    haze, texture = (float(each[..., :44].std() / style.std()) for each in made)
    assert haze < 0.6 < 0.85 < texture
    for each in made:
        assert (each - content)[..., 70:].abs().mean() < 0.01


def test_smoothing_ends_at_edges() -> None:
    content, style = halves(), stripes(50, 60)
    rough, smooth = (stylized(content, style, SMALL.changed(smoothing=step)) for step in (0.0, 20.0))
    before, after = (each.diff(dim=2).abs() for each in (rough, smooth))
    assert after[before < 0.06].mean() < 0.7 * before[before < 0.06].mean()
    assert after[before > 0.6].mean() > 0.9 * before[before > 0.6].mean()


def test_a_seed_gives_the_same_alone_in_a_batch_and_with_any_threads() -> None:
    content, styles = halves(60, 60), [stripes(), stripes(30, 30, 1)]
    method, threads, steps = StyleOptimization(), torch.get_num_threads(), list[PictureStep]()
    both = method(styles, (60, 60), [4, 5], SMALL, task="stylize", target=content, observe=steps.append)
    assert (steps[-1].done, steps[-1].total) == (len(steps), len(steps))
    try:
        torch.set_num_threads(3)
        alone = method(styles, (60, 60), [5], SMALL, task="stylize", target=content)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone.images[0], both.images[1])
    assert both.offsets is not None
    assert alone.offsets is not None
    assert torch.equal(alone.offsets[0], both.offsets[1])
    assert set(both.offsets[..., 0].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_are_kept(channels: int) -> None:
    content, style = (each[:1].repeat(channels, 1, 1) for each in (halves(), stripes()))
    assert stylized(content, style).shape == (channels, 32, 40)


def test_palettes_have_the_colors_of_the_others_and_equal_colors_stay_equal() -> None:
    content, style = halves(), stripes()
    moved = transfer_palette(content, [style])
    assert (moved.mean((1, 2)) - style.mean((1, 2))).abs().max() < 0.03
    assert (moved.std((1, 2)) - style.std((1, 2))).abs().max() < 0.1
    assert len(torch.unique(moved.flatten(1), dim=1)[0]) <= len(torch.unique(content.flatten(1), dim=1)[0])
    assert (transfer_palette(style, [style]) - style).abs().max() < 1e-6


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("backend", BACKENDS)
def test_votes_have_weights(backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    source = torch.cat([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)], 2)
    field = Field(torch.tensor([[[[0, 0, 0]], [[0, 0, 3]]]], dtype=torch.int32), torch.zeros(1, 2, 1))
    made = vote(field, Sources([source], 3), (3, 4), backend, shares=torch.tensor([[[1.0], [3.0]]]))
    assert torch.allclose(made[0, 1], torch.tensor([0, 0.75, 0.75, 1.0]))


def test_analogies_have_the_layout_of_one_and_the_patches_of_the_other() -> None:
    structure, patches = halves(48, 48), torch.cat([stripes(40, 24) * 0.3, stripes(40, 24)], 1)
    made = latentpatch.analogy(structure, patches, patch_size=5, coarsest=12, iterations=4)
    assert (made.method, made.task, made.images.shape) == ("gpnn", "analogy", (1, 3, 48, 48))
    assert made.images[0, :, :, :20].mean() + 0.1 < made.images[0, :, :, 28:].mean()
    assert made.offsets is not None
    _, row, column = made.offsets[0].unbind(-1)
    assert (patches[:, row, column] - made.images[0]).abs().mean() < 0.1


def test_memory_is_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "machine_memory", lambda: 1 << 20)
    for task in (latentpatch.stylize, latentpatch.analogy):
        with refuses("size"):
            task(stripes(48, 48), stripes(48, 48))


def test_bad_input_is_refused() -> None:
    content, style = halves(), stripes()
    assert isinstance(PICTURE_METHODS["style-optimization"], StyleOptimization)
    with refuses("target"):
        StyleOptimization()([style], (32, 40), [0], SMALL, task="stylize")
    with refuses("target"):
        latentpatch.stylize(content[:1], style)
    with refuses("size"):
        latentpatch.stylize(content, style[:, :6])
    with refuses("size"):
        latentpatch.analogy(content[:, :, :5], style)
    with refuses("pictures"):
        latentpatch.stylize(torch.full((3, 32, 32), torch.nan), style)
    with refuses("strength"):
        latentpatch.stylize(content, style, strength=1.5)
    with refuses("method"):
        latentpatch.stylize(content, style, method="efros-leung")
