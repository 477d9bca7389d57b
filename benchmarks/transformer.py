"""The search against the transformer it takes the place of, as a ratio in one run.

    python benchmarks/transformer.py [--sources 1000] [--steps 256] [--json]

VQGAN (Esser et al., CVPR 2021) draws the codes of a grid one after the other from a GPT: 24 layers, 1024 wide, 16
heads, 1024 codes. Here it is a plain one with random weights, on which speed does not depend. It keeps keys and values
of what it has seen, as the original sampler does not. The 16 grids of 256 codes are drawn at once, by top-k. With fewer
``--steps`` than 256 their time is multiplied, which is a little too short, for later steps attend to more. The search
makes 16 grids of 16 x 16 cells at five scales.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from search import GRID, IMAGES, machine, some_keys
from torch import Tensor, nn
from torch.nn import functional

from latentpatch import RasterSettings
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.ops.noise import noise_from_seeds

LAYERS, WIDTH, HEADS, CODES, TOP = 24, 1024, 16, 1024, 100
LENGTH = GRID[0] * GRID[1]


class Layer(nn.Module):
    """Causal attention over what was seen so far and a perceptron, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.seen = torch.zeros(2, IMAGES, HEADS, LENGTH, WIDTH // HEADS)  # keys and values

    def forward(self, states: Tensor, position: int) -> Tensor:
        parts = self.project(self.first(states)).view(IMAGES, 3, HEADS, 1, -1)
        query, self.seen[0, :, :, position], self.seen[1, :, :, position] = (
            parts[:, 0],
            parts[:, 1, :, 0],
            parts[:, 2, :, 0],
        )
        keys, values = self.seen[:, :, :, : position + 1]
        attended = functional.scaled_dot_product_attention(query, keys, values)
        states = states + self.merge(attended.reshape(IMAGES, WIDTH))
        return states + self.perceptron(self.second(states))


class Transformer(nn.Module):
    """Draws codes one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.positions = nn.Embedding(CODES, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CODES, bias=False))

    def sample(self, steps: int) -> Tensor:
        """``(IMAGES, steps)`` codes."""
        drawn = [torch.zeros(IMAGES, dtype=torch.int64)]
        for position in range(steps):
            states = self.codes(drawn[-1]) + self.positions.weight[position]
            for layer in self.layers:
                states = layer(states, position)
            logits, codes = self.head(states).topk(TOP, dim=1)
            drawn.append(codes.gather(1, logits.softmax(1).multinomial(1))[:, 0])
        return torch.stack(drawn[1:], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=LENGTH, help="codes the transformer draws of each grid's 256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's; by default as it chooses")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    times: dict[str, list[float]] = {"transformer": [], "search": []}
    with torch.inference_mode():
        transformer = Transformer()
        settings = RasterSettings()
        noise = noise_from_seeds(range(IMAGES), raster_steps(GRID, settings))
        sources = PreparedSources(some_keys(options.sources))
        raster(sources, noise, settings)
        transformer.sample(2)
        for _ in range(options.rounds):  # in turns, so that a slow moment of the machine hits both
            start = time.perf_counter()
            transformer.sample(options.steps)
            between = time.perf_counter()
            raster(sources, noise, settings)
            times["transformer"].append((between - start) * LENGTH / options.steps)
            times["search"].append(time.perf_counter() - between)
    seconds = {name: min(each) for name, each in times.items()}
    report = {
        "machine": machine(torch.device("cpu")),
        "sources": options.sources,
        "steps timed": options.steps,
        "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "transformer, s": round(seconds["transformer"], 2),
        "search, s": round(seconds["search"], 4),
        "ratio": round(seconds["transformer"] / seconds["search"], 1),
    }
    print(json.dumps(report, indent=1) if options.json else "\n".join(f"{k}: {v}" for k, v in report.items()))


if __name__ == "__main__":
    main()
