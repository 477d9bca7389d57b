"""The Numba backend of the search, for CPUs.

Its results equal those of torch bit for bit, because the arithmetic is exact. Images are divided among threads. Each
thread visits every place with all its images together, so that it reads the sources once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ....errors import SettingError
from ....runs.interruption import checkpoint
from ....runs.system import has_numba as installed
from ....runs.threads import num_threads, run_in_threads
from .prepared import PreparedSources, paste, score_bound
from .schedule import Scale, places_in_units

__all__ = [
    "MAX_NEIGHBORS",
    "Place",
    "Scan",
    "Walk",
    "check_backend",
    "installed",
    "is_chosen",
    "resize",
    "scale_walk",
    "score_buffer",
    "walk_of",
]

IntArray = npt.NDArray[np.int64]

#: Largest number of neighbors: the list of the nearest is kept sorted by insertion.
MAX_NEIGHBORS = 64


def check_backend(backend: str | None, backends: Sequence[str]) -> None:
    """Raise an error for a backend that a sampler does not have.

    Raises:
        SettingError: if ``backend`` is neither None nor one of ``backends``.
    """
    if backend not in (None, *backends):
        raise SettingError("backend", backend, f"{', '.join(backends[:-1])} or {backends[-1]}")


def is_chosen(
    backend: str | None, sources: PreparedSources, neighbors: int, grids: Collection[tuple[tuple[int, int], int]]
) -> bool:
    """Return whether a search runs in this backend.

    Args:
        backend: name of the backend; None to choose Numba wherever possible.
        sources: sources to copy from.
        neighbors: number of nearest sources to choose from.
        grids: sizes of the grids in cells, each with the side of a unit.

    Raises:
        SettingError: if ``backend`` is ``"numba"`` and Numba cannot run the search.
    """
    if backend not in (None, "numba"):
        return False
    obstacle = _obstacle(sources, neighbors, grids)
    if backend == "numba" and obstacle is not None:
        raise SettingError("backend", backend, f"another one here ({obstacle})")
    return obstacle is None


def _obstacle(sources: PreparedSources, neighbors: int, grids: Collection[tuple[tuple[int, int], int]]) -> str | None:
    """Return the reason why Numba cannot run a search; None if it can."""
    if not installed():
        return "Numba is not installed"
    if sources.keys.device.type != "cpu":
        return f"Numba needs sources on the CPU, not on {sources.keys.device}"
    if type(sources) is not PreparedSources:
        return "the sources are distributed over several processes"
    if neighbors > MAX_NEIGHBORS:
        return f"neighbors must be at most {MAX_NEIGHBORS} in Numba, got {neighbors}"
    if not sources.keeps(grids):
        return f"the layouts of {len(sources.keys)} sources exceed the memory limit"
    return None


def score_buffer(count: int, sums: torch.dtype) -> npt.NDArray[Any]:
    """Allocate the score buffer.

    It is allocated by NumPy, which uses huge pages and so avoids page-fault cost.
    """
    return np.empty(count, dtype=np.int32 if sums == torch.int32 else np.int64)


class Place(NamedTuple):
    """One step of a schedule, in units.

    Attributes:
        window: units with a value that are compared.
        block: units that are written.
        around: units around the block, whose sources are exempt from the switch cost.
        blind: whether the window has no unit with a value.
        band: band of the grid that the block is in.
    """

    window: Sequence[int]
    block: Sequence[int]
    around: Sequence[int] = ()
    blind: bool = False
    band: int = 0


@dataclass(frozen=True)
class Walk:
    """The schedule of one scale, in units (square blocks of cells). Places in one wave are independent.

    Attributes:
        waves: ``(waves + 1,)`` first place of each wave.
        windows: ``(places + 1,)`` offset of each place in ``window_units``.
        window_units: units with a value that are compared.
        blocks: ``(places + 1,)`` offset of each place in ``block_units``.
        block_units: units that are written.
        rings: ``(places + 1,)`` offset of each place in ``ring_units``.
        ring_units: units around the block.
        blind: ``(places,)`` whether the window has no unit with a value.
        wave_units: ``(waves,)`` number of units that a wave writes.
        bands: ``(places,)`` band of the grid that the block is in.
    """

    waves: IntArray
    windows: IntArray
    window_units: IntArray
    blocks: IntArray
    block_units: IntArray
    rings: IntArray
    ring_units: IntArray
    blind: npt.NDArray[np.bool_]
    wave_units: IntArray
    bands: IntArray

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """Return all attributes, in order."""
        return (
            self.waves, self.windows, self.window_units, self.blocks, self.block_units, self.rings, self.ring_units,
            self.blind, self.wave_units, self.bands,
        )  # fmt: skip


def walk_of(waves: Sequence[Sequence[Place]]) -> Walk:
    """Build a schedule from the places of each wave."""
    places = [place for wave in waves for place in wave]
    return Walk(
        _offsets([len(wave) for wave in waves]),
        *_concatenate([place.window for place in places]),
        *_concatenate([place.block for place in places]),
        *_concatenate([place.around for place in places]),
        np.array([place.blind for place in places], dtype=np.bool_),
        np.array([sum(len(place.block) for place in wave) for wave in waves], dtype=np.int64),
        np.array([place.band for place in places], dtype=np.int64),
    )


def _concatenate(parts: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Return the offset of each part in the concatenation of all parts, and that concatenation."""
    return _offsets([len(part) for part in parts]), np.array([unit for part in parts for unit in part], dtype=np.int64)


