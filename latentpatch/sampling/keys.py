"""Search keys: reduced latents on an integer grid, so that distances are exact.

The search compares sums of squared differences. In floating point such a sum depends on the order of
its terms, so on the kernel, the batch, the device and the number of threads, and with it now and then
the order of two near neighbours. Keys are therefore rounded to integers, with a Euclidean norm of at most
:data:`KEY_NORM` a cell. Their products and sums are computed in float64, where every partial sum is an
integer it holds exactly (and which no global switch trades for speed, as float32's are), and sums over a
window are kept in int64. Index maps are equal bit for bit however they are computed. Rounding moves a
key by half a unit or less in each component, against norms of some hundred units.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KEY_NORM", "cell_distances", "resize_keys", "to_keys"]

#: Largest Euclidean norm of a key. Squared distances stay below 2^25, also after interpolation.
KEY_NORM = 2047

_CHUNK = 1 << 21  # elements interpolated at a time, so that temporaries stay small beside a bank


def to_keys(reduced: Tensor, step: Tensor) -> Tensor:
    """Round reduced latents to keys.

    Args:
        reduced: ``(N, r, ...)`` floating point.
        step: scalar, size of a unit.

    Returns:
        ``(N, r, ...)`` int16; vectors longer than :data:`KEY_NORM` units are shortened to it.
    """
    units: Tensor = reduced.double() / step.double()
    norm = units.norm(dim=1, keepdim=True)
    # One unit below the limit leaves room for the rounding of up to r = L components.
    limit = KEY_NORM - 0.5 * reduced.shape[1] ** 0.5
    units = units * (limit / norm.clamp(min=limit))
    return units.round().to(torch.int16)


def resize_keys(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation (``align_corners=False``), in exact arithmetic, rounded half up.

    Args:
        keys: ``(N, h, w, r)`` integers.
        size: cells ``(h', w')`` of the result.

    Returns:
        ``(N, h', w', r)`` of the same type.
    """
    height, width = keys.shape[1:3]
    if (height, width) == tuple(size):
        return keys
    rows = _weights(height, size[0], keys.device)
    columns = _weights(width, size[1], keys.device)
    denominator = 4 * size[0] * size[1]
    chunks = []
    for chunk in keys.split(max(1, _CHUNK // max(1, keys[:1].numel()))):
        # Integer weights over a common denominator: every double here is an integer below 2^53.
        sums = torch.einsum("yh,nhwr,xw->nyxr", rows, chunk.double(), columns).long()
        chunks.append(torch.div(2 * sums + denominator, 2 * denominator, rounding_mode="floor").to(keys.dtype))
    return torch.cat(chunks) if chunks else keys.new_zeros((0, *size, keys.shape[3]))


def _weights(old: int, new: int, device: torch.device) -> Tensor:
    """(new, old) float64: interpolation weights times ``2 * new``."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        # Sample i lies at ((2 i + 1) old - new) / (2 new) cells of the old grid.
        position = min(max((2 * i + 1) * old - new, 0), 2 * new * (old - 1))
        left, part = divmod(position, 2 * new)
        weights[i, left] += 2 * new - part
        if part:
            weights[i, left + 1] += part
    return weights.to(device)


def cell_distances(queries: Tensor, sources: Tensor) -> Tensor:
    """Squared distances between keys at the same cells.

    Args:
        queries: ``(C, N, r)`` integers.
        sources: ``(C, B, r)`` integers.

    Returns:
        ``(C, N, B)`` int32, exact.
    """
    queries, sources = queries.double(), sources.double()
    products = torch.bmm(queries, sources.transpose(1, 2))
    norms = queries.square().sum(2)[:, :, None] + sources.square().sum(2)[:, None, :]
    return (norms - 2 * products).int()
