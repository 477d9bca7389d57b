"""Building blocks of searches in torch: units of sources, sums over windows, loops over steps.

Every search runs in two modes. The eager mode writes in place and processes many sources in pieces that fit a core's
cache. While ``torch.export`` traces a search, it consists of plain operations on whole tensors within one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from ....runs.interruption import checkpoint
from .prepared import PreparedSources

__all__ = [
    "PreparedUnits",
    "TensorUnits",
    "Units",
    "add_at",
    "each",
    "is_exporting",
    "places_together",
    "put",
    "split_places",
    "stack",
    "sum_windows",
]

#: Number of elements that one operation reads or writes at a time; they fit the cache of a core.
_CHUNK = 1 << 18
#: Number of elements of all windows of a step up to which one gather is faster than one addition per cell.
_GATHERED = 1 << 16
#: Number of elements of the sums of windows that are compared together.
_TOGETHER = 1 << 19
#: How many times as many elements a GPU takes at a time: few operations matter more there than the cache.
_ON_GPU = 64


def is_exporting() -> bool:
    """Return whether ``torch.export`` traces this code; torch 2.6 only tells whether some tracer does."""
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())


def _at_a_time(elements: int, device: torch.device) -> int:
    """Return the number of elements that one operation takes on a device, from that on a CPU."""
    return elements if device.type == "cpu" else _ON_GPU * elements


def put(target: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Return a tensor with some rows replaced; the eager mode replaces them in place.

    The numbers of the rows may be on the CPU, as those of the raster's levels are, whatever the device of the tensor.
    """
    if is_exporting():
        return target.index_put((rows,), values)
    return target.index_copy_(0, rows.to(target.device), values)


def add_at(counts: Tensor, columns: Tensor, amount: int) -> Tensor:
    """Return counts ``(N, C)`` plus an amount at columns ``(N, T)``; the eager mode adds in place."""
    amounts = torch.full_like(columns, amount, dtype=counts.dtype)
    if is_exporting():
        return counts.scatter_add(1, columns, amounts)
    return counts.scatter_add_(1, columns, amounts)


def each(visit: Callable[[Any, Any], Any], state: Any, steps: Any) -> Any:
    """Visit steps in order, as one loop of the graph while a graph is traced.

    Args:
        visit: ``(state, step) -> state``; shapes and types of the state do not change.
        state: initial value, a tensor or a tuple of tensors.
        steps: list of steps, each a tuple of tensors; or one such tuple whose tensors have a leading dimension for all
            steps, as :func:`stack` returns it.

    Returns:
        The final state.
    """
    if isinstance(steps, list) or not is_exporting():
        for step in steps if isinstance(steps, list) else zip(*steps, strict=True):
            if not is_exporting():
                checkpoint()
            state = visit(state, step)
        return state
    if isinstance(state, Tensor):
        # AOTInductor does not support loops with a single tensor as their state.
        turns = torch.zeros(1, device=state.device)
        return each(lambda both, step: (visit(both[0], step), both[1] + 1), (state, turns), steps)[0]
    # The loop collects no results of steps: AOTInductor supports that for fixed numbers of images only.
    from torch._higher_order_ops.scan import scan  # slow to import, and only graphs need it

    return scan(lambda state, step: (visit(state, step), []), state, tuple(steps))[0]


def stack(steps: Sequence[Sequence[Tensor]], fillers: Sequence[int]) -> tuple[Tensor, ...]:
    """Return each field of all steps as one tensor, padded by the field's filler to the longest step."""
    fields = []
    for field, filler in zip(zip(*steps, strict=True), fillers, strict=True):
        longest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in field), strict=True)]
        table = torch.full((len(field), *longest), filler, dtype=field[0].dtype)
        for row, tensor in zip(table, field, strict=True):
            row[tuple(slice(size) for size in tensor.shape)] = tensor
        fields.append(table)
    return tuple(fields)


def sum_windows(scores: Tensor, windows: Tensor, are_many: bool = False) -> Tensor:
    """Return the sums of scores ``(units, N, B)`` over windows ``(M, V)`` of units: ``(M, N, B)``.

    Args:
        scores: integers.
        windows: units of each window.
        are_many: True where the windows are too many for a graph to gather them all at once.
    """
    if are_many and is_exporting():
        nothing = torch.zeros_like(scores.index_select(0, windows[:, 0]))
        total: Tensor = each(lambda total, units: total + scores[units[0]], nothing, (windows.T,))
        return total
    few = windows.numel() * scores[0].numel() <= _at_a_time(_GATHERED, scores.device)
    if is_exporting() or few or windows.shape[1] < 2:
        flat = scores.index_select(0, windows.flatten().to(scores.device))
        summed: Tensor = flat.unflatten(0, windows.shape).sum(1, dtype=scores.dtype)
        return summed
    if scores.device.type != "cpu":  # an operation for each cell of all windows, not for each cell of each
        first, *others = windows.T.to(scores.device)
        total = scores.index_select(0, first)
        for cells in others:
            total += scores.index_select(0, cells)
        return total
    total = scores.new_empty((windows.shape[0], *scores.shape[1:]))
    for units, result in zip(windows.tolist(), total, strict=True):
        torch.add(scores[units[0]], scores[units[1]], out=result)
        for unit in units[2:]:
            result.add_(scores[unit])
    return total


