"""Fitted state that travels in ``state_dict``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FittedModule"]


class FittedModule(nn.Module):
    """A module whose buffers get their shapes by fitting.

    ``load_state_dict`` gives each buffer the shape and type of what is loaded, on the device where the
    module is, so that a fresh module takes the state of a fitted one.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, current in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and current is not None and name not in self._non_persistent_buffers_set:
                self._buffers[name] = torch.empty(loaded.shape, dtype=loaded.dtype, device=current.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
