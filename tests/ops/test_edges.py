"""Edges: their density, and smoothing that stops at them."""

from __future__ import annotations

import numpy as np
import torch

from latentpatch.ops.edges import edge_density, smooth_within_edges


def test_density_is_high_where_edges_are() -> None:
    picture = torch.full((3, 60, 96), 0.5)
    picture[:, :, 64::2] = 0.8
    density = edge_density(picture)
    assert density.shape == (1, 60, 96)
    assert density[..., :56].max() == 0
    assert density[..., 72:].min() == 1
    assert edge_density(torch.full((1, 5, 5), 0.5)).max() == 0


def test_noise_goes_and_a_step_stays() -> None:
    noise = 0.02 * torch.randn(2, 40, 44, generator=torch.Generator().manual_seed(0))
    clean = torch.cat([torch.full((2, 40, 22), 0.2), torch.full((2, 40, 22), 0.8)], 2)
    made = smooth_within_edges(clean + noise, 5.0, 0.2)
    assert (made - clean).abs().mean() < 0.5 * noise.abs().mean()
    assert (made[..., 22] - made[..., 21]).min() > 0.5
    assert (smooth_within_edges(clean, 5.0, 1e-6) - clean).abs().max() < 1e-5


def test_a_line_without_edges_is_smoothed_by_the_recursion() -> None:
    """The first of three rounds, forth and back, by the formula (equation 21 and section 4 of the paper)."""
    impulse = torch.zeros(1, 1, 9)
    impulse[..., 4] = 1
    sigma = 2.0
    expected = impulse[0, 0].double().numpy().copy()
    for turn in range(3):
        width = sigma * 3**0.5 * 2 ** (2 - turn) / (4**3 - 1) ** 0.5
        kept = np.exp(-(2**0.5) / width * (1 + np.abs(np.diff(impulse[0, 0].numpy())) * sigma / 1e9))
        for at in range(1, 9):
            expected[at] = (1 - kept[at - 1]) * expected[at] + kept[at - 1] * expected[at - 1]
        for at in range(7, -1, -1):
            expected[at] = (1 - kept[at]) * expected[at] + kept[at] * expected[at + 1]
    made = smooth_within_edges(impulse, sigma, 1e9)[0, 0].numpy()
    assert np.allclose(made, expected, atol=1e-6)
