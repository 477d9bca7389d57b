"""PatchMatch: approximate nearest neighbors of all patches of a picture (Barnes et al., 2009 and 2010).

Matches start at random or from those of an earlier search. Each sweep offers each patch the matches of its neighbors,
moved along, and random patches around its own matches. The search in Numba is sequential within bands of a fixed
height; the search in torch, for machines without Numba and for GPUs, updates all patches at once and needs more sweeps
for the same quality. Equal seeds give equal matches for any number of threads; the two searches differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingDependencyError, SettingError
from ..runs.system import has_numba
from ..runs.threads import run_in_threads
from ..validation import check_choice, check_integer
from . import patchmatch_torch
from .patch_prior import PatchPrior, in_place
from .patches import patch_grid

__all__ = ["BACKENDS", "Field", "Sources", "patchmatch", "resize_matches", "vote"]

#: Implementations of the search, the fastest first.
BACKENDS = ("numba", "torch")
_BAND_ROWS = 24  # searched by one thread in order; a constant, so that results do not depend on the threads


class Field(NamedTuple):
    """Matches of the patches of a picture.

    Attributes:
        matches: ``(rows, columns, k, 3)`` int32: number of the picture, row and column; -1 where there is none.
        scores: ``(rows, columns, k)`` float32, ascending; infinity where there is no match.
    """

    matches: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Sources:
    """Pictures whose patches are searched.

    Attributes:
        pictures: ``(C, H, W)`` float32 each; heights and widths may differ.
        side: of a patch, in pixels.
        weights: ``(rows, columns)`` float32 for each picture, positive factors of its patches' scores; infinity
            excludes a patch. None for 1.
    """

    pictures: Sequence[Tensor]
    side: int
    weights: Sequence[Tensor] | None = None

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of the patches of each picture."""
        return [patch_grid(picture.shape[1:], self.side) for picture in self.pictures]

    def masked(self, allowed: Sequence[Tensor]) -> Sources:
        """Return these pictures without the patches that have a pixel which is not allowed.

        Args:
            allowed: ``(H, W)`` bool for each picture.
        """
        weights = []
        for number, (mask, grid) in enumerate(zip(allowed, self.grids, strict=True)):
            whole = mask.unfold(0, self.side, 1).unfold(1, self.side, 1).all(-1).all(-1)
            own = whole.new_ones(grid, dtype=torch.float32) if self.weights is None else self.weights[number]
            weights.append(torch.where(whole, own, torch.inf))
        if not any(bool(each.isfinite().any()) for each in weights):
            raise SettingError("mask", "all", f"such that a patch of {self.side} x {self.side} pixels is left")
        return Sources(self.pictures, self.side, weights)


