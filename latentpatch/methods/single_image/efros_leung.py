"""Texture synthesis pixel by pixel (Efros & Leung, ICCV 1999).

From a seed, or the border of a hole, pixels with the most known neighbors come first. Each is copied from the center of
a window of the exemplars that is drawn among those most similar to its own window, weighted by a Gaussian. Levels and
weights are whole numbers, so that the search in Numba and the search by Fourier transforms find the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SettingError
from ...runs.system import has_numba
from ...runs.threads import make_in_threads
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators
from .quilting_blocks import Exemplars, levels_of
from .texture_settings import EfrosLeungSettings

__all__ = ["EfrosLeung", "WindowSearch", "window_weights"]

_SEED_SIDE = 3  # pixels
_LARGEST_WEIGHT = 1024  # weight of a neighbor: eight of them times three squared levels fit into int32
_RELAXED = 1.1  # factor of the largest error when no pixel of a layer is below it

Array = npt.NDArray[Any]


class EfrosLeung(PictureMethod):
    """Grows a texture pixel by pixel from windows of the exemplars (Efros & Leung, ICCV 1999)."""

    name: ClassVar[str] = "efros-leung"
    Settings: ClassVar[type[EfrosLeungSettings]] = EfrosLeungSettings
    tasks = frozenset({"texture", "inpaint"})

    def smallest_side(self, settings: EfrosLeungSettings) -> int:
        """Return the side of the seed; exemplars are checked against the window."""
        return _SEED_SIDE

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: EfrosLeungSettings
    ) -> float:
        """Return the time to compare the window of each pixel with all of the exemplars."""
        pairs = count * size[0] * size[1] * sum(height * width for height, width in pictures)
        return 1e-9 * pairs * settings.window

    def memory(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: EfrosLeungSettings
    ) -> int:
        """Return the bytes of levels, costs and results with their positions."""
        return 60 * sum(height * width for height, width in pictures) + 60 * count * size[0] * size[1]

    def make(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: EfrosLeungSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return textures, or pictures with their hole filled, and the pixel that each filled pixel is copied from."""
        for picture in pictures:
            if min(picture.shape[1:]) < settings.window:
                raise SettingError("window", settings.window, f"at most {min(picture.shape[1:])}, the exemplar's side")
        start, known, allowed = None, None, None
        if task == "inpaint":
            assert mask is not None
            start, known, allowed = target, ~mask.numpy(), _whole_windows(pictures, target, mask, settings.window)
        search = WindowSearch(pictures, settings.window, allowed)
        own = generators(seeds)

        def tell(done: int, image: Tensor) -> None:
            if observe is not None:
                observe(PictureStep(done, len(seeds) * size[0] * size[1], image[None]))

        def grow(number: int, check: Callable[[], None]) -> tuple[Tensor, Tensor]:
            def tell_layer(done: int, image: Tensor) -> None:
                check()
                if number == 0:
                    tell(done, image)

            return _Growth(search, size, settings, own[number], start, known).run(tell_layer)

        made = make_in_threads(
            grow, len(seeds), lambda number, result: tell((number + 1) * size[0] * size[1], result[0])
        )
        images, maps = zip(*made, strict=True)
        return PictureResult(torch.stack(images), torch.stack(maps))


def _whole_windows(pictures: Sequence[Tensor], target: Tensor | None, mask: Tensor, side: int) -> Array:
    """Return the windows that may be copied, those without hole: ``(windows,)`` bool."""
    whole = []
    for picture in pictures:
        holes = mask if target is not None and torch.equal(picture, target) else torch.zeros(picture.shape[1:])
        whole.append(F.max_pool2d(holes[None].float(), side, 1).flatten() == 0)
    allowed: Array = torch.cat(whole).numpy()
    if not allowed.any():
        raise SettingError("mask", "too large", f"such that a window of {side} pixels without hole is left")
    return allowed


def window_weights(side: int) -> Array:
    """Return the Gaussian weights of a window, of sigma ``side / 6.4``, as whole numbers: int64 ``(side, side)``."""
    at = np.arange(side) - (side - 1) / 2
    line = np.exp(-np.square(at) / (2 * (side / 6.4) ** 2))
    weights: Array = np.maximum(1, np.rint(_LARGEST_WEIGHT * line[:, None] * line)).astype(np.int64)
    return weights


