"""The search on CPUs in one pass over the places, where Numba is installed.

Results are those of torch's operations bit for bit: the arithmetic is exact. Images are shared out among threads, and
each thread takes its images through all places together, so that sources are read once a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .prepared import PreparedSources, paste, score_bound
from .schedule import Scale, places_in_units

__all__ = [
    "MAX_NEIGHBOURS",
    "Place",
    "Scan",
    "Walk",
    "check_backend",
    "chosen",
    "installed",
    "resize",
    "scale_walk",
    "score_room",
    "walk_of",
]

IntArray = npt.NDArray[np.int64]

#: Neighbours that are kept in order while they are looked for.
MAX_NEIGHBOURS = 64


@lru_cache(maxsize=1)
def installed() -> bool:
    """Whether Numba is."""
    return find_spec("numba") is not None


def check_backend(backend: str | None, backends: Sequence[str]) -> None:
    """Refuse a backend that a sampler does not have.

    Raises:
        ValueError: where it is not one of them.
    """
    if backend not in (None, *backends):
        raise ValueError(f"backend {backend!r}: {', '.join(backends[:-1])} or {backends[-1]} is expected")


def chosen(
    backend: str | None, sources: PreparedSources, neighbours: int, grids: Collection[tuple[tuple[int, int], int]]
) -> bool:
    """Whether a search is done here.

    Args:
        backend: what the caller asks for; None to be done here wherever possible.
        sources: to copy from.
        neighbours: how many are drawn from.
        grids: sizes of grids in cells, with the side of a unit.

    Raises:
        ValueError: where it is told to be, and cannot.
    """
    if backend not in (None, "numba"):
        return False
    obstacle = _obstacle(sources, neighbours, grids)
    if backend == "numba" and obstacle is not None:
        raise ValueError(f"backend 'numba': {obstacle}")
    return obstacle is None


def _obstacle(sources: PreparedSources, neighbours: int, grids: Collection[tuple[tuple[int, int], int]]) -> str | None:
    if not installed():
        return "Numba is not installed"
    if sources.keys.device.type != "cpu":
        return f"device {sources.keys.device}: the CPU is expected"
    if type(sources) is not PreparedSources:
        return "sources that are shared with other processes"
    if neighbours > MAX_NEIGHBOURS:
        return f"neighbours {neighbours}: at most {MAX_NEIGHBOURS} is expected"
    if not sources.keeps(grids):
        return f"{len(sources.keys)} sources are more than are kept in memory at all sizes"
    return None


def score_room(count: int, sums: torch.dtype) -> npt.NDArray[Any]:
    """Room for scores: NumPy asks for huge pages, a search would else spend its time on having memory given."""
    return np.empty(count, dtype=np.int32 if sums == torch.int32 else np.int64)


class Place(NamedTuple):
    """One step, in units.

    Attributes:
        window: what is compared, as far as it is known.
        block: what is written.
        around: whose sources it costs nothing to go on with.
        blind: whether nothing is known.
    """

    window: Sequence[int]
    block: Sequence[int]
    around: Sequence[int] = ()
    blind: bool = False


@dataclass(frozen=True)
class Walk:
    """Places in order, told in units; those of a wave do not see each other.

    Attributes:
        waves: ``(waves + 1,)`` first place of each wave.
        windows: ``(places + 1,)`` first of each place's ``window_units``.
        window_units: what is compared, as far as it is known.
        blocks: ``(places + 1,)`` first of each place's ``block_units``.
        block_units: what is written.
        rings: ``(places + 1,)`` first of each place's ``ring_units``.
        ring_units: those around the block.
        blind: ``(places,)`` whether nothing is known there.
        room: ``(waves,)`` units a wave writes.
    """

    waves: IntArray
    windows: IntArray
    window_units: IntArray
    blocks: IntArray
    block_units: IntArray
    rings: IntArray
    ring_units: IntArray
    blind: npt.NDArray[np.bool_]
    room: IntArray

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All of them, in order."""
        return (
            self.waves, self.windows, self.window_units, self.blocks, self.block_units, self.rings, self.ring_units,
            self.blind, self.room,
        )  # fmt: skip


def walk_of(waves: Sequence[Sequence[Place]]) -> Walk:
    """From the places of each wave."""
    places = [place for wave in waves for place in wave]
    return Walk(
        _firsts([len(wave) for wave in waves]),
        *_joined([place.window for place in places]),
        *_joined([place.block for place in places]),
        *_joined([place.around for place in places]),
        np.array([place.blind for place in places], dtype=np.bool_),
        np.array([sum(len(place.block) for place in wave) for wave in waves], dtype=np.int64),
    )


