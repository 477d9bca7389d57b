"""Time the search against the transformer it replaces, as a ratio in one run.

    python benchmarks/transformer.py [--sources 1000] [--steps 256] [--json]

VQGAN (Esser et al., CVPR 2021) draws the codes of a grid one after the other from a GPT: 24 layers, 1024 wide, 16
heads, 1024 codes. This script has a plain one with random weights, because speed does not depend on them. It caches
keys and values, which the original sampler does not. It draws 16 grids of 256 codes together, by top-k. Fewer
``--steps`` than 256 are extrapolated, which gives a little too short a time, for later steps attend to more. The
search makes 16 grids of 16 x 16 cells at five scales.
"""

from __future__ import annotations

import argparse
import json

import torch
from measuring import CPU, take_turns
from search import COMPONENTS, GRID, IMAGES
from torch import Tensor, nn
from torch.nn import functional

from latentpatch import RasterSettings
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.runs.benchmark import hardware, synthetic_keys, versions

LAYERS, WIDTH, HEADS, CODES, TOP = 24, 1024, 16, 1024, 100
LENGTH = GRID[0] * GRID[1]


class Layer(nn.Module):
    """Causal attention over the positions so far and a perceptron, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.cache = torch.zeros(2, IMAGES, HEADS, LENGTH, WIDTH // HEADS)  # keys and values

    def forward(self, states: Tensor, position: int) -> Tensor:
        parts = self.project(self.first(states)).view(IMAGES, 3, HEADS, 1, -1)
        self.cache[:, :, :, position] = parts[:, 1:, :, 0].transpose(0, 1)
        query, (keys, values) = parts[:, 0], self.cache[:, :, :, : position + 1]
        attended = functional.scaled_dot_product_attention(query, keys, values)
        states = states + self.merge(attended.reshape(IMAGES, WIDTH))
        return states + self.perceptron(self.second(states))


class Transformer(nn.Module):
    """A GPT that draws codes one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.positions = nn.Embedding(CODES, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CODES, bias=False))

    def sample(self, steps: int) -> Tensor:
        """Draw ``(IMAGES, steps)`` codes."""
        sequence = [torch.zeros(IMAGES, dtype=torch.int64)]
        for position in range(steps):
            states = self.codes(sequence[-1]) + self.positions.weight[position]
            for layer in self.layers:
                states = layer(states, position)
            logits, codes = self.head(states).topk(TOP, dim=1)
            sequence.append(codes.gather(1, logits.softmax(1).multinomial(1))[:, 0])
        return torch.stack(sequence[1:], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=LENGTH, help="codes the transformer draws, of 256 a grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with torch.inference_mode():
        transformer = Transformer()
        settings = RasterSettings()
        noise = noise_from_seeds(range(IMAGES), raster_steps(GRID, settings))
        sources = PreparedSources(synthetic_keys(options.sources, GRID, COMPONENTS))
        rivals = {
            "transformer": lambda: transformer.sample(options.steps),
            "search": lambda: raster(sources, noise, settings),
        }
        transformer.sample(2)
        rivals["search"]()
        seconds = {name: min(each) for name, each in take_turns(rivals, options.rounds, warmups=0).items()}
    seconds["transformer"] *= LENGTH / options.steps
    report = {
        "machine": hardware(CPU) | versions(),
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
