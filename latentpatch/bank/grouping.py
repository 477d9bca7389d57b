"""Groups of sources that count as one: equal and nearly equal pictures, and several pictures of one person.

Two files of one picture, saved again as JPEG or slightly resized, give nearly equal latents. A cap on the share of a
source would let each of them give that share. So sources whose keys are nearly equal count as one, and so do sources
with the same value of an attribute where the user names one.

Nearly equal means a distance below a threshold that follows from the keys alone, with two units of length:

- the *contrast* of the sources: the distance of two pictures whose cells are shuffled. No two sources farther apart
  than 0.3 of it are nearly equal.
- the distance from a source to the nearest one that is not nearly equal to it. The threshold is at most 0.6 of the
  lower quartile of these distances, and falls until it is.

Measured on 500 registered portraits with the embedded autoencoder: files saved again as JPEG of quality 50 to 95, some
also resized to 224 pixels, lie up to 0.25 of the contrast from their originals, the nearest two people lie 0.39 apart,
and the threshold is 0.27. With the codebook these are 0.13, 0.42 and 0.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingTypeError
from ..validation import check_flag
from .augmentation import Variants
from .latents import chunks

__all__ = ["Grouping", "equal_sources", "near_threshold", "renumbered"]

#: Distance in units of the contrast beyond which sources are never nearly equal.
_LARGEST = 0.3
#: Distance of nearly equal sources in units of that to the nearest other source, at most.
_RELATIVE = 0.6
#: Sources, evenly spread, whose distances to all others give the threshold.
_SAMPLED = 512
#: Components and side of the squares of cells that a first, cheaper comparison is of.
_COARSE = (8, 2)
#: Sources compared with all others at a time, and pairs compared exactly at a time.
_ROWS, _PAIRS = 256, 256


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

    def __call__(self, keys: Tensor, attributes: Sequence[Mapping[str, str]], variants: Variants) -> Tensor:
        """Return the group of each source: ``(S,)`` int64 on the CPU, numbered from 0 by first appearance.

        Args:
            keys: ``(S * variants.count, h, w, r)`` int16.
            attributes: of the sources, without their augmented copies.
            variants: the augmentation that ``keys`` went through.
        """
        numbers = torch.arange(len(attributes))
        if self.groups and len(numbers) > 1:
            numbers = equal_sources(keys, variants)
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


def near_threshold(keys: Tensor) -> float:
    """Return the distance up to which sources are nearly equal, in units of the keys.

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
    squares = _squared_distances(keys[chosen], keys)
    squares[torch.arange(count, device=keys.device), chosen] = 0  # never the nearest other source
    threshold = largest = _LARGEST * contrast
    while True:
        others = squares.masked_fill(squares <= threshold**2, inf).amin(1).sort().values
        nearest_other = sqrt(others[(count - 1) // 4])
        # Where most sources have no other one to be told from, half the largest threshold has to do.
        lower = max(0.8 * threshold, largest / 2) if nearest_other == inf else _RELATIVE * nearest_other
        if lower >= threshold:
            return threshold
        threshold = lower


def equal_sources(keys: Tensor, variants: Variants | None = None) -> Tensor:
    """Return groups of equal and nearly equal sources, joined by chains of such pairs: ``(S,)`` int64 on the CPU.

    Sums of squares of cells are a lower bound on distances; only pairs within it are compared in full.

    Args:
        keys: ``(S * variants.count, h, w, r)`` int16.
        variants: the augmentation; with mirror images, a source that is nearly that of another counts, too.

    Returns:
        The number of the first source of each one's group.
    """
    variants = variants or Variants()
    own = keys[:: variants.count]
    forms = [own, keys[variants.count // 2 :: variants.count]] if variants.mirrored else [own]
    limit, numbers = near_threshold(own) ** 2, torch.arange(len(own))
    coarse = [_coarse(form) for form in forms]
    for first in range(0, len(own), _ROWS):
        rows = coarse[0][first : first + _ROWS].double()
        for form, other in zip(forms, coarse, strict=True):
            for start in range(0, first + len(rows), 16 * _ROWS):
                columns = other[start : min(start + 16 * _ROWS, first + len(rows))].double()
                bound = rows.square().sum(1)[:, None] + columns.square().sum(1) - 2 * rows @ columns.T
                places = torch.arange(first, first + len(rows), device=rows.device)[:, None]
                is_earlier = torch.arange(start, start + len(columns), device=rows.device) < places
                slack = 1e-5 * rows.square().sum(1).amax()  # coarse values are rounded
                pairs = ((bound <= limit + slack) & is_earlier).nonzero() + torch.tensor([first, start]).to(rows.device)
                _join(numbers, pairs, own, form, limit)
    return numbers


def _join(numbers: Tensor, pairs: Tensor, own: Tensor, form: Tensor, limit: float) -> None:
    """Merge the groups of those pairs ``(P, 2)`` whose squared distance is within a limit."""
    for some in pairs.split(_PAIRS):
        some = some[(numbers[some[:, 0].cpu()] != numbers[some[:, 1].cpu()]).to(some.device)]
        squares = (own[some[:, 0]].double() - form[some[:, 1]].double()).square().sum((1, 2, 3))
        for pair in some[squares <= limit].tolist():
            _merge(numbers, pair)


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


def _squared_distances(some: Tensor, keys: Tensor) -> Tensor:
    """Return the squared distances ``(N, S)`` float64 of keys to keys, exactly."""
    queries = some.flatten(1).double()
    squares = queries.square().sum(1, keepdim=True)
    rows = []
    for chunk in chunks(keys):
        sources = chunk.flatten(1).to(queries)
        rows.append(squares + sources.square().sum(1) - 2 * queries @ sources.T)
    return torch.cat(rows, 1)