class WindowSearch:
    """The search for windows in exemplars.

    Args:
        pictures: exemplars ``(C, H, W)``.
        side: of a window, odd.
        allowed: ``(windows,)`` bool; None for all.
    """

    def __init__(self, pictures: Sequence[Tensor], side: int, allowed: Array | None = None) -> None:
        self.exemplars = Exemplars.of(pictures, side)
        self.side = side
        self.allowed = np.ones(self.exemplars.num_positions, bool) if allowed is None else allowed
        flat = [levels_of(picture).reshape(-1, len(picture)) for picture in pictures]
        self.planes = np.ascontiguousarray(np.concatenate(flat).T)
        self.weights = window_weights(side)
        order = np.argsort(-self.weights.reshape(-1), kind="stable")
        self._down, self._right = np.divmod(order, side)
        self._spectra: list[tuple[Tensor, Tensor]] = []

    def find(self, levels: Array, known: Array, hints: Array, tolerance: float) -> tuple[Array, float]:
        """Return the windows whose difference exceeds the smallest by at most a part of it, and the smallest.

        Args:
            levels: int32 ``(side, side, C)``.
            known: ``(side, side)`` bool.
            hints: int64, numbers of windows that may be near.
            tolerance: part of the smallest difference.

        Returns:
            Numbers of windows in order, and the mean squared difference a neighbor, for levels from 0 to 1.
        """
        used = known[self._down, self._right]
        down, right = self._down[used], self._right[used]
        weights = self.weights[down, right]
        scale = float(weights.sum()) * 255**2
        if not has_numba():
            costs = self.differences(levels, known)
            costs[~self.allowed] = np.inf
            least = costs.min()
            return np.flatnonzero(costs <= least * (1 + tolerance)), float(least) / scale
        from .efros_leung_kernels import find_windows

        exemplars = self.exemplars
        found = np.empty(exemplars.num_positions, np.int64)
        layout = exemplars.begins // exemplars.channels, exemplars.widths, exemplars.rows, exemplars.columns
        wanted = np.ascontiguousarray(levels[down, right])
        count, least = find_windows(
            self.planes, *layout, self.allowed, down, right, weights, wanted, hints, tolerance, found
        )
        return found[:count], float(least) / scale

    def differences(self, levels: Array, known: Array) -> Array:
        """Return the weighted squared difference to every window, by Fourier transforms: whole float64 numbers."""
        side = self.side
        weights = torch.from_numpy(np.where(known, self.weights, 0)).double()
        wanted = torch.from_numpy(np.ascontiguousarray(levels)).movedim(-1, 0).double()
        own = (weights * wanted.square()).sum()
        if not self._spectra:
            for picture in self.exemplars.pictures:
                each = (picture * 255).round().double()
                self._spectra.append((torch.fft.rfft2(each), torch.fft.rfft2(each.square().sum(0))))
        found = []
        for picture, (spectrum, squares) in zip(self.exemplars.pictures, self._spectra, strict=True):
            size = picture.shape[1:]
            kernel = torch.fft.rfft2((weights * wanted).flip(1, 2), size)
            product = torch.fft.rfft2(weights.flip(0, 1), size) * squares - 2 * (kernel * spectrum).sum(0)
            found.append((torch.fft.irfft2(product, size)[side - 1 :, side - 1 :] + own).round().reshape(-1))
        array: Array = torch.cat(found).numpy()
        return array


