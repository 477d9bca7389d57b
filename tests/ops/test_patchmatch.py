"""PatchMatch against exact search, in both of its implementations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.ops.patch_nearest import levels, nearest_vectors
from latentpatch.ops.patches import extract_patches, patch_positions
from latentpatch.ops.patchmatch import BACKENDS, Field, Sources, patchmatch, resize_matches, vote
from latentpatch.runs.defaults import plain_torch

SIDE = 5


@plain_torch()
def picture(height: int, width: int, seed: int) -> Tensor:
    """Return a smooth random picture in levels, as natural pictures are smooth."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return levels(fine + 0.05 * torch.randn(3, height, width, generator=generator))


def exact(query: Tensor, pictures: list[Tensor], k: int, weights: Tensor | None = None) -> Tensor:
    keys = torch.cat([extract_patches(each[None], SIDE)[0].flatten(0, 1) for each in pictures])
    queries = extract_patches(query[None], SIDE)[0]
    return nearest_vectors(queries.flatten(0, 1), keys, k, weights).scores.view(*queries.shape[:2], k)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


@pytest.mark.parametrize("k", [1, 4])
def test_matches_are_nearly_the_nearest(backend: str, k: int) -> None:
    query, pictures = picture(40, 48, 0), [picture(36, 44, 1), picture(52, 32, 2)]
    field = patchmatch(query, Sources(pictures, SIDE), k=k, sweeps=8, backend=backend)
    best = exact(query, pictures, k)
    assert (field.scores >= best).all()  # no match is nearer than the nearest
    assert (field.scores.diff(dim=2) >= 0).all()
    factor = field.scores.sqrt().mean() / best.sqrt().mean()
    assert factor < 1.1  # of distance, on average
    assert (field.scores[..., 0] == best[..., 0]).float().mean() > 0.4
    random = patchmatch(query, Sources(pictures, SIDE), k=k, sweeps=0, backend=backend)
    assert random.scores.sqrt().mean() / best.sqrt().mean() > 1.3  # so the search does something


def test_scores_are_those_of_the_matches(backend: str) -> None:
    query, pictures = picture(24, 20, 0), [picture(20, 28, 1), picture(16, 16, 2)]
    weights = [torch.rand(16, 24) + 0.5, torch.rand(12, 12) + 0.5]
    field = patchmatch(query, Sources(pictures, SIDE, weights), k=3, backend=backend)
    queries = extract_patches(query[None], SIDE)[0]
    keys = [extract_patches(each[None], SIDE)[0] for each in pictures]
    for y, x in ((0, 0), (7, 11), (19, 15)):
        places = [tuple(match) for match in field.matches[y, x].tolist()]
        assert len(set(places)) == 3
        for (number, row, column), score in zip(places, field.scores[y, x], strict=True):
            distance = (queries[y, x] - keys[number][row, column]).square().sum()
            assert score == pytest.approx(float(distance * weights[number][row, column]), rel=1e-6)


def test_a_copy_is_found_in_whole(backend: str) -> None:
    source = picture(60, 60, 3)
    query = source[:, 20:50, 10:40]
    field = patchmatch(query, Sources([source], SIDE), backend=backend, sweeps=8)
    assert (field.scores == 0).float().mean() > 0.95
    inside = field.matches[field.scores[..., 0] == 0][:, 0]
    rows, columns = (field.scores[..., 0] == 0).nonzero().T
    assert ((inside[:, 1] == rows + 20) & (inside[:, 2] == columns + 10)).float().mean() > 0.95
    assert (vote(field, Sources([source], SIDE), (30, 30), backend) - query).abs().mean() < 2


def test_weights_are_respected(backend: str) -> None:
    query, source = picture(28, 28, 0), picture(28, 28, 1)
    weights = torch.linspace(0.2, 1, 24).expand(24, 24).contiguous()
    field = patchmatch(query, Sources([source], SIDE, [weights]), sweeps=8, backend=backend)
    best = exact(query, [source], 1, weights.flatten())
    assert (field.scores >= best * (1 - 1e-6)).all()
    assert field.scores.sqrt().mean() / best.sqrt().mean() < 1.1


