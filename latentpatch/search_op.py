"""The search as one custom operator, so that ``torch.compile`` gets a graph of a model without breaks.

The control flow of a search depends on tables and caches, not on tensors: traced, it would be thousands of operations.
Within a compiled model the search runs as it is, and the decoder is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

__all__ = ["register", "search"]

_NUMBERS = count()
_MODELS: WeakValueDictionary[int, Any] = WeakValueDictionary()


def register(model: Any) -> int:
    """Return a number by which the operator finds a model with a method ``search``, for as long as it lives."""
    number = next(_NUMBERS)
    _MODELS[number] = model
    return number


def _search(noise: Tensor, keys: Tensor, model: int) -> Tensor:
    index: Tensor = _MODELS[model].search(noise)
    return index


def _shape(noise: Tensor, keys: Tensor, model: int) -> Tensor:
    return noise.new_empty((noise.shape[0], keys.shape[1], keys.shape[2]), dtype=torch.int64, device=keys.device)


#: ``(noise (N, noise_dim), keys (B, h, w, r), number) -> index map (N, h, w)``; the keys declare its dependency.
search: Callable[[Tensor, Tensor, int], Tensor] = torch.library.custom_op(
    "latentpatch::search", _search, mutates_args=()
)
search.register_fake(_shape)  # type: ignore[attr-defined]
