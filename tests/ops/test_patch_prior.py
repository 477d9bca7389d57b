"""Preferences for pictures and places in searches."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses

from latentpatch.ops.patch_nearest import levels
from latentpatch.ops.patch_prior import PatchPrior, in_place, place_distances
from latentpatch.ops.patches import extract_patches, patch_grid
from latentpatch.ops.patchmatch import BACKENDS, Sources, patchmatch
from latentpatch.runs.defaults import plain_torch

SIDE = 3
GRID = (8, 10)


@plain_torch()
def pictures() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [levels(torch.rand(3, h, w, generator=generator)) for h, w in ((10, 12), (9, 15))]


def test_distances_of_places() -> None:
    found = place_distances((3, 1), (2, 2))
    assert found.tolist() == [[1, 1, 5, 5], [2, 2, 2, 2], [5, 5, 1, 1]]


def test_places_of_equal_grids_are_the_same() -> None:
    found = in_place((4, 5), [(4, 5), (7, 9)])
    assert found.shape == (4, 5, 2, 3)
    assert found[3, 4].tolist() == [[0, 3, 4], [1, 6, 8]]
    assert found[1, 2, 0].tolist() == [0, 1, 2]


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_hold_the_prior(backend: str) -> None:
    query, sources = pictures()[0], Sources(pictures(), SIDE)
    costs = torch.rand(*GRID, 2, generator=torch.Generator().manual_seed(1)) * 1e5
    prior = PatchPrior(costs, 3e4)
    field = patchmatch(query, sources, sweeps=12, prior=prior, backend=backend)
    flat = torch.cat([extract_patches(each[None], SIDE)[0].flatten(0, 1) for each in sources.pictures])
    queries = extract_patches(query[None], SIDE)[0].flatten(0, 1)
    every = (queries[:, None] - flat).square().sum(2) + prior.pairs(sources.grids)
    rows = field.matches[:, :, 0].flatten(0, 1).long()
    columns = torch.tensor([w for _, w in sources.grids])
    firsts = torch.tensor([0, sources.grids[0][0] * sources.grids[0][1]])
    at = firsts[rows[:, 0]] + rows[:, 1] * columns[rows[:, 0]] + rows[:, 2]
    assert torch.allclose(every[torch.arange(len(at)), at], field.scores.flatten(), rtol=1e-4)
    assert float((field.scores.flatten() <= every.amin(1) * 1.0001).float().mean()) > 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_costs_exclude_a_picture_and_a_huge_position_keeps_the_place(backend: str) -> None:
    query, sources = pictures()[0], Sources(pictures(), SIDE)
    costs = torch.zeros(*GRID, 2)
    costs[..., 0] = torch.inf
    field = patchmatch(query, sources, prior=PatchPrior(costs, 1e9), backend=backend)
    assert torch.equal(field.matches[:, :, 0], in_place(GRID, sources.grids)[:, :, 1])


def test_a_prior_of_another_shape_is_refused() -> None:
    assert patch_grid((10, 12), SIDE) == GRID
    with refuses("prior"):
        patchmatch(pictures()[0], Sources(pictures(), SIDE), prior=PatchPrior(torch.zeros(*GRID, 1)))
