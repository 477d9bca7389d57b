"""Exact assignment: the least total cost, each key at most once."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.ops.assignment import assign


def random_costs(queries: int, keys: int, seed: int, most: int = 1 << 20) -> Tensor:
    return torch.randint(most, (queries, keys), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize(
    ("queries", "keys", "most"), [(1, 1, 9), (4, 4, 9), (6, 6, 3), (5, 5, 100), (4, 6, 9), (3, 6, 2)]
)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all(queries: int, keys: int, most: int, seed: int) -> None:
    costs = random_costs(queries, keys, seed, most)
    found = assign(costs)
    assert len(set(found.tolist())) == queries
    least = min(sum(float(costs[i, j]) for i, j in enumerate(each)) for each in permutations(range(keys), queries))
    assert float(costs.gather(1, found[:, None]).sum()) == least


def test_on_a_line_it_pairs_by_rank() -> None:
    first, second = (torch.randn(80, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = assign((first[:, None] - second).square())
    assert torch.equal(found[first.argsort()], second.argsort())


def test_a_permutation_is_found_again() -> None:
    vectors = torch.randn(150, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    near = vectors[order] + 0.01 * torch.randn(150, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(assign(torch.cdist(near, vectors)), order)
    assert torch.equal(assign(-torch.eye(7)[torch.arange(6, -1, -1)]), torch.arange(6, -1, -1))  # negative costs


def test_what_has_no_assignment_is_refused() -> None:
    assert assign(torch.zeros(0, 3)).tolist() == []
    with refuses("costs"):
        assign(torch.zeros(3, 2))
    with refuses("costs"):
        assign(torch.tensor([[0.0, torch.inf]]))
