"""Random search keys."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["some_keys"]


def some_keys(count: int, grid: tuple[int, int], depth: int, spread: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-spread, spread + 1, (count, *grid, depth), generator=generator).to(torch.int16)