class _Growth:
    """The growth of one texture, or of the inside of one hole."""

    def __init__(
        self,
        search: WindowSearch,
        size: tuple[int, int],
        settings: EfrosLeungSettings,
        generator: torch.Generator,
        start: Tensor | None,
        known: Array | None,
    ) -> None:
        self.search, self.size, self.settings, self.generator = search, size, settings, generator
        self.half = settings.window // 2
        self.pictures = search.exemplars.pictures
        self.image = torch.zeros(len(self.pictures[0]), *size) if start is None else start.clone()
        self.offsets = np.full((*size, 3), -1, np.int64)
        self.levels = levels_of(self.image).reshape(*size, -1).copy()
        self.known = np.zeros(size, bool) if known is None else known.copy()
        self.kept = self.known.copy()
        if known is None:
            self._plant()
        elif start is not None and any(start is each for each in self.pictures):
            source = next(i for i, each in enumerate(self.pictures) if each is start)
            rows, columns = np.nonzero(known)
            self.offsets[rows, columns] = np.stack([np.full_like(rows, source), rows, columns], 1)

    def run(self, tell: Callable[[int, Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """Return the picture ``(C, h, w)`` and the positions ``(h, w, 3)`` of its pixels in the exemplars.

        ``tell`` is called before each layer of pixels, with their number and the picture so far.
        """
        largest = self.settings.max_error
        while not self.known.all():
            if tell is not None:
                tell(int(self.known.sum()), torch.from_numpy(self.levels).movedim(-1, 0) / 255)
            rows, columns = self._layer()
            draws = torch.rand(len(rows), generator=self.generator, dtype=torch.float64).numpy()
            filled = [self._fill(*each, largest) for each in zip(rows.tolist(), columns.tolist(), draws, strict=True)]
            if not any(filled):
                largest *= _RELAXED
        source, row, column = torch.from_numpy(self.offsets).unbind(-1)
        for number, picture in enumerate(self.pictures):
            at = source == number
            self.image[:, at] = picture[:, row[at], column[at]]
        self.offsets[self.kept] = -1  # their places only helped the search
        return self.image, torch.from_numpy(self.offsets)

    def _plant(self) -> None:
        """Copy a random seed of 3 x 3 pixels to the center."""
        exemplars = Exemplars.of(self.pictures, _SEED_SIDE)
        draw = float(torch.rand(1, generator=self.generator, dtype=torch.float64))
        source, top, left = exemplars.place(int(draw * exemplars.num_positions))
        for i in range(_SEED_SIDE):
            for j in range(_SEED_SIDE):
                row, column = (side // 2 - 1 + step for side, step in zip(self.size, (i, j), strict=True))
                self._copy(row, column, source, top + i, left + j)

    def _copy(self, row: int, column: int, source: int, y: int, x: int) -> None:
        exemplars = self.search.exemplars
        pixel = int(exemplars.begins[source]) // exemplars.channels + y * int(exemplars.widths[source]) + x
        self.levels[row, column] = self.search.planes[:, pixel]
        self.offsets[row, column] = source, y, x
        self.known[row, column] = True

    def _layer(self) -> tuple[Array, Array]:
        """Return the unknown pixels beside known ones, those with most known neighbors first, else in random order."""
        mode = "wrap" if self.settings.tileable else "constant"
        wide = np.pad(self.known, 1, mode=mode).astype(np.int64)  # type: ignore[call-overload]
        lines = wide[:-2] + wide[1:-1] + wide[2:]
        count = lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:]
        rows, columns = np.nonzero(~self.known & (count > 0))
        order = torch.randperm(len(rows), generator=self.generator).numpy()
        order = order[np.argsort(-count[rows[order], columns[order]], kind="stable")]
        return rows[order], columns[order]

    def _fill(self, row: int, column: int, draw: float, largest: float) -> bool:
        """Copy a pixel from a similar window; return whether one was similar enough."""
        side, half = self.settings.window, self.half
        if self.settings.tileable:
            rows, columns = ((at - half + np.arange(side)) % n for at, n in zip((row, column), self.size, strict=True))
            levels, known = self.levels[rows[:, None], columns], self.known[rows[:, None], columns]
        else:
            levels, known = np.zeros((side, side, self.levels.shape[2]), np.int32), np.zeros((side, side), bool)
            top, left = max(0, half - row), max(0, half - column)
            part = np.s_[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
            inside = self.known[part]
            place = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
            levels[place], known[place] = self.levels[part], inside
        found, least = self.search.find(levels, known, self._hints(row, column), self.settings.tolerance)
        if least > largest:
            return False
        source, y, x = self.search.exemplars.place(int(found[int(draw * len(found))]))
        self._copy(row, column, source, y + half, x + half)
        return True

    def _hints(self, row: int, column: int) -> Array:
        """Return the windows that continue those of the neighbors."""
        exemplars, hints = self.search.exemplars, []
        for down, right in ((0, -1), (-1, 0), (0, 1), (1, 0)):
            y, x = row + down, column + right
            if not (0 <= y < self.size[0] and 0 <= x < self.size[1]):
                continue
            source, top, left = (int(each) for each in self.offsets[y, x])
            top, left = top - down - self.half, left - right - self.half
            if source >= 0 and 0 <= top < exemplars.rows[source] and 0 <= left < exemplars.columns[source]:
                hints.append(int(exemplars.firsts[source]) + top * int(exemplars.columns[source]) + left)
        return np.array(hints, np.int64)
