"""A second device on a machine that has only its processor: tensors that say they are on it, computed on the CPU.

Operations on tensors of both devices fail as they do on a GPU, except those that PyTorch allows there: with scalars,
copies, and tensors of the GPU indexed by ones of the CPU. The device calls itself ``meta``, which PyTorch has on every
machine; its kernels are not used.

It is more lenient than a GPU with tensors of no dimension and with generators of random numbers. Autocast does nothing
there, and threads other than the one that enters :func:`other_device` must not make tensors there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")

_aten = torch.ops.aten
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor}
_INDICES = 1  # the argument of those operations that may be of the CPU
_COPYING = {_aten.copy_.default}


class _There(Tensor):
    """A tensor on the device; ``inner`` has its values."""

    is_meta = False  # what the package refuses as a tensor without values
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> _There:
        return _There(self.inner.clone()).requires_grad_(self.requires_grad)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"there: {self.inner}"

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=options.get("dtype", self.dtype)).to(DEVICE)

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:  # type: ignore[override]
        raise TypeError("a tensor of another device has no array of NumPy; copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _dispatch(function, args, kwargs or {})


def _dispatch(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the CPU, if it could be run on a GPU."""
    if function is _aten._has_compatible_shallow_copy_type.default:
        return False
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    bound = [each for i, each in enumerate(args) if i != _INDICES] if function in _INDEXING else (args, kwargs)
    here = [
        leaf for leaf in tree_leaves(bound) if isinstance(leaf, Tensor) and leaf.ndim and not isinstance(leaf, _There)
    ]
    if there and function in _INDEXING and not isinstance(args[0], _There):
        raise RuntimeError(f"{function}: a tensor of the CPU is indexed by one of another device")
    if there and here and function not in _COPYING:
        raise RuntimeError(f"{function}: tensors of two devices")
    device = kwargs.get("device")
    goes_there = bool(there) if device is None else torch.device(device) == DEVICE
    if function in _COPYING:
        goes_there = isinstance(args[0], _There)

    def inner(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return leaf.inner if isinstance(leaf, _There) else leaf

    known = {id(tensor.inner): tensor for tensor in there}  # operations in place return what they were given
    result = function(*tree_map(inner, args), **tree_map(inner, kwargs))

    def outer(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (not goes_there and id(leaf) not in known):
            return leaf
        return known[id(leaf)] if id(leaf) in known else _There(leaf)

    return tree_map(outer, result)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _dispatch(function, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """``torch.tensor``, which gives tensors of ``meta`` no values, whatever the mode of dispatch."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and torch.device(options.get("device") or "cpu") == DEVICE:
            return function(*args, **options | {"device": "cpu"}).to(DEVICE)
        return function(*args, **options)


@contextmanager
def other_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Make the device usable in the block."""
    autocast: Callable[..., Any] = torch.autocast
    is_enabled = torch.is_autocast_enabled
    with monkeypatch.context() as patch, _Factories(), _Dispatch():
        patch.setattr(
            torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k)
        )
        patch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": kind != "meta" and is_enabled(kind))
        yield DEVICE


def values(tensor: Tensor) -> Tensor:
    """Return a tensor of either device on the CPU."""
    return tensor.inner if isinstance(tensor, _There) else tensor
