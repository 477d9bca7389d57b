"""Image quilting: textures from overlapping blocks of exemplars (Efros & Freeman, SIGGRAPH 2001).

Blocks are placed from the top left to the bottom right. Each is drawn among those of the exemplars that agree best with
what is there already, and joined to it along the cut of least error. Differences are sums of squares of 256 levels:
whole numbers, which the search by Fourier transforms finds exactly, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import SettingError
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators
from .texture_settings import QuiltingSettings

__all__ = ["Exemplars", "Quilting", "Search", "least_cut", "place_starts"]

_SHARE = 6  # default ratio of the exemplar's shorter side to a block, and of a block to an overlap
_SMALLEST_BLOCK = 8  # pixels, by default
_MOST_LEVELS = 255

Array = npt.NDArray[Any]


class Quilting(PictureMethod):
    """Joins overlapping blocks of the exemplars along cuts of least error (Efros & Freeman, SIGGRAPH 2001)."""

    name: ClassVar[str] = "quilting"
    Settings: ClassVar[type[QuiltingSettings]] = QuiltingSettings
    tasks = frozenset({"texture"})

    def smallest_side(self, settings: QuiltingSettings) -> int:
        """Return 4: exemplars are checked against the block when its size is known."""
        return 4

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: QuiltingSettings
    ) -> float:
        """Return the time of the Fourier transforms of the exemplars, once a block."""
        shortest = min(map(min, pictures))
        block = settings.block or max(_SMALLEST_BLOCK, shortest // _SHARE)
        step = max(1, block - (settings.overlap or block // _SHARE))
        blocks = (1 + size[0] / step) * (1 + size[1] / step)
        return count * blocks * (2e-4 + 1.5e-7 * sum(height * width for height, width in pictures))

    def memory(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: QuiltingSettings
    ) -> int:
        """Return the bytes of levels, costs and transforms, and of the results with their positions."""
        return 100 * sum(height * width for height, width in pictures) + 80 * count * size[0] * size[1]

    def make(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: QuiltingSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return textures, with the pixel of an exemplar that each of their pixels is."""
        shortest = min(min(picture.shape[1:]) for picture in pictures)
        block = min(max(_SMALLEST_BLOCK, shortest // _SHARE), shortest) if settings.block is None else settings.block
        if block > shortest:
            raise SettingError("block", block, f"at most {shortest} pixels, the shortest side of the exemplars")
        overlap = max(1, block // _SHARE) if settings.overlap is None else settings.overlap
        if overlap >= block:
            raise SettingError("overlap", overlap, f"below the block of {block} pixels")
        starts = [place_starts(side, block, overlap, settings.tileable) for side in size]
        exemplars = Exemplars.of(pictures, block)
        own = generators(seeds)

        def tell(done: int, numbers: Array) -> None:
            if observe is not None:
                at = torch.from_numpy(numbers)
                image = exemplars.copy(at.clamp(min=0))[0] * (at >= 0)
                observe(PictureStep(done, len(seeds) * len(starts[0]), image))

        def quilt(number: int) -> Array:
            draws = torch.rand(len(starts[0]) * len(starts[1]), generator=own[number], dtype=torch.float64)
            return _quilt(exemplars, size, starts, settings, draws.numpy(), None if number else tell)

        with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(seeds)))) as pool:
            maps: list[Array] = []
            for number, made in enumerate(pool.map(quilt, range(len(seeds)))):
                maps.append(made)
                tell((number + 1) * len(starts[0]), made)
        images, offsets = exemplars.copy(torch.from_numpy(np.stack(maps)))
        return PictureResult(images, offsets)


