"""Functions and classes that spawned processes import by name, from wherever the tests are run."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentpatch import LatentPatch


class Drawn(Dataset):
    """Pictures made by a model in the worker, one a seed."""

    def __init__(self, model: LatentPatch) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, seed: int) -> Tensor:
        return self.model.generate(1, seed=seed).images[0]


def network_around(layer: LatentPatch) -> nn.Sequential:
    """Into a classifier go pictures, and gradients back into the decoder."""
    torch.manual_seed(1)
    layer.autoencoder.decoder.requires_grad_(True)
    return nn.Sequential(layer, nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 2))


def step(network: nn.Module, noise: Tensor) -> None:
    """One of a training loop; after which pictures are no longer what they were."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the second forward pass is where buffers would be broadcast again
        optimizer.zero_grad()
        network(noise).square().mean().backward()
        optimizer.step()


def train_distributed(rank: int, folder: Path, layer: LatentPatch, noise: Tensor) -> None:
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    own = copy.deepcopy(layer)  # what is handed to processes shares memory
    network = nn.parallel.DistributedDataParallel(network_around(own))
    step(network, noise[rank::2])
    torch.save(network.module.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
