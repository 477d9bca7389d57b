"""Fitted state that travels in ``state_dict``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FittedModule", "pack", "unpack"]


class FittedModule(nn.Module):
    """A module whose buffers get their shapes by fitting.

    ``load_state_dict`` gives each buffer the shape and type of what is loaded, on the device where the
    module is, so that a fresh module takes the state of a fitted one. ``half``, ``float`` and the like move
    nothing but networks: integers would change their meaning, and a fit its digits.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FittedModule:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        assigned = local_metadata.get("assign_to_params_buffers", False)
        for name, current in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and current is not None and name not in self._non_persistent_buffers_set:
                self._buffers[name] = torch.empty(
                    loaded.shape, dtype=loaded.dtype, device="meta" if assigned else current.device
                )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def pack(fields: dict[str, Any]) -> Tensor:
    """JSON as bytes in a tensor, so that a state dict holds nothing but tensors."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return torch.frombuffer(bytearray(text.encode(errors="surrogateescape")), dtype=torch.uint8)


def unpack(state: Tensor) -> dict[str, Any]:
    """What :func:`pack` packed."""
    fields: dict[str, Any] = json.loads(state.cpu().numpy().tobytes().decode(errors="surrogateescape"))
    return fields
