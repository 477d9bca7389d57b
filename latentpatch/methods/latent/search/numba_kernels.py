"""Loops of the search on CPUs, compiled by Numba; :mod:`.numba_backend` calls them.

The arithmetic is that of :mod:`.torch_raster`: scores are exact integers, in floating point during multiplication. A
unit is a square block of cells; its vector has K = side^2 r components. There are N images and B sources.
"""

from __future__ import annotations

import numpy as np

from .numba_grids import compiled

__all__ = ["allot", "run_sweep"]

_MIN_BLOCK = 64  # Sources whose minimum is computed before any of their sums is examined.
_SUM_BLOCK = 8 * _MIN_BLOCK  # Sources whose scores are summed before the sums are examined.
_TILE = 1024  # Sources compared with all images in one pass: sums and a few rows fit into the cache of a core.
_STRIDE = _TILE + 16  # Elements between rows of a buffer. A power of two would map all rows to the same cache lines.
_STEP = 8  # Products added in one pass: registers hold this many factors of two images.
_ROW, _ROWS_2, _ROWS_3, _ROWS_4, _ROWS_5, _ROWS_6, _ROWS_7 = (np.uintp(_STRIDE * rows) for rows in range(1, _STEP))


@compiled
def compare(unit, vectors, norms, queries, scores, rows, sums, factors):
    """Compute ``scores[:, unit]``: |y|^2 - 2 x.y of the images' unit x and the unit y of every source.

    ``rows``, ``sums`` and ``factors`` are the :func:`_buffers`; see :func:`run_sweep` for the other arrays.
    """
    images, length, count = queries.shape[0], queries.shape[2], vectors.shape[2]
    for image in range(images):
        for k in range(length):
            factors[image, k] = -2 * queries[image, unit, k]
    for first in range(0, count, _TILE):
        size = min(_TILE, count - first)
        for image in range(images):
            _convert(norms[unit, first : first + size], sums[image * _STRIDE : image * _STRIDE + size])
        for k in range(0, length, _STEP):
            for i in range(min(_STEP, length - k)):
                _convert(vectors[unit, k + i, first : first + size], rows[i * _STRIDE : i * _STRIDE + size])
            if length - k < _STEP:
                rows[(length - k) * _STRIDE :] = 0
            for image in range(0, images, 2):
                _add_products(rows, factors[image : image + 2, k : k + _STEP], sums[image * _STRIDE :], size)
        for image in range(images):
            _convert(sums[image * _STRIDE : image * _STRIDE + size], scores[image, unit, first : first + size])


