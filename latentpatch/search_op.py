"""The search as one operator, so that ``torch.compile`` has a graph of a model without breaks.

What a search does next depends on tables and caches, not on tensors: traced, it would be thousands of operations.
Within a compiled model it stays what it is, and the decoder is compiled.
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
    """A number for a model with a method ``search``, by which the operator finds it for as long as it lives."""
    number = next(_NUMBERS)
    _MODELS[number] = model
    return number


def _search(noise: Tensor, keys: Tensor, model: int) -> Tensor:
    index: Tensor = _MODELS[model].search(noise)
    return index


def _shape(noise: Tensor, keys: Tensor, model: int) -> Tensor:
    return noise.new_empty((noise.shape[0], keys.shape[1], keys.shape[2]), dtype=torch.int64, device=keys.device)


#: ``(noise (N, steps), keys (B, h, w, r), number) -> index map (N, h, w)``; the keys say what it depends on.
search: Callable[[Tensor, Tensor, int], Tensor] = torch.library.custom_op(
    "latentpatch::search", _search, mutates_args=()
)
search.register_fake(_shape)  # type: ignore[attr-defined]
