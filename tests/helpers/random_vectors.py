"""Random feature vectors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["normal_vectors"]


def normal_vectors(count: int, dimensions: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Return ``(count, dimensions)`` normally distributed float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=rng, dtype=torch.float64) * scale + shift
