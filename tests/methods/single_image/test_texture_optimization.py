"""Texture optimization: patches, joins, search and energy, against plain computations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.copied_pictures import random_picture
from helpers.errors import refuses
from torch import Tensor

from latentpatch.io.channels import read_channels
from latentpatch.methods.picture import PictureResult
from latentpatch.methods.single_image.presets import PICTURE_PRESETS
from latentpatch.methods.single_image.texture_optimization import (
    PatchGrid,
    TextureOptimization,
    assigned_rows,
    frequencies,
    nearest_rows,
)
from latentpatch.methods.single_image.texture_settings import TextureOptimizationSettings
from latentpatch.registry import PICTURE_METHODS
from latentpatch.runs.defaults import plain_torch

SMALL = TextureOptimizationSettings(patch_sizes=(8, 4), scales=2, iterations=4, start_block=4)


@plain_torch()
def waves(height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height)[:, None] % 8 / 8, torch.arange(width) % 4 / 4
    return torch.stack([rows.expand(height, width), columns.expand(height, width), (rows + columns) / 2])


def make(pictures: list[Tensor], size: tuple[int, int], settings: TextureOptimizationSettings) -> PictureResult:
    return TextureOptimization()(pictures, size, [0], settings, task="texture")


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("size", [(16, 12), (13, 11), (8, 9)])
@pytest.mark.parametrize("wraps", [False, True])
def test_patches_cover_a_picture_and_join_to_it_again(size: tuple[int, int], wraps: bool) -> None:
    picture, grid = random_picture(*size), PatchGrid.of(size, 8, wraps)
    patches = grid.extract(picture)
    if not wraps:
        assert torch.equal(patches[0], picture[:, :8, :8])
        assert torch.equal(patches[-1], picture[:, -8:, -8:])
    count = grid.add(torch.ones(len(patches), 1, 8, 8))
    assert count.min() >= 1
    torch.testing.assert_close(grid.add(patches) / count, picture)
    assert torch.equal(grid.median(patches), picture)


@pytest.mark.usefixtures("float32")
def test_the_median_ignores_one_patch_that_differs() -> None:
    picture = random_picture(20, 20)
    grid = PatchGrid.of((20, 20), 8)
    patches = grid.extract(picture).clone()
    patches[12] += 5  # in the middle, where others cover its pixels
    joined = grid.median(patches)
    assert torch.equal(joined[:, 8:12, 8:12], picture[:, 8:12, 8:12])


@pytest.mark.usefixtures("float32")
def test_all_frequencies_keep_distances_and_few_do_not_exceed_them() -> None:
    first, second = random_picture(8, 8)[None], random_picture(8, 8, seed=1)[None]
    whole = (first - second).square().sum()
    full = torch.stack([frequencies(each, 8)[0] for each in (first, second)])
    torch.testing.assert_close((full[0] - full[1]).square().sum(), whole)
    found = [float((frequencies(first, n) - frequencies(second, n)).square().sum()) for n in (1, 2, 5, 7)]
    assert found == sorted(found)
    assert found[-1] <= whole
    torch.testing.assert_close(frequencies(first, 1)[0], first.sum((2, 3))[0] / 8)


def test_the_search_finds_the_nearest_and_the_lower_of_equals() -> None:
    queries, keys = random_picture(50, 12)[0], random_picture(70, 12, seed=1)[0]
    assert torch.equal(nearest_rows(queries, keys), torch.cdist(queries, keys).argmin(1))
    assert nearest_rows(keys[:3], torch.cat([keys, keys])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("side", [8, 6])
def test_every_patch_of_the_decimated_grid_is_used_once(side: int) -> None:
    source = waves(24, 24) * 0.5 + 0.5 * random_picture(24, 24)
    grid = PatchGrid.of((24, 24), side, steps=2)
    queries, keys = (grid.extract(each).flatten(1) for each in (random_picture(24, 24, seed=1), source))
    exact = assigned_rows(queries, keys, is_exact=True)
    assert sorted(exact.tolist()) == list(range(len(keys)))
    entropic = assigned_rows(queries, keys, is_exact=False)
    unused = [len(keys) - len(set(found.tolist())) for found in (exact, entropic, nearest_rows(queries, keys))]
    assert unused[0] == 0
    assert unused[1] < unused[2]
    twice = assigned_rows(torch.cat([queries, queries]), keys, is_exact=True)
    assert twice.bincount(minlength=len(keys)).tolist() == [2] * len(keys)


def test_an_assignment_makes_the_result_complete() -> None:
    """A small field in a plain ground goes missing where each patch takes its nearest one."""
    source = 0.4 + 0.02 * random_picture(32, 32)
    source[:, 20:, 16:] = waves(12, 16)
    keys = PatchGrid.of((32, 32), 8).extract(source).flatten(1)
    missing = {}
    for assignment in ("none", "entropic", "exact"):
        image = make([source], (32, 32), SMALL.changed(assignment=assignment, iterations=6)).images[0]
        own = PatchGrid.of((32, 32), 8).extract(image).flatten(1)
        missing[assignment] = float((keys - own[nearest_rows(keys, own)]).square().mean())
    assert missing["exact"] < 0.8 * missing["none"]
    assert missing["entropic"] < missing["none"]
    with refuses("patch_sizes"):
        make([random_picture(200, 200)], (32, 32), SMALL.changed(assignment="exact"))


def test_a_picture_with_patches_of_the_exemplar_stays_as_it_is() -> None:
    source = random_picture(24, 20)
    settings = SMALL.changed(fidelity=1.0, scales=1)
    result = make([source], (24, 20), settings)
    torch.testing.assert_close(result.images[0], source)
    assert result.losses is not None
    assert float(result.losses.max()) < 1e-3
    assert result.offsets is not None
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(20), indexing="ij")
    assert torch.equal(result.offsets[0], torch.stack([torch.zeros_like(rows), rows, columns], -1))


@pytest.mark.parametrize(("join", "power"), [("weighted", 0.8), ("median", 1.0), ("mean", 2.0)])
def test_the_energy_falls(join: str, power: float) -> None:
    source = waves(32, 32)
    result = make([source], (40, 36), SMALL.changed(join=join, power=power, iterations=8, detail=1.0))
    assert result.losses is not None
    assert result.images.shape == (1, 3, 40, 36)
    for stage in result.losses.split(8):
        assert stage[-1] <= stage[0]
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


def test_offsets_are_near_what_the_picture_shows() -> None:
    sources = [waves(32, 32), waves(24, 40).flip(0)]
    result = make(sources, (32, 32), SMALL.changed(iterations=10))
    assert result.offsets is not None
    source, row, column = result.offsets[0].unbind(-1)
    copied = torch.stack(
        [sources[s][:, y, x] for s, y, x in zip(source.flatten(), row.flatten(), column.flatten(), strict=True)], 1
    ).view(3, 32, 32)
    assert (copied - result.images[0]).abs().mean() < 0.06


def test_seeds_and_batches() -> None:
    source = random_picture(24, 24)
    batch = TextureOptimization()([source], (20, 20), [3, 4], SMALL, task="texture").images
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = TextureOptimization()([source], (20, 20), [4], SMALL, task="texture").images
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone[0], batch[1])
    assert not torch.equal(batch[0], batch[1])


def test_tiles_and_borders() -> None:
    source = torch.nn.functional.avg_pool2d(random_picture(52, 52)[None], 5, 1)[0]
    keys = PatchGrid.of((48, 48), 4).extract(source).flatten(1)
    around, found = PatchGrid.of((24, 24), 4, wraps=True), []
    for tileable in (True, False):
        made = make([source], (24, 24), SMALL.changed(tileable=tileable, iterations=10)).images[0]
        own = around.extract(made).flatten(1)
        found.append(float((own - keys[nearest_rows(own, keys)]).square().mean()))
    assert found[0] < 0.8 * found[1]
    kept = make([random_picture(24, 24)], (24, 24), SMALL.changed(border=3)).images[0]
    for edge in (kept[:, :3], kept[:, :, -3:]):
        assert edge.shape[0] == 3
    assert torch.equal(kept[:, :3], random_picture(24, 24)[:, :3])
    assert not torch.equal(kept, random_picture(24, 24))


@pytest.mark.parametrize("start_block", [0, 8])
@pytest.mark.parametrize("channels", [1, 4])
def test_starts_and_channels(start_block: int, channels: int) -> None:
    source = random_picture(20, 24, channels=channels)
    assert make([source], (17, 21), SMALL.changed(start_block=start_block)).images.shape == (1, channels, 17, 21)


def test_refusals() -> None:
    with refuses("patch_sizes"):
        TextureOptimizationSettings(patch_sizes=(8, 16))
    with refuses("join"):
        TextureOptimizationSettings(join="sum")
    with refuses("size"):
        make([random_picture(24, 24)], (30, 30), SMALL.changed(fidelity=1.0))
    with refuses("size"):
        make([random_picture(24, 3)], (30, 30), SMALL)


def test_the_energy_is_at_most_that_of_the_published_schedule(shared: Path) -> None:
    """Sum over the textures, from equal starts; the preset is the schedule of the course's author."""
    energies = {"default": 0.0, "kwatra": 0.0}
    for number in range(1, 7):
        source = read_channels(shared / "textures" / f"{number}.png")[:3, :96, :96].contiguous()
        keys = PatchGrid.of((96, 96), 8).extract(source).flatten(1)
        for name, settings in (("default", TextureOptimizationSettings()), ("kwatra", PICTURE_PRESETS["kwatra"])):
            assert isinstance(settings, TextureOptimizationSettings)
            own = PatchGrid.of((96, 96), 8).extract(make([source], (96, 96), settings).images[0]).flatten(1)
            squares = (own - keys[nearest_rows(own, keys)]).square().sum(1)
            energies[name] += float(squares.pow(0.4).mean())
    assert energies["default"] <= energies["kwatra"]


def test_the_registry_has_it() -> None:
    assert isinstance(PICTURE_METHODS["texture-optimization"], TextureOptimization)
