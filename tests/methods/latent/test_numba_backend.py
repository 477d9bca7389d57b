"""The compiled search against torch's operations, where sizes are those of use."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch

from latentpatch.errors import SettingError
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search.keys import KEY_NORM, resize_keys
from latentpatch.methods.latent.search.numba_backend import resize
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.methods.latent.settings import RasterSettings, ResynthesisSettings
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.settings import Settings

pytest.importorskip("numba", reason="Numba is not installed")


def keys_of(count: int, depth: int, longest: int) -> torch.Tensor:
    """Keys ``(count, 12, 10, depth)``, some of them equal, that are ``longest`` at most."""
    values = torch.randn(count, 12, 10, depth, generator=torch.Generator().manual_seed(count)) * longest / 4
    values *= (longest / values.norm(dim=3, keepdim=True)).clamp(max=1)
    values[count // 2] = values[0]
    return values.to(torch.int16)


def both(keys: torch.Tensor, settings: Settings, reference: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """What torch and Numba find for five images."""
    has_reference = reference is not None
    if isinstance(settings, RasterSettings):
        sample, steps = raster, raster_steps((12, 10), settings, has_reference)
    else:
        sample, steps = resynthesis, resynthesis_steps((12, 10), settings, has_reference, len(keys))
    noise = noise_from_seeds(range(5), steps)
    return tuple(sample(keys, noise, settings, reference, backend=name) for name in ("torch", "numba"))


@pytest.mark.parametrize("longest", [300, KEY_NORM - 4])  # beyond some 1,200 units of 2 x 2 cells take float64
@pytest.mark.parametrize("count", [3, 64, 513, 1300])
@pytest.mark.parametrize(
    "settings",
    [
        RasterSettings(),
        RasterSettings(4, 3, 3, 2),
        RasterSettings(3, neighbors=1),
        ResynthesisSettings(max_share=0.9),
        ResynthesisSettings(5, 2, max_share=0.6, allow_start_as_donor=True, sweeps=3),
        ResynthesisSettings(3, 2, max_share=0.9, switch_cost=1.5, reuse_cost=0.05),
        ResynthesisSettings(5, 2, neighbors=1, max_share=0.9, donors=2),
    ],
    ids=["defaults", "blocks of three", "cells", "resynthesis", "resynthesis of blocks", "costs", "subset"],
)
def test_numba_finds_what_torch_finds(count, settings, longest):
    keys = keys_of(count, 16, longest)
    without = both(keys, settings)
    assert torch.equal(*without)
    guided = both(keys, settings, keys_of(5, 16, KEY_NORM - 4))
    assert torch.equal(*guided)
    assert not torch.equal(without[0], guided[0])


@pytest.mark.parametrize("size", [(12, 10), (13, 10), (24, 25), (5, 3), (1, 1)])
def test_compiled_interpolation_is_torchs(size):
    keys = keys_of(7, 5, KEY_NORM - 4)
    assert torch.equal(resize(keys, size), resize_keys(keys, size))


def test_numba_searches_with_masks():
    keys = keys_of(20, 7, 500)
    mask = torch.zeros(12, 10, dtype=torch.bool)
    mask[3:8, 2:7] = True
    settings = RasterSettings(4, 2, 3, 2)
    noise = noise_from_seeds(range(3), raster_steps((12, 10), settings, True, mask))
    found = [raster(keys, noise, settings, keys[:1], mask, backend=name) for name in ("torch", "numba")]
    assert torch.equal(*found)
    assert (found[1][:, ~mask] == -1).all()


def test_callers_in_threads_and_groups_do_not_disturb_each_other():
    sources = PreparedSources(keys_of(200, 16, 800))
    settings = ResynthesisSettings()
    noise = noise_from_seeds(range(7), resynthesis_steps((12, 10), settings, num_sources=200))
    expected = resynthesis(sources, noise, settings, backend="numba")
    found = {}

    def work(number: int) -> None:
        found[number] = [resynthesis(sources, noise, settings, memory=1 << number, backend="numba") for _ in range(3)]

    callers = [threading.Thread(target=work, args=(number,)) for number in (10, 18, 20, 29)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(torch.equal(each, expected) for results in found.values() for each in results)


def _searched(keys: torch.Tensor) -> int:
    settings = RasterSettings(2, 1, 2, 1)
    noise = noise_from_seeds(range(4), raster_steps((12, 10), settings))
    return int(raster(keys, noise, settings, backend="numba").sum())


def _in_child(keys: torch.Tensor, queue: multiprocessing.Queue[int]) -> None:
    queue.put(_searched(keys))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_search():
    """As workers of a data loader are, after their parent has searched."""
    keys = keys_of(30, 4, 300)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        own = _searched(keys)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(keys, queue))
        child.start()
        assert queue.get(timeout=60) == own
        child.join()
    finally:
        torch.set_num_threads(threads)


def test_what_it_cannot_do_is_refused():
    keys = keys_of(80, 4, 300)
    steps = raster_steps((12, 10), RasterSettings(4))
    with pytest.raises(SettingError, match="neighbors must be at most 64") as refusal:
        raster(keys, torch.rand(1, steps), RasterSettings(4, neighbors=65), backend="numba")
    assert (refusal.value.name, refusal.value.value) == ("backend", "numba")
    assert raster(keys, torch.rand(1, steps), RasterSettings(4, neighbors=65)).shape == (1, 12, 10)
    with pytest.raises(SettingError, match="80 sources exceed the memory limit"):
        raster(PreparedSources(keys, keep=1000), torch.rand(1, steps), RasterSettings(4), backend="numba")
    for sample in (raster, resynthesis):
        with pytest.raises(SettingError, match=r"torch.* or numba") as refusal:
            sample(keys, torch.rand(1, steps), backend="cuda")
        assert (refusal.value.name, refusal.value.value) == ("backend", "cuda")


def test_without_numba_it_says_so(monkeypatch):
    monkeypatch.setattr("latentpatch.methods.latent.search.numba_backend.installed", lambda: False)
    steps = resynthesis_steps((12, 10), ResynthesisSettings())
    with pytest.raises(SettingError, match="Numba is not installed"):
        resynthesis(keys_of(4, 2, 30), torch.rand(1, steps), backend="numba")
