"""Check the kernels of a GPU and time every stage there, in one command of at most eight minutes on a bare machine.

    python benchmarks/gpu.py [--device cuda] [--minutes 8] [--small] [--only SECTION ...]

First, correctness: index maps of the GPU's kernels are compared bit for bit with those of torch's operations on the
CPU, at 16, 500 and 30,000 sources, in the first call, in the one whose graph is captured, in replays, after other
noise, of another bank of the same size, and of a model whose sources were changed. Then the times: search, decoding
and both together by number of images, against torch and faiss on the same device. Beside each time stands its floor:
bytes that must be read over the bandwidth of copies, or operations over the rate of matrix products, both measured
here. Networks have random weights where weights would have to be downloaded: speed does not depend on them.

Each section is printed when it is done, as a line of JSON; sections that would begin too late are left out and named.
``--only correctness`` is the first of them, without times, and may share the device with other programs.
``--device cpu --small`` runs all of it, small, without a GPU; the figures then say nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from decoding import best_settings
from measuring import take_turns
from search import COMPONENTS, GRID, IMAGES, PAPER, many_sources
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentpatch import LatentPatch, RasterSettings, ResynthesisSettings, load_autoencoder
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.runs.benchmark import best_seconds, hardware, has_faiss, synthetic_keys, versions

NETWORKS = {"embedded": True, "taef2": False, "vqgan-faceshq": False}  # with the package's weights, or random ones
Search = Callable[[PreparedSources, Tensor], Tensor]


def searches(count: int) -> dict[str, tuple[Search, int]]:
    """Return the searches of a number of sources, with the uniforms that an image takes."""
    settings, default = RasterSettings(), ResynthesisSettings()
    found: dict[str, tuple[Search, int]] = {
        "raster, one scale": (lambda sources, noise: raster(sources, noise, PAPER), raster_steps(GRID, PAPER)),
        "resynthesis": (
            lambda sources, noise: resynthesis(sources, noise, default),
            resynthesis_steps(GRID, default, num_sources=count),
        ),
    }
    if count <= 1000:
        found["raster, five scales"] = (
            lambda sources, noise: raster(sources, noise, settings),
            raster_steps(GRID, settings),
        )
    return found


def correctness(counts: list[int], device: torch.device) -> dict[str, Any]:
    """Compare index maps with those of torch's operations on the CPU."""
    report: dict[str, Any] = {}
    for count in counts:
        images = IMAGES if count <= 1000 else 4
        for name, (search, steps) in searches(count).items():
            equal: dict[str, bool] = {}
            for bank in range(2):
                keys = synthetic_keys(count, GRID, COMPONENTS, seed=bank)
                sources, plain = PreparedSources(keys.to(device)), PreparedSources(keys)
                for call, first in (("first", 0), ("captured", 0), ("replayed", 0), ("other noise", 100)):
                    noise = noise_from_seeds(range(first, first + images), steps)
                    if call in ("first", "other noise"):
                        expected = on_cpu(name, plain, noise)
                    equal[f"bank {bank}, {call}"] = torch.equal(search(sources, noise.to(device)).cpu(), expected)
            report[f"{name}, {count} sources"] = "equal" if all(equal.values()) else equal
    report["a model whose sources change"] = changed_model(device)
    return report


def on_cpu(name: str, sources: PreparedSources, noise: Tensor) -> Tensor:
    """Return the index maps by torch's operations."""
    if name == "resynthesis":
        return resynthesis(sources, noise, ResynthesisSettings(), backend="torch")
    return raster(sources, noise, PAPER if "one" in name else RasterSettings(), backend="torch")


def changed_model(device: torch.device) -> str | list[str]:
    """Compare the maps of a model with those of one on the CPU after each change of the sources."""
    pictures = torch.rand(40, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    model = LatentPatch("pixels").fit(pictures)  # once: fitting differs in the last bits
    models = [model, copy.deepcopy(model).to(device)]
    changes: dict[str, Callable[[LatentPatch], object]] = {
        "as fitted": lambda model: None,
        "again": lambda model: None,
        "some removed": lambda model: model.remove(["3", "30"], refit=False),
        "more removed": lambda model: model.remove(["0", "39"], refit=False),
    }
    wrong = []
    for name, change in changes.items():
        for model in models:
            change(model)
        for sampler in ("resynthesis", "raster"):
            maps = [model.generate(8, seed=1, sampler=sampler).index.cpu() for model in models]
            wrong += [] if torch.equal(*maps) else [f"{name}, {sampler}"]
    return wrong or "equal"


def rates(device: torch.device, small: bool) -> dict[str, float]:
    """Measure the bytes of copies and the operations of matrix products, a second."""
    data = torch.empty((1 << 24) if small else (1 << 30), dtype=torch.uint8, device=device)
    found = {"bytes": 2 * data.numel() / best_seconds(data.clone, device)}
    side = 512 if small else 8192
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=device, dtype=dtype)
        found[str(dtype).removeprefix("torch.")] = 2 * side**3 / best_seconds(lambda a=a: a @ a, device)
    if device.type == "cuda":
        whole = torch.randint(-127, 128, (side, side), device=device, dtype=torch.int8)
        found["int8"] = 2 * side**3 / best_seconds(lambda: torch._int_mm(whole, whole), device)
    return found


