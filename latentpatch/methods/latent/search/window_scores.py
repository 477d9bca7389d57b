"""How far the sources are: exact sums over windows, kept while a scan goes on, place by place.

A unit's query x and source y are compared by the score |y|^2 - 2 x.y: the squared distance less |x|^2, which is the
same for all sources. A score is one row of a matrix product of (-2 x, 1) and (y, |y|^2). Keys are integers, and
where none is longer than R, the products of a unit of c cells, added up in any order and partially, stay within
c R^2 + 2 c R^2 (Cauchy-Schwarz). Up to 2^24 float32 holds all integers, so that scores are exact: for units of two
by two cells up to R = 1182, and a bank leaves its own keys at 1024. Beyond that float64 is taken, and also
where matrix products of float32 are set to be computed from rounded factors. Sums over a window are integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from .plan import Plan, Run, Step, Strip
from .prepared import PreparedSources, score_bound

__all__ = ["Scores", "WindowScores", "sum_dtype"]


def sum_dtype(patch_size: int, norm: int) -> torch.dtype:
    """The integers that hold sums of scores over windows."""
    return torch.int32 if score_bound(patch_size, norm) < 1 << 31 else torch.int64


class Scores(ABC):
    """Scores of a scale's images against all sources while a scan goes on, step by step of a plan.

    Attributes:
        plan: of the scale.
        sources: B of them here.
        length: numbers in a unit, K.
        factors: ``(rows, columns, K + 1, N)`` what the images hold, times -2, and ones.
    """

    plan: Any
    sources: PreparedSources
    length: int
    factors: Tensor

    @abstractmethod
    def sum(self, step: Any) -> Tensor | None:
        """Scores of the windows of a step's places: ``(places N, B)``, until the next call; None at a blind one."""

    @abstractmethod
    def write(self, step: Any, picks: Tensor) -> None:
        """Copy a step's blocks from the picked sources, ``(places, N)``."""

    def queries(self) -> Tensor:
        """The keys the images hold now: ``(rows, columns, K, N)`` int16."""
        keys: Tensor = (self.factors[:, :, : self.length] / -2).to(torch.int16)
        return keys


class WindowScores(Scores):
    """Scores place by place, for the rows of units in sight.

    What a unit holds is compared once, when a window first covers it. Its scores stay in ``ring``; ``columns`` has
    their sums over the rows in sight, so that a window's is a sum of a few columns.

    Args:
        sources: B of them.
        plan: of the scale.
        queries: ``(rows, columns, K, N)`` keys the images hold beforehand, as units; anything where nothing is held.
        exact: floating point type that holds all scores.
        sums: type of integers that holds their sums over windows.
    """

    plan: Plan

    def __init__(
        self, sources: PreparedSources, plan: Plan, queries: Tensor, exact: torch.dtype, sums: torch.dtype
    ) -> None:
        images, count, device = queries.shape[3], len(sources.keys), queries.device
        self.plan, self.sources = plan, sources
        self.length = queries.shape[2]
        self.factors = torch.ones((*plan.shape, self.length + 1, images), dtype=exact, device=device)
        torch.mul(queries, -2.0, out=self.factors[:, :, : self.length])
        self.ring = torch.empty((plan.depth, plan.shape[1], images, count), dtype=sums, device=device)
        self.columns = torch.empty(self.ring.shape[1:], dtype=sums, device=device)
        self.total = torch.empty(self.ring.shape[2:], dtype=sums, device=device)
        # Single units of the two, for cutting them out takes as long as adding up few sources.
        self.unit_scores = [list(row.unbind()) for row in self.ring.unbind()]
        self.unit_columns = list(self.columns.unbind())
        # What the sources do not keep is not prepared more than once while a step is near.
        self.row = lru_cache(maxsize=plan.reach)(partial(sources.row, plan.size, plan.side))

    def sum(self, step: Step) -> Tensor | None:
        if step.strip:
            self._move(step.strip)
        if not step.columns:
            return None
        for run in step.compared:
            self._compare(run)
        for row, column in step.added:
            self.unit_columns[column].add_(self._scores(row, column))
        terms = self.unit_columns[slice(*step.columns)]
        return add_up(terms + [self._scores(*unit) for unit in step.passing], self.total)

    def write(self, step: Step, picks: Tensor) -> None:
        for row, column in step.withdrawn:
            self.unit_columns[column].sub_(self._scores(row, column))
        for run in step.writes:
            units = slice(run.first, run.last)
            vectors = self.row(run.row).vectors[units]
            picked = self.sources.pick(vectors, picks.expand(len(vectors), -1))
            torch.mul(picked, -2.0, out=self.factors[run.row, units, : self.length])

    def _move(self, strip: Strip) -> None:
        """Look at other rows."""
        for slot in strip.clear:
            self.ring[slot].zero_()
        for run in strip.compared:
            self._compare(run)
        first, last = strip.span
        add_up([self.ring[slot, first:last] for slot in strip.slots], self.columns[first:last])

    def _scores(self, row: int, column: int) -> Tensor:
        return self.unit_scores[row % self.plan.depth][column]

    def _compare(self, run: Run) -> None:
        """Compare what units hold now."""
        factors = self.factors[run.row, run.first : run.last].transpose(1, 2)
        scores = self.ring[run.row % self.plan.depth, run.first : run.last]
        pieces = self.row(run.row).pieces(slice(run.first, run.last), factors.shape[1], factors.dtype)
        for units, sources, vectors in pieces:
            scores[units, :, sources] = torch.bmm(factors[units], vectors)


def add_up(terms: Sequence[Tensor], out: Tensor) -> Tensor:
    """The sum of any number of tensors."""
    if len(terms) < 2:
        return out.copy_(terms[0]) if terms else out.zero_()
    torch.add(terms[0], terms[1], out=out)
    for term in terms[2:]:
        out.add_(term)
    return out
