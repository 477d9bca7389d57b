"""The search behind the raster sampler: exact whatever it is cut into, kept or computed in."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from helpers.random_keys import some_keys
from helpers.slow_raster import interpolate, slow_raster

from latentpatch import RasterSettings
from latentpatch.bank.bank import SourceBank
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.search import prepared as sources
from latentpatch.methods.latent.search import torch_loops
from latentpatch.methods.latent.search.keys import KEY_NORM, exact_dtype, resize_keys
from latentpatch.methods.latent.search.prepared import PreparedSources, cut, longest, paste
from latentpatch.methods.latent.search.schedule import places_in_units, raster_schedule
from latentpatch.methods.latent.search.torch_raster import make_levels, scan_parts
from latentpatch.ops.nearest import nearest
from latentpatch.ops.noise import noise_from_seeds

pytestmark = pytest.mark.usefixtures("cpu_search")


@pytest.mark.parametrize("seed", range(40))
def test_random_settings_equal_plain_loops(seed, monkeypatch):
    """Any grid, patch, stride, scales, reference and mask; in pieces of any size, kept or not; repeated sources."""
    choose = random.Random(seed)
    grid = choose.randint(3, 10), choose.randint(3, 10)
    patch = choose.randint(1, min(grid))
    stride, scales = choose.choice([None, choose.randint(1, patch)]), choose.choice([1, 2, 3])
    start = choose.randint(patch, min(grid))
    depth, spread = choose.choice([(1, 1), (2, 300), (3, 1100)])  # ties; float32; now and then float64
    keys = some_keys(choose.randint(1, 6), grid, depth, spread, seed).repeat(choose.choice([1, 2]), 1, 1, 1)
    neighbours = choose.randint(1, len(keys))
    reference = some_keys(1, grid, depth, spread, seed + 1000) if seed % 2 else None
    mask = torch.rand(grid, generator=torch.Generator().manual_seed(seed)) < choose.random() if seed % 4 == 3 else None
    if mask is not None:
        mask[0, choose.randrange(grid[1])] = True
    settings = RasterSettings(patch, stride, neighbours, scales, start)
    noise = noise_from_seeds(range(2), raster_steps(grid, settings, reference is not None, mask))

    # Levels of places as a whole or in parts, units and sources in groups of any size.
    monkeypatch.setattr(torch_loops, "_CHUNK", choose.choice([1, 100, 1 << 18]))
    monkeypatch.setattr(torch_loops, "_GATHERED", choose.choice([0, 1 << 16]))
    monkeypatch.setattr(torch_loops, "_TOGETHER", choose.choice([1, 50, 1 << 19]))
    monkeypatch.setattr(sources, "_TILE", choose.choice([1, 1 << 18]))
    prepared = PreparedSources(keys, keep=choose.choice([0, 2000, 1 << 20]))
    results = [raster(prepared, noise, settings, reference, mask, memory=choose.choice([0, 1 << 20])) for _ in range(2)]
    assert torch.equal(*results)
    for image in range(2):
        slow = slow_raster(
            keys.tolist(),
            noise[image].tolist(),
            patch,
            neighbours,
            scales,
            stride,
            start,
            None if reference is None else reference[0].tolist(),
            None if mask is None else mask.tolist(),
        )
        assert results[0][image].tolist() == slow


def test_result_does_not_depend_on_pieces_threads_or_precision(monkeypatch):
    keys = some_keys(2600, (8, 8), 4, 300, 0)
    settings = RasterSettings(4, 2, scales=2, neighbors=10)
    noise = noise_from_seeds(range(3), raster_steps((8, 8), settings))
    expected = raster(keys, noise, settings)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(2)
        assert torch.equal(raster(keys, noise, settings), expected)
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
        assert exact_dtype(1) == torch.float64
        assert torch.equal(raster(keys, noise, settings), expected)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(torch_loops, "_CHUNK", 20_000)  # units one by one, and sources in pieces
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(raster(keys, noise, settings, memory=1 << 19), expected)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has no such setting")
def test_newer_precision_settings_are_heeded():
    assert exact_dtype(1 << 24) == torch.float32
    assert exact_dtype((1 << 24) + 1) == torch.float64
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        assert exact_dtype(1) == torch.float64
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


# --- the nearest ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 2047, 2048, 2600, 5000])
@pytest.mark.parametrize("values", [2, 50, 1 << 30])
@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_nearest_equals_a_stable_sort(count, values, neighbours):
    neighbours = min(neighbours, count)
    generator = torch.Generator().manual_seed(count + values)
    scores = torch.randint(-values, values, (7, count), generator=generator, dtype=torch.int32)
    scores[0] = 3
    scores[1] = torch.arange(count, 0, -1)
    for held in (scores, scores.long()):
        expected = held.sort(dim=1, stable=True).indices[:, :neighbours]
        assert torch.equal(nearest(held, neighbours), expected)


# --- sources -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "side"), [((9, 7), 1), ((9, 7), 2), ((9, 7), 3), ((5, 8), 2), ((11, 13), 4)])
def test_rows_hold_interpolated_sources_and_norms(size, side):
    keys = some_keys(6, (9, 7), 2, 1200, 1)
    resized = torch.tensor([interpolate(grid, *size) for grid in keys.tolist()])
    assert torch.equal(resize_keys(keys, size).long(), resized)
    units = cut(resized, side)
    assert torch.equal(paste(units, size, side), resized)
    prepared = PreparedSources(keys)
    for number, expected in enumerate(units):
        row = prepared.row(size, side, number)
        assert torch.equal(row.vectors.long(), expected)
        assert torch.equal(row.norms.long(), expected.square().sum(1, keepdim=True))
        assert torch.equal(prepared.units(size, side).vectors[number].long(), expected)
        assert prepared.row(size, side, number) is row


def test_what_is_kept_is_bounded():
    keys = some_keys(50, (8, 8), 4, 300, 0)
    first = PreparedSources(keys).row((8, 8), 2, 0)
    prepared = PreparedSources(keys, keep=2 * first.bytes)
    assert [prepared.row((8, 8), 2, row) is prepared.row((8, 8), 2, row) for row in range(4)] == [True] * 2 + [
        False
    ] * 2


def test_long_keys_are_refused():
    keys = torch.zeros(2, 8, 8, 4, dtype=torch.int16)
    keys[1, 2, 3] = torch.tensor([KEY_NORM, 0, 0, 0])
    assert longest(keys) == KEY_NORM + 1
    keys[1, 2, 3, 1] = 200
    with pytest.raises(ValueError, match="keys must be of norm at most 2047"):
        raster(keys, torch.rand(1, raster_steps((8, 8), RasterSettings(3, scales=1))), RasterSettings(3, 1, 1, 1))


def test_bank_prepares_again_when_its_keys_change():
    bank = SourceBank()
    bank.keys = some_keys(6, (8, 8), 4, 300, 0)
    prepared = bank.prepared()
    assert bank.prepared() is prepared
    bank.keys[0] = 0
    assert bank.prepared() is not prepared
    prepared = bank.prepared()
    bank.keys = bank.keys.clone()
    assert bank.prepared() is not prepared
    assert "_cache" not in bank.state_dict()
    assert copy.deepcopy(bank)._cache._all is None
    assert pickle.loads(pickle.dumps(bank))._cache._all is None
    with torch.inference_mode():
        bank.keys = bank.keys.clone()
        prepared = bank.prepared()
        assert bank.prepared() is prepared
        bank.keys[0] = 7
        assert bank.prepared() is not prepared


def test_bank_keeps_what_it_prepared_of_the_last_choice():
    bank = SourceBank()
    bank.keys = some_keys(6, (8, 8), 4, 300, 0)
    first, second = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 4])
    prepared = bank.prepared(first)
    assert torch.equal(prepared.keys, bank.keys[first])
    assert bank.prepared(first.clone()) is prepared
    bank.prepared()
    assert bank.prepared(first) is prepared
    assert torch.equal(bank.prepared(second).keys, bank.keys[second])
    assert bank.prepared(first) is not prepared
    prepared = bank.prepared(first)
    bank.keys[2] = 0
    assert torch.equal(bank.prepared(first).keys, bank.keys[first])


# --- schedules -----------------------------------------------------------------------------------------


def test_default_levels_are_the_diagonals_of_blocks_in_units():
    for scale in raster_schedule((16, 16), RasterSettings()):
        blocks = -(-scale.size[0] // 2)
        assert (scale.unit, scale.units) == (2, blocks**2)
        parts = scan_parts(scale, True)
        assert scan_parts(scale, True) is parts
        ((known, levels),) = parts
        assert len(known) == (blocks**2 if scale.known.all() else 0)
        # An empty grid begins with a patch of 3 x 3 blocks, and the diagonals before its last one need no visit.
        assert len(levels) == 2 * blocks - 1 - (0 if scale.known.all() else 2)
        written = torch.cat([level.written for level in levels])
        assert written.sort().values.tolist() == list(range(blocks**2))
        # Unknown units, as a block of an empty grid is itself, are not compared.
        assert max(level.windows.shape[1] for level in levels) == (9 if scale.known.all() else 8)
    assert raster_schedule((16, 16), RasterSettings(5, 2))[0].unit == 1
    assert raster_schedule((16, 16), RasterSettings(8, 4))[0].unit == 4


@pytest.mark.parametrize("masked", [False, True])
def test_levels_keep_the_order_of_places_that_depend_on_each_other(masked):
    mask = torch.zeros(9, 11, dtype=torch.bool).numpy()
    mask[2:8, 1:9] = True
    for scale in raster_schedule((9, 11), RasterSettings(5, 2, scales=2), masked, mask if masked else None):
        places = places_in_units(scale)
        level_of = {place: number for number, level in enumerate(make_levels(scale)) for place in level.places.tolist()}
        assert sorted(level_of) == list(range(len(places)))
        for later, place in enumerate(places):
            for earlier, before in enumerate(places[:later]):
                if set(before.block) & {*place.window, *place.block}:
                    assert level_of[earlier] < level_of[later]
                if set(before.window) & set(place.block):
                    assert level_of[earlier] <= level_of[later]


def test_a_masks_schedule_is_made_once():
    mask = torch.zeros(16, 16, dtype=torch.bool).numpy()
    mask[3:9, 4:11] = True
    scales = raster_schedule((16, 16), RasterSettings(), True, mask)
    assert raster_schedule((16, 16), RasterSettings(), True, mask.copy()) is scales
    mask[0, 0] = True
    assert raster_schedule((16, 16), RasterSettings(), True, mask) is not scales