@dataclass(frozen=True)
class Exemplars:
    """The exemplars as integer levels, one after the other.

    Attributes:
        pictures: ``(C, H, W)`` float32 each.
        block: side of a block in pixels.
        levels: int32, rows of ``W * C`` numbers of each exemplar.
        begins, widths, rows, columns: int64 ``(S,)``: first number and width of each, and its numbers of positions.
        firsts: int64 ``(S,)``, number of the first position of each.
    """

    pictures: Sequence[Tensor]
    block: int
    levels: Array
    begins: Array
    widths: Array
    rows: Array
    columns: Array
    firsts: Array

    @classmethod
    def of(cls, pictures: Sequence[Tensor], block: int) -> Exemplars:
        """Return the exemplars of pictures."""
        parts = [levels_of(picture).reshape(-1) for picture in pictures]
        heights, widths = (np.array([picture.shape[axis] for picture in pictures]) for axis in (1, 2))
        rows, columns = heights - block + 1, widths - block + 1
        begins, firsts = (np.concatenate([[0], np.cumsum(n)[:-1]]) for n in ([len(p) for p in parts], rows * columns))
        return cls(pictures, block, np.concatenate(parts), begins, widths, rows, columns, firsts)

    @property
    def channels(self) -> int:
        """Numbers of a pixel."""
        return int(self.pictures[0].shape[0])

    @property
    def num_positions(self) -> int:
        """Positions of a block in all exemplars."""
        return int((self.rows * self.columns).sum())

    def place(self, position: int) -> tuple[int, int, int]:
        """Return the exemplar, row and column of a position."""
        source = int(np.searchsorted(self.firsts, position, side="right")) - 1
        row, column = divmod(position - int(self.firsts[source]), int(self.columns[source]))
        return source, row, column

    def pixels_of(self, position: int) -> tuple[Array, Array]:
        """Return the block at a position: levels ``(B, B * C)``, and the numbers of its pixels ``(B, B)``."""
        source, row, column = self.place(position)
        step = int(self.widths[source])
        at = (row + np.arange(self.block))[:, None] * step + column + np.arange(self.block)
        first = int(self.begins[source])
        numbers = first + at[:, :1] * self.channels + np.arange(self.block * self.channels)
        return self.levels[numbers], at + first // self.channels

    def copy(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures ``(N, C, h, w)`` of pixel numbers ``(N, h, w)``, and their positions ``(N, h, w, 3)``."""
        numbers = (numbers if numbers.ndim == 3 else numbers[None]).contiguous()
        flat = torch.cat([picture.flatten(1) for picture in self.pictures], 1)
        firsts = torch.from_numpy(self.begins // self.channels)
        source = torch.searchsorted(firsts, numbers, right=True) - 1
        inside = numbers - firsts[source]
        widths = torch.from_numpy(self.widths)[source]
        return flat[:, numbers].transpose(0, 1), torch.stack([source, inside // widths, inside % widths], -1)


def levels_of(picture: Tensor) -> Array:
    """Return the levels from 0 to 255 of ``(C, H, W)``: int32 ``(H, W * C)``."""
    levels = (picture * _MOST_LEVELS).round().to(torch.int32).permute(1, 2, 0)
    array: Array = levels.reshape(levels.shape[0], -1).numpy()
    return array


def place_starts(side: int, block: int, overlap: int, tileable: bool) -> list[int]:
    """Return the first rows, or columns, of the blocks that cover ``side`` pixels.

    Raises:
        SettingError: for a tile smaller than two blocks less their overlaps.
    """
    step = block - overlap
    count = max(1, -(-(side if tileable else side - overlap) // step))
    if not tileable:
        return [i * step for i in range(count)]
    if count < 2 or side < block + overlap:
        raise SettingError("size", side, f"at least {block + overlap} pixels for tiles of blocks of {block} pixels")
    return [i * side // count for i in range(count)]


def _quilt(
    exemplars: Exemplars,
    size: tuple[int, int],
    starts: list[list[int]],
    settings: QuiltingSettings,
    draws: Array,
    tell: Callable[[int, Array], None] | None,
) -> Array:
    """Return the number of the exemplars' pixel that each pixel is: int64 ``(h, w)``.

    ``tell`` is called before each row of blocks but the first, with the number of rows and the pixels so far.
    """
    block, channels = exemplars.block, exemplars.channels
    search = Search(exemplars)
    extents = size if settings.tileable else tuple(each[-1] + block for each in starts)
    canvas = np.zeros((*extents, channels), np.int32)
    numbers = np.full(extents, -1, np.int64)
    for place in range(len(draws)):
        down, across = divmod(place, len(starts[1]))
        if tell is not None and down and not across:
            tell(down, numbers[: size[0], : size[1]])
        rows = (starts[0][down] + np.arange(block)) % extents[0]
        columns = (starts[1][across] + np.arange(block)) % extents[1]
        at = rows[:, None], columns
        known = numbers[at] >= 0
        old = canvas[at].reshape(block, -1)
        position = int(draws[place] * exemplars.num_positions)
        if place:
            found = search.find(old, known, settings.tolerance)
            position = int(found[int(draws[place] * len(found))])
        new, origin = exemplars.pixels_of(position)
        error = np.square(new - old).reshape(block, block, channels).sum(2)
        fresh = _fresh(error, known)
        canvas[at] = np.where(fresh[..., None], new.reshape(block, block, channels), canvas[at])
        numbers[at] = np.where(fresh, origin, numbers[at])
    return numbers[: size[0], : size[1]]


def _fresh(error: Array, known: Array) -> Array:
    """Return which pixels of a block are taken from the new one: ``(B, B)`` bool.

    What is known covers whole bands along the sides of the block; each is cut, and the new block is inside of all cuts.
    """
    fresh = np.ones_like(known)
    for turns, width in enumerate(band_widths(known)):
        if 0 < width < len(known):
            path = least_cut(np.rot90(error, turns)[:, :width].astype(np.float64))
            fresh &= np.rot90(np.arange(len(known)) >= path[:, None], -turns)
    return fresh | ~known


def band_widths(known: Array) -> list[int]:
    """Return the widths of the known bands along the left side, then the top, right and bottom of a block."""
    turned = (np.rot90(known, turns).all(0) for turns in (0, 1, 2, 3))
    return [int(np.argmin(np.append(each, False))) for each in turned]


def least_cut(error: Array) -> Array:
    """Return the column of the cheapest path through ``error (n, w)`` from the first row to the last: int64 ``(n,)``.

    Columns of neighboring rows differ by at most one; among equal paths the left one is taken.
    """
    path = np.zeros(len(error), np.int64)
    cost = error.copy()
    for row in range(1, len(error)):
        wide = np.pad(cost[row - 1], 1, constant_values=np.inf)
        cost[row] += np.minimum(np.minimum(wide[:-2], wide[1:-1]), wide[2:])
    path[-1] = at = int(cost[-1].argmin())
    for row in range(len(error) - 2, -1, -1):
        first = max(at - 1, 0)
        at = path[row] = first + int(cost[row, first : at + 2].argmin())
    return path


class Search:
    """The search for blocks in exemplars, by Fourier transforms.

    Differences are sums of squares of whole levels, far below what float64 resolves: rounded, they are exact.
    """

    def __init__(self, exemplars: Exemplars) -> None:
        self._exemplars = exemplars
        self._levels = [
            torch.from_numpy(levels_of(picture)).reshape(*picture.shape[1:], -1).movedim(-1, 0).double()
            for picture in exemplars.pictures
        ]
        self._spectra = [torch.fft.rfft2(levels) for levels in self._levels]
        self._squares = [torch.fft.rfft2(levels.square().sum(0)) for levels in self._levels]
        self._norms: dict[bytes, list[Tensor]] = {}

    def differences(self, block: Array, known: Array) -> Tensor:
        """Return the squared difference of a block's known pixels to every position.

        Args:
            block: int32 ``(B, B * C)``.
            known: ``(B, B)`` bool.

        Returns:
            ``(positions,)`` float64 of whole numbers.
        """
        exemplars, side = self._exemplars, len(block)
        wanted = torch.from_numpy(np.where(known[..., None], block.reshape(side, side, -1), 0)).movedim(-1, 0).double()
        own = wanted.square().sum()
        found = []
        for source, norms in enumerate(self._norms_of(known)):
            # A convolution with the turned block is the correlation with the block, moved by its side less one.
            spectrum = torch.fft.rfft2(wanted.flip(1, 2), self._levels[source].shape[1:])
            product = (spectrum * self._spectra[source]).sum(0)
            cross = torch.fft.irfft2(product, self._levels[source].shape[1:])[side - 1 :, side - 1 :]
            found.append((norms - 2 * cross + own).round_().reshape(-1))
        return torch.cat(found) if len(found) > 1 else found[0][: exemplars.num_positions]

    def find(self, block: Array, known: Array, tolerance: float) -> Array:
        """Return the positions whose difference exceeds the smallest by at most a part of it, in order.

        Args:
            block, known: as for :meth:`differences`.
            tolerance: part of the smallest difference, at least 0.
        """
        costs = self.differences(block, known)
        found: Array = torch.nonzero(costs <= costs.min() * (1 + tolerance))[:, 0].numpy()
        return found

    def _norms_of(self, known: Array) -> list[Tensor]:
        """Return the sum of squares of each position's pixels that correspond to known ones."""
        key = known.tobytes()
        if key not in self._norms:
            side = len(known)
            window = torch.from_numpy(known).double().flip(0, 1)
            self._norms[key] = [
                torch.fft.irfft2(torch.fft.rfft2(window, levels.shape[1:]) * squares, levels.shape[1:])[
                    side - 1 :, side - 1 :
                ].round_()
                for levels, squares in zip(self._levels, self._squares, strict=True)
            ]
        return self._norms[key]