def _offsets(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@lru_cache(maxsize=64)
def scale_walk(scale: Scale) -> Walk:
    """Build the schedule of a raster scale, with one place in each wave."""
    return walk_of([[Place(place.window, place.block, blind=place.blind)] for place in places_in_units(scale)])


def resize(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the keys of a few images as :func:`~latentpatch.methods.latent.search.keys.resize_keys` does.

    Done in Numba: a torch call would wake its OpenMP pool, whose spinning threads compete with ours.
    """
    from .numba_grids import resize as resize_loop

    if keys.shape[1:3] == size:
        return keys
    resized = np.empty((len(keys), *size, keys.shape[3]), dtype=np.int16)
    resize_loop(keys.contiguous().numpy(), resized)
    return torch.from_numpy(resized)


class Scan:
    """A search of several images on a grid of one size.

    Args:
        sources: sources to copy from.
        size: cells ``(h, w)`` of the grid.
        side: side of a unit, in cells.
        grid: ``(N, h, w, r)`` keys of the images before the search.
        has_value: ``(h, w)`` bool, cells with a value before the search.
        norm: upper bound on the norms of all keys.
        sums: integer dtype of sums of scores over windows.
        limit: largest number of units copied from all variants of a picture; None for no limit.
        donors: ``(N, pictures)`` int64, band of the places that may copy a picture, -1 for none; None where all are in
            band 0 and may copy all. It needs a limit.
        switch_cost: added to the score of sources that no unit around the block was copied from.
        reuse_cost: added to the score of a source for each unit copied from it.
        buffer: scores, at least images x units x sources elements of dtype ``sums``; None to allocate it.
    """

    def __init__(
        self,
        sources: PreparedSources,
        size: tuple[int, int],
        side: int,
        grid: Tensor,
        has_value: npt.NDArray[np.bool_],
        norm: int,
        sums: torch.dtype,
        limit: int | None = None,
        donors: Tensor | None = None,
        switch_cost: int = 0,
        reuse_cost: int = 0,
        buffer: npt.NDArray[Any] | None = None,
    ) -> None:
        # The import needs Numba and takes a moment.
        from .numba_grids import cut

        units = sources.units(size, side)
        self.size, self.side, self.shape = size, side, units.vectors.shape[:2]
        count, images = len(sources.keys), len(grid)
        self.vectors = units.vectors.flatten(0, 1).numpy()
        # The norms of a reference may exceed those of all sources.
        exact = torch.float32 if score_bound(side, norm) <= 1 << 24 else torch.float64
        self.norms = units.norms.flatten(0, 2).to(exact).numpy()
        self.queries = np.empty((images, *self.vectors.shape[:2]), dtype=np.int16)
        cut(grid.contiguous().numpy(), side, self.queries)
        self.has_value = has_value[::side, ::side].ravel().copy()
        shape = (images, len(self.vectors), count)
        self.scores = score_buffer(prod(shape), sums) if buffer is None else buffer[: prod(shape)]
        self.scores = self.scores.reshape(shape)
        self.costs = self.scores.dtype.type(switch_cost), self.scores.dtype.type(reuse_cost)
        self.index = np.full((images, len(self.vectors)), -1, dtype=np.int64)
        self.limit = limit or 0
        self.use_counts = np.zeros((images, count if limit else 1), dtype=np.int32)
        self.donor_bands = np.zeros(self.use_counts.shape, dtype=np.int8)
        if donors is not None:
            self.donor_bands[:] = donors[:, sources.groups].numpy()
        self.pictures = sources.groups.numpy(), *(part.numpy() for part in sources.members)
        self.must_compare = True

    def run(self, walk: Walk, ranks: Tensor, guesses: Tensor, neighbors: int) -> None:
        """Visit every place of a schedule and copy the chosen sources into the images.

        Args:
            walk: schedule of the sweep.
            ranks: ``(N, places)`` rank of the neighbor to copy.
            guesses: ``(N, places)`` source to copy at blind places.
            neighbors: number of nearest sources to choose from.
        """
        from .numba_kernels import run_sweep

        checkpoint()
        rank_array, guess_array = ranks.contiguous().numpy(), guesses.contiguous().numpy()

        def run_images(part: slice) -> None:
            run_sweep(  # type: ignore[call-arg]
                self.vectors, self.norms, self.queries[part], self.has_value, self.scores[part], *walk.arrays,
                rank_array[part], guess_array[part], neighbors, self.index[part], self.use_counts[part],
                self.donor_bands[part], *self.pictures, self.limit, *self.costs, self.must_compare,
            )  # fmt: skip

        _in_threads(run_images, len(self.queries))
        self.must_compare = False

    def allot(self, walk: Walk, order: Tensor, candidates: int, rounds: int) -> None:
        """Assign sources to all blocks within their capacity, before the first sweep: see :mod:`.assignment`.

        Args:
            walk: schedule of a sweep.
            order: ``(places,)`` rank of each place; the lower rank wins ties.
            candidates: number of sources that each place considers.
            rounds: number of rounds of assignment.
        """
        from .numba_kernels import allot

        checkpoint()
        numbers = order.numpy()

        def run_images(part: slice) -> None:
            allot(  # type: ignore[call-arg]
                self.vectors, self.norms, self.queries[part], self.scores[part], walk.windows, walk.window_units,
                walk.blocks, walk.block_units, walk.bands, numbers, self.index[part], self.use_counts[part],
                self.donor_bands[part], *self.pictures, self.limit, candidates, rounds,
            )  # fmt: skip

        _in_threads(run_images, len(self.queries))
        self.must_compare = False

    def picks(self) -> Tensor:
        """Return the source of each cell, -1 for none: ``(N, h, w)`` int64."""
        units = torch.from_numpy(self.index)[:, :, None].expand(-1, -1, self.side**2)
        return paste(units.unflatten(1, self.shape).permute(1, 2, 3, 0), self.size, self.side)[..., 0]

    def grid(self) -> Tensor:
        """Return the keys of the images: ``(N, h, w, r)`` int16."""
        from .numba_grids import paste as paste_loop

        grid = np.empty((len(self.queries), *self.size, self.queries.shape[2] // self.side**2), dtype=np.int16)
        paste_loop(self.queries, self.side, grid)
        return torch.from_numpy(grid)


def _in_threads(work: Callable[[slice], None], images: int) -> None:
    """Call ``work`` for all images in parts, one part per torch thread, the first in the calling thread."""
    threads = max(1, min(num_threads(), images))
    parts = [slice(images * part // threads, images * (part + 1) // threads) for part in range(threads)]
    run_in_threads([partial(work, part) for part in parts])
