"""Time decoding by each autoencoder at its best settings, and generating sixteen pictures.

    python benchmarks/decoding.py [--autoencoder embedded taef2 vqgan-faceshq] [--random taef2 vqgan-faceshq]

Speed does not depend on the values of weights: ``--random`` names the autoencoders with random weights, so that
nothing needs downloading. The settings are the precision and the number of images decoded at a time. Decoders take
turns; each turn is the best of some calls.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from measuring import take_turns
from torch import Tensor

from latentpatch import Autoencoder, LatentPatch, load_autoencoder
from latentpatch.bank.latents import dequantize
from latentpatch.runs.benchmark import best_seconds, hardware, versions
from latentpatch.runs.system import keep_freed_memory

IMAGES = 16


def decode(network: Autoencoder, latents: Tensor, dtype: torch.dtype, chunk: int) -> None:
    """Decode latents, some at a time."""
    with torch.inference_mode(), torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
        for part in latents.split(chunk):
            network.decode_raw(torch.nn.functional.pixel_shuffle(part, network.fold))


def seconds_of(network: Autoencoder, latents: Tensor, dtype: torch.dtype, chunk: int) -> float:
    """Return the seconds that decoding all images takes at best."""
    return best_seconds(lambda: decode(network, latents, dtype, chunk), latents.device)


def best_settings(network: Autoencoder, latents: Tensor) -> tuple[float, str, torch.dtype, int]:
    """Return the fastest settings: seconds for all images, description, dtype and images at a time."""
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        for chunk in (1, 4, 16):
            description = f"{str(dtype).removeprefix('torch.')}, {chunk} at a time"
            results.append((seconds_of(network, latents, dtype, chunk), description, dtype, chunk))
    return min(results, key=lambda result: result[0])


def sixteen(network: Autoencoder, pictures: list[Path], rounds: int) -> dict[str, float]:
    """Return the seconds for sixteen pictures of sixteen sources, and their ratio to decoding alone."""
    model = LatentPatch(network).fit(pictures)
    latents = model.bank.latents[model.generate(16).index[:, 0, 0]]
    latents = dequantize(latents, network.codebook).movedim(-1, 1).float()

    def decode_all() -> None:
        with torch.inference_mode():
            network.decode(latents)

    rivals = {"generate": lambda: model.generate(16, seed=100), "decode": decode_all}
    least = {name: min(seconds) for name, seconds in take_turns(rivals, rounds).items()}
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
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):  # in turns, so that a slow moment of the machine hits all
        for name, network in networks.items():
            seconds[name].append(seconds_of(network, latents[name], *chosen[name][2:]))
    baseline = min(seconds[options.autoencoder[0]])
    report: dict[str, object] = {
        name: {
            "settings": chosen[name][1],
            "milliseconds_an_image": round(1e3 * min(seconds[name]) / IMAGES, 2),
            f"times_{options.autoencoder[0]}": round(min(seconds[name]) / baseline, 2),
        }
        for name in networks
    }
    pictures = sorted(Path(options.sources).glob("*.jpg"))[:16]
    report["sixteen of sixteen, search and decode"] = {
        name: sixteen(network, pictures, options.rounds) for name, network in networks.items()
    }
    report["machine"] = hardware(torch.device("cpu")) | versions()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
