"""PyTorch's own defaults, whatever a program has set: results and files do not depend on global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["plain_torch"]


@contextmanager
def plain_torch(
    *, keeps_device: bool = False, forks_random: bool = False, for_gradients: bool = False
) -> Iterator[None]:
    """Run the block in float32 without autocast, with new tensors on the CPU; then all is as before.

    Args:
        keeps_device: leave the default device as it is.
        forks_random: leave the random state of the CPU as it was.
        for_gradients: record gradients, and leave inference mode, whose tensors have none.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if not keeps_device and torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if for_gradients:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        if forks_random:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
