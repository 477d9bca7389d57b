"""Convolutions as oneDNN runs them fastest on a CPU: weights laid out beforehand, ReLU and sums done within.

A ``torch.nn.Conv2d`` has its weights laid out anew at every call, and what follows it is another pass over memory. The
operators used here, those that ``torch.compile`` puts into frozen networks, spare both. They are no public interface of
PyTorch's: :func:`works` is to be asked whether they compute what they should.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PackedConvolution", "works"]


class PackedConvolution(nn.Module):
    """A convolution for inference, of one group, stride 1 and no dilation; then a ReLU or a sum.

    Args:
        plain: the convolution, on a CPU. Changes of its weights are not seen.
        shape: ``(N, C, h, w)`` of the usual input; others are taken, too.
        relu: whether negative results become zero.
    """

    def __init__(self, plain: nn.Conv2d, shape: tuple[int, ...], relu: bool = False) -> None:
        super().__init__()
        self.after = "relu" if relu else "none"
        self.padding = [int(side) for side in plain.padding]
        self.bias = plain.bias
        # No buffer: such weights can be neither moved nor saved.
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            plain.weight.detach(), self.padding, [1, 1], [1, 1], 1, list(shape)
        )

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """``(N, C, h, w)`` -> ``(N, C', h', w')``, with ``plus`` added."""
        operator = torch.ops.mkldnn._convolution_pointwise
        where = self.weight, self.bias, self.padding, [1, 1], [1, 1], 1
        result: Tensor
        if plus is None:
            result = operator(x, *where, self.after, [], "")
        else:
            result = operator.binary(x, plus, *where, "add", 1.0, None, [], None)
        return result


def works(packed: nn.Module, example: Tensor, expected: Tensor) -> bool:
    """Whether a packed network runs here, and makes of an example what the plain one did, but for rounding."""
    try:
        found = packed(example)
    except (RuntimeError, TypeError):
        return False
    return bool((found - expected).abs().max() <= 0.05 * expected.abs().max())
