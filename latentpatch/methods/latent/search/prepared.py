"""Layouts of the sources for the search: for each grid size, split into units, with sources as the last dimension."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from math import floor, isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ....errors import SettingError
from ....ops.grids import grid_scale
from ....ops.nearest import nearest
from ....runs.system import machine_memory
from .keys import KEY_NORM, interpolate, rows_behind

__all__ = [
    "Groups",
    "PreparedSources",
    "Units",
    "cell_detail",
    "cut",
    "longest",
    "mean_key",
    "paste",
    "score_bound",
    "sum_dtype",
    "sum_keys",
]

Size = tuple[int, int]

#: Bytes of layouts that :class:`PreparedSources` may keep in any case, besides the keys.
MAX_KEPT = 1 << 29

#: Floating-point elements converted at a time: they fit into the cache of a core.
_CHUNK = 1 << 18
#: Elements transposed at a time: they fit into the cache of a core.
_TILE = 1 << 18


def score_bound(side: int, norm: int) -> int:
    """Return an upper bound on the magnitude of scores over ``side x side`` cells and of all their partial sums."""
    return 3 * side * side * norm * norm


#: Bytes that the scores of a search may occupy at a time.
MAX_MEMORY = 1 << 29


def sum_dtype(patch_size: int, norm: int) -> torch.dtype:
    """Return the integer dtype that represents all sums of scores over windows."""
    return torch.int32 if score_bound(patch_size, norm) < 1 << 31 else torch.int64


def longest(keys: Tensor) -> int:
    """Return an upper bound on the norms of keys ``(..., r)``.

    Raises:
        SettingError: if a norm exceeds :data:`.keys.KEY_NORM` by more than the rounding error.
    """
    if not keys.numel():
        return 1
    cells = keys.flatten(0, -2)
    # Sums up to 2^24 are exact, and rounding cannot bring a larger sum below that.
    chunks = cells.split(max(1, 8 * _CHUNK // keys.shape[-1]))
    norm = isqrt(int(torch.stack([chunk.float().square_().sum(1).amax() for chunk in chunks]).amax()))
    if norm > KEY_NORM + isqrt(keys.shape[-1]) // 2:
        raise SettingError("keys", norm, f"of norm at most {KEY_NORM}")
    return norm + 1


def cut(grids: Tensor, side: int) -> Tensor:
    """Split grids into units.

    ``(N, h, w, r)`` -> ``(rows, columns, side^2 r, N)``, with zeros beyond the border.
    """
    images, height, width, depth = grids.shape
    grids = pad(grids, (0, 0, 0, -width % side, 0, -height % side))
    units = grids.reshape(images, -(-height // side), side, -(-width // side), side, depth)
    return units.permute(1, 3, 2, 4, 5, 0).flatten(2, 4)


def paste(units: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Assemble grids from units: ``(rows, columns, side^2 r, N)`` -> ``(N, h, w, r)``."""
    rows, columns, _, images = units.shape
    cells: Tensor = units.unflatten(2, (side, side, -1)).permute(5, 0, 2, 1, 3, 4)
    return cells.reshape(images, rows * side, columns * side, cells.shape[5])[:, : size[0], : size[1]]


def sum_keys(keys: Tensor) -> Tensor:
    """Return the sum of keys ``(B, h, w, r)`` over the sources: ``(h, w, r)`` int64."""
    total = torch.zeros(keys.shape[1:], dtype=torch.int64, device=keys.device)
    for chunk in keys.split(1024):
        total += chunk.sum(0, dtype=torch.int64)
    return total


def mean_key(total: Tensor, count: int) -> Tensor:
    """Return the mean of keys with a sum, rounded half up: int64."""
    return torch.div(2 * total + count, 2 * count, rounding_mode="floor")


def cell_detail(mean: Tensor, side: int | None = None) -> Tensor:
    """Return the detail of each cell of the mean source ``(h, w, r)``: ``(h, w)`` int64.

    The detail of a cell is its squared difference to the mean of the 3 x 3 cells around it, times 81. Registered
    sources have it in common where their subject is: in faces at the eyes, less at nose and mouth. Finer details are
    much the same everywhere: so cells may be squares of ``side`` cells, by default the grid's scale, rounded.
    """
    height, width = mean.shape[:2]
    side = side or floor(grid_scale((height, width)) + 0.5)
    blocks = mean_key(
        _padded(mean, 0, -height % side, 0, -width % side).unfold(0, side, side).unfold(1, side, side).sum((3, 4)),
        side**2,
    )
    padded = _padded(blocks, 1, 1, 1, 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    detail = (9 * blocks - around).square().sum(2)
    return detail.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]


