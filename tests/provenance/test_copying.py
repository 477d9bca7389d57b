"""Copying figures: small maps counted by hand, and copies of sources against other images."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.provenance.copying import (
    copying,
    copying_of_sources,
    largest_shares,
    nearest_sources,
    region_densities,
    source_counts,
    source_distances,
)
from latentpatch.provenance.trace import nearest_source_map

MAPS = torch.tensor(
    [
        [[5, 5, 5], [5, 5, 5]],
        [[0, 1, 2], [3, 4, 5]],
        [[0, 1, 0], [1, 0, 0]],
        [[-1, -1, -1], [-1, 7, 7]],
        [[-1, -1, -1], [-1, -1, -1]],
    ]
)


def test_figures_of_maps_are_those_counted_by_hand() -> None:
    assert largest_shares(MAPS).mul(6).tolist() == pytest.approx([6, 1, 4, 2, 0])
    assert source_counts(MAPS).tolist() == [1, 6, 2, 1, 0]
    # The third: 0 | 1 | 0 over 1 | 0 0 whose right column meets the 0 above it.
    assert region_densities(MAPS).mul(6).tolist() == pytest.approx([1, 6, 4, 1, 0])


def test_no_maps_have_no_figures() -> None:
    none = torch.zeros((0, 4, 4), dtype=torch.int64)
    assert largest_shares(none).shape == source_counts(none).shape == region_densities(none).shape == (0,)


def test_distances_are_those_of_a_loop() -> None:
    chance = torch.Generator().manual_seed(0)
    keys = torch.randint(-900, 900, (3, 2, 4, 5), generator=chance).short()
    stored = torch.randint(-900, 900, (7, 2, 4, 5), generator=chance).short()
    found = source_distances(keys, stored)
    for i in range(3):
        for b in range(7):
            total = sum((int(x) - int(y)) ** 2 for x, y in zip(keys[i].flatten(), stored[b].flatten(), strict=True))
            assert float(found[i, b]) == pytest.approx((total / 8) ** 0.5)
    assert float(source_distances(stored, stored).diagonal().max()) == 0


def test_the_nearest_source_is_compared_with_the_next_nearest() -> None:
    near = nearest_sources(torch.tensor([[4.0, 1.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]]), neighbors=2)
    assert near.source.tolist()[0] == 1
    assert near.distance.tolist() == [1, 0]
    assert near.relative.tolist() == pytest.approx([1 / 3.5, 0])
    without = nearest_sources(torch.tensor([[float("inf"), 2.0, 4.0]]))
    assert without.source.tolist() == [1]
    assert without.relative.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(("shape", "neighbors"), [((3, 1), 5), ((3, 4), 0), ((3,), 5)])
def test_too_little_to_compare_is_refused(shape: tuple[int, ...], neighbors: int) -> None:
    with refuses("distances" if neighbors else "neighbors"):
        nearest_sources(torch.ones(shape), neighbors)


def test_the_nearest_source_map_finds_the_sources_of_cells() -> None:
    chance = torch.Generator().manual_seed(0)
    stored = torch.randn((40, 4, 6, 8), generator=chance).half()
    index = torch.randint(0, 40, (20, 4, 6), generator=chance)
    rows, columns = torch.arange(4)[:, None], torch.arange(6)
    latents = stored[index, rows, columns].float().movedim(-1, 1)
    found, distance = nearest_source_map(latents + 0.05 * torch.randn(latents.shape, generator=chance), stored)
    assert float((found == index).float().mean()) > 0.99
    assert float(distance.max()) < 0.5
    assert torch.equal(nearest_source_map(latents, stored)[0], index)
    assert float(nearest_source_map(latents, stored)[1].max()) == 0


def test_of_equal_cells_the_source_nearest_to_the_whole_image_is_chosen() -> None:
    codebook = torch.eye(4)
    stored = torch.tensor([[0, 1], [0, 2], [0, 3]]).view(3, 1, 2, 1).short()
    for b in range(3):
        latents = codebook[stored[b, ..., 0].long()].movedim(-1, 0)[None]
        assert nearest_source_map(latents, stored, codebook)[0].tolist() == [[[b, b]]]
    excluded = nearest_source_map(latents, stored, codebook, torch.tensor([2]))[0]
    assert 2 not in excluded.flatten().tolist()


def test_the_nearest_source_map_does_not_depend_on_the_batch(model: LatentPatch) -> None:
    pictures = model.generate(19, seed=0).images
    latents = model.latents_of(pictures)
    whole, distance = nearest_source_map(latents, model.bank.latents)
    for i in (0, 15, 16, 18):
        alone, near = nearest_source_map(latents[i : i + 1], model.bank.latents)
        assert torch.equal(alone[0], whole[i])
        assert torch.equal(near[0], distance[i])


def test_generated_pictures_and_their_maps_give_the_same_figures(model: LatentPatch) -> None:
    made = model.generate(6, seed=3, decoding="gather")
    known, seen = copying(model, made), copying(model, made.images)
    assert known.exact.all()
    assert not seen.exact.any()
    # Drawn faces have equal cells: another source with the same latents may be found there.
    torch.testing.assert_close(model.latents_at(seen.index), model.latents_at(known.index), atol=1 / 256, rtol=0)
    plain = ~seen.mirrored  # a drawn face may be nearer to a source when mirrored
    assert plain.any()
    assert torch.equal(known.nearest[plain], seen.nearest[plain])
    assert known.distance[plain].tolist() == pytest.approx(seen.distance[plain].tolist(), rel=1e-2)
    record = known.records(model.bank.ids)[0]
    assert record["largest_share"] == pytest.approx(max(made.shares()[0].values()), abs=1e-5)
    assert record["sources"] == len(made.shares()[0])


@pytest.mark.parametrize("change", ["none", "flipped", "brighter", "noisy"])
def test_copies_of_sources_stand_out(model: LatentPatch, face_images: Tensor, change: str) -> None:
    copies = {
        "none": face_images,
        "flipped": face_images.flip(3),
        "brighter": (face_images * 1.05).clamp(max=1),
        "noisy": (face_images + 0.02 * torch.randn(face_images.shape, generator=torch.Generator().manual_seed(0))),
    }[change].clamp(0, 1)
    found, others = copying(model, copies), copying_of_sources(model)
    assert found.nearest.tolist() == list(range(12))
    assert float(found.relative.max()) < float(others.relative.min())
    if change == "flipped":
        assert found.mirrored.all()
    else:
        assert not found.mirrored.any()
    if change == "none":
        assert found.largest_share.tolist() == [1.0] * 12


def test_sources_are_not_compared_with_themselves(model: LatentPatch) -> None:
    figures = copying_of_sources(model, count=5)
    assert len(figures) == 5
    assert float(figures.distance.min()) > 0
    with refuses("sources"):
        copying_of_sources(LatentPatch("pixels:4", 8).fit(torch.rand(2, 3, 64, 64)))


def test_pictures_of_other_sources_are_refused(model: LatentPatch, face_images: Tensor) -> None:
    made = model.generate(1)
    model.remove("3")
    with refuses("pictures"):
        copying(model, made)
    with pytest.raises(ValueError, match="pictures"):
        copying(model, face_images[:, :, :32])
