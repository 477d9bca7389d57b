"""Texture transfer by quilting: blocks of a style, laid out like a content (Efros & Freeman, SIGGRAPH 2001, section 4).

A block is chosen by two errors at once. One is that of quilting: the difference to the blocks that are there already.
The other is that of correspondence: the difference of the block's luminance to that of the content at its place. A
first pass with large blocks follows the content; later ones have smaller blocks, follow the texture more and more
(alpha), and compare with all that the pass before has at the place, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ops.palettes import luminance, transfer_palette
from ...ops.pyramid import resize
from .quilting_blocks import Array, Exemplars, Search, Tell, extents_of, levels_of, place_starts, quilt
from .texture_settings import QuiltingSettings

__all__ = ["Transfer", "shares"]

_FIRST_SHARE, _LAST_SHARE = 10, 90  # part of the texture's error, in percent: whole numbers keep costs exact


def shares(passes: int) -> list[int]:
    """Return the part of the texture's error in each pass, in percent: 100 alpha_i = 80 (i - 1) / (N - 1) + 10."""
    between = _LAST_SHARE - _FIRST_SHARE
    return [round(_FIRST_SHARE + between * turn / max(1, passes - 1)) for turn in range(passes)]


class Transfer:
    """The search for blocks that look like a content, in styles.

    Attributes:
        exemplars: the styles, whose pixels the results are made of.
    """

    def __init__(
        self,
        styles: Sequence[Tensor],
        content: Tensor,
        size: tuple[int, int],
        lengths: Sequence[tuple[int, int]],
        settings: QuiltingSettings,
    ) -> None:
        """Prepare the search.

        Args:
            styles: ``(C, H, W)`` each.
            content: ``(C, h, w)``.
            size: height and width of the results.
            lengths: sides of blocks and of overlaps, in pixels, for each pass.
            settings: of quilting.
        """
        self.size, self.settings, self.lengths = size, settings, lengths
        self.starts = [[_inner_starts(side, *each, settings.tileable) for side in size] for each in lengths]
        self.exemplars = Exemplars.of(styles, lengths[0][0])
        self.styles, self.maps = styles, [luminance(each) for each in styles]
        wanted = luminance(resize(content[None], size)[0])
        self.wanted = transfer_palette(wanted, self.maps) if settings.palette == "style" else wanted

    @property
    def total_rows(self) -> int:
        """Rows of blocks of all passes."""
        return sum(len(rows) for rows, _ in self.starts)

    def make(self, generator: torch.Generator, tell: Tell | None = None) -> Array:
        """Return the number of the styles' pixel that each pixel is, for the generator of a seed: int64 ``(h, w)``."""
        numbers: Array | None = None
        for turn, share in enumerate(shares(len(self.lengths))):
            numbers = self._pass(turn, share, numbers, generator, tell)
        assert numbers is not None
        return numbers

    def _pass(
        self, turn: int, share: int, numbers: Array | None, generator: torch.Generator, tell: Tell | None
    ) -> Array:
        """Return the pixel numbers of a pass, from those of the pass before."""
        block, starts = self.lengths[turn][0], self.starts[turn]
        styles, maps = (Exemplars.of(each, block) for each in (self.styles, self.maps))
        textures, lights, channels = Search(styles), Search(maps), styles.channels
        extents = extents_of(self.size, starts, block, self.settings)
        light = _extended(levels_of(self.wanted), extents)
        before, whole = None, np.ones((block, block), bool)
        if numbers is not None:
            pixels = levels_of(styles.copy(torch.from_numpy(numbers))[0][0])
            before = _extended(pixels.reshape(*self.size, channels), extents)

        def costs(at: tuple[Array, Array], old: Array, known: Array) -> Tensor:
            own = textures.differences(old, known)
            if before is not None:
                own += textures.differences(before[at].reshape(block, -1), whole)
            return share * own + (100 - share) * channels * lights.differences(light[at], whole)

        finished = sum(len(rows) for rows, _ in self.starts[:turn])

        def tell_all(done: int, made: Array) -> None:
            if tell is not None:
                tell(finished + done, made)

        return quilt(styles, self.size, starts, self.settings, generator, costs, tell_all)


def _inner_starts(side: int, block: int, overlap: int, tileable: bool) -> list[int]:
    """Return the first rows, or columns, of blocks that end where the picture does: no block reaches beyond it."""
    starts = place_starts(side, block, overlap, tileable)
    return starts if tileable else [min(start, max(0, side - block)) for start in starts]


def _extended(values: Array, extents: tuple[int, int]) -> Array:
    """Return ``(h, w, ...)`` with the last row and column repeated below and to the right."""
    missing = [(0, extent - side) for extent, side in zip(extents, values.shape, strict=False)]
    return np.pad(values, missing + [(0, 0)] * (values.ndim - 2), mode="edge")
