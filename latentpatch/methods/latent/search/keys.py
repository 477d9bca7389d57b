"""Search keys: reduced latents on an integer grid, so that distances are exact.

The search compares sums of squared differences. In floating point such a sum depends on the order of its terms, hence
on the kernel, the batch, the device and the number of threads, and now and then so does the order of two near
neighbors. Keys are therefore rounded to integers, with a Euclidean norm of at most :data:`KEY_NORM` a cell. Every
partial sum of their products is an integer that its type represents exactly, so index maps are equal bit for bit
however they are computed. Rounding moves a key by half a unit or less in each component, against norms of some hundred
units.
"""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import Tensor, nn

__all__ = ["KEY_NORM", "Resize", "exact_dtype", "interpolate", "resize_keys", "rows_behind", "to_keys"]

#: Largest Euclidean norm of a key. Squared distances stay below 2^25, also after interpolation.
KEY_NORM = 2047


def to_keys(reduced: Tensor, step: Tensor) -> Tensor:
    """Round reduced latents to keys.

    Args:
        reduced: ``(N, r, ...)`` floating point.
        step: scalar, size of a unit.

    Returns:
        ``(N, r, ...)`` int16; longer vectors are scaled down to :data:`KEY_NORM` units.
    """
    units: Tensor = reduced.double() / step.double()
    norm = units.norm(dim=1, keepdim=True)
    # One unit below the limit leaves room for the rounding of up to r = L components.
    limit = KEY_NORM - 0.5 * reduced.shape[1] ** 0.5
    units = units * (limit / norm.clamp(min=limit))
    return units.round().to(torch.int16)


def resize_keys(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """Return keys ``(N, h, w, r)`` int16 at another size ``(h', w')``, see :class:`Resize`."""
    resized: Tensor = Resize((keys.shape[1], keys.shape[2]), size, keys.device)(keys)
    return resized


class Resize(nn.Module):
    """Interpolate keys bilinearly (``align_corners=False``) in 64-bit integers, rounded half up.

    Args:
        old: cells ``(h, w)`` of the grids.
        new: cells ``(h', w')`` of the results.
        device: where they are.
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.same = old == new
        self.denominator = 4 * new[0] * new[1]
        for axis, (before, after) in enumerate(zip(old, new, strict=True)):
            # No sample lies between more than two.
            weights, cells = interpolation_weights(before, after).topk(min(2, before))
            self.register_buffer(f"weights{axis}", weights.T.long().contiguous().to(device))
            self.register_buffer(f"cells{axis}", cells.T.contiguous().to(device))

    def forward(self, grids: Tensor) -> Tensor:
        """``(N, h, w, r)`` -> ``(N, h', w', r)`` int16."""
        if self.same:
            return grids
        sums = grids.long()
        for axis in range(2):
            weights, cells = self.get_buffer(f"weights{axis}"), self.get_buffer(f"cells{axis}")
            ones = (1,) * (2 - axis)
            pairs = zip(weights.unbind(), cells.unbind(), strict=True)
            terms = [sums.index_select(axis + 1, where) * weight.view(-1, *ones) for weight, where in pairs]
            sums = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return torch.div(2 * sums + self.denominator, 2 * self.denominator, rounding_mode="floor").short()


def interpolate(cells: Tensor, old: tuple[int, int], new: tuple[int, int], rows: range, norm: int) -> Tensor:
    """Return some rows of what :class:`Resize` makes, of many numbers a cell, by matrix products.

    Args:
        cells: ``(old rows, w, m)`` integers of any type; the old rows are :func:`rows_behind`.
        old: cells ``(h, w)`` of the old grid.
        new: cells ``(h', w')`` of the resized grid.
        rows: rows of the resized grid.
        norm: bound on the numbers' magnitude.

    Returns:
        ``(rows, w', m)`` floating point integers.
    """
    # A value v is a sum of integers over a denominator, d = 4 h' w', plus 1/2. No partial sum exceeds 2 d (v + 1). A
    # quotient below an integer m lies at least 1 / (2 d) below it, and rounding to float32 moves it by at most
    # m / 2^24: it cannot reach m where 2 d m < 2^24.
    denominator = 4 * new[0] * new[1]
    dtype = exact_dtype(2 * denominator * (norm + 1))
    down = interpolation_weights(old[0], new[0])[rows.start : rows.stop, rows_behind(old[0], new[0], rows)]
    across = interpolation_weights(old[1], new[1]).to(cells.device, dtype)
    numerators = torch.mm(down.to(cells.device, dtype), cells.to(dtype).flatten(1))
    sums = torch.matmul(across, numerators.unflatten(1, (old[1], numerators.shape[1] // old[1])))
    return sums.mul_(2).add_(denominator).div_(2 * denominator).floor_()


def rows_behind(old: int, new: int, rows: range) -> slice:
    """Return the rows of the old grid that rows of the resized grid are interpolated from."""
    used = interpolation_weights(old, new)[rows.start : rows.stop].any(0).nonzero()[:, 0].tolist()
    return slice(used[0], used[-1] + 1)


@lru_cache(maxsize=64)
def interpolation_weights(old: int, new: int) -> Tensor:
    """Return interpolation weights times ``2 * new``: ``(new, old)`` float64, cached, so read-only."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        # Sample i lies at ((2 i + 1) old - new) / (2 new) cells of the old grid.
        position = min(max((2 * i + 1) * old - new, 0), 2 * new * (old - 1))
        left, part = divmod(position, 2 * new)
        weights[i, left] += 2 * new - part
        if part:
            weights[i, left + 1] += part
    return weights


def exact_dtype(bound: int) -> torch.dtype:
    """Return the type whose matrix products are exact where no partial sum exceeds ``bound``."""
    return torch.float32 if bound <= 1 << 24 and _full_precision() else torch.float64


def _full_precision() -> bool:
    """Return whether float32 matrix products use all digits of their factors."""
    try:
        full = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # newer precision settings are per backend
        return False
    for backend in (torch.backends.mkldnn, torch.backends.cuda):
        full &= getattr(getattr(backend, "matmul", None), "fp32_precision", "none") in ("none", "ieee")
    return full and not any(os.environ.get(f"{library}_DEFAULT_FPMATH_MODE") for library in ("DNNL", "ONEDNN"))
