"""Convolutions that oneDNN runs fastest on a CPU: weights laid out once, ReLU and sums fused.

A ``torch.nn.Conv2d`` lays its weights out anew at every call, and the next operation is another pass over memory. The
operators here, which ``torch.compile`` puts into frozen networks, save both. They are no public interface of
PyTorch: :func:`works` tests that they compute the right result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PackedConvolution", "works"]


class PackedConvolution(nn.Module):
    """A convolution for inference, of one group, stride 1 and no dilation; then a ReLU or a sum.

    Args:
        plain: the convolution, on a CPU. Later changes of its weights have no effect.
        shape: ``(N, …, h, w)``, the usual number and size of inputs; others work, too.
        relu: whether negative results become zero.
    """

    def __init__(self, plain: nn.Conv2d, shape: tuple[int, ...], relu: bool = False) -> None:
        super().__init__()
        self.after = "relu" if relu else "none"
        self.padding = [int(side) for side in plain.padding]
        self.bias = plain.bias
        # Not a buffer: such weights can be neither moved nor saved.
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            plain.weight.detach(), self.padding, [1, 1], [1, 1], 1, [shape[0], plain.in_channels, *shape[2:]]
        )

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return the convolution ``(N, C', h', w')`` of ``(N, C, h, w)``, with ``plus`` added."""
        operator = torch.ops.mkldnn._convolution_pointwise
        parameters = self.weight, self.bias, self.padding, [1, 1], [1, 1], 1
        result: Tensor
        if plus is None:
            result = operator(x, *parameters, self.after, [], "")
        else:
            result = operator.binary(x, plus, *parameters, "add", 1.0, None, [], None)
        return result


def works(packed: nn.Module, example: Tensor, expected: Tensor) -> bool:
    """Return whether a packed network runs here and agrees with the plain one on an example, but for rounding."""
    try:
        found = packed(example)
    except (RuntimeError, TypeError):
        return False
    return bool((found - expected).abs().max() <= 0.05 * expected.abs().max())
