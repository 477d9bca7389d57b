"""Files of state dicts, read as tensors alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import Tensor

from ...autoencoders.weights import read_checkpoint
from ...errors import WeightsError
from ...io.mmap import read_tensors
from .generator import Generator

__all__ = ["built_from_file"]

G = TypeVar("G", bound=Generator)

_KEYS = ("g_ema", "G_ema", "g_running", "state_dict")  # where checkpoints have the state dict
_LAYOUTS = {  # a tensor of each layout, and the generator that reads it
    "conv1.conv.weight": "stylegan2",
    "synthesis.b4.const": "stylegan2",
    "generator.progression.0.conv1.input": "stylegan1",
    "g_synthesis.blocks.4x4.const": "stylegan1",
}
_TO_TENSORS = {
    "stylegan1": "convert it to a state dict by lernapparat's pytorch_style_gan.ipynb",
    "stylegan2": "save its tensors by NVIDIA's own code: torch.save(G_ema.state_dict(), 'stylegan2.pt')",
}


def built_from_file(name: str, file: str | None, layouts: str, build: Callable[[dict[str, Tensor], Any], G]) -> G:
    """Build a generator from a ``.safetensors`` file, or a PyTorch file of tensors and plain containers.

    Args:
        name: of the generator.
        file: path.
        layouts: description of the state dicts that fit.
        build: function of the state dict and the whole content.

    Raises:
        WeightsError: for files that are missing or malformed, that would run code, or that have another layout.
    """
    if file is None:
        raise WeightsError(f"the generator {name} needs a file: {name}:FILE.safetensors or {name}:FILE.pt")
    path = Path(file).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".pkl":
        raise WeightsError(
            f"{path}: refused, a pickle runs code when it is read. Where you trust it, {_TO_TENSORS[name]}"
        )
    try:
        content: Any = read_tensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable file of tensors: {error}") from error
    state = content
    for key in _KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    try:
        tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if not tensors:
            raise ValueError("no tensors")
        generator = build(tensors, content)
        generator.check_tensors()
        return generator
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        other = next((each for key, each in _LAYOUTS.items() if isinstance(state, dict) and key in state), name)
        if other != name:
            reason = f"it has the layout of {other}: --generator {other}:{path}"
        raise WeightsError(f"{path}: not {layouts}: {reason}") from error
