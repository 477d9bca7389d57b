"""Time the search of the raster sampler against plain exact searches and against decoding.

    python benchmarks/search.py [--json] [--baselines] [--decoders embedded vqgan-faceshq] [--random vqgan-faceshq]
    python benchmarks/search.py --device cuda --rounds 50 --decoders embedded

There are two tables. The first has the setting of the paper's table 1: 16 images from many sources at one scale,
against one exact search a place by faiss and by torch.cdist, and against one read of the sources as float32. The
baselines get the patches gathered and the faiss indexes built beforehand, and search for the images that the sampler
made, so that they answer the same questions; the share of equal answers is printed. The second table has the default
setting, five scales, with few sources, against decoding the result. Speed does not depend on the values of weights:
``--random`` names decoders that need no download. All rivals take turns.

Where Triton or Numba does the search, PyTorch's operations take turns with it. On a GPU every time includes the end
of the GPU's work, and faiss, which runs on the CPU, is left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from decoding import best_settings, decode
from measuring import Seconds, peak_memory, ratio, reset_peak_memory, take_turns
from torch import Tensor

from latentpatch import RasterSettings, ResynthesisSettings, load_autoencoder
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.resynthesis import resynthesis, resynthesis_steps
from latentpatch.methods.latent.search import numba_backend
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.methods.latent.search.schedule import Place, raster_schedule
from latentpatch.ops.noise import draw, noise_from_seeds
from latentpatch.runs.benchmark import exact_search, hardware, has_faiss, synchronize, synthetic_keys, versions
from latentpatch.runs.system import keep_freed_memory

IMAGES, GRID, COMPONENTS = 16, (16, 16), 16
PAPER = RasterSettings(patch_size=6, stride=2, neighbors=10, scales=1)
BASELINES = ("faiss", "cdist", "addmm")


def warmups(device: torch.device) -> int:
    """The second search on a GPU captures a graph."""
    return 2 if device.type == "cuda" else 1


class OneSearchAPlace:
    """Baseline: at every place, the k nearest patches of all sources, gathered and indexed beforehand."""

    def __init__(self, keys: Tensor, index: Tensor, noise: Tensor, name: str) -> None:
        self.index = index
        self.ranks = draw(noise, PAPER.neighbors)
        self.picks = torch.empty(0)
        self.cells = keys.flatten(1, 2).float()
        (scale,) = raster_schedule(GRID, PAPER)
        written = torch.zeros(GRID, dtype=torch.bool)
        self.places: list[tuple[int, Place, Tensor, Callable[[Tensor], Tensor]]] = []
        for number, place in enumerate(scale.places):
            top, bottom, left, right = place.window
            inside = torch.zeros(GRID, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            compared = (inside & written).flatten().nonzero()[:, 0].to(keys.device)
            if not place.blind:
                search = exact_search(name, self.cells[:, compared].flatten(1), PAPER.neighbors)
                self.places.append((number, place, compared, search))
            written.view(-1)[list(place.cells)] = True

    def __call__(self) -> None:
        sources = self.index.flatten(1)
        picks = []
        for number, _, compared, search in self.places:
            queries = self.cells[sources[:, compared], compared].flatten(1)
            picks.append(search(queries).gather(1, self.ranks[:, number : number + 1]))
        self.picks = torch.cat(picks, 1)

    def agreement(self) -> float:
        """Return the share of picks that equal those of the sampler."""
        expected = torch.stack([self.index.flatten(1)[:, place.cells[0]] for _, place, _, _ in self.places], 1)
        return float((self.picks == expected).float().mean())


def many_sources(count: int, rounds: int, baselines: Sequence[str], device: torch.device) -> dict[str, object]:
    """Measure the first table: one scale, many sources."""
    keys = synthetic_keys(count, GRID, COMPONENTS).to(device)
    noise = noise_from_seeds(range(IMAGES), raster_steps(GRID, PAPER), device)
    before = reset_peak_memory(device)
    raster(keys[:10], noise, PAPER)  # compiles and loads everything that first use needs
    start = time.perf_counter()
    sources = PreparedSources(keys)
    index = raster(sources, noise, PAPER)
    synchronize(device)
    report: dict[str, object] = {
        "sources": count,
        "first search, ms": round(1e3 * (time.perf_counter() - start)),
        "peak memory beside the keys, MB": round((peak_memory(device) - before) / 1e6),
    }
    rivals: dict[str, Callable[[], object]] = {
        "search": lambda: raster(sources, noise, PAPER),
        "one read of the bank": keys.float().sum,
    }
    if device.type == "cuda" or numba_backend.installed():
        rivals["search in torch's operations"] = lambda: raster(sources, noise, PAPER, backend="torch")
    seconds = take_turns(rivals, rounds, device, warmups(device))
    agreement = {}
    for name in baselines:  # one at a time, because the gathered patches fill gigabytes
        rival = OneSearchAPlace(keys, index, noise, name)
        together = take_turns({"search": rivals["search"], name: rival}, rounds, device, warmups(device))
        seconds["search"] += together["search"]
        seconds[name] = together[name]
        agreement[name] = round(rival.agreement(), 4)
        report[f"{name} a place: ratio, in turns"] = ratio(together[name], together["search"])
        del rival
        gc.collect()
    report["search: ratio to one read"] = ratio(seconds["search"], seconds["one read of the bank"])
    return report | {"times": summary(seconds), "same picks": agreement}


def few_sources(
    counts: Sequence[int], rounds: int, decoders: Sequence[str], random: Sequence[str], device: torch.device
) -> dict[str, object]:
    """Measure the second table: default settings, few sources, and decoding."""
    settings, default = RasterSettings(), ResynthesisSettings(start_candidates=2)
    noise = noise_from_seeds(range(IMAGES), raster_steps(GRID, settings), device)
    uniforms = noise_from_seeds(range(IMAGES), resynthesis_steps(GRID, default), device)
    rivals: dict[str, Callable[[], object]] = {}
    report: dict[str, object] = {}
    first = {}
    for count in counts:
        start = time.perf_counter()
        sources = PreparedSources(synthetic_keys(count, GRID, COMPONENTS).to(device))
        raster(sources, noise, settings)
        synchronize(device)
        first[f"B={count}"] = round(1e3 * (time.perf_counter() - start), 1)
        rivals[f"B={count}"] = lambda sources=sources: raster(sources, noise, settings)
        rivals[f"B={count}, resynthesis"] = lambda sources=sources: resynthesis(sources, uniforms, default)
    for name in decoders:
        network = load_autoencoder(name, pretrained=name not in random).to(device)
        latents = torch.randn(IMAGES, network.spec.latent_channels, *GRID, device=device)
        latents = latents.contiguous(memory_format=torch.channels_last)
        _, report[f"decoding with {name}"], dtype, chunk = best_settings(network, latents)
        rivals[name] = lambda arguments=(network, latents, dtype, chunk): decode(*arguments)
    seconds = take_turns(rivals, rounds, device, warmups(device))
    for name in decoders:
        for count in counts:
            for search in (f"B={count}", f"B={count}, resynthesis"):
                report[f"{search}: share of decoding with {name}"] = ratio(seconds[search], seconds[name])
            both = median(seconds[f"B={count}"]) + median(seconds[name])
            report[f"B={count}: images a second, search and then {name}"] = round(IMAGES / both)
    return report | {"first search, ms": first, "times": summary(seconds)}


def summary(seconds: Seconds) -> dict[str, dict[str, float]]:
    """Return the best and the median of each rival, in milliseconds."""
    return {
        name: {"best, ms": round(1e3 * min(each), 1), "median, ms": round(1e3 * median(each), 1)}
        for name, each in seconds.items()
    }


def show(report: dict[str, object], indent: str = "") -> None:
    """Print a report as indented lines."""
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
    parser.add_argument("--baselines", nargs="*", choices=BASELINES, default=BASELINES)
    parser.add_argument("--decoders", nargs="*", default=["embedded", "vqgan-faceshq"])
    parser.add_argument("--random", nargs="*", default=["vqgan-faceshq"], help="decoders with random weights")
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda, cuda:1, …")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    keep_freed_memory()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device must be one that this torch can use, got {options.device}")
    if options.threads:
        torch.set_num_threads(options.threads)
    baselines = list(options.baselines)
    if "faiss" in baselines and (options.device.type == "cuda" or not has_faiss()):
        baselines.remove("faiss")
        if options.device.type != "cuda":
            print("NOT COMPARED WITH FAISS: pip install faiss-cpu (extra 'bench') and run again", file=sys.stderr)
    report: dict[str, object] = {"machine": hardware(options.device), "versions": versions()}
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
