"""Loops of the search on CPUs, compiled by Numba; :mod:`.numba_backend` calls them.

Arithmetic is that of :mod:`.torch_raster`: scores are exact integers, held by floating point while they are multiplied.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["allot", "cut", "paste", "resize", "take"]

_compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")  # all products are exact
_GROUP = 64  # sources whose least sum is looked at first
_SUMS = 8 * _GROUP  # sources whose scores are added up before they are looked at
_AT_ONCE = 1024  # sources that images are compared with before the next: sums and a few rows fit into a core's cache
_APART = _AT_ONCE + 16  # numbers from row to row: powers of two would fall into the same lines of the cache
_STEP = 8  # products added at a time, as many as registers hold factors of for two images
_ROW, _ROWS_2, _ROWS_3, _ROWS_4, _ROWS_5, _ROWS_6, _ROWS_7 = (np.uintp(_APART * rows) for rows in range(1, _STEP))


@_compiled
def cut(grids, side, units):
    """Cells ``(N, h, w, r)`` as ``(N, units, side^2 r)``, zeros beyond the border."""
    images, height, width, depth = grids.shape
    columns = -(-width // side)
    units[:] = 0
    for image in range(images):
        for row in range(height):
            for column in range(width):
                unit, first = _part(row, column, columns, side, depth)
                for k in range(depth):
                    units[image, unit, first + k] = grids[image, row, column, k]


@_compiled
def paste(units, side, grids):
    """What :func:`cut` cut."""
    images, height, width, depth = grids.shape
    columns = -(-width // side)
    for image in range(images):
        for row in range(height):
            for column in range(width):
                unit, first = _part(row, column, columns, side, depth)
                for k in range(depth):
                    grids[image, row, column, k] = units[image, unit, first + k]


@_compiled
def _part(row, column, columns, side, depth):
    """The unit that a cell is part of, and the first of its numbers there."""
    return row // side * columns + column // side, (row % side * side + column % side) * depth


@_compiled
def resize(grids, resized):
    """:func:`~latentpatch.methods.latent.search.keys.resize_keys` of ``(N, h, w, r)`` into ``(N, h', w', r)``."""
    images, height, width, depth = resized.shape
    old_height, old_width = grids.shape[1:3]
    whole = 4 * height * width
    for row in range(height):
        top, down = _between(row, old_height, height)
        bottom = min(top + 1, old_height - 1)
        for column in range(width):
            left, across = _between(column, old_width, width)
            right = min(left + 1, old_width - 1)
            for image in range(images):
                for k in range(depth):
                    above = (2 * width - across) * grids[image, top, left, k] + across * grids[image, top, right, k]
                    below = (2 * width - across) * grids[image, bottom, left, k]
                    below += across * grids[image, bottom, right, k]
                    total = (2 * height - down) * above + down * below
                    resized[image, row, column, k] = (2 * total + whole) // (2 * whole)


@_compiled
def _between(i, old, new):
    """The old cell before sample ``i``, and the weight of the next one, times ``2 * new``."""
    position = min(max((2 * i + 1) * old - new, 0), 2 * new * (old - 1))
    return position // (2 * new), position % (2 * new)


@_compiled
def compare(unit, vectors, norms, held, scores, ready, sums, factors):
    """``scores[:, unit]``, |y|^2 - 2 x.y of what images hold there against all sources y.

    ``vectors (units, K, B)``, ``norms (units, B)``, ``held (N, units, K)``, ``scores (N, units, B)``; the others are
    :func:`_room` to work in.
    """
    images, length, count = held.shape[0], held.shape[2], vectors.shape[2]
    for image in range(images):
        for k in range(length):
            factors[image, k] = -2 * held[image, unit, k]
    for first in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - first)
        for image in range(images):
            _convert(norms[unit, first : first + size], sums[image * _APART : image * _APART + size])
        for k in range(0, length, _STEP):
            for i in range(min(_STEP, length - k)):
                _convert(vectors[unit, k + i, first : first + size], ready[i * _APART : i * _APART + size])
            if length - k < _STEP:
                ready[(length - k) * _APART :] = 0
            for image in range(0, images, 2):
                _add_products(ready, factors[image : image + 2, k : k + _STEP], sums[image * _APART :], size)
        for image in range(images):
            _convert(sums[image * _APART : image * _APART + size], scores[image, unit, first : first + size])


@_compiled
def _room(images, length, norms):
    """For :func:`compare`: ``ready (_STEP * _APART,)``, ``sums ((N + 1) * _APART,)`` and ``factors (N + 1, K rounded up
    to _STEP)``, which holds zeros where nothing is written.
    """
    ready = np.zeros(_STEP * _APART, norms.dtype)
    sums = np.zeros((images + 1) * _APART, norms.dtype)
    return ready, sums, np.zeros((images + 1, -(-length // _STEP) * _STEP), norms.dtype)


@_compiled
def _add_products(ready, factors, sums, size):
    """Add to the sums of two images their ``factors (2, _STEP)`` times the rows of ``ready``.

    Indexes have no sign and rows lie a constant apart: so the compiler takes many sources at a time.
    """
    a0, b0, c0, d0 = factors[0, 0], factors[0, 1], factors[0, 2], factors[0, 3]
    e0, f0, g0, h0 = factors[0, 4], factors[0, 5], factors[0, 6], factors[0, 7]
    a1, b1, c1, d1 = factors[1, 0], factors[1, 1], factors[1, 2], factors[1, 3]
    e1, f1, g1, h1 = factors[1, 4], factors[1, 5], factors[1, 6], factors[1, 7]
    for j in range(np.uintp(size)):
        a, b, c, d = ready[j], ready[j + _ROW], ready[j + _ROWS_2], ready[j + _ROWS_3]
        e, f, g, h = ready[j + _ROWS_4], ready[j + _ROWS_5], ready[j + _ROWS_6], ready[j + _ROWS_7]
        sums[j] = sums[j] + a0 * a + b0 * b + c0 * c + d0 * d + e0 * e + f0 * f + g0 * g + h0 * h
        i = j + _ROW
        sums[i] = sums[i] + a1 * a + b1 * b + c1 * c + d1 * d + e1 * e + f1 * f + g1 * g + h1 * h


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
def nearest(
    scores, image, window, beside, own, given, most, limited, switch, use, spans, apart, total, best, sources
):  # fmt: skip
    """The sources of the least sums over a window, in order, into ``best`` and ``sources``; how many were found.

    Sources with more than ``most`` units given are passed over, where ``limited``, but for ``own``; ``switch`` is
    spared by those of ``beside``, and each unit given costs ``use``. Of a picture there is one variant, the best, where
    ``apart``. ``total (_SUMS,)`` is room.
    """
    count, wanted = scores.shape[2], len(best)
    barred = np.iinfo(total.dtype).max
    found = 0
    for first in range(0, count, _SUMS):
        size = min(_SUMS, count - first)
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
            kept = total[own - first] if first <= own < first + size else barred
            _bar(sums, given[image, first : first + size], most, barred)
            if kept != barred:
                total[own - first] = kept
        for low in range(0, size, _GROUP):
            high = min(low + _GROUP, size)
            worst = best[wanted - 1] if found == wanted else barred
            if _least(sums[low:high]) >= worst:
                continue
            for j in range(low, high):
                value = total[j]
                if value >= worst:
                    continue
                place = min(found, wanted - 1)
                new = True
                if apart:
                    other = _of_span(sources[:found], spans[first + j])
                    if other < found:
                        if best[other] <= value:
                            continue
                        place, new = other, False
                while place > 0 and best[place - 1] > value:
                    best[place], sources[place] = best[place - 1], sources[place - 1]
                    place -= 1
                best[place], sources[place] = value, first + j
                found = min(found + new, wanted)
                worst = best[wanted - 1] if found == wanted else barred
    return found


@_compiled
def _of_span(sources, span):
    """Which of some sources lies in a span; how many there are, if none does."""
    for place in range(len(sources)):
        if span[0] <= sources[place] < span[1]:
            return place
    return len(sources)


@_compiled
def _least(numbers):
    least = numbers[0]
    for j in range(1, len(numbers)):
        least = min(least, numbers[j])
    return least


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
def allot(
    vectors, norms, held, scores, windows, window_units, blocks, block_units, order, index, given, spans, limit, most,
    rounds,
):  # fmt: skip
    """Fill some images with what each source gives of them, see :mod:`.assignment`.

    Args:
        vectors, norms, index, given, spans, limit: see :func:`take`.
        held: ``(N, units, K)`` int16 what is asked for; changed to what is given.
        scores: ``(N, units, B)`` integers; changed.
        order: ``(places,)`` number of each place, lower ones come first among equals.
        most: candidates of a place.
        rounds: how often they are asked.
    """
    images, units, length = held.shape
    places, count = len(order), scores.shape[2]
    ready, sums, factors = _room(images, length, norms)
    total, beside = np.empty(_SUMS, scores.dtype), np.empty(0, np.int64)
    costs, sources = np.empty((places, most), scores.dtype), np.empty((places, most), np.int64)
    sizes, asked, regrets = np.empty(places, np.int64), np.empty(places, np.int64), np.empty(places, np.int64)
    away, taken = np.empty(places, np.bool_), np.empty(count, np.int64)
    for unit in range(units):
        compare(unit, vectors, norms, held, scores, ready, sums, factors)
    for image in range(images):
        for place in range(places):
            window = window_units[windows[place] : windows[place + 1]]
            row = order[place]
            nearest(
                scores, image, window, beside, -1, given, limit, True, 0, 0, spans, True, total, costs[row],
                sources[row],
            )  # fmt: skip
            sizes[row] = blocks[place + 1] - blocks[place]
        asked[:] = 0
        for number in range(rounds + 1):
            for row in range(places):
                turn = asked[row]
                # The last one has nothing to fall back on.
                last = turn == most - 1
                regrets[row] = np.iinfo(np.int64).min if last else np.int64(costs[row, turn]) - costs[row, turn + 1]
            taken[:] = 0
            moved = False
            for row in np.argsort(regrets, kind="mergesort"):
                picture = spans[sources[row, asked[row]], 0]
                taken[picture] += sizes[row]
                away[row] = taken[picture] > limit
                moved |= away[row] and asked[row] < most - 1
            if not moved or number == rounds:
                break
            for row in range(places):
                asked[row] = min(asked[row] + away[row], most - 1)
        for place in range(places):
            row = order[place]
            if away[row]:
                continue
            source = sources[row, asked[row]]
            given[image, spans[source, 0] : spans[source, 1]] += sizes[row]
            for unit in block_units[blocks[place] : blocks[place + 1]]:
                index[image, unit] = source
                for k in range(length):
                    held[image, unit, k] = vectors[unit, k, source]
    for unit in range(units):
        compare(unit, vectors, norms, held, scores, ready, sums, factors)


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
    ready, sums, factors = _room(images, length, norms)
    total = np.empty(_SUMS, scores.dtype)
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
                own = index[image, block_units[blocks[place]]]
                found = nearest(
                    scores, image, window, beside[:others], own, given, limit - room[wave], limit > 0, switch, use,
                    spans, False, total, best, sources,
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
