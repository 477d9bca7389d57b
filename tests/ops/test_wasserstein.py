"""Sliced Wasserstein distances, against closed forms and against plain sorting."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.ops import wasserstein
from latentpatch.ops.wasserstein import (
    project,
    random_directions,
    sliced_wasserstein,
    stable_order,
    transport_gradient,
    transport_plan,
    w1,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integral_of_quantiles(first: Tensor, second: Tensor) -> float:
    """W1 as the area between two distribution functions: another formula than the one under test."""
    points = torch.cat([first, second]).double().sort().values
    below = [(values.double()[:, None] <= points[:-1]).double().mean(0) for values in (first, second)]
    return float(((below[0] - below[1]).abs() * points.diff()).sum())


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (2, 3), (7, 12), (40, 9), (1, 30)])
def test_w1_is_the_area_between_distribution_functions(n: int, m: int) -> None:
    first, second = random(3, n), random(3, m, seed=1)
    found = w1(first, second)
    for row in range(3):
        assert float(found[row]) == pytest.approx(integral_of_quantiles(first[row], second[row]), abs=1e-5)


def test_shifted_and_scaled_sets_have_known_distances() -> None:
    values = random(1, 100)
    assert float(w1(values, values + 3)) == pytest.approx(3, abs=1e-5)
    assert float(w1(torch.zeros(1, 4), torch.tensor([[1.0, 3.0]]))) == pytest.approx(2)
    assert float(w1(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0]]))) == pytest.approx(1 / 6)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 6), (5, 7), (39284, 65536)])
def test_transport_moves_all_mass_once(n: int, m: int) -> None:
    left, right, mass = transport_plan(n, m)
    assert len(mass) == n + m - math.gcd(n, m)
    for ranks, size in ((left, n), (right, m)):
        moved = torch.zeros(size, dtype=torch.float64).index_add_(0, ranks, mass)
        torch.testing.assert_close(moved, torch.full((size,), 1 / size, dtype=torch.float64))


@pytest.mark.parametrize("threads", [1, 2])
def test_radix_sort_is_a_stable_sort(threads: int) -> None:
    values = torch.cat([random(4, 40_000), torch.zeros(4, 100), -torch.zeros(4, 100), random(4, 50).round()], 1)
    values[:, 7], values[:, 8] = 3e38, -1e-42
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(stable_order(values), values.sort(dim=1, stable=True).indices)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("m", [50, 80, 33])
def test_gradient_in_closed_form_is_that_of_autograd_in_both_backends(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, targets = random(6, 50), random(6, m, seed=1).sort(1).values
    values[0, :3] = targets[0, 4]  # ties, and differences of zero
    found = [transport_gradient(values, targets)]
    monkeypatch.setattr(wasserstein, "has_numba", lambda: False)
    found.append(transport_gradient(values, targets))
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    variable = values.clone().requires_grad_()
    distance = w1(variable, targets)
    distance.sum().backward()
    assert variable.grad is not None
    torch.testing.assert_close(found[0][1][1:], variable.grad[1:])
    assert found[0][0] == pytest.approx(float(distance.detach().mean()), rel=1e-5)


def test_projections_are_products_of_patches() -> None:
    pictures = random(2, 3, 9, 8)
    directions = random_directions(5, 3, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions.square().sum((1, 2, 3)), torch.ones(5))
    found = project(pictures, directions)
    assert found.shape == (5, 2 * 6 * 5)
    torch.testing.assert_close(found[3, 30 + 5 * 2 + 1], (pictures[1, :, 2:6, 1:5] * directions[3]).sum())


def test_equal_sets_of_patches_are_at_distance_zero() -> None:
    picture = random(1, 3, 12, 10)
    assert float(sliced_wasserstein(picture, picture)) == 0
    twice = torch.cat([picture, picture])
    assert float(sliced_wasserstein(picture, twice)) == pytest.approx(0, abs=1e-6)
    assert float(sliced_wasserstein(picture, twice, unequal="repeat")) == pytest.approx(0, abs=1e-6)
    assert float(sliced_wasserstein(picture, random(1, 3, 12, 10, seed=1))) > 0.01


def test_places_and_the_order_of_pictures_do_not_matter() -> None:
    pictures, reference = random(3, 3, 12, 10), random(2, 3, 9, 9, seed=1)
    found = sliced_wasserstein(pictures, reference)
    torch.testing.assert_close(sliced_wasserstein(pictures.flip(0), reference), found)
    # Patches of one pixel: a permutation of the pixels permutes the patches.
    shuffled = pictures.flatten(2)[:, :, torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    single = sliced_wasserstein(pictures, reference, side=1)
    torch.testing.assert_close(sliced_wasserstein(shuffled.view_as(pictures), reference, side=1), single)


def test_several_references_are_pooled() -> None:
    dark, light = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    both = torch.cat([dark, light])
    assert float(sliced_wasserstein(both, both.flip(0))) == 0
    assert float(sliced_wasserstein(dark, both)) == pytest.approx(float(sliced_wasserstein(dark, light)) / 2, rel=1e-5)


def test_distance_is_differentiable() -> None:
    picture = random(1, 3, 10, 10).requires_grad_()
    sliced_wasserstein(picture, random(1, 3, 14, 9, seed=1)).backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0


def test_refusals() -> None:
    with refuses("picture"):
        sliced_wasserstein(random(1, 3, 6, 20), random(1, 3, 20, 20))
    with refuses("references"):
        sliced_wasserstein(random(1, 3, 20, 20), random(1, 1, 20, 20))
    with refuses("unequal"):
        sliced_wasserstein(random(1, 3, 20, 20), random(1, 3, 20, 20), unequal="no")
