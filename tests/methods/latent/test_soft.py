"""The soft choice of sources: its limits, its gradients, and what they are good for."""

from __future__ import annotations

import pytest
import torch
from helpers.coded_pixels import CodedPixels
from helpers.errors import refuses
from torch import Tensor

from latentpatch import LatentPatch, load_autoencoder
from latentpatch.methods.latent.soft import SoftSettings, patch_distances, soft_weights


def slow_distances(reference: Tensor, sources: Tensor, side: int) -> Tensor:
    """By plain loops."""
    images, _, height, width = reference.shape
    result = torch.zeros(images, len(sources), height, width, dtype=reference.dtype)
    for n in range(images):
        for b in range(len(sources)):
            for y in range(height):
                for x in range(width):
                    top, left = y - side // 2, x - side // 2
                    cells = [
                        (reference[n, :, i, j] - sources[b, i, j]).square().sum()
                        for i in range(max(0, top), min(height, top + side))
                        for j in range(max(0, left), min(width, left + side))
                    ]
                    result[n, b, y, x] = torch.stack(cells).mean()
    return result


@pytest.fixture
def grids() -> tuple[Tensor, Tensor]:
    """A reference (2, 3, 5, 6) and sources (4, 5, 6, 3), float64."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    return reference, torch.randn(4, 5, 6, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_distances_are_those_of_the_definition(grids, side):
    torch.testing.assert_close(patch_distances(*grids, side), slow_distances(*grids, side))


def test_cold_weights_pick_the_nearest_patch(grids):
    distances = patch_distances(*grids, 3)
    cold = soft_weights(distances, SoftSettings(1e-9))
    assert torch.equal(cold, torch.nn.functional.one_hot(distances.argmin(1), 4).movedim(3, 1).double())
    hot = soft_weights(distances, SoftSettings(1e9))
    torch.testing.assert_close(hot, torch.full_like(hot, 0.25))
    few = soft_weights(distances, SoftSettings(1.0, neighbors=2))
    assert ((few > 0).sum(1) == 2).all()
    torch.testing.assert_close(few.sum(1), torch.ones(2, 5, 6, dtype=torch.float64))
    assert torch.equal(few.argmax(1), distances.argmin(1))


@pytest.mark.parametrize("neighbours", [None, 2])
def test_gradients_are_those_of_finite_differences(grids, neighbours):
    reference, sources = grids

    def blended(reference: Tensor) -> Tensor:
        weights = soft_weights(patch_distances(reference, sources, 3), SoftSettings(0.7, neighbors=neighbours))
        return torch.einsum("nbhw,bhwr->nrhw", weights, sources)

    assert torch.autograd.gradcheck(blended, reference.requires_grad_(True))


def test_hard_choices_have_soft_gradients(grids):
    reference, sources = grids
    reference.requires_grad_(True)
    distances = patch_distances(reference, sources, 3)
    soft, hard = (soft_weights(distances, SoftSettings(0.5, hard=hard)) for hard in (False, True))
    torch.testing.assert_close(hard, soft_weights(distances, SoftSettings(1e-9)))
    scale = torch.rand(soft.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, found = (
        torch.autograd.grad((each * scale).sum(), reference, retain_graph=True)[0] for each in (soft, hard)
    )
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0


# --- through the model ---------------------------------------------------------------------------------


def test_a_source_comes_back_as_it_is(model, face_images):
    result = model.soft(face_images[[4, 7]], temperature=1e-4)
    assert result.index.flatten(1).unique(dim=1).flatten().tolist() == [4, 7]
    torch.testing.assert_close(result.images, face_images[[4, 7]], atol=1e-3, rtol=0)
    assert [next(iter(row.items())) for row in result.shares()] == [
        ("4", pytest.approx(1, abs=0.01)),
        ("7", pytest.approx(1, abs=0.01)),
    ]


def test_weights_are_the_provenance(model, face_images):
    result = model.soft(face_images.mean(0), temperature=0.3)
    for row in result.shares():
        assert sum(row.values()) == pytest.approx(1)
        assert list(row.values()) == sorted(row.values(), reverse=True)
    # Pixels as latents: a picture is its weights times the sources.
    pixels = result.weights.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(result.images, torch.einsum("nbhw,bchw->nchw", pixels, face_images), atol=1e-3, rtol=0)


def test_sources_may_be_chosen(face_images):
    model = LatentPatch("pixels:4", 8).fit(
        face_images, attributes={str(i): {"mood": "glad" if i % 3 == 0 else "calm"} for i in range(12)}
    )
    weights = model.soft(face_images[4], where="mood=glad", neighbours=2).weights
    assert weights.sum((0, 2, 3)).nonzero().flatten().tolist() == [b for b in (0, 3, 6, 9) if weights[:, b].any()]
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 16, 16, dtype=torch.float32))


@pytest.mark.parametrize("hard", [False, True])
def test_descent_on_a_reference_lowers_a_loss(model, face_images, hard):
    target = face_images[3]
    reference = face_images.mean(0).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([reference], lr=0.02)
    losses = []
    for _ in range(30):
        loss = (model.soft(reference.clamp(0, 1), temperature=0.1, hard=hard).images - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-5:]) < 0.25 * losses[0]


def test_descent_on_latents_through_networks(face_images):
    network = load_autoencoder("embedded")
    model = LatentPatch(network).fit(face_images[:6])
    latents = model.latents_of(face_images[:6]).mean(0, keepdim=True).requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=0.05)
    losses = []
    for _ in range(8):
        loss = (model.soft(latents=latents, patch_size=2).images - face_images[2]).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_codebooks_are_looked_up(face_images):
    network = CodedPixels()
    model = LatentPatch(network, 8).fit(face_images)
    images = model.soft(network.decode(model.latents_at(torch.full((1, 16, 16), 5))), temperature=1e-6).images
    torch.testing.assert_close(images, model.decode(torch.full((1, 16, 16), 5)))


def test_banks_on_the_disk_blend_alike(tmp_path, model, face_images):
    mapped = LatentPatch("pixels:4", 8).fit(face_images, scratch=tmp_path)
    assert mapped.bank.mapped
    assert torch.equal(mapped.soft(face_images[2]).images, model.soft(face_images[2]).images)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"reference": torch.rand(3, 32, 64)}, "reference"),
        ({"latents": torch.rand(1, 48, 8, 16)}, "latents"),
        ({"reference": torch.rand(3, 64, 64), "temperature": 0}, "temperature"),
        ({"reference": torch.rand(3, 64, 64), "temperature": float("nan")}, "temperature"),
        ({"reference": torch.rand(3, 64, 64), "temperature": "warm"}, "temperature"),
        ({"reference": torch.rand(3, 64, 64), "patch_size": 17}, "patch_size"),
        ({"reference": torch.rand(3, 64, 64), "neighbours": 13}, "neighbors"),
        ({"reference": torch.rand(3, 64, 64), "warmth": 1}, "settings"),
    ],
)
def test_bad_arguments_are_named(model, arguments, name):
    with refuses(name):
        model.soft(**arguments)


def test_one_of_two_inputs_is_taken(model, face_images):
    for arguments in ({}, {"reference": face_images[0], "latents": torch.rand(1, 48, 16, 16)}):
        with pytest.raises(TypeError):
            model.soft(**arguments)