def _padded(cells: Tensor, above: int, below: int, left: int, right: int) -> Tensor:
    """Return cells ``(h, w, r)`` with those of the border repeated beyond it."""
    height, width = cells.shape[:2]
    rows = torch.arange(-above, height + below, device=cells.device).clamp(0, height - 1)
    columns = torch.arange(-left, width + right, device=cells.device).clamp(0, width - 1)
    return cells[rows][:, columns]


class Units(NamedTuple):
    """Units of all sources, or one row of them: vectors y and their squared norms.

    Attributes:
        vectors: ``(rows, columns, K, B)`` int16; for one row ``(columns, K, B)``.
        norms: ``(rows, columns, 1, B)`` floating point; for one row ``(columns, 1, B)``.
    """

    vectors: Tensor
    norms: Tensor

    @property
    def bytes(self) -> int:
        """Return the size of both arrays in bytes."""
        return self.vectors.nbytes + self.norms.nbytes


class Groups(NamedTuple):
    """The picture that each source is a variant of, and the cost of offsets.

    Attributes:
        numbers: ``(B,)`` int64, picture number of each source, ascending from 0 without gaps.
        squared_offsets: ``(B,)`` int64, squared length of each source's offset, in cells.
        cost: cost per squared cell of offset, for every cell compared, as a fraction of the mean squared distance of a
            cell of the sources to the mean of all sources.
    """

    numbers: Tensor
    squared_offsets: Tensor
    cost: float


