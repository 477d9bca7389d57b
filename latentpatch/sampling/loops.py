"""Loops of the search on CPUs, compiled by Numba; :mod:`.cpu` calls them.

Arithmetic is that of :mod:`.search`: scores are exact integers, held by floating point while they are multiplied.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["take"]

_compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")  # all products are exact
_GROUP = 64  # sources whose least score is looked at first
_AT_ONCE = 512  # sources that images are compared with before the next, so that they stay in a core's cache
_ROW, _ROWS_2, _ROWS_3, _ROWS_4, _ROWS_5, _ROWS_6, _ROWS_7 = (np.uintp(_AT_ONCE * rows) for rows in range(1, 8))


@_compiled
def compare(unit, vectors, norms, held, scores, ready, sums, factors):
    """``scores[:, unit]``, |y|^2 - 2 x.y of what images hold there against all sources y.

    ``vectors (units, K, B)``, ``norms (units, B)``, ``held (N, units, K)``, ``scores (N, units, B)``; ``ready``, ``sums
    (2 _AT_ONCE,)`` and ``factors (N + 1, K)`` are room to work in.
    """
    images, length, count = held.shape[0], held.shape[2], vectors.shape[2]
    for image in range(images):
        for k in range(length):
            factors[image, k] = -2 * held[image, unit, k]
    for first in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - first)
        for k in range(length):
            _convert(vectors[unit, k, first : first + size], ready[k * _AT_ONCE : k * _AT_ONCE + size])
        for image in range(0, images, 2):
            pair = min(2, images - image)
            for i in range(pair):
                _convert(norms[unit, first : first + size], sums[i * _AT_ONCE : i * _AT_ONCE + size])
            _add_products(ready, factors[image : image + 2], sums, size)
            for i in range(pair):
                _convert(sums[i * _AT_ONCE : i * _AT_ONCE + size], scores[image + i, unit, first : first + size])


@_compiled
def _add_products(ready, factors, sums, size):
    """Add to the sums of two images their factors times ``ready``: eight at a time, as many as registers hold.

    Indexes have no sign and rows lie a constant apart: so the compiler takes many sources at a time.
    """
    length = factors.shape[1]
    k = 0
    while k + 8 <= length:
        a0, b0, c0, d0 = factors[0, k], factors[0, k + 1], factors[0, k + 2], factors[0, k + 3]
        e0, f0, g0, h0 = factors[0, k + 4], factors[0, k + 5], factors[0, k + 6], factors[0, k + 7]
        a1, b1, c1, d1 = factors[1, k], factors[1, k + 1], factors[1, k + 2], factors[1, k + 3]
        e1, f1, g1, h1 = factors[1, k + 4], factors[1, k + 5], factors[1, k + 6], factors[1, k + 7]
        row = np.uintp(k * _AT_ONCE)
        for j in range(np.uintp(size)):
            i = row + j
            a, b, c, d = ready[i], ready[i + _ROW], ready[i + _ROWS_2], ready[i + _ROWS_3]
            e, f, g, h = ready[i + _ROWS_4], ready[i + _ROWS_5], ready[i + _ROWS_6], ready[i + _ROWS_7]
            sums[j] += ((a0 * a + b0 * b) + (c0 * c + d0 * d)) + ((e0 * e + f0 * f) + (g0 * g + h0 * h))
            sums[j + _ROW] += ((a1 * a + b1 * b) + (c1 * c + d1 * d)) + ((e1 * e + f1 * f) + (g1 * g + h1 * h))
        k += 8
    while k < length:
        a0, a1 = factors[0, k], factors[1, k]
        row = np.uintp(k * _AT_ONCE)
        for j in range(np.uintp(size)):
            sums[j] += a0 * ready[row + j]
            sums[j + _ROW] += a1 * ready[row + j]
        k += 1


@_compiled
def _convert(given, out):
    # Slices from zero on, so that the compiler sees that no index is negative and takes many numbers at a time.
    for j in range(len(out)):
        out[j] = given[j]


@_compiled
def _add(total, more):
    for j in range(len(total)):
        total[j] += more[j]


@_compiled
def nearest(scores, image, window, beside, given, most, limited, switch, use, total, best, sources):
    """The sources of the least sums over a window, in order, into ``best`` and ``sources``; how many were found.

    Sources with more than ``most`` units given are passed over, where ``limited``; ``switch`` is spared by those of
    ``beside``, and each unit given costs ``use``. ``total (_GROUP,)`` is room.
    """
    count, wanted = scores.shape[2], len(best)
    barred = np.iinfo(total.dtype).max
    found = 0
    for first in range(0, count, _GROUP):
        size = min(_GROUP, count - first)
        sums = total[:size]
        _convert(scores[image, window[0], first : first + size], sums)
        for number in range(1, len(window)):
            _add(sums, scores[image, window[number], first : first + size])
        if use:
            _add_uses(sums, given[image, first : first + size], use)
        if switch:
            for source in beside:
                if first <= source < first + size:
                    total[source - first] -= switch
        if limited:
            _bar(sums, given[image, first : first + size], most, barred)
        least = sums.min()
        worst = best[wanted - 1] if found == wanted else barred
        if least >= worst:
            continue
        for j in range(size):
            value = total[j]
            if value >= worst:
                continue
            place = min(found, wanted - 1)
            while place > 0 and best[place - 1] > value:
                best[place], sources[place] = best[place - 1], sources[place - 1]
                place -= 1
            best[place], sources[place] = value, first + j
            found = min(found + 1, wanted)
            worst = best[wanted - 1] if found == wanted else barred
    return found


@_compiled
def _different(index, units, out):
    """Write the different sources of some units, -1 left out, into ``out``; how many."""
    count = 0
    for unit in units:
        source = index[unit]
        if source >= 0 and not (out[:count] == source).any():
            out[count] = source
            count += 1
    return count


@_compiled
def _add_uses(total, given, use):
    for j in range(len(total)):
        total[j] += use * given[j]


@_compiled
def _bar(total, given, most, barred):
    for j in range(len(total)):
        total[j] = barred if given[j] > most else total[j]


@_compiled
def take(
    vectors, norms, held, known, scores, waves, windows, window_units, blocks, block_units, rings, ring_units, blind,
    room, ranks, guesses, neighbours, index, given, spans, limit, switch, use, fresh,
):  # fmt: skip
    """Take some images through a walk.

    Args:
        vectors: ``(units, K, B)`` int16.
        norms: ``(units, B)`` floating point that holds all scores.
        held: ``(N, units, K)`` int16 what the images hold; changed.
        known: ``(units,)`` bool what holds something beforehand; read where ``fresh``.
        scores: ``(N, units, B)`` integers; changed, and read where ``fresh`` is false.
        ranks: ``(N, places)`` which of the neighbours is taken.
        guesses: ``(N, places)`` which source is taken where a place is blind.
        neighbours: how many are drawn from.
        index: ``(N, units)`` sources of what images hold, -1 for none; changed.
        given: ``(N, B)`` units that each source and the other variants of its picture gave; changed.
        spans: ``(B, 2)`` first and last (exclusive) of these variants.
        limit: units a source gives at most; 0 for no limit.
        switch, use: see :func:`nearest`.
        fresh: whether what is known is to be compared first.
    """
    images, units, length = held.shape
    ready = np.empty(length * _AT_ONCE, norms.dtype)
    sums = np.zeros(2 * _AT_ONCE, norms.dtype)
    factors = np.zeros((images + 1, length), norms.dtype)
    total = np.empty(_GROUP, scores.dtype)
    best, sources = np.empty(neighbours, scores.dtype), np.empty(neighbours, np.int64)
    longest = 0
    for wave in range(len(waves) - 1):
        longest = max(longest, waves[wave + 1] - waves[wave])
    picks = np.empty((longest, images), np.int64)
    beside = np.empty(max(1, len(ring_units)), np.int64)
    if fresh:
        for unit in range(units):
            if known[unit]:
                compare(unit, vectors, norms, held, scores, ready, sums, factors)
    for wave in range(len(waves) - 1):
        start, end = waves[wave], waves[wave + 1]
        if limit:
            for unit in block_units[blocks[start] : blocks[end]]:
                for image in range(images):
                    source = index[image, unit]
                    if source >= 0:
                        given[image, spans[source, 0] : spans[source, 1]] -= 1
        for place in range(start, end):
            window = window_units[windows[place] : windows[place + 1]]
            for image in range(images):
                if blind[place]:
                    picks[place - start, image] = guesses[image, place]
                    continue
                others = _different(index[image], ring_units[rings[place] : rings[place + 1]], beside) if switch else 0
                found = nearest(
                    scores, image, window, beside[:others], given, limit - room[wave], limit > 0, switch, use, total,
                    best, sources,
                )  # fmt: skip
                picks[place - start, image] = sources[min(ranks[image, place], found - 1)]
        for place in range(start, end):
            for unit in block_units[blocks[place] : blocks[place + 1]]:
                for image in range(images):
                    source = picks[place - start, image]
                    index[image, unit] = source
                    if limit:
                        given[image, spans[source, 0] : spans[source, 1]] += 1
                    for k in range(length):
                        held[image, unit, k] = vectors[unit, k, source]
                compare(unit, vectors, norms, held, scores, ready, sums, factors)
