"""Which sources are nearest: exact sums over windows, kept while a scan goes on, and the k smallest of many.

A unit's query x and source y are compared by the score |y|^2 - 2 x.y: the squared distance less |x|^2, which is the
same for all sources. A score is one row of a matrix product of (-2 x, 1) and (y, |y|^2). Keys are integers, and
where none is longer than R, the products of a unit of c cells, added up in any order and partially, stay within
c R^2 + 2 c R^2 (Cauchy-Schwarz). Up to 2^24 float32 holds all integers, so that scores are exact: for units of two
by two cells up to R = 1182, and a bank leaves its own keys at 1024. Beyond that float64 is taken, and also
where matrix products of float32 are set to be computed from rounded factors. Sums over a window are integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from .keys import exact_dtype
from .plan import Plan, Run, Step, Strip
from .sources import PreparedSources, score_bound

__all__ = ["WindowScores", "bytes_an_image", "nearest", "sum_dtype"]

_GROUP = 64  # sources a minimum is taken of, where there are many


def sum_dtype(patch_size: int, norm: int) -> torch.dtype:
    """The integers that hold sums of scores over windows."""
    return torch.int32 if score_bound(patch_size, norm) < 1 << 31 else torch.int64


def bytes_an_image(plan: Plan, count: int, sums: torch.dtype) -> int:
    """Memory that :class:`WindowScores` takes for one image."""
    return sums.itemsize * (plan.depth + 1) * plan.shape[1] * count


class WindowScores:
    """Scores of a scale's images against all sources, for the rows of units in sight.

    What a unit holds is compared once, when a window first covers it. Its scores stay in ``ring``; ``columns`` has
    their sums over the rows in sight, so that a window's is a sum of a few columns.

    Args:
        sources: B of them.
        plan: of the scale.
        queries: ``(rows, columns, K, N)`` keys the images hold beforehand, as units; anything where nothing is held.
        norm: bound on the norm of all keys.
        patch_size: side of the windows in cells.
    """

    def __init__(self, sources: PreparedSources, plan: Plan, queries: Tensor, norm: int, patch_size: int) -> None:
        images, count, device = queries.shape[3], len(sources.keys), queries.device
        self.plan = plan
        self.length = queries.shape[2]
        exact = exact_dtype(score_bound(plan.side, norm))
        self.factors = torch.ones((*plan.shape, self.length + 1, images), dtype=exact, device=device)
        torch.mul(queries, -2.0, out=self.factors[:, :, : self.length])
        sums = sum_dtype(patch_size, norm)
        self.ring = torch.empty((plan.depth, plan.shape[1], images, count), dtype=sums, device=device)
        self.columns = torch.empty(self.ring.shape[1:], dtype=sums, device=device)
        self.total = torch.empty(self.ring.shape[2:], dtype=sums, device=device)
        # Single units of the two, for cutting them out takes as long as adding up few sources.
        self.unit_scores = [list(row.unbind()) for row in self.ring.unbind()]
        self.unit_columns = list(self.columns.unbind())
        # What the sources do not keep is not prepared more than once while a step is near.
        self.row = lru_cache(maxsize=plan.reach)(partial(sources.row, plan.size, plan.side))

    def move(self, strip: Strip) -> None:
        """Look at other rows."""
        for slot in strip.clear:
            self.ring[slot].zero_()
        for run in strip.compared:
            self._compare(run)
        first, last = strip.span
        add_up([self.ring[slot, first:last] for slot in strip.slots], self.columns[first:last])

    def sum(self, step: Step) -> Tensor:
        """Scores of a step's windows: ``(N, B)``, until the next call."""
        for run in step.compared:
            self._compare(run)
        for row, column in step.added:
            self.unit_columns[column].add_(self._scores(row, column))
        terms = self.unit_columns[slice(*step.columns)] if step.columns else []
        return add_up(terms + [self._scores(*unit) for unit in step.passing], self.total)

    def write(self, step: Step, picks: Tensor) -> None:
        """Copy a step's units from the picked sources, ``(N,)``."""
        for row, column in step.withdrawn:
            self.unit_columns[column].sub_(self._scores(row, column))
        for run in step.writes:
            units = slice(run.first, run.last)
            vectors = self.row(run.row).pick(units, picks)
            torch.mul(vectors, -2.0, out=self.factors[run.row, units, : self.length])

    def queries(self) -> Tensor:
        """The keys the images hold now: ``(rows, columns, K, N)`` int16."""
        return (self.factors[:, :, : self.length] / -2).to(torch.int16)

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


def nearest(scores: Tensor, count: int) -> Tensor:
    """The sources of the smallest scores, in order; the lower source first among equals.

    Args:
        scores: ``(N, B)`` integers.
        count: how many, at most B.

    Returns:
        ``(N, count)`` int64.
    """
    groups = scores.shape[1] // _GROUP
    if groups < 4 * max(count, 8):
        return _smallest(scores, torch.arange(scores.shape[1], device=scores.device), scores.shape[1], count)
    # Take the `count` groups of neighbours with the smallest minima, the lower among equals. Each of them has a source
    # that comes before all sources of the groups not taken: one of a smaller score, or of an equal one and a
    # lower number. So the nearest are among theirs and those left over at the end.
    end = groups * _GROUP
    grouped = scores[:, :end].unflatten(1, (groups, _GROUP))
    taken = _smallest(grouped.amin(2), torch.arange(groups, device=scores.device), groups, count)[:, :, None]
    inside = torch.arange(_GROUP, device=scores.device)
    rest = torch.arange(end, scores.shape[1], device=scores.device).expand(len(scores), -1)
    candidates = torch.cat([(taken * _GROUP + inside).flatten(1), rest], 1)
    found = grouped.gather(1, taken.expand(-1, -1, _GROUP)).flatten(1)
    return _smallest(torch.cat([found, scores[:, end:]], 1), candidates, scores.shape[1], count)


def _smallest(scores: Tensor, sources: Tensor, total: int, count: int) -> Tensor:
    # Score and source in one number: no two are equal, and ties go to the lower source.
    ranked = torch.add(sources, scores, alpha=total).topk(count, dim=1, largest=False, sorted=True).values
    return ranked.remainder_(total)
