"""Bytes of tensors, for hashes and for keys of groups."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["tensor_bytes"]


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's elements in row-major order, whatever its type, device and strides."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
