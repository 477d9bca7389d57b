"""A blur by matrices is the convolution with a Gaussian."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from latentpatch.ops.blurring import blur


@pytest.mark.parametrize("border", ["constant", "replicate"])
@pytest.mark.parametrize(("size", "width", "radius", "stride"), [((64, 64), 5.12, 16, 1), ((7, 12), 1.5, 4, 2)])
def test_is_the_convolution(size: tuple[int, int], width: float, radius: int, stride: int, border: str) -> None:
    values = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * width**2))
    plane = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = F.pad(values, (radius,) * 4, mode=border)
    expected = F.conv2d(padded, plane.expand(3, 1, -1, -1), stride=stride, groups=3)
    torch.testing.assert_close(blur(values, width, radius, border, stride), expected)