class PreparedSources:
    """Keys that several searches share, with their cached layouts.

    Args:
        keys: ``(B, h, w, r)`` int16. They must not be written to while this object is in use, see :meth:`holds`.
        keep: limit in bytes on cached layouts; None for :data:`MAX_KEPT`, or for an eighth of the machine's memory if
            the keys are on the CPU and that is more. Every search computes layouts beyond the limit anew, one row of
            units at a time.
        of: tensor that ``keys`` are a selection of; None if they are that tensor.
        groups: pictures that sources are variants of; None if each source is a picture of its own.

    Attributes:
        keys: the keys.
        norm: upper bound on the norms of the keys; with costs, on the root of squared norm plus cost.
        total: number of sources to choose from, in all processes.
        most: largest number of sources in one process.
        groups: ``(B,)`` int64, picture number of each source.
        pictures: number of pictures.
        starts: ``(S,)`` int64, sources without an offset; None for all.
        costs: ``(B,)`` int64, added to the squared distance of every cell; None for no costs.
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
        self._origin = keys if of is None else of
        self._write_count = _write_count(self._origin)
        self._bytes_left = _default_limit(keys.device) if keep is None else keep
        self._rows: dict[tuple[Size, int, int], Units] = {}
        self._units: dict[tuple[Size, int], Units] = {}

    @cached_property
    def mean(self) -> Tensor:
        """Return the mean of the keys, rounded half up: ``(h, w, r)`` int64."""
        return mean_key(sum_keys(self.keys), len(self.keys))

    @cached_property
    def distances(self) -> Tensor:
        """Return the squared distance of each source to the mean: ``(B,)`` int64."""
        return torch.cat([(some.long() - self.mean).square().flatten(1).sum(1) for some in self.keys.split(64)])

    @cached_property
    def spread(self) -> float:
        """Return the mean squared distance of a cell to the mean of all sources at that cell."""
        # The sums are int64, so that the result is the same on every device.
        return int(self.distances.sum()) / max(1, self.keys.shape[:3].numel())

    @cached_property
    def members(self) -> tuple[Tensor, Tensor]:
        """Return the sources sorted by picture ``(B,)``, and where those of each picture begin ``(pictures + 1,)``."""
        counts = self.groups.bincount(minlength=self.pictures)
        return self.groups.argsort(stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    @cached_property
    def detail(self) -> Tensor:
        """Return the detail of each cell of the mean source: ``(h, w)`` int64, see :func:`cell_detail`."""
        return cell_detail(self.mean)

    def _group(self, groups: Groups) -> None:
        self.groups = groups.numbers
        self.pictures = int(groups.numbers.max()) + 1
        if not bool(groups.squared_offsets.any()):
            return
        self.starts = (groups.squared_offsets == 0).nonzero()[:, 0]
        if groups.cost:
            self.costs = (groups.squared_offsets * (groups.cost * self.spread)).round().long()
            # A cost acts as the square of one more component, which is zero in the images.
            self.norm = isqrt(self.norm**2 + int(self.costs.max())) + 1

    def holds(self, keys: Tensor) -> bool:
        """Return whether this object was prepared from the present values of a tensor.

        The test relies on PyTorch's count of writes. It misses writes through ``.data`` or through an array that shares
        the memory, such as the result of ``numpy()``. PyTorch does not count the writes to tensors created under
        ``torch.inference_mode``; for these the result is False.
        """
        return keys is self._origin and self._write_count is not None and self._write_count == _write_count(keys)

    def nearest(self, scores: Tensor, count: int) -> Tensor:
        """Return the nearest of all sources by their scores, see :func:`~latentpatch.ops.nearest.nearest`."""
        return nearest(scores, count)

    def pick(self, gather: Callable[[Tensor], Tensor], picks: Tensor, length: int) -> Tensor:
        """Return the keys ``(T, N, length)`` of ``picks (T, N)``; ``gather`` reads the keys of this process."""
        return gather(picks)

    def row(self, size: Size, side: int, row: int) -> Units:
        """Return one row of units of ``side x side`` cells of the sources, resized to ``size`` cells."""
        found = self._rows.get((size, side, row))
        if found is None:
            found = self._allocate((-(-size[1] // side),), side)
            self._fill(found.vectors, found.norms, size, side, row)
            if self._reserve(found):
                self._rows[size, side, row] = found
        return found

    def units(self, size: Size, side: int) -> Units:
        """Return all units of ``side x side`` cells of the sources, resized to ``size`` cells."""
        found = self._units.get((size, side))
        if found is None:
            found = self._allocate((-(-size[0] // side), -(-size[1] // side)), side)
            for row in range(len(found.vectors)):
                self._fill(found.vectors[row], found.norms[row], size, side, row)
            if self._reserve(found):
                self._units[size, side] = found
        return found

    def _allocate(self, shape: tuple[int, ...], side: int) -> Units:
        """Allocate units of shape ``(rows, columns)``, or ``(columns,)`` for one row."""
        count, depth, device = len(self.keys), self.keys.shape[3], self.keys.device
        return Units(
            torch.empty((*shape, side * side * depth, count), dtype=torch.int16, device=device),
            torch.empty((*shape, 1, count), dtype=self._exact_dtype(side), device=device),
        )

    def _reserve(self, found: Units) -> bool:
        """Reserve memory for units in the cache, and return whether they fit."""
        fits = found.bytes <= self._bytes_left
        self._bytes_left -= found.bytes if fits else 0
        return fits

    def keeps(self, grids: Collection[tuple[Size, int]]) -> bool:
        """Return whether all units of several grids (size, side of a unit) are cached or fit into the cache."""
        count, depth = len(self.keys), self.keys.shape[3]
        missing = [
            -(-height // side) * -(-width // side) * (2 * side**2 * depth + self._exact_dtype(side).itemsize) * count
            for (height, width), side in grids
            if ((height, width), side) not in self._units
        ]
        return sum(missing) <= self._bytes_left

    def _exact_dtype(self, side: int) -> torch.dtype:
        # Interpolation rounds each component, which may increase it by one half.
        bound = score_bound(side, self.norm + isqrt(self.keys.shape[3]))
        return torch.float32 if bound <= 1 << 24 else torch.float64

    def _fill(self, vectors: Tensor, norms: Tensor, size: Size, side: int, row: int) -> None:
        """Compute one row of units: ``vectors (columns, K, B)`` and ``norms (columns, 1, B)``."""
        count, *grid, depth = self.keys.shape
        old, rows = (grid[0], grid[1]), range(row * side, min((row + 1) * side, size[0]))
        old_rows = rows_behind(old[0], size[0], rows)
        columns = -(-size[1] // side)
        # Sources are zero beyond the border, as images are.
        border = (0, 0, 0, columns * side - size[1], 0, side - len(rows))
        group = max(1, _TILE // ((side + 2) * old[1] * depth))
        for sources in (slice(first, first + group) for first in range(0, count, group)):
            cells = self.keys[sources, old_rows]
            cells = cells.flatten(1).t().contiguous().view(*cells.shape[1:3], -1)
            if old != size:
                cells = interpolate(cells, old, size, rows, self.norm)
            units = pad(cells, border).view(side, columns, side * depth, -1).transpose(0, 1).flatten(1, 2)
            vectors[:, :, sources] = units
            norms[:, :, sources] = units.to(norms.dtype).square().sum(1, keepdim=True)
            if self.costs is not None:
                norms[:, :, sources] += side * side * self.costs[sources]


def _default_limit(device: torch.device) -> int:
    return max(MAX_KEPT, machine_memory() // 8) if device.type == "cpu" else MAX_KEPT


def _write_count(keys: Tensor) -> int | None:
    """Return a number that changes when the tensor is written to; None if PyTorch does not count its writes."""
    return None if keys.is_inference() else keys._version