def patchmatch(
    query: Tensor,
    sources: Sources,
    *,
    k: int = 1,
    seed: int = 0,
    sweeps: int = 6,
    start: Tensor | None = None,
    wanted: Tensor | None = None,
    radius: int | None = None,
    prior: PatchPrior | None = None,
    backend: str | None = None,
) -> Field:
    """Return the approximate nearest patches of every patch of a picture.

    Args:
        query: ``(C, H, W)`` float32.
        sources: the pictures to search.
        k: matches of a patch, at most the number of patches of the sources.
        seed: of the random patches.
        sweeps: times that every patch is visited.
        start: ``(rows, columns, n, 3)`` matches of an earlier search, -1 for none; at random by default.
        wanted: ``(rows, columns)`` bool, the patches to search for; all by default. The others have no match.
        radius: largest distance, in pixels, of the random patches; by default the longest side of the sources.
        prior: added to the scores; with a weight of the position, patches in place are among those to start from.
        backend: of :data:`BACKENDS`; by default Numba where it is installed and the picture is on the CPU.

    Raises:
        SettingError, MissingDependencyError: for arguments that do not go together; without Numba, if it is named.
    """
    rows, columns = patch_grid(query.shape[1:], sources.side)
    check_integer("sweeps", sweeps, 0)
    check_integer("k", k, 1, sum(h * w for h, w in sources.grids))
    for picture in sources.pictures:
        if picture.shape[0] != query.shape[0]:
            raise SettingError("sources", tuple(picture.shape), f"of {query.shape[0]} channels")
    if start is not None and (start.shape[:2] != (rows, columns) or start.shape[3:] != (3,)):
        raise SettingError("start", tuple(start.shape), f"of shape ({rows}, {columns}, n, 3)")
    reach = max(max(grid) for grid in sources.grids) if radius is None else check_integer("radius", radius, 0)
    if wanted is None:
        wanted = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
    if start is None:
        start = torch.full((rows, columns, 0, 3), -1, dtype=torch.int32, device=query.device)
    if prior is None:
        prior = PatchPrior(query.new_zeros(0, 0, 0))
    elif prior.costs.shape != (rows, columns, len(sources.pictures)):
        raise SettingError("prior", tuple(prior.costs.shape), f"of shape {(rows, columns, len(sources.pictures))}")
    elif prior.position:
        start = torch.cat([start.to(torch.int32), in_place((rows, columns), sources.grids).to(start.device)], 2)
    search = _numba_search if _uses_numba(backend, query) else patchmatch_torch.search
    return Field(*search(query, sources, k, seed, sweeps, start.to(torch.int32), wanted, reach, prior))


