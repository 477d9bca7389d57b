"""What the graphs of samplers have in common: noise that becomes choices, and one loop over steps that are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

__all__ = ["draw", "each", "ranked"]


def draw(uniforms: Tensor, choices: int) -> Tensor:
    """floor(u * choices) of float64 uniforms, kept below ``choices`` where u = 1 would reach it."""
    return (uniforms * choices).long().clamp(0, choices - 1)


def ranked(scores: Tensor) -> Tensor:
    """Score and source in one number, ``(..., B)`` int64: no two are equal, and ties go to the lower source."""
    count = scores.shape[-1]
    return scores.long() * count + torch.arange(count, device=scores.device)


def each(visit: Callable[[Any, Any], Any], state: Any, steps: tuple[Tensor, ...]) -> Any:
    """Visit steps in turn, as one loop of a graph where one is made.

    Args:
        visit: ``(state, step) -> state``; shapes and types of the state stay as they are.
        state: a tensor or a tuple of them to begin with.
        steps: tensors ``(L, ...)``, of each of which a step has one row.

    Returns:
        The last state.
    """
    if torch.compiler.is_exporting():
        if isinstance(state, Tensor):
            # AOTInductor cannot do loops of a single tensor.
            turns = torch.zeros(1, device=state.device)
            return each(lambda both, step: (visit(both[0], step), both[1] + 1), (state, turns), steps)[0]
        # Results of steps are not collected: AOTInductor does so for fixed numbers of images alone.
        return scan(lambda state, step: (visit(state, step), []), state, steps)[0]
    for step in zip(*steps, strict=True):
        state = visit(state, step)
    return state
