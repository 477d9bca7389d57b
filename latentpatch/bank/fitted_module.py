"""A module whose tensors take their shapes by fitting, and travel in ``state_dict``."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FittedModule", "pack", "restored_on_error", "unpack"]


class FittedModule(nn.Module):
    """A module whose tensors take their shapes by fitting.

    The tensors move with the module and are in its ``state_dict``, but are no buffers: DistributedDataParallel
    broadcasts the buffers of a whole model before every step, sources by the megabyte, and fails at 16-bit integers,
    which gloo and NCCL do not send.

    ``load_state_dict`` gives each tensor the shape and type of what is loaded, on the device where the module is, so
    that a fresh module takes the state of a fitted one. ``half``, ``float`` and the like move nothing but networks:
    integers would change their meaning, and a fit its digits.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fitted: dict[str, str] = {}
        self._optional: set[str] = set()

    def register_fitted(self, name: str, tensor: Tensor, *, key: str | None = None, optional: bool = False) -> None:
        """Add a tensor as an attribute.

        Args:
            name: of the attribute.
            tensor: before fitting.
            key: in state dicts; the name where None.
            optional: leave the tensor out of state dicts while it has no elements, and empty it where a state dict
                that is loaded lacks it.
        """
        self._fitted[name] = key or name
        if optional:
            self._optional.add(name)
        setattr(self, name, tensor)

    def fitted(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {name: getattr(self, name) for name in self._fitted}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FittedModule:
        super()._apply(fn, recurse)
        with torch.no_grad():
            for name, tensor in self.fitted().items():
                moved = fn(tensor)
                setattr(self, name, moved if moved.dtype == tensor.dtype else tensor.to(moved.device))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update(
            {
                prefix + self._fitted[name]: tensor
                for name, tensor in self.fitted().items()
                if name not in self._optional or tensor.numel()
            }
        )
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """See :meth:`torch.nn.Module.load_state_dict`. Where it fails, the module stays as it was."""
        with restored_on_error(self, () if assign else state_dict):
            return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        assign = local_metadata.get("assign_to_params_buffers", False)
        rest = dict(state_dict)
        for name, current in self.fitted().items():
            key = prefix + self._fitted[name]
            loaded = rest.pop(key, None)
            if loaded is None and name in self._optional:
                device = next(iter(state_dict.values())).device if assign else current.device
                setattr(self, name, torch.zeros((0,) * current.ndim, dtype=current.dtype, device=device))
            elif loaded is None:
                missing_keys.append(key)
            elif not isinstance(loaded, Tensor):
                error_msgs.append(f"{key} must be a tensor, got {type(loaded).__name__}")
            elif assign:
                setattr(self, name, loaded.detach())
            elif current.is_meta and not loaded.is_meta:
                raise RuntimeError(f"{key}: a module on the meta device takes load_state_dict(assign=True)")
            else:
                copy = torch.empty(loaded.shape, dtype=loaded.dtype, device=current.device)
                setattr(self, name, copy.copy_(loaded.detach()))
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


@contextmanager
def restored_on_error(module: nn.Module, written: Container[str]) -> Iterator[None]:
    """Give a module and its parts their attributes, parameters and buffers back where the block raises.

    Args:
        module: the module.
        written: names of parameters and buffers whose values the block may write; only these are copied before.
    """
    kept = [
        (each, {**vars(each), "_parameters": dict(each._parameters), "_buffers": dict(each._buffers)})
        for each in module.modules()
    ]
    named = (*module.named_parameters(), *module.named_buffers())
    values = [(tensor, tensor.detach().clone()) for name, tensor in named if name in written]
    try:
        yield
    except BaseException:
        for each, attributes in kept:
            vars(each).clear()
            vars(each).update(attributes)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        raise


def pack(fields: dict[str, Any]) -> Tensor:
    """Return a record as JSON in a tensor of bytes, so that a state dict holds nothing but tensors."""
    options: dict[str, Any] = {"separators": (",", ":"), "sort_keys": True}
    try:
        data = json.dumps(fields, ensure_ascii=False, **options).encode(errors="surrogateescape")
    except UnicodeEncodeError:  # lone surrogates other than those of file names
        data = json.dumps(fields, **options).encode()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def unpack(state: Tensor) -> dict[str, Any]:
    """Return the record that :func:`pack` packed."""
    fields: dict[str, Any] = json.loads(state.cpu().numpy().tobytes().decode(errors="surrogateescape"))
    return fields
