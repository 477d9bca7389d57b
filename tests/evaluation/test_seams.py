"""Seam energies."""

from __future__ import annotations

import pytest
import torch

from latentpatch import LatentPatch
from latentpatch.evaluation import seam_energies


def test_seams_cost_what_neighbors_disagree_by(model: LatentPatch) -> None:
    whole = torch.full((1, 16, 16), 3)
    assert seam_energies(model.bank, whole)[0] == 0
    half = whole.clone()
    half[:, :, 8:] = 5
    keys = model.bank.keys.double()
    apart = (keys[3] - keys[5]).square().sum(-1)  # h x w
    spread = (keys - keys.mean(0)).square().sum(-1).mean()
    expected = apart[:, 7:9].sum() / 256 / spread
    assert seam_energies(model.bank, half)[0] == pytest.approx(float(expected))
    torch.testing.assert_close(seam_energies(model.bank, half), seam_energies(model.bank, half.clone()))
    kept = half.clone()
    kept[:, :, 8:] = -1
    assert seam_energies(model.bank, kept)[0] == 0