def test_masks_leave_out_sources_and_queries(backend: str) -> None:
    query, source = picture(24, 24, 0), picture(24, 32, 1)
    allowed = torch.ones(24, 32, dtype=torch.bool)
    allowed[:, :20] = False
    wanted = torch.zeros(20, 20, dtype=torch.bool)
    wanted[5:15, 5:15] = True
    field = patchmatch(query, Sources([source], SIDE).masked([allowed]), k=2, wanted=wanted, backend=backend)
    assert (field.matches[wanted][..., 2] >= 20).all()
    assert (field.matches[~wanted] == -1).all()
    assert field.scores[~wanted].isinf().all()
    with refuses("mask"):
        Sources([source], SIDE).masked([torch.zeros_like(allowed)])


def test_threads_change_nothing(backend: str, pretend_threads: Callable[[int], None]) -> None:
    query, sources = picture(60, 24, 0), Sources([picture(32, 28, 1)], SIDE)
    found = []
    for threads in (1, 2, 5):
        pretend_threads(threads)
        found.append(patchmatch(query, sources, k=2, seed=7, sweeps=2, backend=backend))
    assert all(torch.equal(found[0].matches, other.matches) for other in found[1:])
    assert not torch.equal(found[0].matches, patchmatch(query, sources, k=2, seed=8, sweeps=2, backend=backend).matches)


def test_a_start_only_improves(backend: str) -> None:
    query, sources = picture(40, 40, 0), Sources([picture(40, 40, 1)], SIDE)
    first = patchmatch(query, sources, sweeps=2, backend=backend)
    again = patchmatch(query, sources, start=first.matches, sweeps=0, backend=backend)
    assert torch.equal(first.matches, again.matches)
    more = patchmatch(query, sources, start=first.matches, sweeps=4, seed=1, backend=backend)
    assert (more.scores <= first.scores).all()
    assert (more.scores < first.scores).any()


@pytest.mark.usefixtures("float32")
def test_votes_of_backends_are_alike() -> None:
    pytest.importorskip("numba")
    query, sources = picture(24, 31, 0), Sources([picture(24, 32, 1), picture(20, 20, 2)], SIDE)
    field = patchmatch(query, sources, sweeps=1)
    one, other = (vote(field, sources, (24, 31), backend) for backend in BACKENDS)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_resized_matches_keep_pieces_together() -> None:
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(10), indexing="ij")
    matches = torch.stack([torch.zeros_like(rows), rows + 4, columns], -1)[:, :, None].to(torch.int32)
    fine = resize_matches(matches, (16, 20), [(12, 10)], [(24, 20)])
    assert fine.shape == (16, 20, 1, 3)
    expected = torch.stack(torch.meshgrid(torch.arange(16) + 8, torch.arange(20), indexing="ij"), -1)
    assert torch.equal(fine[:, :, 0, 1:].long(), expected)
    uneven = resize_matches(matches, (11, 13), [(12, 10)], [(16, 13)])
    assert (uneven[..., 1] < 16).all()
    assert (uneven[:, 1:, 0, 2] - uneven[:, :-1, 0, 2] == 1).float().mean() > 0.6


def test_positions_of_pixels_are_those_of_the_nearest_patch() -> None:
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(4), indexing="ij")
    own = torch.stack([torch.zeros_like(rows), rows, columns], -1)
    pixels = patch_positions(own, SIDE, (10, 8))
    expected = torch.stack(torch.meshgrid(torch.arange(10), torch.arange(8), indexing="ij"), -1)
    assert torch.equal(pixels[..., 1:], expected)


@pytest.mark.parametrize("name", ["k", "sweeps", "radius", "backend", "start", "sources", "size"])
def test_bad_arguments_are_refused(name: str) -> None:
    query, source = picture(12, 12, 0), picture(12, 12, 1)
    sources, values = Sources([source], SIDE), {name: 65}
    if name in ("sweeps", "radius"):
        values = {name: -1}
    elif name == "backend":
        values = {name: "cuda"}  # type: ignore[dict-item]
    elif name == "start":
        values = {name: torch.zeros(3, 3, 1, 3)}  # type: ignore[dict-item]
    elif name == "sources":
        sources, values = Sources([source[:1]], SIDE), {}
    elif name == "size":
        query, values = query[:, :4], {}
    with refuses(name):
        patchmatch(query, sources, **values)  # type: ignore[arg-type]


def test_fields_are_pairs() -> None:
    field = patchmatch(picture(12, 12, 0), Sources([picture(12, 12, 1)], SIDE), sweeps=0)
    assert isinstance(field, Field)
    assert field.matches.dtype == torch.int32
