"""Patch diffusion: what it promises of batches, sources that fill a picture, shares, references and masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import SAMPLERS, DiffusionSettings, LatentPatch
from latentpatch.methods.latent.patch_diffusion import diffusion, diffusion_steps, gaussian, spread
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import settings_from_record, settings_record

FEW = DiffusionSettings(levels=8)
HARD = replace(FEW, sweeps=0, max_share=1.0)


def a_bank(count: int, grid: tuple[int, int] = (8, 8), depth: int = 3, seed: int = 0) -> Tensor:
    """Sources that are smooth, each about a colour of its own."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 150, (count, 1, 1, depth)) + rng.normal(0, 60, (count, *grid, depth))
    return torch.from_numpy(values.round().astype(np.int16))


def noise_for(count: int, grid: tuple[int, int] = (8, 8), seed: int = 0) -> Tensor:
    return noise_from_seeds(range(seed, seed + count), diffusion_steps(grid))


def share(index: Tensor) -> float:
    """The largest part of a picture that one source gives."""
    return max(int(picture.flatten().bincount().max()) / picture.numel() for picture in index)


@pytest.mark.parametrize("grid", [(8, 8), (8, 12), (5, 4)])
@pytest.mark.parametrize("settings", [FEW, HARD])
def test_an_image_is_the_same_in_any_batch(grid: tuple[int, int], settings: DiffusionSettings) -> None:
    bank, noise = a_bank(20, grid), noise_for(5, grid)
    together = diffusion(bank, noise, settings)
    assert together.shape == (5, *grid)
    assert together.dtype == torch.int64
    assert len(together.unique(dim=0)) == 5
    for i in range(5):
        assert torch.equal(diffusion(bank, noise[i : i + 1], settings)[0], together[i])
    assert torch.equal(diffusion(bank, noise.flip(0), settings).flip(0), together)


def test_references_of_a_batch_are_each_their_own() -> None:
    bank, noise = a_bank(20), noise_for(3)
    together = diffusion(bank, noise, FEW, bank[:3])
    for i in range(3):
        assert torch.equal(diffusion(bank, noise[i : i + 1], FEW, bank[i : i + 1])[0], together[i])


def test_sources_in_parts_give_what_they_give_at_once() -> None:
    bank, noise = a_bank(23), noise_for(2)
    whole = diffusion(bank, noise, HARD)
    parts = diffusion(bank, noise, HARD, memory=4 * 64 * 11 * 5)
    assert float((whole == parts).float().mean()) > 0.98  # sums in another order


def test_one_source_is_everywhere() -> None:
    bank = a_bank(1)
    assert not diffusion(bank, noise_for(2), FEW).any()
    assert not diffusion(bank, noise_for(2), HARD).any()


def test_large_windows_give_whole_sources_and_both_of_them() -> None:
    bank = torch.zeros((2, 8, 8, 3), dtype=torch.int16)
    bank[1] = 500
    index = diffusion(bank, noise_for(24), replace(HARD, windows=(31,), start_noise=50.0, end_noise=0.02)).flatten(1)
    assert torch.equal(index, index[:, :1].expand_as(index))
    assert 4 <= int(index[:, 0].sum()) <= 20


def test_small_windows_mix_sources_that_large_ones_keep_whole() -> None:
    bank = a_bank(20)
    small = diffusion(bank, noise_for(4), replace(HARD, windows=(3,)))
    large = diffusion(bank, noise_for(4), replace(HARD, windows=(31,)))
    assert share(large) == 1
    assert share(small) < 0.6


@pytest.mark.parametrize("most", [0.2, 0.4])
def test_sweeps_keep_the_share(most: float) -> None:
    bank = a_bank(12)
    index = diffusion(bank, noise_for(4), replace(FEW, max_share=most))
    assert share(index) <= most
    assert share(diffusion(bank, noise_for(4), replace(FEW, max_share=1.0))) > most


def test_denoising_aims_at_the_share() -> None:
    bank, noise = a_bank(12), noise_for(6)
    settings = replace(HARD, levels=16, windows=(7,))
    free = diffusion(bank, noise, settings)
    aimed = diffusion(bank, noise, replace(settings, max_share=0.15))
    assert sum(share(each[None]) for each in aimed) < sum(share(each[None]) for each in free)


def test_a_share_too_small_for_the_sources_is_refused_before_denoising() -> None:
    with refuses("max_share"):
        diffusion(a_bank(3), noise_for(1), replace(FEW, max_share=0.1))


def test_little_strength_keeps_the_reference() -> None:
    bank, noise = a_bank(20), noise_for(3)
    weak = diffusion(bank, noise, replace(HARD, strength=0.01), bank[4:7])
    own = torch.arange(4, 7)[:, None, None]
    kept = [
        float((diffusion(bank, noise, replace(HARD, strength=strength), bank[4:7]) == own).float().mean())
        for strength in (0.01, 0.75, 1.0)
    ]
    assert float((weak == own).float().mean()) > 0.98
    assert kept[0] >= kept[1] >= kept[2] < kept[0]


def test_a_mask_leaves_known_cells_and_fits_what_it_fills() -> None:
    bank = a_bank(20)
    mask = torch.zeros((8, 8), dtype=torch.bool)
    mask[2:6, 3:7] = True
    reference = bank[7:8].clone()
    reference[:, mask] = 0
    index = diffusion(bank, noise_for(3), FEW, reference, mask)
    assert bool((index[:, ~mask] == -1).all())
    assert bool((index[:, mask] >= 0).all())
    # The seventh source is all around: it fits best where large windows see it.
    free = replace(HARD, windows=(16,))
    assert float((diffusion(bank, noise_for(3), free, reference, mask)[:, mask] == 7).float().mean()) > 0.9
    everywhere = torch.ones_like(mask)
    assert torch.equal(diffusion(bank, noise_for(3), HARD, reference, everywhere) >= 0, everywhere.expand(3, 8, 8))


