"""Groups of sources that count as one: equal and nearly equal pictures, and several pictures of one person.

Two files of one picture, saved again as JPEG or slightly resized, give nearly equal latents. A cap on the share of a
source would let each of them give that share. So nearly equal sources count as one, and so do sources with the same
value of an attribute where the user names one.

Nearly equal sources are found in two steps:

1. Their keys are near. The threshold follows from the keys alone: it is at most 0.75 of the distance from a source to
   the nearest one that is beyond it (of the lower quartile of these distances), and at most 0.45 of the sources'
   *contrast*, the distance of two pictures whose cells are shuffled.
2. Their pictures are: decoded and reduced to a color a cell, they differ by at most a tenth of their contrast. Saving
   as JPEG changes texture, and with it latents, but hardly these colors.

Measured on 500 registered portraits with the embedded autoencoder, in units of the contrast: files saved again as JPEG
of quality 50 to 95, some also resized to 224 pixels, have keys up to 0.25 and colors up to 0.06 from their originals.
The nearest two people have keys 0.39 and colors 0.34 apart, the threshold of the keys is 0.34.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingTypeError
from ..validation import check_flag
from .augmentation import Variants
from .latents import chunks

__all__ = ["Colors", "Grouping", "equal_sources", "near_threshold", "renumbered"]

#: Distance of near keys in units of the contrast, at most.
_LARGEST = 0.45
#: Distance of near keys in units of that to the nearest other source, at most.
_RELATIVE = 0.75
#: Difference of the colors of nearly equal sources in units of their contrast, and in any case in [0, 1].
_COLORS, _LEAST_COLORS = 0.1, 0.5 / 255
#: Sources, evenly spread, whose distances to all others give the threshold.
_SAMPLED = 512
#: Components and side of the squares of cells that a first, cheaper comparison is of.
_COARSE = (8, 2)
#: Part of the pairs from which all are compared in full at once; others are gathered.
_MANY = 0.01
#: Bound on the rounding of the coarse comparison, in units of the largest squared norm.
_ROUNDING = 1e-5
#: Sources compared with others at a time, elements of these others, and pairs gathered at a time.
_ROWS, _BLOCK_ELEMENTS, _PAIRS = 256, 1 << 23, 256
#: Sources decoded at a time.
_DECODED = 16

#: A function from positions in a bank ``(N,)`` to the mean colors of their cells, ``(N, h * w, 3)`` in [0, 1].
Colors = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Grouping:
    """The rule by which sources count as one.

    Attributes:
        groups: whether equal and nearly equal sources do.
        group_by: attribute whose equal, non-empty values do; None for none.
    """

    groups: bool = False
    group_by: str | None = None

    def __post_init__(self) -> None:
        check_flag("groups", self.groups)
        if not isinstance(self.group_by, str | None):
            raise SettingTypeError("group_by", self.group_by, "the name of an attribute")

    def __call__(
        self, keys: Tensor, attributes: Sequence[Mapping[str, str]], variants: Variants, colors: Colors
    ) -> Tensor:
        """Return the group of each source: ``(S,)`` int64 on the CPU, numbered from 0 by first appearance.

        Args:
            keys: ``(S * variants.count, h, w, r)`` int16.
            attributes: of the sources, without their augmented copies.
            variants: the augmentation that ``keys`` went through.
            colors: gives the colors of sources whose keys are near.
        """
        numbers = torch.arange(len(attributes))
        if self.groups and len(numbers) > 1:
            numbers = equal_sources(keys, variants, colors)
        if self.group_by is not None:
            first: dict[str, int] = {}
            for source, row in enumerate(attributes):
                if value := row.get(self.group_by):
                    _merge(numbers, [first.setdefault(value, source), source])
        return renumbered(numbers)

    def record(self) -> dict[str, Any]:
        """Return the rule as the arguments of :meth:`~latentpatch.LatentPatch.fit`."""
        return asdict(self)


def renumbered(numbers: Tensor) -> Tensor:
    """Return group numbers ``(S,)`` int64 anew, from 0 by first appearance without gaps."""
    values, inverse = numbers.unique(return_inverse=True)
    places = torch.arange(len(numbers), device=numbers.device)
    first = torch.full_like(values, len(numbers)).scatter_reduce(0, inverse, places, "amin")
    ranks = torch.empty_like(values)
    ranks[first.argsort()] = torch.arange(len(values), device=numbers.device)
    result: Tensor = ranks[inverse]
    return result


def grouped(sources: Tensor, numbers: Tensor | None) -> Tensor:
    """Return the groups of sources; -1 stays.

    Args:
        sources: int64 numbers of sources of any shape, -1 for none.
        numbers: ``(S,)`` int64, the group of each source; None where each is its own.
    """
    if numbers is None:
        return sources
    return torch.where(sources < 0, sources, numbers.to(sources.device)[sources.clamp(min=0)])


def near_threshold(keys: Tensor) -> float:
    """Return the distance up to which keys are near.

    All sums are integers below 2^53, so that the threshold is the same on every device.

    Args:
        keys: ``(S, h, w, r)`` int16, at least two sources without augmented copies.
    """
    cells = keys.shape[1] * keys.shape[2]
    spreads = []
    for chunk in chunks(keys):
        values = chunk.double()
        spreads.append(values.square().sum((1, 2, 3)) - values.sum((1, 2)).square().sum(1) / cells)
    contrast = sqrt(2 * float(torch.cat(spreads).median()))
    count = min(len(keys), _SAMPLED)
    chosen = torch.arange(count, device=keys.device) * len(keys) // count
    squares = torch.cat([_squares(keys[chosen], chunk) for chunk in chunks(keys)], 1)
    squares[torch.arange(count, device=keys.device), chosen] = 0  # never the nearest other source
    threshold = _LARGEST * contrast
    while True:
        others = squares.masked_fill(squares <= threshold**2, inf).amin(1).sort().values
        lower = _RELATIVE * sqrt(others[(count - 1) // 4])  # infinite where most sources have no other one
        if lower >= threshold:
            return threshold
        threshold = lower


def equal_sources(keys: Tensor, variants: Variants, colors: Colors) -> Tensor:
    """Return groups of equal and nearly equal sources, joined by chains of such pairs: ``(S,)`` int64 on the CPU.

    Sums over squares of cells are a lower bound on distances; only pairs within it are compared in full.

    Args:
        keys: ``(S * variants.count, h, w, r)`` int16.
        variants: the augmentation; with mirror images, a source that is nearly that of another counts, too.
        colors: gives the colors of sources whose keys are near.

    Returns:
        The number of the first source of each one's group.
    """
    count = variants.count
    forms = [keys[copy::count] for copy in ([0, count // 2] if variants.mirrored else [0])]
    pictures = _Pictures(keys, colors, near_threshold(forms[0]) ** 2)
    numbers = torch.arange(len(forms[0]))
    coarse = [_coarse(form) for form in forms]
    columns = max(1, _BLOCK_ELEMENTS // keys[0].numel())
    for first in range(0, len(numbers), _ROWS):
        last = min(first + _ROWS, len(numbers))
        for copy, start in product(range(len(forms)), range(0, last, columns)):
            part = slice(start, min(start + columns, last))
            some = coarse[0][first:last]
            slack = _ROUNDING * float(some.double().square().sum(1).max())
            is_near = _squares(some, coarse[copy][part]) <= pictures.limit + slack
            places = torch.arange(first, last)[:, None], torch.arange(part.start, part.stop)
            is_near &= (places[1] < places[0]).to(is_near.device)
            if int(is_near.sum()) > _MANY * is_near.numel():
                is_near &= _squares(forms[0][first:last], forms[copy][part]) <= pictures.limit
            for some in (is_near.nonzero().cpu() + torch.tensor([first, start])).split(_PAIRS):
                some = some[numbers[some[:, 0]] != numbers[some[:, 1]]]
                positions = some * count + torch.tensor([0, copy * (count // 2)])
                for pair in some[pictures.are_equal(positions)].tolist():
                    _merge(numbers, pair)
    return numbers


class _Pictures:
    """Comparison of sources by keys and colors; each is decoded once.

    Args:
        keys: ``(B, h, w, r)`` int16.
        colors: gives the colors of sources.
        limit: squared distance up to which keys are near.
    """

    def __init__(self, keys: Tensor, colors: Colors, limit: float) -> None:
        self.keys, self.limit = keys, limit
        self._colors = colors
        self._decoded: dict[int, Tensor] = {}

    def are_equal(self, pairs: Tensor) -> Tensor:
        """Return whether pairs of positions ``(P, 2)`` are nearly equal: ``(P,)`` bool on the CPU."""
        one, other = (self.keys[each.to(self.keys.device)].double() for each in pairs.unbind(1))
        is_near = ((one - other).square().sum((1, 2, 3)) <= self.limit).cpu()
        first, second = (self._shown(each) for each in pairs[is_near].unbind(1))
        contrast = (_contrast(first) + _contrast(second)) / 2
        difference = (first - second).square().sum(2).mean(1).sqrt()
        return is_near.masked_scatter(is_near, difference <= (_COLORS * contrast).clamp(min=_LEAST_COLORS))

    def _shown(self, positions: Tensor) -> Tensor:
        """Return the colors ``(N, cells, 3)`` of positions."""
        new = [b for b in positions.unique().tolist() if b not in self._decoded]
        for some in torch.tensor(new, dtype=torch.int64).split(_DECODED):
            self._decoded |= dict(zip(some.tolist(), self._colors(some).float().cpu(), strict=True))
        if not len(positions):
            return torch.zeros(0, 1, 3)
        return torch.stack([self._decoded[b] for b in positions.tolist()])


def _contrast(colors: Tensor) -> Tensor:
    """Return the distance of the colors ``(N, cells, 3)`` to the same ones shuffled: ``(N,)``."""
    return (2 * (colors - colors.mean(1, keepdim=True)).square().sum(2).mean(1)).sqrt()


def _merge(numbers: Tensor, sources: Sequence[int]) -> None:
    """Merge the groups of some sources into the one of the lowest number."""
    found = numbers[list(sources)].unique()
    if len(found) > 1:
        numbers[torch.isin(numbers, found)] = found[0]


def _coarse(keys: Tensor) -> Tensor:
    """Return sums over squares of cells of the leading components, scaled so that distances are no larger."""
    depth, side = _COARSE
    parts = []
    for chunk in chunks(keys):
        cells = chunk[..., :depth].movedim(-1, 1).double()
        # Beyond the border a square has fewer cells; zeros in both pictures keep the bound.
        padded = torch.nn.functional.pad(cells, (0, -cells.shape[3] % side, 0, -cells.shape[2] % side))
        parts.append((torch.nn.functional.avg_pool2d(padded, side) * side).flatten(1).float())
    return torch.cat(parts)


def _squares(some: Tensor, others: Tensor) -> Tensor:
    """Return the squared distances ``(N, M)`` float64 of vectors to vectors, exact where these are integers."""
    one, other = some.flatten(1).double(), others.flatten(1).double()
    return one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
