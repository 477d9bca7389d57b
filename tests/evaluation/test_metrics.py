"""Metrics against closed forms and cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from helpers.random_vectors import normal_vectors as draw
from torch import Tensor

from latentpatch.evaluation import (
    coverages,
    densities,
    frechet_distance,
    kernel_distance,
    kolmogorov_smirnov,
    leading_directions,
    precisions,
    psnr,
    random_pairs,
    recalls,
)
from latentpatch.evaluation.metrics import weighted_pair_mean


def with_moments(mean: Tensor, root: Tensor, count: int, seed: int = 0) -> Tensor:
    """Vectors whose sample mean is exactly ``mean`` and whose sample covariance is exactly ``root' root``."""
    white = draw(count, len(mean), seed)
    white = white - white.mean(0)
    white = torch.linalg.qr(white).Q * (count - 1) ** 0.5
    return white @ root + mean


# --- metrics ---------------------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    deviations, others = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    a = with_moments(torch.tensor([0.0, 1.0, 2.0]).double(), deviations.diag(), 40)
    b = with_moments(torch.tensor([1.0, 1.0, 0.0]).double(), others.diag(), 25, seed=1)
    # For covariances that commute: |m - n|^2 + |s - t|^2.
    assert frechet_distance(a, b) == pytest.approx(5 + float((deviations - others).square().sum()), abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(draw(3, 3, 2)).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))


@pytest.mark.parametrize("count", [3, 60])
def test_frechet_distance_agrees_with_a_matrix_root(count: int) -> None:
    a, b = draw(count, 5, 0) @ draw(5, 5, 1), draw(31, 5, 2, shift=0.3)
    product = torch.cov(a.T) @ torch.cov(b.T)
    root = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-7)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
def test_weights_count_vectors_as_if_repeated(metric: object) -> None:
    a, b = draw(6, 3, 0), draw(9, 3, 1)
    weights = torch.tensor([2.0, 0, 1, 3, 1, 1])
    if metric is frechet_distance:
        repeated = a.repeat_interleave(weights.long(), 0)
        assert frechet_distance(a, b, weights=weights) == pytest.approx(frechet_distance(repeated, b))
    else:  # a vector and its copy are no pair, or a resample would not be unbiased
        kernel = (a @ a.T / 3 + 1) ** 3
        pairs = weights.outer(weights).double()
        pairs.fill_diagonal_(0)
        within = (pairs * kernel).sum() / pairs.sum()
        others = (b @ b.T / 3 + 1) ** 3
        without = (others.sum() - others.trace()) / (9 * 8)
        across = (weights.double() @ (a @ b.T / 3 + 1) ** 3).mean() / weights.sum()
        assert kernel_distance(a, b, weights=weights) == pytest.approx(float(within + without - 2 * across))
    ones = torch.ones(6)
    assert metric(a, b, weights=ones) == pytest.approx(metric(a, b))


