"""Patches, pyramids and exact search."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers.errors import refuses

from latentpatch.ops.patch_nearest import completeness_weights, least_distances, levels, nearest_vectors
from latentpatch.ops.patches import extract_patches, fold_patches, gaussian_window, patch_grid, patch_masses
from latentpatch.ops.pyramid import pyramid, pyramid_sizes, resize


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (5, 1), (4, 2), (7, 3)])
@pytest.mark.parametrize("width", [None, 0.25])
def test_folded_patches_are_the_picture(side: int, stride: int, width: float | None) -> None:
    images = torch.rand(2, 3, 4 * stride + side, 6 * stride + side, generator=torch.Generator().manual_seed(0))
    window = None if width is None else gaussian_window(side, width)
    patches = extract_patches(images, side, stride)
    assert patches.shape == (2, 5, 7, 3 * side**2)
    torch.testing.assert_close(fold_patches(patches, images.shape[2:], side, stride, window), images)


def test_a_window_weights_the_center() -> None:
    patches = torch.zeros(1, 1, 2, 9)
    patches[0, 0, 1] = 1  # the right one of two patches
    plain = fold_patches(patches, (3, 4), 3)
    assert plain[0, 0, 1].tolist() == [0, 0.5, 0.5, 1]
    weighted = fold_patches(patches, (3, 4), 3, window=gaussian_window(3, 0.2))[0, 0, 1]
    assert weighted[1] < 0.5 < weighted[2]
    assert gaussian_window(3, 0.2)[1, 1] == 1


def test_pictures_smaller_than_a_patch_are_refused() -> None:
    with refuses("size"):
        patch_grid((4, 9), 5)


def test_resizing_does_not_alias() -> None:
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::2] = 1
    small = resize(stripes, (16, 16))
    assert float((small - 0.5).abs().max()) < 0.2
    assert resize(stripes, (64, 64)) is stripes
    assert float(resize(stripes, (80, 80)).max()) <= 1


def test_sizes_of_a_pyramid_end_where_they_should() -> None:
    sizes = pyramid_sizes((167, 250), 0.75, 14)
    assert sizes[0][0] == 14
    assert sizes[-1] == (167, 250)
    assert all(0.7 < a[0] / b[0] < 1 for a, b in pairwise(sizes))
    assert pyramid_sizes((10, 30), 0.5, 14) == [(10, 30)]
    assert [tuple(each.shape[2:]) for each in pyramid(torch.rand(1, 3, 40, 60), pyramid_sizes((40, 60), 0.5, 10))] == [
        (10, 15),
        (20, 30),
        (40, 60),
    ]
    with refuses("ratio"):
        pyramid_sizes((40, 60), 1.0, 10)


def vectors(count: int, seed: int) -> torch.Tensor:
    return levels(torch.rand(count, 27, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("k", [1, 3])
def test_exact_search_is_brute_force_in_any_block(k: int) -> None:
    queries, keys = vectors(70, 0), vectors(90, 1)
    keys[50] = keys[20]  # equals: the lower one comes first
    queries[3] = keys[20]
    weights = torch.rand(90, generator=torch.Generator().manual_seed(2)) + 0.5
    weights[50] = weights[20]
    weights[7] = torch.inf
    distances = (queries[:, None].double() - keys[None].double()).square().sum(2)
    scores = torch.where(weights.isinf(), torch.inf, distances.float() * weights)
    expected = scores.sort(dim=1, stable=True)
    for block in (1, 4 * 90 * 7, 1 << 20):
        found = nearest_vectors(queries, keys, k, weights, block)
        assert torch.equal(found.positions, expected.indices[:, :k])
        assert torch.equal(found.scores, expected.values[:, :k])
        assert torch.equal(least_distances(queries, keys, block), distances.amin(0).float())
    assert int(found.positions[3, 0]) == 20
    with refuses("k"):
        nearest_vectors(queries, keys, 91)


def test_completeness_prefers_what_is_missing() -> None:
    least = torch.tensor([0.0, 1.0, 4.0])
    weights = completeness_weights(least, 0.5)
    assert weights[0] == 1
    assert (weights.diff() < 0).all()
    ratio = completeness_weights(least, 100.0)
    assert ratio[2] / ratio[0] > weights[2] / weights[0]  # a larger alpha prefers less
    assert torch.equal(completeness_weights(least, float("inf")), torch.ones(3))


@pytest.mark.parametrize("size", [(3, 3), (4, 9), (12, 7)])
def test_masses_share_each_pixel_among_its_patches(size: tuple[int, int]) -> None:
    masses = patch_masses(size, 3)
    counts = torch.zeros(size)
    for row in range(masses.shape[0]):
        for column in range(masses.shape[1]):
            counts[row : row + 3, column : column + 3] += 1
    expected = torch.stack(
        [
            (1 / counts[row : row + 3, column : column + 3]).sum()
            for row in range(masses.shape[0])
            for column in range(masses.shape[1])
        ]
    )
    assert torch.allclose(masses.flatten(), expected)
    assert torch.isclose(masses.sum(), torch.tensor(float(size[0] * size[1])))