def places_together(elements: int, device: torch.device) -> int:
    """Return the number of places to compare at a time, by the number of elements of one place's scores."""
    return max(1, _at_a_time(_TOGETHER, device) // max(1, elements))


def split_places(choose: Callable[[slice], Tensor], places: int, together: int) -> Tensor:
    """Return the picks ``(places, N)`` of a step; the eager mode chooses few places at a time.

    Args:
        choose: function that returns the picks of a slice of the places.
        places: number of places in the step.
        together: largest number of places at a time.
    """
    if is_exporting() or places <= together:
        return choose(slice(0, places))
    return torch.cat([choose(slice(first, first + together)) for first in range(0, places, together)])


class Units(Protocol):
    """The units of all sources: squares of cells that are compared and copied as a whole."""

    def pick(self, units: Tensor, picks: Tensor) -> Tensor:
        """Return the keys ``(T, N, K)`` of the picked sources ``(T, N)`` at units ``(T,)``."""

    def compare(self, scores: Tensor, units: Tensor, keys: Tensor) -> Tensor:
        """Return scores ``(units, N, B)`` with the scores of units ``(T,)`` replaced.

        A score is |y|^2 - 2 x.y, where x ``(T, N, K)`` are the keys of the images and y the keys of the sources.
        """


class TensorUnits:
    """Units as two tensors, for graphs.

    Args:
        vectors: ``(units, K, B)`` floating point keys.
        norms: ``(units, 1, B)`` squared norms of the keys.
    """

    def __init__(self, vectors: Tensor, norms: Tensor) -> None:
        self.vectors, self.norms = vectors, norms

    def pick(self, units: Tensor, picks: Tensor) -> Tensor:
        """See :meth:`Units.pick`."""
        vectors = self.vectors.index_select(0, units)
        places = picks[:, None, :].expand(-1, vectors.shape[1], -1)
        return vectors.gather(2, places).transpose(1, 2)

    def compare(self, scores: Tensor, units: Tensor, keys: Tensor) -> Tensor:
        """See :meth:`Units.compare`."""
        norms, vectors = self.norms.index_select(0, units), self.vectors.index_select(0, units)
        compared = torch.baddbmm(norms, keys, vectors, alpha=-2)
        return put(scores, units, compared.to(scores.dtype))


class PreparedUnits:
    """Units of prepared sources, for eager searches.

    Where the sources keep units of this size, those are read in place. Otherwise rows of units are prepared one at a
    time, and units that are single cells of the bank are read from its keys.

    Args:
        sources: the sources.
        size: cells ``(h, w)`` of the grid.
        side: cells along a side of a unit.
        exact: floating point type that holds all scores.
        rows: number of rows of units that a block reaches over.
    """

    def __init__(
        self, sources: PreparedSources, size: tuple[int, int], side: int, exact: torch.dtype, rows: int = 1
    ) -> None:
        self.sources, self.exact = sources, exact
        self.columns = -(-size[1] // side)
        self.cells = side == 1 and size == sources.keys.shape[1:3]
        self.length, self.count = side * side * sources.keys.shape[3], len(sources.keys)
        self.vectors: Tensor | None = None
        if sources.keeps([(size, side)]):
            vectors, norms = sources.units(size, side)
            self.vectors, self.norms = vectors.flatten(0, 1), norms.flatten(0, 1)
        # The cache prepares a row of units only once while the blocks of that row are written.
        self._row = lru_cache(maxsize=rows)(lambda row: sources.row(size, side, row))

    def pick(self, units: Tensor, picks: Tensor) -> Tensor:
        """See :meth:`Units.pick`."""

        def gather(own: Tensor) -> Tensor:
            if self.cells:
                rows, columns = units // self.columns, units % self.columns
                return self.sources.keys[own, rows[:, None], columns[:, None]]
            if self.vectors is not None:
                return self.vectors[units[:, None], :, own]
            numbers = zip(units.tolist(), own, strict=True)
            return torch.stack([self._unit(unit)[0][:, chosen].t() for unit, chosen in numbers])

        return self.sources.pick(gather, picks, self.length).to(self.exact)

    def compare(self, scores: Tensor, units: Tensor, keys: Tensor) -> Tensor:
        """See :meth:`Units.compare`."""
        chunk = _at_a_time(_CHUNK, scores.device)
        some = max(1, chunk // max(1, (self.length + 1) * self.count))
        if self.vectors is not None and some > 1:
            for part, queries in zip(units.split(some), keys.split(some), strict=True):
                compared = torch.baddbmm(
                    self.norms[part].to(self.exact), queries, self.vectors[part].to(self.exact), alpha=-2
                )
                put(scores, part, compared.to(scores.dtype))
            return scores
        images = keys.shape[1]
        few = max(1, chunk // (self.length + 1 + images))
        for unit, queries in zip(units.tolist(), keys, strict=True):
            vectors, norms = self._unit(unit)
            target = scores[unit]
            for part in (slice(first, first + few) for first in range(0, self.count, few)):
                ready = vectors[:, part].to(self.exact)
                target[:, part] = torch.addmm(norms[:, part].to(self.exact), queries, ready, alpha=-2)
        return scores

    def _unit(self, unit: int) -> tuple[Tensor, Tensor]:
        """Return the keys ``(K, B)`` of a unit and their squared norms ``(1, B)``."""
        if self.vectors is not None:
            return self.vectors[unit], self.norms[unit]
        row, column = divmod(unit, self.columns)
        if self.cells:
            vectors = self.sources.keys[:, row, column].t().contiguous()
            norms = vectors.to(self.exact).square().sum(0, keepdim=True)
            return vectors, norms if self.sources.costs is None else norms + self.sources.costs
        prepared = self._row(row)
        return prepared.vectors[column], prepared.norms[column]