def search_floors(count: int, found: dict[str, float]) -> dict[str, float]:
    """Return the least milliseconds of a search at one scale: reading keys once, and comparing each block once."""
    numbers = count * GRID[0] * GRID[1] * COMPONENTS
    # A key is two int8, so a product is four of int8 (one of float32 on a CPU).
    products, rate = (4, found["int8"]) if "int8" in found else (1, found["float32"])
    return {
        "reading, ms": round(1e3 * 2 * numbers / found["bytes"], 4),
        "comparing, ms": round(1e3 * 2 * products * IMAGES * numbers / rate, 4),
    }


def search_times(counts: list[int], batches: list[int], rounds: int, device: torch.device) -> dict[str, Any]:
    """Time the searches by number of sources and of images."""
    report = {}
    for count in counts:
        sources = PreparedSources(synthetic_keys(count, GRID, COMPONENTS).to(device))
        rivals = {}
        for name, (search, steps) in searches(count).items():
            for images in batches if count <= 1000 else [IMAGES]:
                noise = noise_from_seeds(range(images), steps, device)
                rivals[f"{name}, {images} images"] = lambda s=search, x=noise, k=sources: s(k, x)
        seconds = take_turns(rivals, rounds, device, warmups=2)
        report[f"{count} sources, ms"] = {name: round(1e3 * min(each), 3) for name, each in seconds.items()}
    return report


def network_times(
    name: str, batches: list[int], found: dict[str, float], side: int, sources: int, device: torch.device
) -> dict[str, Any]:
    """Return the times of decoding and of generating with a network, by number of images."""
    network = load_autoencoder(name, pretrained=NETWORKS[name]).to(device)
    pictures = torch.rand(sources, 3, side, side, generator=torch.Generator().manual_seed(0))
    model = LatentPatch(network).fit(pictures, groups=False)
    report: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        model.precision = precision
        for images in batches:
            report[f"{precision}, {images} images"] = batch_times(model, images, found[precision], device)
    sixteen = torch.randn(IMAGES, network.spec.latent_channels, *model.bank.grid, device=device)
    with torch.no_grad():
        seconds, setting, *_ = best_settings(network, sixteen)
    report["sixteen at the decoder's best"] = {"ms": round(1e3 * seconds, 3), "setting": setting}
    return report


def batch_times(model: LatentPatch, images: int, rate: float, device: torch.device) -> dict[str, float]:
    """Return the times of decoding some images, and of making them, and the floor of decoding at a rate."""
    latents = model.latents_at(model.generate(images).index)
    with FlopCounterMode(display=False) as counter:
        model.decode_latents(latents)
    decoding = best_seconds(lambda: model.decode_latents(latents), device)
    whole = best_seconds(lambda: model.generate(images, seed=7), device)
    return {
        "decoding, ms": round(1e3 * decoding, 3),
        "floor by operations, ms": round(1e3 * counter.get_total_flops() / rate, 3),
        "search and decoding, ms": round(1e3 * whole, 3),
        "images a second": round(images / whole),
        "of the decoder's own rate": round(decoding / whole, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="few sources and images, small pictures")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="sections by the start of their names")
    options = parser.parse_args()
    device, small, begin = options.device, options.small, time.perf_counter()
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device must be one that this torch can use, got {device}")
    counts, batches = ([16, 100], [1, 4]) if small else ([16, 500, 30_000], [1, 16, 64, 256])
    rounds, many, side = (2, 300, 64) if small else (options.rounds, 30_000, 256)
    has_gpu_faiss = has_faiss() and (device.type == "cpu" or hasattr(__import__("faiss"), "GpuIndexFlatL2"))
    rivals = ["addmm", "cdist", *(["faiss"] if has_gpu_faiss else [])]
    found = rates(device, small)

    def sections() -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield the sections, the most important first."""
        yield "machine", lambda: {**hardware(device), **versions(), "rates": {k: f"{v:.3g}" for k, v in found.items()}}
        yield "correctness", lambda: correctness(counts, device)
        yield (
            f"{IMAGES} images of {many} sources at one scale",
            lambda: many_sources(many, rounds, rivals, device) | {"floor": search_floors(many, found)},
        )
        yield "search", lambda: search_times(counts, batches, rounds, device)
        for name in ["embedded"] if small else NETWORKS:
            yield f"network {name}", lambda name=name: network_times(name, batches, found, side, counts[0], device)

    left_out = []
    with torch.inference_mode():
        for name, make in sections():
            if options.only and not name.startswith(tuple(options.only)):
                continue
            if time.perf_counter() - begin > 60 * options.minutes * 0.8:
                left_out.append(name)
                continue
            start = time.perf_counter()
            try:
                section = make()
            except Exception as error:  # the other sections are worth having
                section = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            print(json.dumps({name: section, "took, s": round(time.perf_counter() - start, 1)}), flush=True)
    print(json.dumps({"left out": left_out, "minutes": round((time.perf_counter() - begin) / 60, 2)}))


if __name__ == "__main__":
    main()
