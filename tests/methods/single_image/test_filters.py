"""Filters by OpenCV: they equal their definitions, and a guide gives the edges."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch.errors import MissingDependencyError
from latentpatch.runs.defaults import plain_torch

FILTERS = ("gaussian", "box", "median", "bilateral", "guided", "rolling-guidance")

needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV is not installed: filters were not tested")


@plain_torch()
def step(channels: int = 3, noise: float = 0.05) -> Tensor:
    """Return an edge with noise."""
    clean = torch.where(torch.arange(30) < 15, 0.3, 0.7).expand(channels, 24, 30)
    return (clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@needs_opencv
@pytest.mark.parametrize("method", FILTERS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_noise_falls_and_alpha_stays(method: str, channels: int) -> None:
    before = step(channels)
    if channels == 4:
        before[-1] = 1
    after = latentpatch.denoise(before, method=method)
    assert after.images.shape == (1, *before.shape)
    assert after.offsets is None
    assert after.images[0, 0, :, 3:10].std() < 0.6 * before[0, :, 3:10].std()
    if channels == 4:
        assert torch.equal(after.images[0, 3], before[3])


@pytest.mark.usefixtures("float32")
@needs_opencv
def test_filters_equal_their_definitions() -> None:
    before = step()
    windows = F.unfold(before[:, None], 3).view(3, 9, 22, 28)
    box = latentpatch.denoise(before, method="box", radius=1).images[0]
    assert torch.allclose(box[:, 1:-1, 1:-1], windows.mean(1), atol=1e-5)
    levels = (before * 255).round() / 255
    median = latentpatch.denoise(before, method="median", radius=1).images[0]
    ranks = F.unfold(levels[:, None], 3).view(3, 9, 22, 28).median(1).values
    assert torch.allclose(median[:, 1:-1, 1:-1], ranks, atol=1e-5)
    grey, spread, radius = step(1), 1.0, 2
    bilateral = latentpatch.denoise(grey, method="bilateral", spread=spread, tolerance=51).images[0]
    shifts = torch.arange(-radius, radius + 1).float()
    squares = shifts[:, None].square() + shifts.square()
    near = torch.where(squares <= radius**2, (-squares / (2 * spread**2)).exp(), 0).flatten()[:, None]
    values = F.unfold(grey[None], 5)[0]
    weights = near * (-(values - grey[0, 2:-2, 2:-2].flatten()).square() / (2 * 0.2**2)).exp()
    expected = ((weights * values).sum(0) / weights.sum(0)).view(20, 26)
    assert (bilateral[0, 2:-2, 2:-2] - expected).abs().max() < 2e-3
    line = (-torch.arange(-4, 5).square() / 2).exp()
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    gaussian = latentpatch.denoise(grey, method="gaussian", spread=spread).images[0]
    assert torch.allclose(gaussian[:, 4:-4, 4:-4], F.conv2d(grey[None], window)[0], atol=1e-4)
    mean, square = (F.avg_pool2d(each[None], 5, 1)[0] for each in (grey, grey.square()))
    slope = (square - mean.square()) / (square - mean.square() + 0.1**2)
    slope, base = (F.avg_pool2d(each[None], 5, 1)[0] for each in (slope, mean - slope * mean))
    guided = latentpatch.denoise(grey, method="guided", radius=2, tolerance=25.5).images[0]
    assert torch.allclose(guided[:, 4:-4, 4:-4], slope * grey[:, 4:-4, 4:-4] + base, atol=1e-4)


@needs_opencv
@pytest.mark.parametrize("method", ["bilateral", "guided"])
def test_edges_are_those_of_the_guide(method: str) -> None:
    faint, flash = step(noise=0.3), step(noise=0.0)
    alone = latentpatch.denoise(faint, method=method, tolerance=20).images[0]
    crossed = latentpatch.denoise(faint, method=method, guide=flash, tolerance=20).images[0]
    assert (crossed - flash).abs().mean() < 0.7 * (alone - flash).abs().mean()
    with refuses("guide"):
        latentpatch.denoise(faint, method=method, guide=flash[:, 1:])


def test_a_guide_is_refused_where_there_is_no_use_for_it() -> None:
    with refuses("guide"):
        latentpatch.denoise(step(), guide=step())
    with refuses("target"):
        latentpatch.denoise(step(), guide=step(1))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError) as caught:
        latentpatch.denoise(step(), method="median")
    assert (caught.value.package, caught.value.extra) == ("opencv-contrib-python-headless", "filters")
