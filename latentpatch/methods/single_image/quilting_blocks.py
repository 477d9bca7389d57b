"""Blocks of exemplars for quilting: the search for them, and the cuts that join them.

Differences are sums of squares of 256 levels: whole numbers, which the search by Fourier transforms finds exactly, on
any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import SettingError
from .texture_settings import QuiltingSettings

__all__ = ["Array", "Exemplars", "Search", "Tell", "extents_of", "least_cut", "levels_of", "place_starts", "quilt"]

_MOST_LEVELS = 255

Array = npt.NDArray[Any]

#: A function from the place of a block (its rows and columns), its known levels and which are known, to the cost of
#: every position of the exemplars, in whole numbers.
Costs = Callable[[tuple[Array, Array], Array, Array], Tensor]

#: A function of the number of finished rows of blocks, and of the exemplars' pixel that each pixel is, -1 for none yet.
Tell = Callable[[int, Array], None]


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

    def range_of(self, source: int | None) -> tuple[int, int]:
        """Return the first position of an exemplar, and the one after the last; of all exemplars for None."""
        if source is None:
            return 0, self.num_positions
        first = int(self.firsts[source])
        return first, first + int(self.rows[source] * self.columns[source])

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


def quilt(
    exemplars: Exemplars,
    size: tuple[int, int],
    starts: list[list[int]],
    settings: QuiltingSettings,
    generator: torch.Generator,
    costs: Costs | None = None,
    tell: Tell | None = None,
    labels: Array | None = None,
) -> Array:
    """Return the number of the exemplars' pixel that each pixel is: int64 ``(h, w)``.

    Args:
        exemplars: of the blocks' side.
        size: height and width of the result.
        starts: first rows and first columns of the blocks.
        settings: of quilting.
        generator: of the seed.
        costs: of the positions, for a block that is laid down; by default the difference of the known pixels, and the
            first block is drawn among all.
        tell: called before each row of blocks but the first.
        labels: for each block in order, the number of its exemplar; by default any.
    """
    block, channels = exemplars.block, exemplars.channels
    search = Search(exemplars)
    draws = torch.rand(len(starts[0]) * len(starts[1]), generator=generator, dtype=torch.float64).numpy()
    extents = extents_of(size, starts, block, settings)
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
        first, last = exemplars.range_of(None if labels is None else int(labels[place]))
        position = first + int(draws[place] * (last - first))
        if place or costs is not None:
            each = search.differences(old, known) if costs is None else costs(at, old, known)
            found = nearest_positions(each[first:last], settings.tolerance)
            position = first + int(found[int(draws[place] * len(found))])
        new, origin = exemplars.pixels_of(position)
        error = np.square(new - old).reshape(block, block, channels).sum(2)
        fresh = _fresh(error, known)
        canvas[at] = np.where(fresh[..., None], new.reshape(block, block, channels), canvas[at])
        numbers[at] = np.where(fresh, origin, numbers[at])
    return numbers[: size[0], : size[1]]


def extents_of(
    size: tuple[int, int], starts: list[list[int]], block: int, settings: QuiltingSettings
) -> tuple[int, int]:
    """Return height and width of all blocks together, which may reach beyond the result."""
    return size if settings.tileable else (starts[0][-1] + block, starts[1][-1] + block)


def nearest_positions(costs: Tensor, tolerance: float) -> Array:
    """Return the positions whose cost exceeds the smallest by at most a part of it, in order."""
    found: Array = torch.nonzero(costs <= costs.min() * (1 + tolerance))[:, 0].numpy()
    return found


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
    wide = np.full(error.shape[1] + 2, np.inf)  # a row between infinities
    for row in range(1, len(error)):
        wide[1:-1] = cost[row - 1]
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
        self._levels = [
            torch.from_numpy(levels_of(picture)).reshape(*picture.shape[1:], -1).movedim(-1, 0).double()
            for picture in exemplars.pictures
        ]
        self._spectra = [torch.fft.rfft2(levels) for levels in self._levels]
        self._squares = [torch.fft.rfft2(levels.square().sum(0)) for levels in self._levels]
        self._norms: dict[bytes, Tensor] = {}

    def differences(self, block: Array, known: Array) -> Tensor:
        """Return the squared difference of a block's known pixels to every position.

        Args:
            block: int32 ``(B, B * C)``.
            known: ``(B, B)`` whole numbers that the differences of its pixels count, or bool.

        Returns:
            ``(positions,)`` float64 of whole numbers.
        """
        side = len(block)
        weighted = torch.from_numpy(block.reshape(side, side, -1) * known[..., None]).movedim(-1, 0).double()
        own = int((np.square(block.reshape(side, side, -1)).astype(np.int64).sum(-1) * known).sum())
        return self.norms(known) - 2 * self.products(weighted) + own

    def products(self, block: Tensor) -> Tensor:
        """Return the sums of products of a block ``(C, B, B)`` with the levels at every position."""
        side, found = block.shape[-1], []
        for levels, spectra in zip(self._levels, self._spectra, strict=True):
            # A convolution with the turned block is the correlation with the block, moved by its side less one. Rows
            # come first and last: most of those of the padded block are zero, and some of the result are not wanted.
            height, width = levels.shape[1:]
            rows = torch.fft.rfft(block.flip(1, 2), width)
            product = torch.zeros_like(spectra[0])
            for own, other in zip(torch.fft.fft(rows, height, dim=1), spectra, strict=True):
                product.addcmul_(own, other)
            cross = torch.fft.irfft(torch.fft.ifft(product, dim=0)[side - 1 :], width)[:, side - 1 :]
            found.append(cross.round().reshape(-1))
        return torch.cat(found)

    def norms(self, known: Array) -> Tensor:
        """Return the sums of squares at each position, of pixels that count as often as the block's."""
        key = known.tobytes()
        if key not in self._norms:
            side = len(known)
            window = torch.from_numpy(known).double().flip(0, 1)
            self._norms[key] = torch.cat(
                [
                    torch.fft.irfft2(torch.fft.rfft2(window, levels.shape[1:]) * squares, levels.shape[1:])[
                        side - 1 :, side - 1 :
                    ]
                    .round()
                    .reshape(-1)
                    for levels, squares in zip(self._levels, self._squares, strict=True)
                ]
            )
        return self._norms[key]
