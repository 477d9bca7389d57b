"""Triton kernels of the raster sampler: search for the nearest sources of windows, and copying of the drawn sources.

A vector v of integers, at most 2^13 in magnitude, is stored as two planes of int8, v = 128 h + l with -64 <= l < 64,
and split into slabs of ``LENGTH`` elements. A product x.y is 2^14 hx.hy + 2^7 (hx.ly + lx.hy) + lx.ly. Matrix products
of int8 are accumulated in int32, so the result does not depend on the order of the additions. A score |y|^2 - 2 x.y and
its source share an int64, ``score * SPAN + source``: such ranked scores are distinct, and ties go to the lower source.

The arrays:

- ``sources`` ``(slabs, 2, B, LENGTH)`` int8 and ``norms`` ``(slabs, B)`` int32, the squared norms;
- ``queries`` ``(slabs, 2, N, LENGTH)`` int8, the units of the images; N is a multiple of ``IMAGES``;
- ``slabs`` int32, the numbers of the slabs that each place compares or writes, one place after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["SPAN", "copy_drawn", "nearest_of_parts", "walk"]

#: Upper bound on the number of sources. Scores are below 2^62 / SPAN in magnitude.
SPAN = tl.constexpr(1 << 24)

#: Larger than all ranked scores.
_EMPTY = tl.constexpr(1 << 62)
#: Smaller than all ranked scores.
_LOWEST = tl.constexpr(-(1 << 62))


@triton.jit
def _score(
    queries, rows, images, sources, norms, tile, count, slabs, begin, end,
    LENGTH: tl.constexpr, SOURCES: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Return ranked scores of a block of images against a tile of sources: (IMAGES, SOURCES) int64."""
    numbers = (tile * SOURCES + tl.arange(0, SOURCES)).to(tl.int64)
    inside = numbers < count
    parts = tl.arange(0, LENGTH)
    query_at = rows[:, None] * LENGTH + parts[None, :]
    source_at = numbers[None, :] * LENGTH + parts[:, None]
    squares = tl.zeros([SOURCES], dtype=tl.int64)
    high = tl.zeros([IMAGES, SOURCES], dtype=tl.int32)
    mixed = tl.zeros([IMAGES, SOURCES], dtype=tl.int32)
    low = tl.zeros([IMAGES, SOURCES], dtype=tl.int32)
    for at in range(begin, end):
        slab = tl.load(slabs + at).to(tl.int64)
        query_high = tl.load(queries + slab * 2 * images * LENGTH + query_at)
        query_low = tl.load(queries + (slab * 2 + 1) * images * LENGTH + query_at)
        source_high = tl.load(sources + slab * 2 * count * LENGTH + source_at, mask=inside[None, :], other=0)
        source_low = tl.load(sources + (slab * 2 + 1) * count * LENGTH + source_at, mask=inside[None, :], other=0)
        high = tl.dot(query_high, source_high, high, out_dtype=tl.int32)
        mixed = tl.dot(query_high, source_low, mixed, out_dtype=tl.int32)
        mixed = tl.dot(query_low, source_high, mixed, out_dtype=tl.int32)
        low = tl.dot(query_low, source_low, low, out_dtype=tl.int32)
        squares += tl.load(norms + slab * count + numbers, mask=inside, other=0)
    products = high.to(tl.int64) * 16384 + mixed.to(tl.int64) * 128 + low
    ranked = (squares[None, :] - 2 * products) * SPAN + numbers[None, :]
    return tl.where(inside[None, :], ranked, _EMPTY)