def vote(
    field: Field, sources: Sources, size: Sequence[int], backend: str | None = None, shares: Tensor | None = None
) -> Tensor:
    """Return the picture whose pixels are the weighted means of the matches' patches that have them.

    Args:
        field: matches of all patches.
        sources: the pictures to take pixels from, of the sizes of those searched.
        size: height and width of the result.
        backend: see :func:`patchmatch`.
        shares: ``(rows, columns, k)`` float32, positive weights of a patch's matches; None for the best alone.

    Returns:
        ``(C, height, width)`` float32.
    """
    best = field.matches[:, :, :1]
    found, parts = (best, torch.ones(best.shape[:3])) if shares is None else (field.matches, shares)
    if not _uses_numba(backend, field.matches):
        return patchmatch_torch.vote(found, parts.to(found.device), sources.pictures, sources.side, size)
    from . import patchmatch_kernels as kernels

    packed, channels = _pack(sources), sources.pictures[0].shape[0]
    image = np.empty((size[0], size[1], channels), np.float32)
    picked = found.contiguous().numpy(), parts.contiguous().numpy()
    pixels = packed["source"], packed["begins"], packed["widths"]

    def fill(first: int, last: int) -> None:
        kernels.vote_rows(*picked, *pixels, channels, sources.side, image, first, last)

    _in_bands(fill, size[0], 0)
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def resize_matches(
    matches: Tensor,
    grid: Sequence[int],
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
) -> Tensor:
    """Return matches of a finer, or coarser, picture in finer, or coarser, sources: a start for the next scale.

    Args:
        matches: ``(rows, columns, k, 3)`` int32.
        grid: rows and columns of the patches of the result.
        before: rows and columns of the patches of each source, for ``matches``.
        after: the same for the result.

    Returns:
        ``(*grid, k, 3)`` int32. Matches of neighbors stay neighbors: the parts of a patch's move are kept.
    """
    rows, columns = matches.shape[:2]
    device = matches.device
    ys, xs = (torch.arange(n, device=device) for n in grid)
    up, left = (ys * rows // grid[0])[:, None], (xs * columns // grid[1])[None]
    found = matches[up, left].long()
    old, new = (torch.tensor([*map(tuple, sizes)], device=device) for sizes in (before, after))
    picture = found[..., 0].clamp(min=0)
    places = []
    for axis, (at, parent) in enumerate(((ys[:, None], up), (xs[None], left))):
        # The rest of the position within its parent moves the match by as many pixels.
        scale = new[picture, axis] / old[picture, axis]
        own = grid[axis] / matches.shape[axis]
        rest = (at - torch.ceil(parent * own).long())[..., None]
        place = torch.ceil(found[..., 1 + axis] * scale).long() + rest
        places.append(place.clamp(min=0).minimum(new[picture, axis] - 1))
    result = torch.stack([picture, *places], -1)
    return torch.where(found[..., :1] < 0, -1, result).to(torch.int32)


def _uses_numba(backend: str | None, query: Tensor) -> bool:
    if backend is not None:
        check_choice("backend", backend, BACKENDS)
    if backend == "numba":
        if not has_numba():
            raise MissingDependencyError("numba", "numba", "the backend numba")
        if query.device.type != "cpu":
            raise SettingError("backend", backend, f"torch on {query.device.type}")
    return backend == "numba" or (backend is None and has_numba() and query.device.type == "cpu")


def _pack(sources: Sources) -> dict[str, Any]:
    """Return the pictures as one flat array, and where each begins."""
    flat = [picture.permute(1, 2, 0).reshape(-1).numpy() for picture in sources.pictures]
    grids = np.array(sources.grids, np.int64)
    weights = sources.weights or [torch.ones(h, w) for h, w in sources.grids]
    return {
        "source": np.concatenate(flat),
        "begins": np.cumsum([0, *map(len, flat)])[:-1].astype(np.int64),
        "widths": np.array([picture.shape[2] for picture in sources.pictures], np.int64),
        "weights": np.concatenate([each.float().reshape(-1).numpy() for each in weights]),
        "firsts": np.cumsum([0, *grids.prod(1)]).astype(np.int64),
        "columns": np.ascontiguousarray(grids[:, 1]),
        "rows": np.ascontiguousarray(grids[:, 0]),
    }


def _numba_search(
    query: Tensor, sources: Sources, k: int, seed: int, sweeps: int, start: Tensor, wanted: Tensor, radius: int,
    prior: PatchPrior,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Search in bands of rows, each by one thread."""
    from . import patchmatch_kernels as kernels

    packed = _pack(sources)
    rows, columns = wanted.shape
    matches, scores = np.full((rows, columns, k, 3), -1, np.int32), np.full((rows, columns, k), np.inf, np.float32)
    flat = query.permute(1, 2, 0).reshape(-1).numpy()
    inputs = (
        *(flat, query.shape[2], query.shape[0], sources.side, packed["source"], packed["begins"], packed["widths"]),
        *(packed["weights"], packed["firsts"], packed["columns"], packed["rows"]),
        prior.costs.float().contiguous().numpy() if prior.costs.numel() else None,
        *(np.float32(prior.position), wanted.numpy()),
    )
    begin = start.contiguous().numpy()

    def fill(first: int, last: int) -> None:
        kernels.start_rows(*inputs, begin, matches, scores, seed, first, last)

    _in_bands(fill, rows, 0)
    for sweep in range(sweeps):
        before = matches.copy()

        def search(first: int, last: int, sweep: int = sweep, before: Any = before) -> None:
            kernels.search_band(*inputs, before, matches, scores, seed, sweep, radius, first, last)

        _in_bands(search, rows, sweep % 2 * (_BAND_ROWS // 2))
    return torch.from_numpy(matches), torch.from_numpy(scores)


def _in_bands(function: Callable[[int, int], None], rows: int, shift: int) -> None:
    """Call a function of the first and last row for every band, in as many threads as torch uses."""
    bounds = [0, *range(_BAND_ROWS - shift, rows, _BAND_ROWS), rows]
    bands = list(pairwise(bounds))
    threads = min(torch.get_num_threads(), len(bands))

    def run(part: int) -> None:
        for first, last in bands[part::threads]:
            function(first, last)

    run_in_threads([partial(run, part) for part in range(threads)])