def test_kernel_distance_is_zero_on_average_within_one_distribution() -> None:
    values = [kernel_distance(draw(30, 4, 2 * i), draw(20, 4, 2 * i + 1)) for i in range(200)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0  # unbiased, so not bounded by zero
    assert kernel_distance(draw(30, 4), draw(20, 4, 1, shift=1.0)) > 10 * np.std(values)


def test_kernel_distance_of_points_on_a_line() -> None:
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # Kernels (x y + 1)^3: within a: 1; within b: 27; across: 1, 1, 8, 27.
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_precision_and_recall_at_their_extremes() -> None:
    real = draw(40, 3)
    assert precisions(real, real).mean() == recalls(real, real).mean() == 1
    far = real + 100
    assert precisions(far, real).mean() == recalls(far, real).mean() == 0
    collapsed = real[:1] + 1e-3 * draw(40, 3, 1)  # one mode: high precision, low recall
    assert precisions(collapsed, real).mean() == 1
    assert recalls(collapsed, real).mean() < 0.1
    spread = torch.cat([real, far])
    assert precisions(spread, real).mean() == 0.5
    assert recalls(spread, real).mean() == 1


def test_density_and_coverage_of_known_cases() -> None:
    real = torch.arange(10.0)[:, None]  # with k = 1 every ball has radius 1
    near = torch.tensor([[2.5], [100.0]])  # within the balls of 2 and 3, and of none
    assert densities(near, real, k=1).tolist() == [2, 0]
    assert coverages(near, real, k=1).tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    # One outlier among the real ones makes a vast ball: precision takes it, density hardly.
    outlier = torch.cat([draw(50, 2), torch.full((1, 2), 30.0).double()])
    astray = draw(50, 2, 1, shift=15.0, scale=0.1)
    assert precisions(astray, outlier).mean() == 1
    assert densities(astray, outlier).mean() < 0.3
    assert coverages(astray, outlier).mean() < 0.05
    same = [float(densities(draw(300, 4, 2 * i), draw(300, 4, 2 * i + 1)).mean()) for i in range(5)]
    assert np.mean(same) == pytest.approx(1, abs=0.05)


def test_leading_directions_hold_the_references_variance() -> None:
    reference = draw(30, 6) * torch.tensor([1.0, 9, 1, 5, 1, 1]).double()
    basis = leading_directions(reference, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2).double())
    assert basis[[1, 3]].square().sum() > 1.9
    assert leading_directions(reference[:4], 64).shape == (6, 3)


def test_kolmogorov_smirnov() -> None:
    low, high = torch.arange(20.0), torch.arange(20.0) + 100
    assert kolmogorov_smirnov(low, high) == pytest.approx((1, 1 / 10000))
    assert kolmogorov_smirnov(low, low) == (0.0, 1.0)  # ties are no steps
    statistic, _ = kolmogorov_smirnov(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.5, 3.5, 4.5]))
    assert statistic == pytest.approx(0.5)
    # Of the 6 ways to choose 2 of 4, two separate them.
    assert kolmogorov_smirnov(low[:2], high[:2])[1] == pytest.approx(1 / 3, abs=0.02)
    values = [kolmogorov_smirnov(draw(30, 1, 2 * i)[:, 0], draw(25, 1, 2 * i + 1)[:, 0], 499)[1] for i in range(100)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_random_pairs_are_of_different_images() -> None:
    first, second = random_pairs(5, 1000)
    assert bool((first != second).all())
    assert set(first.tolist()) == set(second.tolist()) == set(range(5))
    assert torch.equal(random_pairs(5, 1000)[1], second)
    with refuses("count"):
        random_pairs(1, 3)


def test_pairs_count_as_often_as_their_images() -> None:
    distances, first, second = torch.tensor([1.0, 5.0]), torch.tensor([0, 1]), torch.tensor([1, 2])
    assert weighted_pair_mean(distances, first, second) == 3
    assert weighted_pair_mean(distances, first, second, torch.tensor([2.0, 1, 1])) == pytest.approx(7 / 3)
    assert weighted_pair_mean(distances, first, second, torch.tensor([3.0, 0, 0])) == 3


@pytest.mark.parametrize(
    ("features", "constraint"),
    [
        (torch.zeros(1, 3), "of shape (N, D) with N at least 2"),
        (torch.zeros(4), "of shape (N, D) with N at least 2"),
        ([[1.0]], "of shape (N, D) with N at least 2"),
        (torch.full((4, 3), torch.nan), "finite"),
        (torch.zeros(4, 2), "of 3 dimensions, as the reference"),
    ],
)
def test_other_inputs_are_no_sets(features: Tensor, constraint: str) -> None:
    for metric in (frechet_distance, kernel_distance):
        with refuses("features") as caught:
            metric(features, torch.zeros(5, 3))
        assert caught.value.constraint == constraint
    with refuses("reference"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(1, 3))
    with refuses("k"):
        coverages(draw(5, 2), draw(5, 2))
    with refuses("second"):
        kolmogorov_smirnov(torch.zeros(2), torch.zeros(0))


def test_psnr_of_each_image() -> None:
    images = torch.zeros(3, 3, 4, 4)
    others = images + torch.tensor([0.0, 0.1, 1.0])[:, None, None, None]
    assert psnr(images, others).tolist() == pytest.approx([100, 20, 0], abs=1e-4)
