"""PCA: known answers, exactness at full rank, streaming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.errors import refuses

from latentpatch import PCA


def latents(count: int = 40, channels: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(channels, channels, generator=generator)
    return torch.randn(count, 5, 4, channels, generator=generator) @ mixing + 3


def test_equals_the_singular_value_decomposition():
    data = latents()
    pca = PCA().fit(data.split(7), 5)
    vectors = data.reshape(-1, 12).double().numpy()
    centred = vectors - vectors.mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / (len(vectors) - 1)
    np.testing.assert_allclose(pca.mean, vectors.mean(0), rtol=1e-5)
    np.testing.assert_allclose(pca.explained_variance, variances[:5], rtol=1e-5)
    np.testing.assert_allclose(pca.total_variance, variances.sum(), rtol=1e-5)
    np.testing.assert_allclose((pca.basis.double().numpy() @ rows[:5].T).diagonal() ** 2, np.ones(5), rtol=1e-5)


@pytest.mark.usefixtures("float32")
def test_exact_at_full_rank():
    data = latents().movedim(-1, 1)
    pca = PCA().fit([data.movedim(1, -1)], 12)
    torch.testing.assert_close(pca.unproject(pca.project(data)).float(), data, rtol=1e-5, atol=1e-5)


def test_unprojecting_gives_the_closest_expressible_latents():
    data = latents().movedim(-1, 1)
    pca = PCA().fit([data.movedim(1, -1)], 3)
    once = pca.unproject(pca.project(data))
    torch.testing.assert_close(pca.unproject(pca.project(once)), once, rtol=1e-5, atol=1e-5)
    residual = (data.double() - once).square().sum(1).mean() * data.numel() / data.shape[1] / (len(data) * 20 - 1)
    expected = pca.total_variance.double() - pca.explained_variance.double().sum()
    torch.testing.assert_close(residual, expected, rtol=1e-4, atol=1e-4)


def test_batches_do_not_matter():
    data = latents()
    whole, parts = PCA().fit([data], 4), PCA().fit(data.split(1), 4)
    for name, value in whole.fitted().items():
        torch.testing.assert_close(parts.fitted()[name], value, rtol=1e-6, atol=1e-6)


def test_far_from_the_origin_no_digits_are_lost():
    data = latents().double()
    near, far = PCA().fit([data], 4), PCA().fit([data + 1e6], 4)
    torch.testing.assert_close(near.explained_variance, far.explained_variance, rtol=1e-5, atol=1e-5)


def test_state_moves_to_a_fresh_module():
    fitted = PCA().fit([latents()], 4)
    fresh = PCA()
    fresh.load_state_dict(fitted.state_dict())
    assert fresh.components == 4
    data = latents().movedim(-1, 1)
    assert torch.equal(fresh.project(data), fitted.project(data))


@pytest.mark.parametrize("components", [0, 13, 2.0, True])
def test_components_are_checked(components):
    with refuses("components"):
        PCA().fit([latents()], components)


def test_nothing_or_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least one latent vector"):
        PCA().fit([], 4)
    with pytest.raises(ValueError, match="NaN"):
        PCA().fit([torch.full((3, 12), float("nan"))], 4)


def test_one_vector_has_no_variance():
    pca = PCA().fit([torch.ones(1, 6)], 2)
    assert pca.explained_variance.tolist() == [0, 0]
    assert torch.equal(pca.mean, torch.ones(6))
