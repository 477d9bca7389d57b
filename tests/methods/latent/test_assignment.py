"""Assignment of blocks to donors: known results, and the capacity of every donor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search.assignment import assign
from latentpatch.methods.latent.settings import ResynthesisSettings
from latentpatch.ops.noise import noise_from_seeds


def test_donors_reject_the_blocks_that_lose_least() -> None:
    # All propose to donor 4, which has room for two of the three; the next donors have room for the rejected block.
    costs = torch.tensor([[[0, 50, 60], [0, 5, 90], [0, 7, 90]]])
    candidates = torch.tensor([[[4, 2, 1], [4, 3, 1], [4, 3, 1]]])
    assert assign(costs, candidates, torch.tensor([1, 1, 1]), 2, 5).tolist() == [[0, 1, 0]]
    # Donor 4 has room for only one of larger blocks.
    assert assign(costs, candidates, torch.tensor([2, 2, 2]), 2, 5).tolist() == [[0, 1, 2]]
    # Among equals the first block stays. The third finds no donor.
    same = torch.zeros(1, 3, 2, dtype=torch.int64)
    two = torch.tensor([[[0, 1]] * 3])
    assert assign(same, two, torch.tensor([1, 1, 1]), 1, 2).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("seed", range(8))
def test_no_source_gives_more_than_its_limit_and_little_is_lost(seed: int) -> None:
    chance = np.random.default_rng(seed)
    # Some sources are near everywhere.
    costs = chance.integers(0, 1000, (3, 40, 12)) + 100 * np.arange(12)
    order = costs.argsort(2)[:, :, :8]
    sorted_costs = torch.from_numpy(np.take_along_axis(costs, order, 2))
    sizes = torch.from_numpy(chance.integers(1, 4, 40))
    limit = int(sizes.sum()) // 5
    chosen = assign(sorted_costs, torch.from_numpy(order), sizes, limit, 12)
    assert (chosen >= 0).all()
    sources = torch.from_numpy(order).gather(2, chosen[:, :, None])[:, :, 0]
    given = torch.zeros(3, 12, dtype=torch.int64).scatter_add(1, sources, sizes.expand(3, -1))
    assert int(given.max()) <= limit
    in_turn = 0
    for image in range(3):
        left = dict.fromkeys(range(12), limit)
        for place in range(40):
            free = [b for b in range(12) if left[b] >= int(sizes[place])]
            best = min(free, key=lambda b: costs[image, place, b])
            left[best] -= int(sizes[place])
            in_turn += int(costs[image, place, best])
    assert int(sorted_costs.gather(2, chosen[:, :, None]).sum()) < in_turn


@pytest.mark.parametrize("lower", [False, True])
def test_a_source_gives_what_no_other_has(cpu_search: str, lower: bool) -> None:
    """The first of all has a twin, but for one half of it: that half it gives, wherever it lies."""
    bank = np.random.default_rng(0).integers(-400, 401, (10, 12, 12, 3)).astype(np.int16)
    half = slice(6, None) if lower else slice(6)
    bank[1], own = bank[0], bank[0, half].copy()
    bank[1, half] = np.random.default_rng(1).integers(-400, 401, own.shape)
    settings = ResynthesisSettings(
        3, max_share=0.5, start_candidates=1, allow_start_as_donor=True, donors=1.0, neighbors=1
    )
    noise = noise_from_seeds(range(2), resynthesis_steps((12, 12), settings))
    noise[:, 0] = 0.0
    index = resynthesis(torch.from_numpy(bank), noise, settings)
    expected = torch.ones(12, 12, dtype=torch.int64)
    expected[half] = 0
    assert (index == expected).float().mean() > 0.9