@compiled
def _buffers(images, length, norms):
    """Allocate ``rows``, ``sums`` and ``factors`` of :func:`compare`; the padding of factors stays zero."""
    rows = np.zeros(_STEP * _STRIDE, norms.dtype)
    sums = np.zeros((images + 1) * _STRIDE, norms.dtype)
    return rows, sums, np.zeros((images + 1, -(-length // _STEP) * _STEP), norms.dtype)


@compiled
def _add_products(rows, factors, sums, size):
    """Add the products of ``factors (2, _STEP)`` and ``rows`` to the sums of two images.

    Indices are unsigned and rows are a constant stride apart, so that the compiler vectorizes the loop over sources.
    """
    a0, b0, c0, d0 = factors[0, 0], factors[0, 1], factors[0, 2], factors[0, 3]
    e0, f0, g0, h0 = factors[0, 4], factors[0, 5], factors[0, 6], factors[0, 7]
    a1, b1, c1, d1 = factors[1, 0], factors[1, 1], factors[1, 2], factors[1, 3]
    e1, f1, g1, h1 = factors[1, 4], factors[1, 5], factors[1, 6], factors[1, 7]
    for j in range(np.uintp(size)):
        a, b, c, d = rows[j], rows[j + _ROW], rows[j + _ROWS_2], rows[j + _ROWS_3]
        e, f, g, h = rows[j + _ROWS_4], rows[j + _ROWS_5], rows[j + _ROWS_6], rows[j + _ROWS_7]
        sums[j] = sums[j] + a0 * a + b0 * b + c0 * c + d0 * d + e0 * e + f0 * f + g0 * g + h0 * h
        i = j + _ROW
        sums[i] = sums[i] + a1 * a + b1 * b + c1 * c + d1 * d + e1 * e + f1 * f + g1 * g + h1 * h


@compiled
def _convert(numbers, out):
    # Callers pass slices and the index starts at zero: the compiler sees no negative index and vectorizes the loop.
    for j in range(len(out)):
        out[j] = numbers[j]


@compiled
def _add(total, more):
    for j in range(len(total)):
        total[j] += more[j]


@compiled
def nearest(
    scores, image, window, adjacent, current, use_counts, max_uses, is_limited, donor_bands, band, switch_cost,
    reuse_cost, pictures, one_per_picture, total, best, sources,
):  # fmt: skip
    """Find the sources with the least sums of scores over a window, and return their number.

    Args:
        scores, use_counts, donor_bands, pictures: see :func:`run_sweep`.
        image, window: number of the image, and the units to sum over.
        adjacent: sources around the block; ``switch_cost`` is subtracted from their sums.
        current: source of the block so far, exempt from the limit; -1 for none.
        max_uses, is_limited: largest use count of a source that may be chosen, and whether it and the band apply.
        band: band of the block.
        reuse_cost: added to the sum of a source once per unit of its use count.
        one_per_picture: whether only the best variant of each picture is a candidate.
        total, best, sources: buffer ``(_SUM_BLOCK,)``; the least sums in ascending order and their sources, written.
    """
    count, num_wanted = scores.shape[2], len(best)
    excluded = np.iinfo(total.dtype).max
    found = 0
    for first in range(0, count, _SUM_BLOCK):
        size = min(_SUM_BLOCK, count - first)
        sums = total[:size]
        _convert(scores[image, window[0], first : first + size], sums)
        for number in range(1, len(window)):
            _add(sums, scores[image, window[number], first : first + size])
        if reuse_cost:
            _add_uses(sums, use_counts[image, first : first + size], reuse_cost)
        if switch_cost:
            for source in adjacent:
                if first <= source < first + size:
                    total[source - first] -= switch_cost
        if is_limited:
            current_sum = total[current - first] if first <= current < first + size else excluded
            part = slice(first, first + size)
            _exclude(sums, use_counts[image, part], max_uses, donor_bands[image, part], band, excluded)
            if current_sum != excluded:
                total[current - first] = current_sum
        for low in range(0, size, _MIN_BLOCK):
            high = min(low + _MIN_BLOCK, size)
            worst = best[num_wanted - 1] if found == num_wanted else excluded
            if _least(sums[low:high]) >= worst:
                continue
            for j in range(low, high):
                value = total[j]
                if value >= worst:
                    continue
                slot = min(found, num_wanted - 1)
                is_new = True
                if one_per_picture:
                    other = _find_picture(sources[:found], pictures, pictures[first + j])
                    if other < found:
                        if best[other] <= value:
                            continue
                        slot, is_new = other, False
                while slot > 0 and best[slot - 1] > value:
                    best[slot], sources[slot] = best[slot - 1], sources[slot - 1]
                    slot -= 1
                best[slot], sources[slot] = value, first + j
                found = min(found + is_new, num_wanted)
                worst = best[num_wanted - 1] if found == num_wanted else excluded
    return found


@compiled
def _find_picture(sources, pictures, picture):
    """Return the index of the source of a picture, or the number of sources if none is of it."""
    for slot in range(len(sources)):
        if pictures[sources[slot]] == picture:
            return slot
    return len(sources)


@compiled
def _least(numbers):
    least = numbers[0]
    for j in range(1, len(numbers)):
        least = min(least, numbers[j])
    return least


@compiled
def _distinct_sources(index, units, out):
    """Write the distinct sources of some units into ``out``, without -1, and return their number."""
    count = 0
    for unit in units:
        source = index[unit]
        if source >= 0 and not (out[:count] == source).any():
            out[count] = source
            count += 1
    return count


@compiled
def _add_uses(total, use_counts, reuse_cost):
    for j in range(len(total)):
        total[j] += reuse_cost * use_counts[j]


@compiled
def _exclude(total, use_counts, max_uses, donor_bands, band, excluded):
    for j in range(len(total)):
        total[j] = excluded if use_counts[j] > max_uses or donor_bands[j] != band else total[j]


@compiled
def _count_uses(use_counts, amount, picture, members, firsts):
    """Add an amount to the use counts ``(B,)`` of all variants of a picture."""
    for j in range(firsts[picture], firsts[picture + 1]):
        use_counts[members[j]] += amount


@compiled
def allot(
    vectors, norms, queries, scores, windows, window_units, blocks, block_units, bands, order, index, use_counts,
    donor_bands, pictures, members, firsts, limit, candidates, rounds,
):  # fmt: skip
    """Assign sources to all blocks within their capacity, in place, see :mod:`.assignment`.

    Args:
        queries: ``(N, units, K)`` int16 vectors to approximate; replaced by those of the assigned sources.
        scores: ``(N, units, B)`` integers; overwritten.
        order: ``(places,)`` rank of each place; the lower rank wins ties.
        candidates: number of sources that each place considers.
        rounds: number of rounds of assignment; see :func:`run_sweep` for the other arguments.
    """
    images, units, length = queries.shape
    places, count = len(order), scores.shape[2]
    rows, sums, factors = _buffers(images, length, norms)
    total, adjacent = np.empty(_SUM_BLOCK, scores.dtype), np.empty(0, np.int64)
    costs, sources = np.empty((places, candidates), scores.dtype), np.empty((places, candidates), np.int64)
    sizes, turns, regrets = np.empty(places, np.int64), np.empty(places, np.int64), np.empty(places, np.int64)
    is_refused, granted = np.empty(places, np.bool_), np.empty(count, np.int64)
    for unit in range(units):
        compare(unit, vectors, norms, queries, scores, rows, sums, factors)
    for image in range(images):
        for place in range(places):
            window = window_units[windows[place] : windows[place + 1]]
            row = order[place]
            nearest(
                scores, image, window, adjacent, -1, use_counts, limit, True, donor_bands, bands[place], 0, 0, pictures,
                True, total, costs[row], sources[row],
            )  # fmt: skip
            sizes[row] = blocks[place + 1] - blocks[place]
        turns[:] = 0
        for iteration in range(rounds + 1):
            for row in range(places):
                turn = turns[row]
                # The last candidate has no successor to compare with.
                is_last = turn == candidates - 1
                regrets[row] = np.iinfo(np.int64).min if is_last else np.int64(costs[row, turn]) - costs[row, turn + 1]
            granted[:] = 0
            has_changed = False
            for row in np.argsort(regrets, kind="mergesort"):
                picture = pictures[sources[row, turns[row]]]
                granted[picture] += sizes[row]
                is_refused[row] = granted[picture] > limit
                has_changed |= is_refused[row] and turns[row] < candidates - 1
            if not has_changed or iteration == rounds:
                break
            for row in range(places):
                turns[row] = min(turns[row] + is_refused[row], candidates - 1)
        for place in range(places):
            row = order[place]
            if is_refused[row]:
                continue
            source = sources[row, turns[row]]
            _count_uses(use_counts[image], sizes[row], pictures[source], members, firsts)
            for unit in block_units[blocks[place] : blocks[place + 1]]:
                index[image, unit] = source
                for k in range(length):
                    queries[image, unit, k] = vectors[unit, k, source]
    for unit in range(units):
        compare(unit, vectors, norms, queries, scores, rows, sums, factors)


@compiled
def run_sweep(
    vectors, norms, queries, has_value, scores, waves, windows, window_units, blocks, block_units, rings, ring_units,
    blind, wave_units, bands, ranks, guesses, neighbors, index, use_counts, donor_bands, pictures, members, firsts,
    limit, switch_cost, reuse_cost, compare_first,
):  # fmt: skip
    """Visit every block of the schedule and copy the chosen source into it, in place.

    Args:
        vectors: ``(units, K, B)`` int16 units of the sources.
        norms: ``(units, B)`` their squared norms, of a floating-point type that represents all scores exactly.
        queries: ``(N, units, K)`` int16 units of the images; updated.
        has_value: ``(units,)`` bool, units with a value before the sweep; read if ``compare_first``.
        scores: ``(N, units, B)`` integers |y|^2 - 2 x.y; updated, and read beforehand unless ``compare_first``.
        waves: ``(waves + 1,)`` first place of each wave; places in one wave are independent.
        windows, blocks, rings: ``(places + 1,)`` offset of each place in the next three arrays.
        window_units, block_units, ring_units: units to compare, to write, and around the block, place after place.
        blind: ``(places,)`` bool, places without a unit to compare.
        wave_units: ``(waves,)`` number of units that each wave writes.
        bands: ``(places,)`` band of each place; read if there is a limit.
        ranks: ``(N, places)`` rank of the neighbor to copy.
        guesses: ``(N, places)`` source to copy at blind places.
        neighbors: number of nearest sources to choose from.
        index: ``(N, units)`` source of each unit, -1 for none; updated.
        use_counts: ``(N, B)`` units copied from any variant of the source's picture; updated if there is a limit.
        donor_bands: ``(N, B)`` band of the places that may copy each source, -1 for none; read if there is a limit.
        pictures: ``(B,)`` picture that each source is a variant of.
        members, firsts: sources sorted by picture ``(B,)``, and where those of each picture begin.
        limit: largest number of units copied from a picture; 0 for no limit.
        switch_cost, reuse_cost: costs of a change of source and of each use of a source, see :func:`nearest`.
        compare_first: whether to compute the scores of ``has_value`` before the first wave.
    """
    images, units, length = queries.shape
    rows, sums, factors = _buffers(images, length, norms)
    total = np.empty(_SUM_BLOCK, scores.dtype)
    best, sources = np.empty(neighbors, scores.dtype), np.empty(neighbors, np.int64)
    longest = 0
    for wave in range(len(waves) - 1):
        longest = max(longest, waves[wave + 1] - waves[wave])
    picks = np.empty((longest, images), np.int64)
    adjacent = np.empty(max(1, len(ring_units)), np.int64)
    if compare_first:
        for unit in range(units):
            if has_value[unit]:
                compare(unit, vectors, norms, queries, scores, rows, sums, factors)
    for wave in range(len(waves) - 1):
        start, end = waves[wave], waves[wave + 1]
        if limit:
            for unit in block_units[blocks[start] : blocks[end]]:
                for image in range(images):
                    source = index[image, unit]
                    if source >= 0:
                        _count_uses(use_counts[image], -1, pictures[source], members, firsts)
        for place in range(start, end):
            window = window_units[windows[place] : windows[place + 1]]
            for image in range(images):
                if blind[place]:
                    picks[place - start, image] = guesses[image, place]
                    continue
                ring = ring_units[rings[place] : rings[place + 1]]
                num_adjacent = _distinct_sources(index[image], ring, adjacent) if switch_cost else 0
                current = index[image, block_units[blocks[place]]]
                found = nearest(
                    scores, image, window, adjacent[:num_adjacent], current, use_counts, limit - wave_units[wave],
                    limit > 0, donor_bands, bands[place], switch_cost, reuse_cost, pictures, False, total, best,
                    sources,
                )  # fmt: skip
                picks[place - start, image] = sources[min(ranks[image, place], found - 1)]
        for place in range(start, end):
            for unit in block_units[blocks[place] : blocks[place + 1]]:
                for image in range(images):
                    source = picks[place - start, image]
                    index[image, unit] = source
                    if limit:
                        _count_uses(use_counts[image], 1, pictures[source], members, firsts)
                    for k in range(length):
                        queries[image, unit, k] = vectors[unit, k, source]
                compare(unit, vectors, norms, queries, scores, rows, sums, factors)
