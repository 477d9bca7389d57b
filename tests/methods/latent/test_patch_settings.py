"""Sizes that are shares of the grid: what they come to, and what stays as it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.errors import refuses

from latentpatch import (
    PRESETS,
    SAMPLERS,
    Context,
    DiffusionSettings,
    RandomPatchesSettings,
    RasterSettings,
    ResynthesisSettings,
)
from latentpatch.methods.latent.patch_settings import PatchSettings
from latentpatch.methods.latent.search import numba_backend
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.methods.latent.soft import SoftSettings
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import settings_from_record, settings_record

BACKENDS = ["torch", "numba"] if numba_backend.installed() else ["torch"]
#: Patch size and stride of presets and defaults, by the grid's shorter side in cells.
SIZES: dict[str, tuple[PatchSettings, dict[int, tuple[int, int]]]] = {
    "balanced": (PRESETS["balanced"], {8: (5, 1), 16: (5, 1), 20: (6, 1), 24: (8, 2), 32: (10, 2), 64: (20, 4)}),
    "few": (PRESETS["few"], {8: (10, 4), 16: (10, 4), 20: (13, 5), 24: (15, 6), 32: (20, 8), 64: (40, 16)}),
    "paper": (PRESETS["paper"], {8: (6, 2), 16: (6, 2), 20: (8, 3), 24: (9, 3), 32: (12, 4), 64: (24, 8)}),
    "diffusion": (DiffusionSettings(), {8: (4, 1), 16: (4, 1), 24: (6, 2), 32: (8, 2), 64: (16, 4)}),
}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", SIZES)
def test_presets_cover_the_same_part_of_every_grid(name: str) -> None:
    settings, sizes = SIZES[name]
    for side, expected in sizes.items():
        for grid in ((side, side), (side, side + side // 2), (side + 7, side)):
            found = settings.in_cells(grid)
            assert (found.window, found.step) == expected, grid
            resolved = SAMPLERS.of(settings).resolve(settings, Context(grid, 100))
            assert (resolved.patch_size, resolved.stride) == expected
            assert type(resolved.patch_size) is type(resolved.stride) is int
    assert [PRESETS["balanced"].in_cells((side, side)).unit for side in (8, 16, 24, 32, 64)] == [1, 1, 2, 2, 4]
    for preset in ("faithful", "diverse"):
        assert PRESETS[preset].in_cells((64, 64)).window == 20


def test_other_patches_cover_the_same_part_too() -> None:
    assert [RandomPatchesSettings().in_cells((side, side)).window for side in (8, 16, 32, 64)] == [6, 6, 12, 24]
    assert [SoftSettings().in_cells((side, side)).window for side in (8, 16, 32, 64)] == [4, 4, 8, 16]


def test_a_number_of_cells_stays_as_it_is() -> None:
    for settings in (ResynthesisSettings(patch_size=5, stride=1, unit=1), RasterSettings(patch_size=6, stride=2)):
        assert settings.in_cells((64, 64)) is settings
    mixed = ResynthesisSettings(patch_size=3)
    assert [mixed.in_cells((side, side)).step for side in (16, 32, 64)] == [1, 2, 3]  # no more than the patch
    with refuses("stride"):
        ResynthesisSettings(stride=6).in_cells((16, 16))
    assert ResynthesisSettings(stride=6).in_cells((32, 32)).window == 10


@pytest.mark.parametrize("name", ["patch_size", "stride", "unit"])
@pytest.mark.parametrize("value", [1.0, 5.0, float("inf"), 0.0, -0.1, "5", True])
def test_what_is_neither_cells_nor_a_share_is_refused(name: str, value: Any) -> None:
    with refuses(name):
        ResynthesisSettings(**{name: value})


def test_a_stride_of_a_larger_share_than_the_patch_is_refused() -> None:
    with refuses("stride"):
        ResynthesisSettings(patch_size=0.2, stride=0.3)


def test_records_have_cells() -> None:
    for settings in PRESETS.values():
        record = settings_record(settings, (64, 64))
        assert all(isinstance(record[name], int) for name in ("patch_size", "stride") if record[name] is not None)
        again = settings_from_record(record)
        assert again == settings.in_cells((64, 64)) == again.in_cells((16, 16))  # whatever grid reads it


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["faithful", "balanced", "diverse", "few", "one scale", "tiles"])
def test_a_picture_of_doubled_cells_is_made_of_the_same_sources(
    monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    """Latents in which each cell is there four times: presets choose the doubled index map."""
    monkeypatch.setattr(numba_backend, "installed", lambda: backend == "numba")
    settings = {"one scale": RasterSettings(scales=1), "tiles": RandomPatchesSettings(), **PRESETS}[name]
    sampler = SAMPLERS.of(settings)
    keys = torch.randint(-200, 200, (50, 16, 16, 3), generator=torch.Generator().manual_seed(1)).short()
    maps = []
    for times in (1, 2):
        bank = keys.repeat_interleave(times, 1).repeat_interleave(times, 2)
        sources, context = PreparedSources(bank), Context((16 * times, 16 * times), len(keys))
        resolved = sampler.resolve(settings, context)
        noise = noise_from_seeds(range(2), sampler.noise_dim(resolved, context))
        maps.append(sampler(sources, noise, resolved))
    assert len(maps[0].unique()) > 4
    for times, index in enumerate(maps, 1):
        assert torch.equal(index, maps[0].repeat_interleave(times, 1).repeat_interleave(times, 2))
