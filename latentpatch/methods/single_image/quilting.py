"""Image quilting: textures from overlapping blocks of exemplars (Efros & Freeman, SIGGRAPH 2001).

Blocks are placed from the top left to the bottom right. Each is drawn among those of the exemplars that agree best with
what is there already, and joined to it along the cut of least error. For pictures in the style of another, blocks are
also to look like the picture (:mod:`.texture_transfer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import SettingError
from ...runs.threads import make_in_threads, one_thread
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators
from .quilting_blocks import Array, Exemplars, Tell, place_starts, quilt
from .texture_settings import QuiltingSettings
from .texture_transfer import Transfer

__all__ = ["Quilting"]

_SHARE = 6  # default ratio of the exemplar's shorter side to a block, and of a block to an overlap
_TRANSFER_SHARE = 12  # the former for texture transfer, which begins with larger blocks than it ends with
_SMALLEST_BLOCK = 8  # pixels, by default


class Quilting(PictureMethod):
    """Joins overlapping blocks of the exemplars along cuts of least error (Efros & Freeman, SIGGRAPH 2001)."""

    name: ClassVar[str] = "quilting"
    Settings: ClassVar[type[QuiltingSettings]] = QuiltingSettings
    tasks = frozenset({"texture", "stylize"})
    accepts_shares: ClassVar[bool] = True

    def smallest_side(self, settings: QuiltingSettings) -> int:
        """Return 4: exemplars are checked against the block when its size is known."""
        return 4

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: QuiltingSettings
    ) -> float:
        """Return the time of the Fourier transforms of the exemplars, once a block."""
        return count * _seconds([_block(pictures, _SHARE, settings)], pictures, size, settings)

    def task_seconds(
        self,
        task: str,
        pictures: Sequence[tuple[int, int]],
        size: tuple[int, int],
        count: int,
        settings: QuiltingSettings,
    ) -> float:
        """Return the time of all passes to stylize, which compare blocks with the content, too."""
        if task != "stylize":
            return self.seconds(pictures, size, count, settings)
        sides = _sides(_block(pictures, _TRANSFER_SHARE, settings), settings.passes)
        return 2 * count * _seconds(sides, pictures, size, settings)

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
        shares: Tensor | None = None,
    ) -> PictureResult:
        """Return pictures, with the pixel of an exemplar that each of their pixels is."""
        shortest = min(min(picture.shape[1:]) for picture in pictures)
        share = _SHARE if target is None else _TRANSFER_SHARE
        block = _block([(picture.shape[1], picture.shape[2]) for picture in pictures], share, settings)
        if block > shortest:
            raise SettingError("block", block, f"at most {shortest} pixels, the shortest side of the exemplars")
        own = generators(seeds)
        if target is None:
            starts = [place_starts(side, *_lengths(settings, block), settings.tileable) for side in size]
            exemplars, total = Exemplars.of(pictures, block), len(starts[0])

            def make_one(number: int, tell: Tell) -> Array:
                labels = None if shares is None else _labels(shares, starts, block, own[number])
                return quilt(exemplars, size, starts, settings, own[number], tell=tell, labels=labels)
        else:
            lengths = [_lengths(settings, side) for side in _sides(block, settings.passes)]
            transfer = Transfer(pictures, target, size, lengths, settings)
            exemplars, total = transfer.exemplars, transfer.total_rows

            def make_one(number: int, tell: Tell) -> Array:
                return transfer.make(own[number], tell)

        def tell(done: int, numbers: Array) -> None:
            if observe is not None:
                at = torch.from_numpy(numbers)
                image = exemplars.copy(at.clamp(min=0))[0] * (at >= 0)
                observe(PictureStep(done, len(seeds) * total, image))

        @one_thread()
        def make(number: int, check: Callable[[], None]) -> Array:
            def tell_row(done: int, numbers: Array) -> None:
                check()
                if number == 0:
                    tell(done, numbers)

            return make_one(number, tell_row)

        maps = make_in_threads(make, len(seeds), lambda number, made: tell((number + 1) * total, made))
        images, offsets = exemplars.copy(torch.from_numpy(np.stack(maps)))
        return PictureResult(images, offsets)


def _block(pictures: Sequence[tuple[int, int]], share: int, settings: QuiltingSettings) -> int:
    """Return the side of the first blocks, for the heights and widths of the exemplars."""
    shortest = min(map(min, pictures))
    return min(max(_SMALLEST_BLOCK, shortest // share), shortest) if settings.block is None else settings.block


def _sides(block: int, passes: int) -> list[int]:
    """Return the sides of the blocks of each pass to stylize."""
    return [max(min(_SMALLEST_BLOCK, block), block * 2**turn // 3**turn) for turn in range(passes)]


def _seconds(
    sides: Sequence[int], pictures: Sequence[tuple[int, int]], size: tuple[int, int], settings: QuiltingSettings
) -> float:
    """Return the time to find blocks of some sides, a pass each."""
    pixels, blocks = sum(height * width for height, width in pictures), 0.0
    for side in sides:
        step = max(1, side - (settings.overlap or side // _SHARE))
        blocks += (1 + size[0] / step) * (1 + size[1] / step)
    return blocks * (5e-5 + 6.5e-8 * pixels)


def _lengths(settings: QuiltingSettings, block: int) -> tuple[int, int]:
    """Return the sides of a block and of an overlap, in pixels.

    Raises:
        SettingError: for an overlap that is no smaller than the block.
    """
    overlap = max(1, block // _SHARE) if settings.overlap is None else settings.overlap
    if overlap >= block:
        raise SettingError("overlap", overlap, f"below the block of {block} pixels")
    return block, overlap


def _labels(shares: Tensor, starts: Sequence[Sequence[int]], block: int, generator: torch.Generator) -> Array:
    """Draw the exemplar of each block, in order, by the shares ``(S, h, w)`` at its middle."""
    sides = zip(starts, shares.shape[1:], strict=True)
    at = [(torch.tensor(firsts) + block // 2).clamp(max=side - 1) for firsts, side in sides]
    parts = shares[:, at[0][:, None], at[1]].flatten(1).cumsum(0)
    # One draw from each of as many equal parts of [0, 1): shares are kept well with few blocks, too.
    order = torch.randperm(parts.shape[1], generator=generator)
    draws = (order + torch.rand(len(order), generator=generator)) / len(order)
    labels: Array = (draws > parts).sum(0).clamp(max=len(shares) - 1).numpy()
    return labels
