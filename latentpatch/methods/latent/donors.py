"""Which source an image starts with, and which sources may give patches to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.noise import draw

__all__ = ["SUBSET_STEPS", "barred_pictures", "start_sources"]

#: Uniforms that an image's subset of sources is drawn with.
SUBSET_STEPS = 1
#: Streams of numbers: as many as floating point numbers of 32 bits tell apart.
_STREAMS = 1 << 24
_PRIME = (1 << 31) - 1


def start_sources(uniforms: Tensor, distances: Tensor, starts: Tensor | None) -> Tensor:
    """Return the sources to start with, ``(N,)`` int64: of some that are drawn the farthest from the mean of all.

    Args:
        uniforms: ``(N, draws)``.
        distances: ``(B,)`` int64 squared distance of each source to the mean.
        starts: ``(S,)`` int64 sources that are drawn from; None for all.
    """
    count = distances.shape[0]
    drawn = draw(uniforms, count) if starts is None else starts[draw(uniforms, starts.shape[0])]
    draws = uniforms.shape[1]
    if draws == 1:
        return drawn[:, 0]
    # The first drawn among equals.
    farthest = (distances[drawn] * draws - torch.arange(draws, device=drawn.device)).argmax(1, keepdim=True)
    return drawn.gather(1, farthest)[:, 0]


def barred_pictures(
    first: Tensor | None, uniforms: Tensor, numbers: Tensor, givers: int, keep_start: bool
) -> Tensor | None:
    """Return which pictures give nothing: ``(N, B)`` bool, None where all may give.

    Args:
        first: ``(N,)`` those that are started with.
        uniforms: ``(N, SUBSET_STEPS)`` to draw the others with; there may be more.
        numbers: ``(B,)`` int64, those of all pictures, from 0 on. In a graph they must be data: AOTInductor multiplies
            numbers that it counts up itself in 32 bits.
        givers: how many of them give.
        keep_start: whether that which is started with gives.
    """
    count = numbers.shape[0]
    if givers == count:
        return None
    images = uniforms.shape[0]  # len would be one number in a graph
    ranks = _shuffled(draw(uniforms[:, :1], _STREAMS), numbers) * count + numbers
    if first is not None:
        ranks = ranks.scatter(1, first[:, None], -1 if keep_start else _PRIME * count)
    giving = ranks.topk(givers, dim=1, largest=False).indices
    return uniforms.new_ones((images, count), dtype=torch.bool).scatter(1, giving, False)


def _shuffled(stream: Tensor, numbers: Tensor) -> Tensor:
    """Return numbers that look random, others for each stream, from 0 to a prime less one.

    Two rounds of x^5, which permutes them, in integers of 64 bits: the same on every device, and in graphs.
    """
    once = _fifth_power(stream * 1_618_033 + numbers * 271_828_183 + 1)
    return _fifth_power(once + stream * 141_421_356 + numbers * 577_215_664)


def _fifth_power(x: Tensor) -> Tensor:
    x = x % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME
