"""The memorization test: sources are recovered, unseen images are not."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.evaluation import measure_memorization, recovery_errors


def test_recovery_finds_sources_and_measures_distances(model: LatentPatch) -> None:
    latents = model.bank.latents.movedim(-1, 1).float()
    for side in (1, 3, 16):
        assert recovery_errors(model, latents, side).max() < 1e-5
        assert recovery_errors(model, latents, side, torch.arange(12)).min() > 1e-3
    shifted = latents + 0.25
    whole = recovery_errors(model, shifted, 16)
    plain = torch.stack([(picture - latents).square().mean((1, 2, 3)).min() for picture in shifted])
    torch.testing.assert_close(whole, plain)
    # Smaller blocks can only come nearer.
    assert bool((recovery_errors(model, shifted, 2) <= whole + 1e-6).all())
    # A mosaic of sources' blocks is recovered by blocks of that side, not by whole sources.
    index = torch.arange(64).remainder(12).view(1, 8, 8).repeat_interleave(2, 1).repeat_interleave(2, 2)
    mosaic = model.bank.gather(index).float()
    assert recovery_errors(model, mosaic, 2)[0] < 1e-5
    assert recovery_errors(model, mosaic, 16)[0] > 1e-3
    with refuses("latents"):
        recovery_errors(model, latents[:, :, :4], 2)


def test_memorization_tells_sources_from_others(model: LatentPatch, face_images: Tensor) -> None:
    unseen = model.autoencoder.encode(1 - face_images)
    found = measure_memorization(model, unseen, 16)
    assert found.counts == (12, 12)
    assert (found.sources, found.gap) == pytest.approx((0, 1), abs=1e-3)
    assert found.held_out > found.left_out > 0
    assert found.p_value < 0.05
    same = LatentPatch("pixels:4", components=8).fit(face_images[:6])
    alike = measure_memorization(same, same.autoencoder.encode(face_images[6:]), 16)
    assert alike.p_value > 0.05
    with refuses("sources"):
        measure_memorization(LatentPatch("pixels:4").fit(face_images[:1]), unseen, 16)