def _joined(parts: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Where each begins, and all of them."""
    return _firsts([len(part) for part in parts]), np.array([unit for part in parts for unit in part], dtype=np.int64)


def _firsts(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@lru_cache(maxsize=64)
def scale_walk(scale: Scale) -> Walk:
    """The places of a raster scale, one after the other."""
    return walk_of([[Place(place.window, place.block, blind=place.blind)] for place in places_in_units(scale)])


def resize(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """What :func:`~latentpatch.methods.latent.search.keys.resize_keys` makes of a few images.

    Torch would rouse its threads for them, and these go on turning while the search's want to run.
    """
    from .numba_kernels import resize as resize_loop

    if keys.shape[1:3] == size:
        return keys
    resized = np.empty((len(keys), *size, keys.shape[3]), dtype=np.int16)
    resize_loop(keys.contiguous().numpy(), resized)
    return torch.from_numpy(resized)


class Scan:
    """Some images that are taken through walks on a grid of one size.

    Args:
        sources: to copy from.
        size: cells ``(h, w)`` of the grid.
        side: of a unit in cells.
        grid: ``(N, h, w, r)`` keys the images hold beforehand.
        known: ``(h, w)`` bool which cells hold something.
        norm: bound on the norms of all keys.
        sums: type of integers that hold sums of scores over windows.
        limit: units a source gives at most, with the other variants of its picture; None for no limit.
        barred: ``(N, pictures)`` bool, those that give none; None for none.
        switch_cost: added to the score of sources that none of the units around gives.
        use_cost: added to the score of a source for each unit it gave.
        room: for scores, of the type ``sums``: as many as there are images, units and sources, or more; None for its
            own.
    """

    def __init__(
        self,
        sources: PreparedSources,
        size: tuple[int, int],
        side: int,
        grid: Tensor,
        known: npt.NDArray[np.bool_],
        norm: int,
        sums: torch.dtype,
        limit: int | None = None,
        barred: Tensor | None = None,
        switch_cost: int = 0,
        use_cost: int = 0,
        room: npt.NDArray[Any] | None = None,
    ) -> None:
        from .numba_kernels import cut  # takes Numba, and a moment

        units = sources.units(size, side)
        self.size, self.side, self.shape = size, side, units.vectors.shape[:2]
        count, images = len(sources.keys), len(grid)
        self.vectors = units.vectors.flatten(0, 1).numpy()
        # A reference may be longer than all sources.
        exact = torch.float32 if score_bound(side, norm) <= 1 << 24 else torch.float64
        self.norms = units.norms.flatten(0, 2).to(exact).numpy()
        self.held = np.empty((images, *self.vectors.shape[:2]), dtype=np.int16)
        cut(grid.contiguous().numpy(), side, self.held)
        self.known = known[::side, ::side].ravel().copy()
        shape = (images, len(self.vectors), count)
        self.scores = score_room(prod(shape), sums) if room is None else room[: prod(shape)]
        self.scores = self.scores.reshape(shape)
        self.costs = self.scores.dtype.type(switch_cost), self.scores.dtype.type(use_cost)
        self.index = np.full((images, len(self.vectors)), -1, dtype=np.int64)
        self.limit = limit or 0
        self.given = np.zeros((images, count if limit else 1), dtype=np.int32)
        if barred is not None:
            self.given[barred[:, sources.groups].numpy()] = 1 << 30
        self.spans = sources.spans.numpy()
        self.fresh = True

    def run(self, walk: Walk, ranks: Tensor, guesses: Tensor, neighbours: int) -> None:
        """Take the images through a walk.

        Args:
            walk: places and what they see.
            ranks: ``(N, places)`` which of the neighbours is copied.
            guesses: ``(N, places)`` which source is copied where nothing is known.
            neighbours: how many are drawn from.
        """
        from .numba_kernels import take

        drawn, guessed = ranks.contiguous().numpy(), guesses.contiguous().numpy()

        def some(part: slice) -> None:
            take(  # type: ignore[call-arg]
                self.vectors, self.norms, self.held[part], self.known, self.scores[part], *walk.arrays,
                drawn[part], guessed[part], neighbours, self.index[part], self.given[part], self.spans, self.limit,
                *self.costs, self.fresh,
            )  # fmt: skip

        _in_threads(some, len(self.held))
        self.fresh = False

    def allot(self, walk: Walk, order: Tensor, candidates: int, rounds: int) -> None:
        """Fill the images with what each source gives of them, before any walk: see :mod:`.assignment`.

        Args:
            walk: places, with what they are compared in.
            order: ``(places,)`` number of each place, lower ones come first among equals.
            candidates: that each place may ask.
            rounds: how often they ask.
        """
        from .numba_kernels import allot

        numbers = order.numpy()

        def some(part: slice) -> None:
            allot(
                self.vectors, self.norms, self.held[part], self.scores[part], walk.windows, walk.window_units,
                walk.blocks, walk.block_units, numbers, self.index[part], self.given[part], self.spans, self.limit,
                candidates, rounds,
            )  # fmt: skip

        _in_threads(some, len(self.held))
        self.fresh = False

    def picks(self) -> Tensor:
        """The source of each cell, -1 for none: ``(N, h, w)`` int64."""
        units = torch.from_numpy(self.index)[:, :, None].expand(-1, -1, self.side**2)
        return paste(units.unflatten(1, self.shape).permute(1, 2, 3, 0), self.size, self.side)[..., 0]

    def grid(self) -> Tensor:
        """The keys the images hold: ``(N, h, w, r)`` int16."""
        from .numba_kernels import paste as paste_loop

        grid = np.empty((len(self.held), *self.size, self.held.shape[2] // self.side**2), dtype=np.int16)
        paste_loop(self.held, self.side, grid)
        return torch.from_numpy(grid)


@lru_cache(maxsize=1)
def _pool(_process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="latentpatch-search")


def _in_threads(work: Callable[[slice], None], images: int) -> None:
    """Call ``work`` for all images, in as many parts as torch has threads, one of them in this one."""
    threads = max(1, min(torch.get_num_threads(), images))
    parts = [slice(images * part // threads, images * (part + 1) // threads) for part in range(threads)]
    if threads == 1:
        work(parts[0])
        return
    # The threads of a forked process are gone: it needs a pool of its own.
    waiting = [_pool(os.getpid()).submit(work, part) for part in parts[1:]]
    try:
        work(parts[0])
    finally:
        for each in waiting:
            each.result()
