"""What the graphs of both searches hold: units of all sources, and the steps of loops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..sampling.sources import PreparedSources
from ..sampling.torch_loops import TensorUnits, stack

__all__ = ["Steps", "UnitBuffers"]


class UnitBuffers(nn.Module):
    """Units of all sources, and one more, of zeros, that stands for what is beyond the grid.

    Args:
        sources: the sources.
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit.
        exact: floating point type that holds all scores.
    """

    vectors: Tensor
    norms: Tensor

    def __init__(self, sources: PreparedSources, size: tuple[int, int], side: int, exact: torch.dtype) -> None:
        super().__init__()
        self.exact = exact
        for name, part in sources.units(size, side)._asdict().items():
            flat = part.flatten(0, 1)
            self.register_buffer(name, torch.cat([flat, torch.zeros_like(flat[:1])]))
        self.norms = self.norms.to(exact)

    def forward(self) -> TensorUnits:
        """Return the units as a search takes them."""
        return TensorUnits(self.vectors.to(self.exact), self.norms)


class Steps(nn.Module):
    """The steps of a loop, stacked: see :func:`~latentpatch.sampling.torch_loops.stack`."""

    def __init__(self, steps: Sequence[Sequence[Tensor]], fillers: Sequence[int]) -> None:
        super().__init__()
        for number, field in enumerate(stack(steps, fillers)):
            self.register_buffer(str(number), field)

    def forward(self) -> tuple[Tensor, ...]:
        """Return the fields of the steps."""
        return tuple(self.buffers())
