"""How fast autoencoders decode, each at its best settings, as ratios in one run; and sixteen pictures of sixteen.

    python benchmarks/decoding.py [--autoencoder embedded taef2 vqgan-faceshq] [--random taef2 vqgan-faceshq]

Speed does not depend on the values of weights: ``--random`` names the autoencoders that are built with random
ones, so that nothing needs downloading. Decoders are timed in turns, each the best of some calls a turn, over precision
and images at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from latentpatch import Autoencoder, LatentPatch, load_autoencoder
from latentpatch.bank.latents import dequantize
from latentpatch.runs.benchmark import best
from latentpatch.runs.system import keep_freed_memory

IMAGES = 16


def decode(network: Autoencoder, latents: Tensor, dtype: torch.dtype, chunk: int) -> None:
    with torch.inference_mode(), torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
        for part in latents.split(chunk):
            network.decode_raw(torch.nn.functional.pixel_shuffle(part, network.fold))


def wait_for(device: torch.device) -> None:
    """Until what was started is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(network: Autoencoder, latents: Tensor, dtype: torch.dtype, chunk: int) -> float:
    """That decoding all images takes at best."""
    return best(lambda: decode(network, latents, dtype, chunk), latents.device)


def best_settings(network: Autoencoder, latents: Tensor) -> tuple[float, str, torch.dtype, int]:
    """Seconds for all images at the fastest of the settings, after a warm-up."""
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        for chunk in (1, 4, 16):
            decode(network, latents[:chunk], dtype, chunk)
            wait_for(latents.device)
            name = f"{str(dtype).removeprefix('torch.')}, {chunk} at a time"
            results.append((seconds(network, latents, dtype, chunk), name, dtype, chunk))
    return min(results, key=lambda result: result[0])


def sixteen(network: Autoencoder, pictures: list[Path], rounds: int) -> dict[str, float]:
    """Seconds a model of sixteen sources takes for sixteen pictures, and the ratio to decoding them alone, in turns."""
    model = LatentPatch(network).fit(pictures)
    latents = model.bank.latents[model.generate(16).index[:, 0, 0]]
    latents = dequantize(latents, network.codebook).movedim(-1, 1).float()
    times: dict[str, list[float]] = {"generate": [], "decode": []}
    for _ in range(rounds):
        start = time.perf_counter()
        model.generate(16, seed=100)
        between = time.perf_counter()
        with torch.inference_mode():
            network.decode(latents)
        times["generate"].append(between - start)
        times["decode"].append(time.perf_counter() - between)
    least = {name: min(each) for name, each in times.items()}
    return {"seconds": round(least["generate"], 3), "times decoding": round(least["generate"] / least["decode"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--autoencoder", nargs="+", default=["embedded", "taef2", "vqgan-faceshq"])
    parser.add_argument("--random", nargs="*", default=["taef2", "vqgan-faceshq"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sources", default=str(Path(__file__).parent.parent / "examples" / "portraits"))
    options = parser.parse_args()
    keep_freed_memory()
    networks = {name: load_autoencoder(name, pretrained=name not in options.random) for name in options.autoencoder}
    latents = {
        name: torch.randn(IMAGES, network.spec.latent_channels, 16, 16).contiguous(memory_format=torch.channels_last)
        for name, network in networks.items()
    }
    chosen = {name: best_settings(network, latents[name]) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):  # in turns, so that a slow moment of the machine hits all
        for name, network in networks.items():
            times[name].append(seconds(network, latents[name], *chosen[name][2:]))
    baseline = min(times[options.autoencoder[0]])
    report = {
        name: {
            "settings": chosen[name][1],
            "milliseconds_an_image": round(1e3 * min(times[name]) / IMAGES, 2),
            f"times_{options.autoencoder[0]}": round(min(times[name]) / baseline, 2),
        }
        for name in networks
    }
    pictures = sorted(Path(options.sources).glob("*.jpg"))[:16]
    report["sixteen of sixteen, search and decode"] = {
        name: sixteen(network, pictures, options.rounds) for name, network in networks.items()
    }
    report["machine"] = {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
