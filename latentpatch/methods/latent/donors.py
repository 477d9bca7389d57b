"""Random choice of the source that an image starts with, and of the sources that give patches to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.noise import draw

__all__ = ["SUBSET_STEPS", "donor_bands", "start_sources"]

#: Number of uniforms that draw the donors of one image.
SUBSET_STEPS = 1
#: Number of random streams: a float32 uniform tells this many apart.
_STREAMS = 1 << 24
#: Modulus of the pseudorandom numbers; x^5 is a permutation of the residues of this prime.
_PRIME = (1 << 31) - 1


def start_sources(uniforms: Tensor, distances: Tensor, starts: Tensor | None) -> Tensor:
    """Return start sources ``(N,)`` int64: the drawn candidates that are farthest from the mean source.

    Args:
        uniforms: ``(N, candidates)`` uniforms in [0, 1).
        distances: ``(B,)`` int64 squared distance of each source to the mean source.
        starts: ``(S,)`` int64 sources that candidates are drawn from; None for all.
    """
    count = distances.shape[0]
    drawn = draw(uniforms, count) if starts is None else starts[draw(uniforms, starts.shape[0])]
    candidates = uniforms.shape[1]
    if candidates == 1:
        return drawn[:, 0]
    # Ties go to the candidate that was drawn first.
    order = torch.arange(candidates, device=drawn.device)
    farthest = (distances[drawn] * candidates - order).argmax(1, keepdim=True)
    return drawn.gather(1, farthest)[:, 0]


def donor_bands(
    first: Tensor | None, uniforms: Tensor, numbers: Tensor, num_donors: int, keep_start: bool, bands: int
) -> Tensor | None:
    """Return the band that each picture gives patches to, -1 for none: ``(N, B)`` int64; None where all are donors.

    Donors are dealt to the bands in turn, in the order in which they are drawn.

    Args:
        first: ``(N,)`` pictures of the start sources; None with a reference.
        uniforms: ``(N, SUBSET_STEPS)`` uniforms that draw the donors; further columns are ignored.
        numbers: ``(B,)`` int64 numbers of all pictures, from 0 on. In a graph they must be data: AOTInductor multiplies
            numbers from an ``arange`` in 32 bits.
        num_donors: number of donors of each image.
        keep_start: whether the start picture is a donor; otherwise it never is. It is drawn first.
        bands: number of bands.
    """
    count = numbers.shape[0]
    if num_donors == count and bands == 1:
        return None
    images = uniforms.shape[0]  # Tracing would turn len() into a constant.
    ranks = _shuffled(draw(uniforms[:, :1], _STREAMS), numbers) * count + numbers
    if first is not None:
        ranks = ranks.scatter(1, first[:, None], -1 if keep_start else _PRIME * count)
    donors = ranks.topk(num_donors, dim=1, largest=False).indices
    turns = numbers[:num_donors].remainder(bands).expand(images, -1)
    return uniforms.new_full((images, count), -1, dtype=torch.int64).scatter(1, donors, turns)


def _shuffled(stream: Tensor, numbers: Tensor) -> Tensor:
    """Return pseudorandom integers from 0 to a prime less one, a different sequence for each stream.

    Two rounds of the permutation x^5 modulo the prime, in 64-bit integers, are the same on every device and in graphs.
    """
    once = _fifth_power(stream * 1_618_033 + numbers * 271_828_183 + 1)
    return _fifth_power(once + stream * 141_421_356 + numbers * 577_215_664)


def _fifth_power(x: Tensor) -> Tensor:
    """Return ``x ** 5`` modulo the prime; no intermediate product overflows 64 bits."""
    x = x % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME
