"""PatchMatch in torch: all patches at once, on any device; :mod:`.patchmatch` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .patches import fold_patches, patch_grid

if TYPE_CHECKING:
    from .patch_prior import PatchPrior
    from .patchmatch import Sources

__all__ = ["search", "vote"]

_BITS = 0x7FFFFFFF
_CHUNK = 1 << 16  # compared patches, which bounds the memory
_RESTARTS = 4  # random matches a patch begins with, for each that it keeps


def search(
    query: Tensor, sources: Sources, k: int, seed: int, sweeps: int, start: Tensor, wanted: Tensor, radius: int,
    prior: PatchPrior,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return matches and scores, see :func:`latentpatch.ops.patchmatch.patchmatch`."""
    compare = _Comparison(query, sources, prior)
    rows, columns = wanted.shape
    begin = [start]
    begin += [compare.random(seed, 0, draw, (rows, columns))[:, :, None] for draw in range(k + _RESTARTS)]
    matches = torch.full((rows, columns, k, 3), -1, dtype=torch.int32, device=query.device)
    scores = torch.full((rows, columns, k), torch.inf, device=query.device)
    matches, scores = compare.offer(matches, scores, torch.cat(begin, 2), wanted)
    for sweep in range(sweeps):
        # Matches of neighbors near and far: a good one crosses a picture in few sweeps.
        for step in (1, 2, 4) if sweep % 2 == 0 else (1, 8):
            found = torch.cat([_moved(matches, down * step, right * step)
                               for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0))], 2)  # fmt: skip
            matches, scores = compare.offer(matches, scores, found, wanted)
        offers, reach, draw = [compare.random(seed, sweep + 1, 0, (rows, columns))[:, :, None]], radius, 0
        while reach >= 1:
            offers.append(compare.around(matches, seed, sweep + 1, draw, reach))
            draw, reach = draw + 2 * k, reach // 2
        matches, scores = compare.offer(matches, scores, torch.cat(offers, 2), wanted)
    return matches, scores


def vote(matches: Tensor, shares: Tensor, pictures: Sequence[Tensor], side: int, size: Sequence[int]) -> Tensor:
    """Return the weighted mean of the matches' patches, see :func:`latentpatch.ops.patchmatch.vote`.

    Args:
        matches: ``(rows, columns, k, 3)`` int32.
        shares: ``(rows, columns, k)`` float32.
        pictures: sources ``(C, H, W)``.
        side: of a patch, in pixels.
        size: height and width of the result.
    """
    flat, begins, widths = _flat(pictures)
    offsets = torch.arange(side, device=matches.device)
    patches = flat.new_zeros(())
    for each, share in zip(matches.unbind(2), shares.unbind(2), strict=True):
        picture = each[..., 0].long()
        at = begins[picture] + each[..., 1] * widths[picture] + each[..., 2]
        inside = offsets[:, None] * widths[picture][..., None, None] + offsets
        patches = patches + flat[at[..., None, None] + inside] * share[..., None, None, None]
    total = fold_patches(shares.sum(2, keepdim=True).expand(-1, -1, side**2)[None], size, side)[0]
    values = patches.permute(0, 1, 4, 2, 3).flatten(2)  # from (rows, columns, side, side, C)
    return fold_patches(values[None], size, side)[0] / total


def _flat(pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return all pixels ``(P, C)``, and for each picture its first pixel and its width."""
    device = pictures[0].device
    pixels = [picture.permute(1, 2, 0).flatten(0, 1) for picture in pictures]
    begins = torch.tensor([0, *map(len, pixels)], device=device).cumsum(0)[:-1]
    return torch.cat(pixels), begins, torch.tensor([picture.shape[2] for picture in pictures], device=device)


def _moved(matches: Tensor, down: int, right: int) -> Tensor:
    """Return the matches of the patches that many rows above and columns to the left, moved along; -1 for none."""
    rows, columns = matches.shape[:2]
    result = torch.full_like(matches, -1)
    into = (slice(max(0, down), rows + min(0, down)), slice(max(0, right), columns + min(0, right)))
    out = (slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), columns - max(0, right)))
    if abs(down) < rows and abs(right) < columns:
        found = matches[out]
        step = torch.tensor([0, down, right], dtype=matches.dtype, device=matches.device)
        result[into] = torch.where(found[..., :1] < 0, -1, found + step)
    return result


def _hashed(seed: int, sweep: int, draw: int, places: Tensor) -> Tensor:
    """Return 31 random bits for each place, int64: the same on any device."""
    first = torch.tensor(
        (((seed ^ (seed >> 31)) & _BITS) * 0x9E3779B1 + sweep * 0x85EBCA6B + draw * 0xC2B2AE35) & _BITS
    )
    bits = (places * 0x2545F491 + first.to(places.device)) & _BITS
    for factor in (0x7FEB352D, 0x4F1BBCDC):
        bits = ((bits ^ (bits >> 15)) * factor) & _BITS
    return bits ^ (bits >> 13)


class _Comparison:
    """Compares patches of a picture with those of the sources."""

    def __init__(self, query: Tensor, sources: Sources, prior: PatchPrior) -> None:
        self.prior, self.grid = prior, patch_grid(query.shape[1:], sources.side)
        self.side, self.query = sources.side, query.permute(1, 2, 0).flatten(0, 1)
        self.width = query.shape[2]
        self.pixels, self.begins, self.widths = _flat(sources.pictures)
        device = query.device
        self.grids = torch.tensor(sources.grids, device=device)
        self.firsts = torch.tensor([0, *(h * w for h, w in sources.grids)], device=device).cumsum(0)
        self.weights = None
        if sources.weights is not None:
            self.weights = torch.cat([each.float().flatten() for each in sources.weights])

    def random(self, seed: int, sweep: int, draw: int, grid: tuple[int, int]) -> Tensor:
        """Return a random patch for each place: ``(rows, columns, 3)`` int32."""
        places = torch.arange(grid[0] * grid[1], device=self.pixels.device)
        number = _hashed(seed, sweep, draw, places) % self.firsts[-1]
        picture = torch.searchsorted(self.firsts[1:], number, right=True)
        number = number - self.firsts[picture]
        columns = self.grids[picture, 1]
        return torch.stack([picture, number // columns, number % columns], -1).to(torch.int32).view(*grid, 3)

    def around(self, matches: Tensor, seed: int, sweep: int, draw: int, reach: int) -> Tensor:
        """Return random patches around matches, up to ``reach`` pixels away."""
        rows, columns, k, _ = matches.shape
        places = torch.arange(rows * columns * k, device=matches.device).view(rows, columns, k)
        moves = [_hashed(seed, sweep, draw + 1 + axis, places) % (2 * reach + 1) - reach for axis in range(2)]
        near = matches + torch.stack([torch.zeros_like(moves[0]), *moves], -1).to(torch.int32)
        return torch.where(matches[..., :1] < 0, -1, near)

    def offer(self, matches: Tensor, scores: Tensor, found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best of matches and of what is found, for the patches that are wanted."""
        k = matches.shape[2]
        picture, row, column = found.long().unbind(-1)
        grids = self.grids[picture.clamp(min=0)]
        is_inside = (picture >= 0) & (row >= 0) & (column >= 0) & (row < grids[..., 0]) & (column < grids[..., 1])
        is_inside &= wanted[:, :, None]
        fresh = torch.full(found.shape[:3], torch.inf, device=found.device)
        at = is_inside.nonzero()
        for part in at.split(_CHUNK):
            fresh[tuple(part.T)] = self._scores(part, found[tuple(part.T)].long())
        every, values = torch.cat([matches, found], 2), torch.cat([scores, fresh], 2)
        values, order = values.sort(dim=2, stable=True)
        every = every.gather(2, order[..., None].expand_as(every))
        # Equal matches have equal scores, but others may stand between them.
        kept, best = every[:, :, :0], values[:, :, :0]
        for _ in range(k):
            kept, best = torch.cat([kept, every[:, :, :1]], 2), torch.cat([best, values[:, :, :1]], 2)
            is_same = (every == every[:, :, :1]).all(-1)
            values = torch.where(is_same, torch.inf, values)
            values, order = values.sort(dim=2, stable=True)
            every = every.gather(2, order[..., None].expand_as(every))
        return torch.where(best[..., None].isinf(), -1, kept), best

    def _scores(self, places: Tensor, found: Tensor) -> Tensor:
        """Return the scores of patches at places ``(n, 3)`` with matches ``(n, 3)``."""
        picture, row, column = found.unbind(-1)
        width = self.widths[picture]
        source = self.begins[picture] + row * width + column
        query = places[:, 0] * self.width + places[:, 1]
        total = torch.zeros(len(found), device=found.device)
        for down in range(self.side):
            for right in range(self.side):
                one = self.query[query + (down * self.width + right)]
                total += (one - self.pixels[source + down * width + right]).square().sum(1)
        if self.weights is not None:
            weight = self.weights[self.firsts[picture] + row * self.grids[picture, 1] + column]
            total = torch.where(weight.isinf(), torch.inf, total * weight)
        if self.prior.costs.numel():
            at, ends = torch.stack([row, column], 1), (self.grids[picture] - 1).clamp(min=1)
            own = places[:, :2] / (torch.tensor(self.grid, device=at.device) - 1).clamp(min=1)
            total = total + self.prior.costs[places[:, 0], places[:, 1], picture]
            total = total + self.prior.position * 4 * (own - at / ends).square().sum(1)
        return total
