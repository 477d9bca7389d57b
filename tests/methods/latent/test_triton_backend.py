"""The raster sampler in Triton: the same index maps as in torch, by the interpreter and on a GPU."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers.paths import ROOT
from helpers.random_keys import some_keys
from helpers.slow_raster import slow_raster
from torch import Tensor

from latentpatch import RasterSettings
from latentpatch.errors import MissingDependencyError, SettingError
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.search.keys import KEY_NORM
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.methods.latent.search.schedule import raster_schedule
from latentpatch.methods.latent.search.sharded import ShardedSources
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.runs.processes import ALONE

pytest.importorskip("triton", reason="Triton is not installed: the kernels were not tested")
from latentpatch.methods.latent.search import triton_backend as gpu
from latentpatch.methods.latent.search import triton_kernels as kernels
from latentpatch.methods.latent.search import triton_layout

on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: the kernels were tested by the interpreter only"
)


def some_case(seed: int) -> dict[str, Any]:
    """Any grid, patch, stride, scales, reference and mask; repeated sources; few or many for a program."""
    choose = random.Random(seed)
    grid = choose.randint(3, 6), choose.randint(3, 6)
    patch = choose.randint(2, min(grid))
    settings = patch, choose.choice([None, choose.randint(1, patch)]), 1, choose.choice([1, 1, 2]), patch
    depth, spread = choose.choice([(3, 1), (4, 300), (8, 700), (5, 900)])  # ties; far up to the longest keys
    keys = some_keys(choose.choice([1, 5, 19, 35]), grid, depth, spread, seed).repeat(choose.choice([1, 2]), 1, 1, 1)
    settings = (patch, settings[1], choose.randint(1, min(len(keys), 12)), *settings[3:])
    reference = mask = None
    if seed % 2:
        reference = some_keys(choose.choice([1, 2]), grid, depth, spread, seed + 1000)
    if seed % 4 == 3:
        mask = torch.rand(grid, generator=torch.Generator().manual_seed(seed)) < choose.random()
        mask[0, choose.randrange(grid[1])] = True
    images = 2 if reference is not None else choose.choice([1, 3])
    steps = raster_steps(grid, RasterSettings(*settings), reference is not None, mask)
    return {
        "keys": keys,
        "noise": noise_from_seeds(range(images), steps),
        "settings": settings,
        "reference": reference,
        "mask": mask,
        "memory": choose.choice([0, 1 << 29]),
        "inference_mode": choose.choice([False, True]),
        # One program a scale, or one or several tiles a part.
        "limits": {
            "WALKED": choose.choice([0, 512]),
            "IMAGES": choose.choice([2, 4]),
            "SOURCES": choose.choice([16, 32]),
            "MAX_CANDIDATES": choose.choice([16, 4096]),
        },
    }


CASES = [some_case(seed) for seed in (*range(9), *range(10, 16), 21, 50, 53, 56)]  # the last with long units


def in_torch(case: dict[str, Any], images: slice = slice(None)) -> Tensor:
    settings = RasterSettings(*case["settings"])
    return raster(case["keys"], case["noise"][images], settings, case["reference"], case["mask"], backend="torch")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> list[list[Tensor]]:
    """Index maps of all cases, two searches each."""
    folder = tmp_path_factory.mktemp("interpreter")
    torch.save(CASES, folder / "cases.pt")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests/helpers/interpret_kernels.py", folder / "cases.pt", folder / "maps.pt"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "maps.pt", weights_only=True)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_kernels_equal_torch_and_plain_loops(number, interpreted):
    case, (flipped, found) = CASES[number], interpreted[number]
    assert torch.equal(found, in_torch(case))
    if case["reference"] is None or len(case["reference"]) == 1:
        assert torch.equal(flipped, found.flip(0))
    patch, stride, neighbours, scales, start = case["settings"]
    assert found[0].tolist() == slow_raster(
        case["keys"].tolist(),
        case["noise"][0].tolist(),
        patch,
        neighbours,
        scales,
        stride,
        start,
        None if case["reference"] is None else case["reference"][0].tolist(),
        None if case["mask"] is None else case["mask"].tolist(),
    )


# --- layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side", "length"), [((8, 8), 2, 32), ((7, 5), 2, 64), ((7, 5), 3, 32), ((4, 6), 1, 64)]
)
def test_slabs_hold_all_digits(size, side, length):
    keys = some_keys(5, size, 5, KEY_NORM + 100, 0)
    slabs = triton_layout.to_slabs(keys, side, length)
    assert slabs.dtype == torch.int8
    assert slabs.shape[1:] == (2, 5, length)
    assert torch.equal(triton_layout.from_slabs(slabs, size, side, 5), keys)


# --- what cannot be done -------------------------------------------------------------------------------


def test_what_the_kernels_cannot_do_is_said(monkeypatch):
    keys, settings = some_keys(70, (4, 4), 2, 5, 0), RasterSettings(2, 1, gpu.MAX_NEIGHBORS + 1, 1)
    noise = torch.rand(1, raster_steps((4, 4), settings))
    with pytest.raises(SettingError, match="neighbors must be at most 64") as refusal:
        raster(keys, noise, settings, backend="triton")
    assert (refusal.value.name, refusal.value.value) == ("backend", "triton")
    with pytest.raises(SettingError, match="torch, triton or numba") as refusal:
        raster(keys, noise, settings, backend="cuda")
    assert (refusal.value.name, refusal.value.value) == ("backend", "cuda")
    assert raster(keys, noise, settings).shape == (1, 4, 4)
    sharded = ShardedSources(keys, ALONE)
    with pytest.raises(SettingError, match="several processes"):
        raster(sharded, noise, settings, backend="triton")
    with pytest.raises(SettingError, match="a CUDA GPU, not on cpu"):
        raster(keys, noise, RasterSettings(2, 1, 3, 1), backend="triton")
    monkeypatch.setattr(importlib.import_module("latentpatch.methods.latent.raster"), "can_import", lambda _: False)
    with pytest.raises(MissingDependencyError) as error:
        raster(keys, noise, settings, backend="triton")
    assert error.value.package == "triton"


def test_layouts_beyond_the_memory_are_refused(monkeypatch):
    keys, settings = some_keys(70, (4, 4), 2, 5, 0), RasterSettings(2, 1, 3, 1)
    monkeypatch.setattr(gpu, "MAX_SHARE", 1e-7)
    noise = torch.rand(1, raster_steps((4, 4), settings))
    with pytest.raises(SettingError, match="70 sources take 76160 bytes, the limit is 1717"):
        raster(keys, noise, settings, backend="triton")


def test_layouts_of_other_sizes_make_room(monkeypatch):
    keys = some_keys(9, (6, 6), 2, 5, 0)
    bank, taken = gpu._Bank(), [gpu.Layout.bytes(9, 2, size, 1) for size in ((6, 6), (5, 5), (4, 4))]

    def search(start: int) -> object:
        settings = RasterSettings(2, 1, 1, 2, start)
        scales = raster_schedule((6, 6), settings)
        return bank.search(keys, scales, 1, gpu.IMAGES, guided=False, keep=True)

    monkeypatch.setattr(gpu, "_allowed", lambda device: sum(taken))
    first = search(5)
    search(4)
    assert search(5) is first
    assert {size for size, _ in bank.layouts} == {(6, 6), (5, 5), (4, 4)}
    search(3)
    assert {size for size, _ in bank.layouts} == {(6, 6), (3, 3)}
    assert search(5) is not first


# --- compilation, which needs no GPU -------------------------------------------------------------------

TYPES = {
    "candidates": "*i64", "picks": "*i64", "ranks": "*i64", "blind": "*i64", "queries": "*i8", "sources": "*i8",
    "norms": "*i32", "slabs": "*i32", "spans": "*i32",
}  # fmt: skip
FOUND = {"SLOTS": 16, "SOURCES": gpu.SOURCES, "IMAGES": gpu.IMAGES}


@pytest.mark.parametrize("length", [32, 64])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("nearest_of_parts", FOUND),
        ("walk", FOUND),
        ("copy_drawn", {"CANDIDATES": gpu.MAX_CANDIDATES, "BLIND": False}),
        ("copy_drawn", {"CANDIDATES": gpu.MAX_CANDIDATES, "BLIND": True}),
    ],
)
def test_kernels_compile_for_gpus(name, constants, capability, length, tmp_path, monkeypatch):
    """To machine code of Ampere and Hopper, whose products of int8 they use."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    constants = {**constants, "LENGTH": length}
    signature = {arg: "constexpr" if arg in constants else TYPES.get(arg, "i32") for arg in kernel.arg_names}
    places = {kernel.arg_names.index(arg): arg for arg in kernel.arg_names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(place,): constants[arg] for place, arg in places.items() if arg in constants},
        attrs={(place,): [["tt.divisibility", 16]] for place, arg in places.items() if arg in TYPES},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_stages": 5})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 48 << 10
    assert ("s8.s8.s32" in compiled.asm["ptx"]) == (name != "copy_drawn")
    assert ".local" not in compiled.asm["ptx"]