@triton.jit
def _nearest(
    queries, rows, images, sources, norms, first, last, count, slabs, begin, end, neighbors,
    SLOTS: tl.constexpr, LENGTH: tl.constexpr, SOURCES: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Return ranked scores of the nearest sources in a range of tiles: (IMAGES, SLOTS) int64.

    They are unordered, and unused slots are at least _EMPTY.
    """
    slots = tl.zeros([IMAGES, SLOTS], dtype=tl.int64) + tl.arange(0, SLOTS)[None, :]
    # All slots differ, so that exactly one equals the worst. Slots beyond the neighbors are never the worst.
    best = tl.where(slots < neighbors, _EMPTY + slots, _LOWEST + slots)
    for tile in range(first, last):
        ranked = _score(queries, rows, images, sources, norms, tile, count, slabs, begin, end, LENGTH, SOURCES, IMAGES)
        least, worst = tl.min(ranked, axis=1), tl.max(best, axis=1)
        while tl.max((least < worst).to(tl.int32), axis=0) > 0:
            replaced = (best == worst[:, None]) & (least < worst)[:, None]
            best = tl.where(replaced, least[:, None], best)
            # A least score that does not replace the worst is too far to be one of the nearest.
            ranked = tl.where(ranked == least[:, None], _EMPTY, ranked)
            least, worst = tl.min(ranked, axis=1), tl.max(best, axis=1)
    return tl.where(slots < neighbors, best, _EMPTY)


@triton.jit
def _drawn(ranked, ranks):
    """Return the source at a rank in each row of (n, m) ranked scores."""
    for dropped in range(0, tl.max(ranks, axis=0)):
        least = tl.min(ranked, axis=1)[:, None]
        ranked = tl.where((ranked == least) & (ranks[:, None] > dropped), _EMPTY, ranked)
    return tl.min(ranked, axis=1) & (SPAN - 1)


@triton.jit
def _copy(queries, rows, images, sources, chosen, count, slabs, begin, end, LENGTH: tl.constexpr):
    """Copy slabs of the chosen sources, (n,), into the images of ``rows``."""
    parts = tl.arange(0, LENGTH)[None, :]
    for at in range(begin, end):
        slab = tl.load(slabs + at).to(tl.int64)
        for plane in tl.static_range(2):
            source = sources + ((slab * 2 + plane) * count + chosen[:, None]) * LENGTH + parts
            tl.store(queries + ((slab * 2 + plane) * images + rows[:, None]) * LENGTH + parts, tl.load(source))


@triton.jit(do_not_specialize=["images", "count", "tiles", "begin", "end", "neighbors"])
def nearest_of_parts(
    candidates, queries, images, sources, norms, count, tiles, slabs, begin, end, neighbors,
    SLOTS: tl.constexpr, LENGTH: tl.constexpr, SOURCES: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Find the nearest sources of one place in each part of the sources, ``tiles`` tiles a part.

    The launch grid is (image blocks, parts). ``candidates``, ``(N, parts, SLOTS)`` int64, are written.
    """
    rows = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES)
    part, parts = tl.program_id(1), tl.num_programs(1)
    last = tl.minimum((part + 1) * tiles, tl.cdiv(count, SOURCES))
    best = _nearest(
        queries, rows, images, sources, norms, part * tiles, last, count, slabs, begin, end,
        neighbors, SLOTS, LENGTH, SOURCES, IMAGES,
    )  # fmt: skip
    tl.store(candidates + (rows[:, None] * parts + part) * SLOTS + tl.arange(0, SLOTS)[None, :], best)


@triton.jit(do_not_specialize=["images", "width", "steps", "place", "count", "begin", "end"])
def copy_drawn(
    picks, queries, images, candidates, width, ranks, steps, place, sources, count, slabs, begin, end,
    CANDIDATES: tl.constexpr, BLIND: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """Pick one of an image's ``width`` candidates by rank and copy its slabs into the block of one place.

    The launch grid is (N,). ``picks``, ``(places, N)`` int64, and ``queries`` are written. ``ranks``, ``(N, steps)``
    int64, are ranks of candidates, or numbers of sources if the place is blind.
    """
    row = tl.program_id(0) + tl.arange(0, 1)
    chosen = tl.load(ranks + row.to(tl.int64) * steps + place)
    if not BLIND:
        columns = tl.arange(0, CANDIDATES)[None, :]
        ranked = tl.load(candidates + row[:, None] * width + columns, mask=columns < width, other=_EMPTY)
        chosen = _drawn(ranked, chosen)
    tl.store(picks + place * images + row, chosen)
    _copy(queries, row, images, sources, chosen, count, slabs, begin, end, LENGTH)


@triton.jit(do_not_specialize=["images", "places", "count", "neighbors"])
def walk(
    picks, queries, images, ranks, blind, places, spans, sources, norms, count, slabs, neighbors,
    SLOTS: tl.constexpr, LENGTH: tl.constexpr, SOURCES: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Visit all places of a scale in one kernel, for sources few enough that one program compares them all.

    The launch grid is (image blocks,). ``spans``, ``(places, 3)`` int32, are the offsets in ``slabs`` of the first slab
    to compare, the first slab to write, and their end; a place without a slab to compare is blind. ``ranks`` and
    ``blind`` are ``(N, places)`` int64. ``picks``, ``(places, N)`` int64, and ``queries`` are written.
    """
    rows = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES)
    for place in range(0, places):
        compared, written = tl.load(spans + place * 3), tl.load(spans + place * 3 + 1)
        if compared == written:
            chosen = tl.load(blind + rows * places + place)
        else:
            best = _nearest(
                queries, rows, images, sources, norms, 0, tl.cdiv(count, SOURCES), count, slabs, compared, written,
                neighbors, SLOTS, LENGTH, SOURCES, IMAGES,
            )  # fmt: skip
            chosen = _drawn(best, tl.load(ranks + rows * places + place))
        tl.store(picks + place * images + rows, chosen)
        # The barriers make all threads read before any thread writes, and write before any thread reads again.
        tl.debug_barrier()
        _copy(queries, rows, images, sources, chosen, count, slabs, written, tl.load(spans + place * 3 + 2), LENGTH)
        tl.debug_barrier()
