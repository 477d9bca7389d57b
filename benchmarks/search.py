"""How fast the raster sampler searches, as ratios in one run.

    python benchmarks/search.py [--json] [--baselines] [--decoders embedded vqgan-faceshq] [--random vqgan-faceshq]
    python benchmarks/search.py --device cuda --rounds 50 --decoders embedded

Two tables. The first is the setting of the paper's table 1, 16 images from many sources at one scale, against one
exact search a place by faiss and by torch.cdist, and against one read of the sources as float32. For those the
known cells of every patch are gathered beforehand, the faiss indexes built beforehand, and they are shown the
images as the sampler made them, so that they answer the same questions; how many of their picks are the same is
printed. The second is the default setting, five scales, with few sources, against decoding what was found; speed does
not depend on the values of weights, so that ``--random`` names decoders that need no download. All rivals take turns.

The search in Triton, or in Numba where that is installed, also takes turns with the one in torch's operations. On a GPU
everything is timed until the GPU is done, and faiss, which is used on the CPU, is left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from decoding import best_settings, decode, wait_for
from torch import Tensor

from latentpatch import RasterSettings, load_autoencoder
from latentpatch.methods.latent.raster import draw, raster, raster_steps
from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search import numba_backend as cpu
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.methods.latent.search.schedule import Place, raster_schedule
from latentpatch.methods.latent.settings import ResynthesisSettings
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.runs.system import keep_freed_memory

try:
    import faiss
except ImportError:
    faiss = None

IMAGES, GRID, DEPTH = 16, (16, 16), 16
PAPER = RasterSettings(patch_size=6, stride=2, neighbours=10, scales=1)
Search = Callable[[Tensor], Tensor]  # queries (N, d) -> the k nearest (N, k)
Timings = dict[str, list[float]]


def some_keys(count: int) -> Tensor:
    """Sources with the norms a bank gives them: the longest key is half of what is allowed."""
    keys = torch.randn(count, *GRID, DEPTH, generator=torch.Generator().manual_seed(0))
    return (keys * (1023 / keys.norm(dim=-1).max())).round().to(torch.int16)


def take_turns(rivals: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> Timings:
    """Milliseconds of each call, after some that do not count: the second search captures a graph."""
    times: Timings = {name: [] for name in rivals}
    unseen = 2 if device.type == "cuda" else 1
    for number in range(rounds + unseen):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            wait_for(device)
            if number >= unseen:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


# --- one scale, many sources ---------------------------------------------------------------------------


class OneSearchAPlace:
    """The plain way: at every place, the k nearest of all sources' patches, gathered and indexed beforehand."""

    def __init__(self, keys: Tensor, index: Tensor, noise: Tensor, make_search: Callable[[Tensor], Search]) -> None:
        self.index = index
        self.ranks = draw(noise, PAPER.neighbors)
        self.picks = torch.empty(0)
        self.cells = keys.flatten(1, 2).float()
        (scale,) = raster_schedule(GRID, PAPER)
        written = torch.zeros(GRID, dtype=torch.bool)
        self.places: list[tuple[int, Place, Tensor, Search]] = []
        for number, place in enumerate(scale.places):
            top, bottom, left, right = place.window
            inside = torch.zeros(GRID, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            known = (inside & written).flatten().nonzero()[:, 0].to(keys.device)
            if not place.blind:
                self.places.append((number, place, known, make_search(self.cells[:, known].flatten(1))))
            written.view(-1)[list(place.cells)] = True

    def __call__(self) -> None:
        flat = self.index.flatten(1)
        picks = []
        for number, _, known, search in self.places:
            queries = self.cells[flat[:, known], known].flatten(1)
            picks.append(search(queries).gather(1, self.ranks[:, number : number + 1]))
        self.picks = torch.cat(picks, 1)

    def agreement(self) -> float:
        """Share of the picks that are the sampler's."""
        expected = torch.stack([self.index.flatten(1)[:, place.cells[0]] for _, place, _, _ in self.places], 1)
        return float((self.picks == expected).float().mean())


def with_faiss(patches: Tensor) -> Search:
    index = faiss.IndexFlatL2(patches.shape[1])
    index.add(patches.numpy())
    return lambda queries: torch.from_numpy(index.search(queries.numpy(), PAPER.neighbors)[1])


def with_cdist(patches: Tensor) -> Search:
    return lambda queries: torch.cdist(queries, patches).topk(PAPER.neighbors, largest=False).indices


def with_addmm(patches: Tensor) -> Search:
    norms = patches.square().sum(1)
    return lambda queries: torch.addmm(norms, queries, patches.T, alpha=-2).topk(PAPER.neighbors, largest=False).indices


def many_sources(count: int, rounds: int, baselines: Sequence[str], device: torch.device) -> dict[str, object]:
    keys = some_keys(count).to(device)
    noise = noise_from_seeds(range(IMAGES), raster_steps(GRID, PAPER), device)
    before = reset_peak_memory(device)
    raster(keys[:10], noise, PAPER)  # what is compiled or loaded at first use
    start = time.perf_counter()
    sources = PreparedSources(keys)
    index = raster(sources, noise, PAPER)
    wait_for(device)
    first = 1e3 * (time.perf_counter() - start)
    memory = peak_memory(device) - before
    floats = keys.float()
    rivals: dict[str, Callable[[], object]] = {
        "search": lambda: raster(sources, noise, PAPER),
        "one read of the bank": floats.sum,
    }
    if device.type == "cuda" or cpu.installed():
        rivals["search in torch's operations"] = lambda: raster(sources, noise, PAPER, backend="torch")
    times = take_turns(rivals, rounds, device)
    report: dict[str, object] = {
        "sources": count,
        "first search, ms": round(first),
        "peak memory beside the keys, MB": round(memory / 1e6),
    }
    agreement = {}
    makers = {"faiss IndexFlatL2 a place": with_faiss, "cdist and topk": with_cdist, "addmm and topk": with_addmm}
    for (
        name
    ) in baselines:  # one after the other, for the gathered patches fill gigabytes; the search takes turns with each
        rival = OneSearchAPlace(keys, index, noise, makers[name])
        together = take_turns({"search": rivals["search"], name: rival}, rounds, device)
        times["search"] += together["search"]
        times[name] = together[name]
        agreement[name] = round(rival.agreement(), 4)
        report[f"{name}: ratio, in turns"] = ratio(together[name], together["search"])
        del rival
        gc.collect()
    report["search: ratio to one read"] = ratio(times["search"], times["one read of the bank"])
    return report | {"times": summary(times), "same picks": agreement}


# --- five scales, few sources --------------------------------------------------------------------------


def few_sources(
    counts: Sequence[int], rounds: int, decoders: Sequence[str], random: Sequence[str], device: torch.device
) -> dict[str, object]:
    settings = RasterSettings()
    noise = noise_from_seeds(range(IMAGES), raster_steps(GRID, settings), device)
    by_default = ResynthesisSettings()
    more_noise = noise_from_seeds(range(IMAGES), resynthesis_steps(GRID, by_default), device)
    rivals: dict[str, Callable[[], object]] = {}
    report: dict[str, object] = {}
    first = {}
    for count in counts:
        keys = some_keys(count).to(device)
        start = time.perf_counter()
        sources = PreparedSources(keys)
        raster(sources, noise, settings)
        wait_for(device)
        first[f"B={count}"] = round(1e3 * (time.perf_counter() - start), 1)
        rivals[f"B={count}"] = lambda sources=sources: raster(sources, noise, settings)
        rivals[f"B={count}, resynthesis"] = lambda sources=sources: resynthesis(sources, more_noise, by_default)
    for name in decoders:
        network = load_autoencoder(name, pretrained=name not in random).to(device)
        latents = torch.randn(IMAGES, network.spec.latent_channels, *GRID, device=device)
        latents = latents.contiguous(memory_format=torch.channels_last)
        _, how, dtype, chunk = best_settings(network, latents)
        report[f"decoding with {name}"] = how
        rivals[name] = lambda network=network, latents=latents, dtype=dtype, chunk=chunk: decode(
            network, latents, dtype, chunk
        )
    times = take_turns(rivals, rounds, device)
    for name in decoders:
        for count in counts:
            for search in (f"B={count}", f"B={count}, resynthesis"):
                report[f"{search}: share of decoding with {name}"] = ratio(times[search], times[name])
            both = median(times[f"B={count}"]) + median(times[name])
            report[f"B={count}: images a second, search and then {name}"] = round(1e3 * IMAGES / both)
    return report | {"first search, ms": first, "times": summary(times)}


# --- report --------------------------------------------------------------------------------------------


def ratio(times: list[float], others: list[float]) -> dict[str, float]:
    return {"of best": round(min(times) / min(others), 3), "of medians": round(median(times) / median(others), 3)}


def summary(times: Timings) -> dict[str, dict[str, float]]:
    return {name: {"best, ms": round(min(ms), 1), "median, ms": round(median(ms), 1)} for name, ms in times.items()}


def peak_memory(device: torch.device) -> int:
    """Bytes in memory, or those of tensors in the GPU's, at most since the last reset; Linux only."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory_now("VmHWM")


def reset_peak_memory(device: torch.device) -> int:
    """Bytes in memory now, from which the peak counts anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return memory_now("VmRSS")


def memory_now(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def machine(device: torch.device) -> dict[str, object]:
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in described.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "faiss": version("faiss-cpu") if faiss else None,
        "numba": version("numba") if cpu.installed() else None,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def show(report: dict[str, object], indent: str = "") -> None:
    for name, value in report.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        elif isinstance(value, dict):
            print(f"{indent}{name}: " + ", ".join(f"{inner} {number}" for inner, number in value.items()))
        else:
            print(f"{indent}{name}: {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--many", type=int, default=30_000, help="sources of the first table; 0 for none")
    parser.add_argument("--few", type=int, nargs="*", default=[16, 100, 1000], help="sources of the second table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--baselines", nargs="*", default=["faiss IndexFlatL2 a place", "cdist and topk", "addmm and topk"]
    )
    parser.add_argument("--decoders", nargs="*", default=["embedded", "vqgan-faceshq"])
    parser.add_argument("--random", nargs="*", default=["vqgan-faceshq"])
    parser.add_argument("--threads", type=int, help="torch's; by default as it chooses")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda, cuda:1, …")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    keep_freed_memory()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: there is no GPU here that this torch can use")
    if options.threads:
        torch.set_num_threads(options.threads)
    baselines = options.baselines
    if options.device.type == "cuda":
        baselines = [name for name in baselines if "faiss" not in name]
    elif faiss is None:
        print("NOT COMPARED WITH FAISS: pip install faiss-cpu (extra 'bench') and run again", file=sys.stderr)
        baselines = [name for name in baselines if "faiss" not in name]
    elif options.threads:
        faiss.omp_set_num_threads(options.threads)
    report: dict[str, object] = {"machine": machine(options.device)}
    with torch.inference_mode():
        if options.many:
            report["one scale, many sources"] = many_sources(options.many, options.rounds, baselines, options.device)
        if options.few:
            report["five scales, few sources"] = few_sources(
                options.few, options.rounds, options.decoders, options.random, options.device
            )
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)


if __name__ == "__main__":
    main()