# --- on a GPU ------------------------------------------------------------------------------------------


def to(device: str, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


@on_gpu
@pytest.mark.parametrize("number", range(len(CASES)))
def test_gpu_equals_torch(number, monkeypatch):
    case = CASES[number]
    monkeypatch.setattr(gpu, "WALKED", case["limits"]["WALKED"])
    keys, noise, reference = to("cuda", case["keys"], case["noise"], case["reference"])
    sources, expected = PreparedSources(keys), in_torch(case)
    with torch.inference_mode(case["inference_mode"]):
        for _ in range(3):  # launched, captured, replayed
            found = raster(sources, noise, RasterSettings(*case["settings"]), reference, case["mask"], backend="triton")
            assert torch.equal(found.cpu(), expected)


@on_gpu
@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (16, RasterSettings()),
        (300, RasterSettings()),
        (2000, RasterSettings()),
        (2000, RasterSettings(6, 2, 10, 1)),
        (2000, RasterSettings(5, 2, 64, 2)),
    ],
)
def test_gpu_replays_with_other_noise(count, settings):
    keys = some_keys(count, (16, 16), 16, 250, 0)
    sources, on_host = PreparedSources(keys.cuda()), PreparedSources(keys)
    for images in (16, 16, 16, 5, 40, 16):
        noise = torch.rand(images, raster_steps((16, 16), settings))
        expected = raster(on_host, noise, settings)
        assert torch.equal(raster(sources, noise.cuda(), settings).cpu(), expected)
        assert torch.equal(raster(sources, noise.cuda(), settings, backend="triton").cpu(), expected)


@on_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_replay_does_not_wait_for_the_gpu():
    settings = RasterSettings()
    sources = PreparedSources(some_keys(2000, (16, 16), 16, 250, 0).cuda())
    noise = torch.rand(16, raster_steps((16, 16), settings), device="cuda")
    expected = [raster(sources, noise, settings, backend="triton") for _ in range(2)][1]
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = raster(sources, noise, settings, backend="triton")
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.equal(found, expected)


@on_gpu
def test_graphs_go_with_their_bank():
    settings = RasterSettings(4, 2, 3, 1)
    sources = PreparedSources(some_keys(600, (8, 8), 4, 250, 0).cuda())
    noise = torch.rand(16, raster_steps((8, 8), settings), device="cuda")
    for _ in range(3):
        raster(sources, noise, settings, backend="triton")
    assert sources in gpu._BANKS
    kept = len(gpu._BANKS)
    del sources
    assert len(gpu._BANKS) == kept - 1
