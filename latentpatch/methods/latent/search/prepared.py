"""Sources laid out for the search: at every size of the grid, cut into units, the sources side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ....ops.nearest import nearest
from ....runs.system import machine_memory
from .keys import KEY_NORM, interpolate, rows_behind

__all__ = ["Groups", "PreparedSources", "Units", "cut", "longest", "paste", "score_bound", "sum_dtype"]

Size = tuple[int, int]

#: Bytes that :class:`PreparedSources` may always keep beside the keys themselves.
MAX_KEPT = 1 << 29

_CHUNK = 1 << 18  # elements in floating point at a time: what a core's cache holds
_TILE = 1 << 18  # elements transposed at a time, so that they stay in a core's cache


def score_bound(side: int, norm: int) -> int:
    """On the magnitude of scores over ``side x side`` cells, and of all partial sums they are computed by."""
    return 3 * side * side * norm * norm


#: Bytes that scores of a search may take at a time.
MAX_MEMORY = 1 << 29


def sum_dtype(patch_size: int, norm: int) -> torch.dtype:
    """Return the integers that hold sums of scores over windows."""
    return torch.int32 if score_bound(patch_size, norm) < 1 << 31 else torch.int64


def longest(keys: Tensor) -> int:
    """An upper bound on the norms of keys ``(..., r)``.

    Raises:
        ValueError: where one exceeds :data:`.keys.KEY_NORM` by more than rounding explains.
    """
    if not keys.numel():
        return 1
    cells = keys.flatten(0, -2)
    # Sums up to 2^24 are exact; a larger one cannot pass for smaller.
    chunks = cells.split(max(1, 8 * _CHUNK // keys.shape[-1]))
    norm = isqrt(int(torch.stack([chunk.float().square_().sum(1).amax() for chunk in chunks]).amax()))
    if norm > KEY_NORM + isqrt(keys.shape[-1]) // 2:
        raise ValueError(f"keys: norms of at most {KEY_NORM} are expected, got {norm}")
    return norm + 1


def cut(grids: Tensor, side: int) -> Tensor:
    """Keys of grids as units, zeros beyond the border: ``(N, h, w, r)`` -> ``(rows, columns, side^2 r, N)``."""
    images, height, width, depth = grids.shape
    grids = pad(grids, (0, 0, 0, -width % side, 0, -height % side))
    units = grids.reshape(images, -(-height // side), side, -(-width // side), side, depth)
    return units.permute(1, 3, 2, 4, 5, 0).flatten(2, 4)


def paste(units: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """What :func:`cut` cut: ``(rows, columns, side^2 r, N)`` -> ``(N, h, w, r)``."""
    rows, columns, _, images = units.shape
    cells: Tensor = units.unflatten(2, (side, side, -1)).permute(5, 0, 2, 1, 3, 4)
    return cells.reshape(images, rows * side, columns * side, -1)[:, : size[0], : size[1]]


class Units(NamedTuple):
    """Units of all sources, or a row of them: vectors y and their squared norms.

    Attributes:
        vectors: ``(rows, columns, K, B)`` int16; of a row ``(columns, K, B)``.
        norms: ``(rows, columns, 1, B)`` floating point; of a row ``(columns, 1, B)``.
    """

    vectors: Tensor
    norms: Tensor

    @property
    def bytes(self) -> int:
        """Memory they take."""
        return self.vectors.nbytes + self.norms.nbytes


class Groups(NamedTuple):
    """Which sources are variants of one picture, and what it costs that some are moved.

    Attributes:
        numbers: ``(B,)`` int64, which picture each is of: from 0 on, ascending, none left out.
        squared_offsets: ``(B,)`` int64, the squared way each is moved by, in cells.
        cost: of a squared cell, for every cell compared, as part of the mean squared distance of a cell of the sources
            to the mean of all.
    """

    numbers: Tensor
    squared_offsets: Tensor
    cost: float


class PreparedSources:
    """Keys that several searches share, with what they prepare of them.

    Args:
        keys: ``(B, h, w, r)`` int16, not written to while this is used, see :meth:`holds`.
        keep: bound in bytes on what is kept; None for :data:`MAX_KEPT`, or for an eighth of the machine's memory where
            keys lie in it and that is more. What does not fit is prepared anew by every search, a row of units at a
            time.
        of: the tensor that ``keys`` were taken from, where it is another one.
        groups: the pictures that sources are variants of; None where each is a picture of its own.

    Attributes:
        keys: as given.
        norm: an upper bound on their norms, and with costs on the root of their squares and these.
        total: how many sources there are to choose from.
        most: the largest number of them that any process has.
        groups: ``(B,)`` int64 number of the picture that each is a variant of.
        pictures: how many pictures there are.
        starts: ``(S,)`` int64 sources that are not moved; None for all.
        costs: ``(B,)`` int64, what is added to the squared distance of every cell; None for nothing.
    """

    def __init__(
        self, keys: Tensor, keep: int | None = None, of: Tensor | None = None, groups: Groups | None = None
    ) -> None:
        self.keys = keys
        self.norm = longest(keys)
        self.total = self.most = len(keys)
        self.pictures = len(keys)
        self.starts: Tensor | None = None
        self.costs: Tensor | None = None
        if groups is None:
            self.groups = torch.arange(len(keys), device=keys.device)
        else:
            self._group(groups)
        self._of = keys if of is None else of
        self._version = _version(self._of)
        self._left = _bound(keys.device) if keep is None else keep
        self._rows: dict[tuple[Size, int, int], Units] = {}
        self._units: dict[tuple[Size, int], Units] = {}

    @cached_property
    def mean(self) -> Tensor:
        """``(h, w, r)`` int64, the mean of the keys, rounded half up."""
        total = sum(chunk.sum(0, dtype=torch.int64) for chunk in self.keys.split(1024))
        return torch.div(2 * total + len(self.keys), 2 * len(self.keys), rounding_mode="floor")

    @cached_property
    def distances(self) -> Tensor:
        """Squared distance of each source to the mean: ``(B,)`` int64."""
        return torch.cat([(some.long() - self.mean).square().flatten(1).sum(1) for some in self.keys.split(64)])

    @cached_property
    def spread(self) -> float:
        """Mean squared distance of a cell to the mean of all sources there."""
        # int64 throughout: the same on every device.
        return int(self.distances.sum()) / max(1, self.keys.shape[:3].numel())

    @cached_property
    def spans(self) -> Tensor:
        """First and last (exclusive) of the variants of each source's picture: ``(B, 2)`` int64."""
        counts = self.groups.bincount(minlength=self.pictures)
        last = counts.cumsum(0)
        return torch.stack([last - counts, last], 1)[self.groups]

    def _group(self, groups: Groups) -> None:
        self.groups = groups.numbers
        self.pictures = int(groups.numbers[-1]) + 1
        if not bool(groups.squared_offsets.any()):
            return
        self.starts = (groups.squared_offsets == 0).nonzero()[:, 0]
        if groups.cost:
            self.costs = (groups.squared_offsets * (groups.cost * self.spread)).round().long()
            # A cost is the square of one more coordinate, which is zero in what is compared.
            self.norm = isqrt(self.norm**2 + int(self.costs.max())) + 1

    def holds(self, keys: Tensor) -> bool:
        """Whether this was prepared from a tensor as it is now.

        It goes by PyTorch's count of writes: those through ``.data`` or an array that shares the memory, as
        ``numpy()`` gives, are not seen. Of tensors made under ``torch.inference_mode`` none are counted, and the answer
        is no.
        """
        return keys is self._of and self._version is not None and self._version == _version(keys)

    def nearest(self, scores: Tensor, count: int) -> Tensor:
        """The nearest sources of all by their scores, see :func:`~latentpatch.ops.nearest.nearest`."""
        return nearest(scores, count)

    def pick(self, gather: Callable[[Tensor], Tensor], picks: Tensor, length: int) -> Tensor:
        """Return the keys ``(T, N, length)`` of picked sources ``(T, N)``; ``gather`` reads those of this process."""
        return gather(picks)

    def row(self, size: Size, side: int, row: int) -> Units:
        """A row of units of ``side x side`` cells of the sources, brought to ``size`` cells."""
        found = self._rows.get((size, side, row))
        if found is None:
            found = self._empty((-(-size[1] // side),), side)
            self._fill(found.vectors, found.norms, size, side, row)
            if self._keep(found):
                self._rows[size, side, row] = found
        return found

    def units(self, size: Size, side: int) -> Units:
        """All units of ``side x side`` cells of the sources, brought to ``size`` cells."""
        found = self._units.get((size, side))
        if found is None:
            found = self._empty((-(-size[0] // side), -(-size[1] // side)), side)
            for row in range(len(found.vectors)):
                self._fill(found.vectors[row], found.norms[row], size, side, row)
            if self._keep(found):
                self._units[size, side] = found
        return found

    def _empty(self, shape: tuple[int, ...], side: int) -> Units:
        """Memory for units in rows and columns, or in columns alone."""
        count, depth, device = len(self.keys), self.keys.shape[3], self.keys.device
        return Units(
            torch.empty((*shape, side * side * depth, count), dtype=torch.int16, device=device),
            torch.empty((*shape, 1, count), dtype=self._exact(side), device=device),
        )

    def _keep(self, found: Units) -> bool:
        """Whether units still fit into what is kept."""
        fits = found.bytes <= self._left
        self._left -= found.bytes if fits else 0
        return fits

    def keeps(self, grids: Collection[tuple[Size, int]]) -> bool:
        """Whether all units of grids of some sizes, with the side of a unit, are kept, or will be."""
        count, depth = len(self.keys), self.keys.shape[3]
        missing = [
            -(-size[0] // side) * -(-size[1] // side) * (2 * side * side * depth + self._exact(side).itemsize) * count
            for size, side in grids
            if (size, side) not in self._units
        ]
        return sum(missing) <= self._left

    def _exact(self, side: int) -> torch.dtype:
        # Rounding by interpolation may lengthen a key by half a unit in each component.
        bound = score_bound(side, self.norm + isqrt(self.keys.shape[3]))
        return torch.float32 if bound <= 1 << 24 else torch.float64

    def _fill(self, vectors: Tensor, norms: Tensor, size: Size, side: int, row: int) -> None:
        """Set a row of units: ``(columns, K, B)`` and ``(columns, 1, B)``."""
        count, *grid, depth = self.keys.shape
        old, rows = (grid[0], grid[1]), range(row * side, min((row + 1) * side, size[0]))
        behind = rows_behind(old[0], size[0], rows)
        columns = -(-size[1] // side)
        # Beyond the border all sources are zero, as images are.
        border = (0, 0, 0, columns * side - size[1], 0, side - len(rows))
        group = max(1, _TILE // ((side + 2) * old[1] * depth))
        for sources in (slice(first, first + group) for first in range(0, count, group)):
            cells = self.keys[sources, behind]
            cells = cells.flatten(1).t().contiguous().view(*cells.shape[1:3], -1)
            if old != size:
                cells = interpolate(cells, old, size, rows, self.norm)
            units = pad(cells, border).view(side, columns, side * depth, -1).transpose(0, 1).flatten(1, 2)
            vectors[:, :, sources] = units
            norms[:, :, sources] = units.to(norms.dtype).square().sum(1, keepdim=True)
            if self.costs is not None:
                norms[:, :, sources] += side * side * self.costs[sources]


def _bound(device: torch.device) -> int:
    return max(MAX_KEPT, machine_memory() // 8) if device.type == "cpu" else MAX_KEPT


def _version(keys: Tensor) -> int | None:
    """A number that changes when the tensor is written to; None where it keeps none."""
    return None if keys.is_inference() else keys._version
