"""Resynthesis against plain loops over blocks, and what it promises of shares, starts and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch.methods.latent.donors import donor_bands
from latentpatch.methods.latent.presets import PRESETS
from latentpatch.methods.latent.resynthesis import Resynthesis, resynthesis, resynthesis_steps
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.methods.latent.settings import ResynthesisSettings
from latentpatch.ops.noise import noise_from_seeds

pytestmark = pytest.mark.usefixtures("cpu_search")


def a_bank(count: int, grid: tuple[int, int], depth: int = 3, spread: int = 400, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).integers(-spread, spread + 1, (count, *grid, depth))
    return torch.from_numpy(values.astype(np.int16))


def slow(bank: Tensor, noise: Tensor, settings: ResynthesisSettings, reference: Tensor | None = None) -> np.ndarray:
    """One block after the other, row by row, in Python integers; without a cap on shares."""
    sources = bank.numpy().astype(int)
    count, height, width, _ = sources.shape
    known = settings.resolved(count, reference is not None)
    side, step = known.patch_size, known.stride
    mean = np.floor(sources.sum(0) / count + 0.5).astype(int)
    unit = ((sources - mean) ** 2).sum() / (count * height * width)
    before, after = (side - step + 1) // 2, (side - step) // 2
    maps = []
    for row, uniforms in enumerate(noise.double().numpy()):
        start = None
        if reference is None:
            drawn = [min(int(number * count), count - 1) for number in uniforms[: known.start_candidates]]
            uniforms = uniforms[known.start_candidates :]
            start = max(drawn, key=lambda b: (((sources[b] - mean) ** 2).sum(), -drawn.index(b)))
            grid = sources[start].copy()
        else:
            grid = reference[row % len(reference)].numpy().astype(int)
        index = np.full((height, width), -1)
        barred = set() if known.allow_start_as_donor else {start}
        drawn = {b for b in range(count) if b not in barred}
        num_donors = known.num_donors(count, reference is not None)
        if num_donors < len(drawn):
            # Which are drawn is the sampler's own affair; tests below count how often each is.
            first = None if start is None else torch.tensor([start])
            given = donor_bands(
                first, torch.from_numpy(uniforms[None]), torch.arange(count), num_donors, known.allow_start_as_donor, 1
            )
            barred = set((given[0] < 0).nonzero()[:, 0].tolist())
        uniforms = uniforms[1:]
        places = []
        for top in range(0, height, step):
            for left in range(0, (width + 1) // 2 if known.symmetric else width, step):
                window = (
                    slice(max(0, top - before), top + step + after),
                    slice(max(0, left - before), left + step + after),
                )
                windows = [window]
                block = np.zeros((height, width), dtype=bool)
                block[top : top + step, left : left + step] = True
                if known.symmetric:
                    windows.append((window[0], slice(max(0, width - window[1].stop), width - window[1].start)))
                    block[:, (width + 1) // 2 :] = False
                    block |= block[:, ::-1]
                places.append((windows, block))

        def costs(windows, held, barred=barred):
            return {
                b: sum(int(((sources[b][each] - held[each]) ** 2).sum()) for each in windows)
                for b in range(count)
                if b not in barred
            }

        # Without a cap none is turned away: each place begins with the nearest.
        asked = grid.copy()
        for windows, block in places:
            found = costs(windows, asked)
            index[block] = min(found, key=lambda b: (found[b], b))
            grid[block] = sources[index[block][0]][block]
        for sweep in range(known.sweeps):
            for place, (windows, block) in enumerate(places):
                index[block] = -1
                wide = np.pad(block, 1)
                ring = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
                beside = set(index[ring & ~block].tolist())
                found = costs(windows, grid)
                dear = round(known.switch_cost * unit)
                order = sorted((cost + dear * (b not in beside), b) for b, cost in found.items())
                rank = min(int(uniforms[place] * known.neighbors), known.neighbors - 1) if sweep == 0 else 0
                index[block] = order[rank][1]
                grid[block] = sources[order[rank][1]][block]
        maps.append(index)
    return np.stack(maps)


@pytest.mark.parametrize("seed", range(32))
def test_equal_to_plain_loops(seed):
    chance = np.random.default_rng(seed)
    grid = int(chance.integers(4, 9)), int(chance.integers(4, 9))
    side = int(chance.integers(1, 5))
    # Few values, so that ties are common.
    bank = a_bank(int(chance.integers(4, 12)), grid, spread=int(chance.choice([2, 400])), seed=seed)
    settings = ResynthesisSettings(
        patch_size=side,
        stride=int(chance.integers(1, side + 1)),
        neighbors=int(chance.integers(1, 3)),
        sweeps=int(chance.integers(1, 4)),
        start_candidates=int(chance.integers(1, 4)),
        allow_start_as_donor=bool(chance.integers(2)),
        donors=int(chance.integers(3, 8)) if seed % 3 == 1 else float(chance.choice([0.75, 1.0])),
        symmetric=bool(chance.integers(2)),
        max_share=1.0,
        switch_cost=float(chance.choice([0, 0.3, 2])) if seed % 2 else 0.0,
    )
    reference = a_bank(3, grid, seed=seed + 99) if seed % 3 == 0 else None
    noise = noise_from_seeds(range(3), resynthesis_steps(grid, settings, reference is not None))
    found = resynthesis(bank, noise, settings, reference)
    assert found.tolist() == slow(bank, noise, settings, reference).tolist()


def test_no_source_gives_more_than_its_share_and_the_start_nothing():
    # All but one are alike, so that without a limit one would give nearly all.
    bank = a_bank(9, (12, 12), seed=1)
    settings = ResynthesisSettings(max_share=0.2, start_candidates=1, allow_start_as_donor=False)
    noise = noise_from_seeds(range(20), resynthesis_steps((12, 12), settings))
    index = resynthesis(bank, noise, settings)
    starts = (noise[:, 0] * 9).long()
    counts = torch.nn.functional.one_hot(index.flatten(1), 9).sum(1)
    assert int(counts.max()) <= 0.2 * 144
    assert not (index.flatten(1) == starts[:, None]).any()
    free = resynthesis(
        bank, noise, ResynthesisSettings(max_share=1.0, start_candidates=1, allow_start_as_donor=True, neighbors=1)
    )
    assert (free.flatten(1) == starts[:, None]).all()  # nothing is nearer than itself


@pytest.mark.parametrize("keep_start", [True, False])
@pytest.mark.parametrize("guided", [True, False])
def test_only_a_subset_gives_and_each_is_as_likely(keep_start, guided):
    # Windows see nothing but a cell, of which all sources have another: all of a subset are drawn in the end.
    bank = a_bank(8, (12, 12), seed=1)
    settings = ResynthesisSettings(
        1, neighbors=3, sweeps=1, start_candidates=1, allow_start_as_donor=keep_start, donors=3, max_share=1.0
    )
    reference = bank[:1] if guided else None
    noise = noise_from_seeds(range(1500), resynthesis_steps((12, 12), settings, guided))
    index = resynthesis(bank, noise, settings, reference).flatten(1)
    used = torch.zeros(1500, 8, dtype=torch.bool).scatter(1, index, True)
    assert (used.sum(1) == 3).all()
    starts = None if guided else (noise[:, :1] * 8).long()
    if starts is not None:
        assert (used.gather(1, starts) == keep_start).all()
    assert (used.float().mean(0) - 3 / 8).abs().max() < 0.05
    # Pairs, too: no two sources go together more often than others.
    both = (used.double().T @ used.double() / 1500)[tuple(torch.triu_indices(8, 8, 1))]
    assert (both - 3 * 2 / (8 * 7)).abs().max() < 0.04


def test_the_start_gives_nothing_where_sums_need_64_bits():
    vectors = np.random.default_rng(0).standard_normal((6, 16, 16, 2))
    vectors *= 2046 / np.linalg.norm(vectors, axis=-1, keepdims=True)
    bank = torch.from_numpy(vectors.round().astype(np.int16))
    settings = ResynthesisSettings(
        allow_start_as_donor=False, patch_size=16, stride=5, neighbors=2, start_candidates=1, max_share=0.4
    )
    noise = noise_from_seeds(range(8), resynthesis_steps((16, 16), settings))
    index = resynthesis(bank, noise, settings)
    assert not (index.flatten(1) == (noise[:, :1] * 6).long()).any()


def test_an_image_is_the_same_in_any_batch_and_memory():
    bank = a_bank(40, (9, 7), seed=2)
    settings = ResynthesisSettings()
    noise = noise_from_seeds(range(7), resynthesis_steps((9, 7), settings, num_sources=40))
    together = resynthesis(bank, noise, settings)
    assert torch.equal(together, torch.cat([resynthesis(bank, row[None], settings) for row in noise]))
    assert torch.equal(together, resynthesis(PreparedSources(bank), noise, settings, memory=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(together, resynthesis(bank, noise, settings))
    assert resynthesis(bank, noise[:0], settings).shape == (0, 9, 7)


def test_pictures_of_the_same_start_differ():
    bank = a_bank(6, (8, 8), seed=3)
    settings = ResynthesisSettings(start_candidates=1)
    noise = noise_from_seeds(range(12), resynthesis_steps((8, 8), settings))
    noise[:, 0] = 0.5
    assert len({str(picture.tolist()) for picture in resynthesis(bank, noise, settings)}) == 12


def test_the_farthest_drawn_starts():
    bank = a_bank(5, (4, 4), spread=3)
    bank[4] += 500
    settings = ResynthesisSettings(start_candidates=2, allow_start_as_donor=True, neighbors=1, max_share=1.0)
    noise = torch.full((2, resynthesis_steps((4, 4), settings)), 0.0)
    noise[0, 1] = noise[1, 0] = 0.99  # the fifth source among the two drawn
    assert (resynthesis(bank, noise, settings) == 4).all()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_few_sources_are_enough_by_default(count):
    bank = a_bank(count, (16, 16), seed=4)
    for settings in (ResynthesisSettings(), PRESETS["faithful"]):
        noise = noise_from_seeds(range(4), resynthesis_steps((16, 16), settings))
        index = resynthesis(bank, noise, settings)
        assert int(index.min()) >= 0
        assert int(index.max()) < count


@pytest.mark.parametrize(
    ("donors", "sources", "expected"),
    [
        (None, 501, 250),
        (None, 65, 48),  # sixteen to a band
        (None, 41, 30),  # three quarters
        (None, 25, 24),  # eight to a band
        (None, 13, 6),  # one band
        (0.5, 65, 32),
        (0.5, 9, 4),
        (6, 65, 6),
        (6, 5, 4),
        (1, 65, 64),
        (1.0, 65, 64),
        (1, 2, 1),
    ],
)
def test_the_number_of_donors(donors, sources, expected):
    settings = ResynthesisSettings(donors=donors)
    assert settings.num_donors(sources, has_reference=False) == expected
    resolved = settings.resolved(sources, has_reference=False)
    assert resolved == resolved.resolved(sources, has_reference=False)
    assert resolved.num_donors(sources, has_reference=False) == expected


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"patch_size": 0}, ValueError, "patch_size"),
        ({"patch_size": 2.0}, TypeError, "patch_size"),
        ({"patch_size": 5, "stride": 6}, ValueError, "stride"),
        ({"neighbours": 0}, ValueError, "neighbors"),
        ({"sweeps": 0}, ValueError, "sweeps"),
        ({"draws": True}, TypeError, "start_candidates"),
        ({"subset": 0}, ValueError, "donors"),
        ({"subset": 1.5}, ValueError, "donors"),
        ({"subset": float("nan")}, ValueError, "donors"),
        ({"subset": "half"}, TypeError, "donors"),
        ({"max_share": 0.0}, ValueError, "max_share"),
        ({"max_share": float("nan")}, ValueError, "max_share"),
        ({"max_share": "all"}, TypeError, "max_share"),
        ({"keep_start": 1}, TypeError, "allow_start_as_donor"),
        ({"symmetric": "yes"}, TypeError, "symmetric"),
    ],
)
def test_settings_out_of_range(changes, error, name):
    with refuses(name, error):
        ResynthesisSettings(**changes)


def test_what_does_not_go_together():
    bank = a_bank(5, (6, 6))
    steps = resynthesis_steps((6, 6), ResynthesisSettings())
    with refuses("noise"):
        resynthesis(bank, torch.rand(2, 3))
    with refuses("neighbors"):
        resynthesis(bank, torch.rand(1, steps), ResynthesisSettings(neighbors=5, donors=1.0))
    with refuses("max_share"):
        resynthesis(bank, torch.rand(1, steps), ResynthesisSettings(max_share=0.1))
    with refuses("patch_size"):
        resynthesis(bank, torch.rand(1, steps), ResynthesisSettings(patch_size=12))
    with refuses("mask"):
        Resynthesis()(bank, torch.rand(1, steps), reference=bank[:1], mask=torch.ones(6, 6, dtype=torch.bool))
    with refuses("reference"):
        resynthesis(bank, torch.rand(1, 19), None, a_bank(1, (5, 6)))


def test_the_least_share_that_is_named_is_enough():
    bank = a_bank(5, (6, 6))
    settings = ResynthesisSettings(max_share=0.1)
    noise = noise_from_seeds(range(9), resynthesis_steps((6, 6), settings))
    with pytest.raises(ValueError, match="at least") as refusal:
        resynthesis(bank, noise, settings)
    least = float(str(refusal.value).split("at least ")[1].split(",")[0])
    assert resynthesis(bank, noise, ResynthesisSettings(max_share=min(1.0, least + 0.001))).shape == (9, 6, 6)


def test_a_switch_costs_and_uses_add_up():
    bank = a_bank(30, (10, 10), spread=200)
    noise = noise_from_seeds(range(6), resynthesis_steps((10, 10), ResynthesisSettings(), num_sources=30))

    def made(**settings: float) -> Tensor:
        return resynthesis(bank, noise, ResynthesisSettings(2, max_share=1.0, **settings))

    def joints(index: Tensor) -> int:
        return int((index[:, 1:] != index[:, :-1]).sum() + (index[:, :, 1:] != index[:, :, :-1]).sum())

    plain = made()
    assert joints(made(switch_cost=5.0)) < 0.8 * joints(plain)
    used = [len(picture.unique()) for picture in plain]
    assert sum(len(picture.unique()) for picture in made(reuse_cost=1.0)) > sum(used)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_best_of_several_has_the_least_energy(symmetric):
    bank = a_bank(20, (8, 8), spread=200)
    steps = resynthesis_steps((8, 8), ResynthesisSettings(symmetric=symmetric))
    assert resynthesis_steps((8, 8), ResynthesisSettings(best_of=3, symmetric=symmetric)) == 3 * steps
    noise = noise_from_seeds(range(4), 3 * steps)
    best = resynthesis(bank, noise, ResynthesisSettings(best_of=3, symmetric=symmetric), memory=1)
    tried = resynthesis(bank, noise.view(12, steps), ResynthesisSettings(symmetric=symmetric)).view(4, 3, 8, 8)

    def energy(index: np.ndarray) -> int:
        held = np.take_along_axis(bank.numpy().astype(int), index[None, :, :, None], 0)[0]
        total = 0
        for row in range(8):
            for column in range(8):
                source = bank[index[row, column]].numpy().astype(int)
                window = slice(max(0, row - 2), row + 3), slice(max(0, column - 2), column + 3)
                total += int(((source[window] - held[window]) ** 2).sum())
                if symmetric:
                    source, shown = source[:, ::-1], held[:, ::-1]
                    total += int(((source[window] - shown[window]) ** 2).sum())
        return total

    for image in range(4):
        energies = [energy(index.numpy()) for index in tried[image]]
        assert torch.equal(best[image], tried[image, int(np.argmin(energies))])
    given = resynthesis(bank, torch.rand(2, 3 * 33), ResynthesisSettings(best_of=3), bank[:2])
    assert given.shape == (2, 8, 8)


@pytest.mark.parametrize("wrong", [{"switch_cost": -1}, {"use_cost": 101}, {"best_of": 0}, {"use_cost": float("nan")}])
def test_costs_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResynthesisSettings(**wrong)


def test_both_sides_fit_each_other():
    """Two kinds of sources, told apart at the left edge of the grid, and less at the right, far from there."""
    bank = np.random.default_rng(0).integers(-40, 41, (24, 12, 12, 3))
    bank[:12, :, :3] += 60
    bank[:12, :, 9:] += 20

    def of_two_kinds(symmetric: bool) -> int:
        settings = ResynthesisSettings(patch_size=4, symmetric=symmetric, start_candidates=1)
        noise = noise_from_seeds(range(40), resynthesis_steps((12, 12), settings))
        first = (resynthesis(torch.from_numpy(bank.astype(np.int16)), noise, settings) < 12).float()
        return int(((first[:, :, :3].mean((1, 2)) > 0.5) != (first[:, :, 9:].mean((1, 2)) > 0.5)).sum())

    assert of_two_kinds(symmetric=True) == 0
    assert of_two_kinds(symmetric=False) > 5


@pytest.mark.parametrize("width", [7, 8])
def test_both_sides_come_from_one_source(width):
    bank = a_bank(12, (8, width))
    settings = ResynthesisSettings(stride=2)
    noise = noise_from_seeds(range(8), resynthesis_steps((8, width), settings))
    index = resynthesis(bank, noise, settings)
    assert torch.equal(index, index.flip(2))
    assert not torch.equal(index, index.flip(1))
