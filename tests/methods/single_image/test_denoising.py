"""NL-means and NL-PCA: attention, shrinkage, noise levels, alpha, bounded memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses
from torch import Tensor

import latentpatch
from latentpatch.io.channels import read_channels
from latentpatch.methods.picture import PictureStep
from latentpatch.methods.single_image.denoising_settings import NLMeansSettings, NLPCASettings
from latentpatch.methods.single_image.nl_means import nl_means
from latentpatch.methods.single_image.nl_pca import shrink, wiener
from latentpatch.ops import noise_level as levels_of_noise
from latentpatch.ops import patch_windows
from latentpatch.ops.noise_level import noise_level
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs.defaults import plain_torch

METHODS = ("nl-pca", "nl-means")


@plain_torch()
def stripes(height: int = 40, width: int = 44, channels: int = 3) -> Tensor:
    """Return a picture of edges and slow changes, in [.2, .8]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = ((rows + 2 * columns) % 12 < 6).float() * 0.4 + 0.2 * rows / height + 0.2
    return torch.stack([waves.roll(3 * c, 1) for c in range(channels)])


@plain_torch()
def noisy(picture: Tensor, sigma: float, seed: int = 0) -> Tensor:
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    return (picture + noise * sigma / 255).clamp(0, 1)


def psnr(first: Tensor, second: Tensor) -> float:
    return -10 * math.log10(float((first - second).square().mean()))


@pytest.mark.usefixtures("float32")
def test_nl_means_is_attention_over_all_pixels() -> None:
    """Queries and keys are patches, values are pixels, and every pixel sees all others."""
    picture, scale, side = noisy(stripes(9, 8), 10), 0.2, 3
    patches = F.unfold(F.pad(picture[None], (1, 1, 1, 1), mode="reflect"), side)[0].T  # (72, 27)
    temperature = scale**2 * patches.shape[1]
    scores = (2 * patches @ patches.T - patches.square().sum(1)) / temperature
    attention = (scores.softmax(1) @ picture.flatten(1).T).T.view_as(picture)
    assert torch.allclose(nl_means(picture, scale, side, radius=9), attention, atol=1e-5)
    ones, extended = torch.ones(72, 1), torch.cat([patches, -0.5 * patches.square().sum(1, keepdim=True)], 1)
    same = F.scaled_dot_product_attention(
        torch.cat([patches, ones], 1)[None], extended[None], picture.flatten(1).T[None], scale=2 / temperature
    )
    assert torch.allclose(same[0].T.view_as(picture), attention, atol=1e-5)
    assert not torch.allclose(nl_means(picture, scale, side, radius=2), attention, atol=1e-3)


