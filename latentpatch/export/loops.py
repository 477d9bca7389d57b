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


def each(
    visit: Callable[[Any, Any], tuple[Any, Tensor]], state: Any, steps: tuple[Tensor, ...]
) -> tuple[Any, Tensor]:
    """Visit steps in turn, as one loop of a graph where one is made.

    Args:
        visit: ``(state, step) -> (state, result)``; shapes and types of the state stay as they are.
        state: a tensor or a tuple of them to begin with.
        steps: tensors ``(L, ...)``, of each of which a step has one row.

    Returns:
        The last state, and the results ``(L, ...)``.
    """
    if torch.compiler.is_exporting():
        last, results = scan(visit, state, steps)
        return last, results
    parts = []
    for step in zip(*steps, strict=True):
        state, part = visit(state, step)
        parts.append(part)
    return state, torch.stack(parts)