def test_what_lies_under_the_mask_does_not_matter() -> None:
    bank = a_bank(20)
    mask = torch.zeros((8, 8), dtype=torch.bool)
    mask[:, 4:] = True
    for strength in (None, 1.0):
        settings = replace(HARD, strength=strength, start_noise=4000.0)
        first, second = bank[3:4].clone(), bank[3:4].clone()
        second[:, mask] += 5
        first, second = (diffusion(bank, noise_for(2), settings, each, mask) for each in (first, second))
        assert float((first == second).float().mean()) > 0.95


def test_arguments_that_do_not_go_together() -> None:
    bank, noise = a_bank(5), noise_for(2)
    mask = torch.ones((8, 8), dtype=torch.bool)
    with refuses("reference"):
        diffusion(bank, noise, FEW, None, mask)
    with refuses("mask"):
        diffusion(bank, noise, FEW, bank[:1], mask[:4])
    with refuses("mask"):
        diffusion(bank, noise, FEW, bank[:1], mask.float())
    with refuses("noise"):
        diffusion(bank, noise[:, 1:], FEW)
    with refuses("reference"):
        diffusion(bank, noise, FEW, bank[:3])
    with refuses("patch_size"):
        diffusion(bank, noise, replace(FEW, patch_size=16))
    assert diffusion(bank, noise[:0], FEW).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"levels": 0}, ValueError, "levels"),
        ({"levels": 2.0}, TypeError, "levels"),
        ({"sweeps": -1}, ValueError, "sweeps"),
        ({"start_noise": 0}, ValueError, "start_noise"),
        ({"end_noise": float("nan")}, ValueError, "end_noise"),
        ({"end_noise": 41}, ValueError, "end_noise"),
        ({"start_noise": "40"}, TypeError, "start_noise"),
        ({"windows": ()}, TypeError, "windows"),
        ({"windows": 5}, TypeError, "windows"),
        ({"windows": (5, 0)}, ValueError, "windows"),
        ({"windows": (5, True)}, TypeError, "windows"),
        ({"strength": 0}, ValueError, "strength"),
        ({"strength": 1.5}, ValueError, "strength"),
        ({"max_share": 2}, ValueError, "max_share"),
        ({"patch_size": 4, "stride": 5}, ValueError, "stride"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], error: type[Exception], name: str) -> None:
    with refuses(name, error):
        replace(DiffusionSettings(), **changes)


def test_settings_come_back_from_json() -> None:
    settings = replace(FEW, windows=(9, 5))
    record = settings_record(settings)
    assert record["sampler"] == "diffusion"
    again = settings_from_record({**record, "windows": list(record["windows"])})
    assert again == settings
    assert hash(again) == hash(settings)


def test_settings_in_force() -> None:
    assert DiffusionSettings().resolved(500, False).max_share == 0.3
    assert DiffusionSettings().resolved(1, False).max_share == 1
    assert DiffusionSettings().resolved(500, False).strength is None
    assert DiffusionSettings().resolved(500, True).strength == 0.5
    assert DiffusionSettings(strength=0.2).resolved(500, True).strength == 0.2


def test_noise_is_normal_and_independent() -> None:
    normal = gaussian(noise_from_seeds([3], 4096)[0], 8).double()
    assert normal.shape == (4096, 8)
    assert float(normal.mean().abs()) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert abs(float((normal**4).mean()) - 3) < 0.15
    assert float((normal.T @ normal / 4096 - torch.eye(8)).abs().max()) < 0.08
    assert float((normal[1:] * normal[:-1]).mean().abs()) < 0.02
    edges = gaussian(torch.tensor([0.0, 1.0, -1.0, 2.0]), 8)
    assert bool(edges.isfinite().all())
    assert torch.equal(gaussian(torch.full((3,), 0.25), 2), gaussian(torch.full((3,), 0.25, dtype=torch.float64), 2))


def test_noise_is_splitmix64() -> None:
    word, mask = int(0.625 * 2**32), 2**64 - 1
    for component, found in enumerate(gaussian(torch.tensor([0.625]), 3)[0].tolist()):
        state = (((word << 31) + component + 1) * 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
        uniform = torch.tensor(((state >> 12) + 0.5) / 2**52, dtype=torch.float64)
        assert found == pytest.approx(float(torch.special.ndtri(uniform)), abs=1e-6)


def test_spread_is_the_standard_deviation() -> None:
    bank = a_bank(30)
    assert spread(bank) == pytest.approx(float(bank.double().std(correction=0)) * 3**0.5, rel=1e-12)
    assert spread(torch.zeros_like(bank)) == 1


def test_a_model_makes_pictures_by_it(model: LatentPatch, face_images: Tensor) -> None:
    assert SAMPLERS["diffusion"].accepts_reference
    settings = DiffusionSettings(levels=6)
    several = model.generate(3, seed=5, settings=settings)
    assert several.sampler == "diffusion"
    assert torch.equal(model.generate(1, seed=6, settings=settings).images[0], several.images[1])
    guided = model.generate(1, settings=settings, reference=face_images[0])
    assert guided.settings.strength == 0.5
    assert guided.images.shape == (1, 3, 64, 64)