def test_nl_means_can_be_exported() -> None:
    class Denoise(torch.nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return nl_means(picture, 0.07, 3, 4)

    first, second = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    graph = torch.export.export(Denoise(), (first,)).module()
    assert torch.allclose(graph(second), nl_means(second, 0.07, 3, 4), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_noise_goes_and_edges_stay(method: str) -> None:
    clean = stripes()
    before = noisy(clean, 20)
    after = latentpatch.denoise(before, method=method, sigma=20)
    assert psnr(after.images[0], clean) > psnr(before, clean) + 4
    assert (after.offsets, after.provenance(), after.copying()) == (None, None, [])
    assert after.records() == [{"seed": 0}]


def test_nl_pca_is_better_the_second_pass_and_better_than_nl_means() -> None:
    clean = stripes()
    before = noisy(clean, 20)
    made = [
        psnr(latentpatch.denoise(before, sigma=20, **changes).images[0], clean)
        for changes in ({"method": "nl-means"}, {"passes": 1}, {"passes": 2})
    ]
    assert made[0] < made[1] < made[2]


def test_shrinkage_keeps_few_components_and_drops_noise() -> None:
    random = torch.Generator().manual_seed(0)
    low = torch.randn(4, 60, 2, generator=random) @ torch.randn(4, 2, 27, generator=random)
    noise = 0.5 * torch.randn(4, 60, 27, generator=random)
    for groups, clean in ((low + noise, low), ((low + noise).mT, low.mT)):  # tall and wide
        error = (shrink(groups, 0.5) - clean).square().mean()
        assert error < 0.2 * noise.square().mean()
        assert (wiener(groups, clean, 0.5) - clean).square().mean() < error
    assert shrink(noise, 0.5).var(1).max() < 0.05, "noise alone has no component left"
    assert torch.allclose(shrink(low, 1e-4), low, atol=1e-3), "without noise nothing is lost"


@pytest.mark.parametrize("sigma", [5, 20, 40])
def test_noise_levels_are_estimated(sigma: int) -> None:
    picture = stripes(80, 90)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(sigma))
    assert abs(255 * noise_level(picture + noise * sigma / 255) - sigma) < 0.05 * sigma + 0.3


def test_an_estimate_is_the_same_in_blocks_and_leaves_out_what_is_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noisy(stripes(), 20)
    whole = noise_level(picture)
    monkeypatch.setattr(levels_of_noise, "_ROWS", 7)
    assert abs(noise_level(picture) - whole) < 1e-9
    half = torch.arange(44).expand(40, 44) < 22
    assert abs(noise_level(torch.where(half, picture, 0), half) - noise_level(picture[..., :22])) < 1e-9
    assert noise_level(picture, half & ~half) == 0


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_level_is_estimated_and_recorded(method: str) -> None:
    before = noisy(stripes(), 20)
    blind = latentpatch.denoise(before, method=method)
    sigma = blind.settings.sigma
    assert abs(sigma - 20) < 3
    assert torch.equal(blind.images, latentpatch.denoise(before, method=method, sigma=sigma).images)
    flat = torch.full((3, 60, 60), 0.5, dtype=torch.float32)
    assert torch.allclose(latentpatch.denoise(flat, method=method).images[0], flat, atol=1e-3)


def test_a_flat_part_larger_than_the_window_is_kept() -> None:
    """Where all patches are equal, any of them are nearest; each pixel must be in a group all the same."""
    before = noisy(stripes(60, 100), 15)
    before[..., :60] = 0
    after = latentpatch.denoise(before, sigma=15).images[0]
    assert bool(after.isfinite().all())
    assert after[..., :50].abs().max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_and_alpha_are_kept(method: str, channels: int) -> None:
    colors = stripes(24, 26, channels - 1 + channels % 2)
    before = noisy(colors, 15)
    if channels % 2 == 0:
        alpha = (torch.arange(26).float() / 20).clamp(0, 1).expand(1, 24, 26)
        before, colors = torch.cat([before * alpha, alpha]), torch.cat([colors * alpha, alpha])
    after = latentpatch.denoise(before, method=method, sigma=15).images[0]
    assert psnr(after, colors) > psnr(before, colors) + 2
    if channels % 2 == 0:
        assert torch.equal(after[-1], before[-1])
        assert bool((after[:-1] <= after[-1:]).all())


@pytest.mark.parametrize("method", METHODS)
def test_blocks_and_threads_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, steps = noisy(stripes(22, 24), 20), []

    def observe(step: PictureStep) -> None:
        assert step.images.shape == (1, 3, 22, 24)
        steps.append((step.done, step.total))

    whole = latentpatch.denoise(before, method=method, sigma=20).images
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(latentpatch.denoise(before, method=method, sigma=20).images, whole)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(patch_windows.row_blocks, "__defaults__", (300_000,))
    blocks = latentpatch.denoise(before, method=method, sigma=20, observe=observe).images
    assert (blocks - whole).abs().max() < 1e-5
    assert len(steps) > 2
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(5, 5), (5, 40), (7, 6)])
def test_small_pictures_are_no_exception(method: str, size: tuple[int, int]) -> None:
    made = latentpatch.denoise(noisy(stripes(*size), 10), method=method, sigma=10).images
    assert made.shape == (1, 3, *size)
    assert bool(made.isfinite().all())


def test_refusals() -> None:
    picture = stripes(20, 20)
    for method, changes, name in (
        ("nl-means", {"patch_size": 4}, "patch_size"),
        ("nl-means", {"window": 20}, "window"),
        ("nl-means", {"neighbors": 4}, "neighbors"),
        ("nl-pca", {"neighbors": 200}, "neighbors"),
        ("nl-pca", {"stride": 6}, "stride"),
        ("nl-pca", {"sigma": -1}, "sigma"),
        ("gpnn", {}, "method"),
    ):
        with refuses(name):
            latentpatch.denoise(picture, method=method, **changes)
    with refuses("size"):
        latentpatch.denoise(stripes(4, 20))
    with refuses("pictures"):
        latentpatch.denoise(picture * torch.nan)
    with refuses("pictures"):
        latentpatch.denoise([picture, picture])
    with refuses("size"):
        PICTURE_METHODS["nl-pca"]([picture], (20, 24), [0], NLPCASettings(sigma=1), task="denoise")
    with refuses("task"):
        PICTURE_METHODS["nl-means"]([picture], (20, 20), [0], NLMeansSettings(sigma=1))


#: Pictures of the folder ``single``, and the first row and column of a part that shows much of each.
PHOTOGRAPHS = {
    "sigd16_1.jpg": (60, 60),
    "sigd16_4.jpg": (90, 120),
    "sigd16_7.jpg": (80, 20),
    "crop_28096.png": (140, 140),
    "cobbles.jpeg": (60, 60),
    "crop_65010.png": (140, 140),
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_nl_pca_is_no_worse_than_nl_means_on_photographs(shared: Path, name: str) -> None:
    top, left = PHOTOGRAPHS[name]
    clean = read_channels(shared / "single" / name)[:3, top : top + 60, left : left + 60]
    before = noisy(clean, 20)
    pca, means = (psnr(latentpatch.denoise(before, method=m, sigma=20).images[0], clean) for m in METHODS)
    assert pca >= means > psnr(before, clean) + 2
