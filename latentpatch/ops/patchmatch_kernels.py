"""Loops of PatchMatch on CPUs, compiled by Numba; :mod:`.patchmatch` calls them.

Pictures are flat: pixel by pixel, row by row, all channels of a pixel together. A match is the number of a picture, a
row and a column; matches of a patch are sorted by score.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["search_band", "start_rows", "vote_rows"]

# Sums may be reordered: of integers they are exact. Infinity is a score, so infinities have to be respected.
_compiled = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


@_compiled
def _hashed(seed, sweep, place, draw):
    """Return 31 random bits of a place: the same in any order of places."""
    bits = (np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(place) << np.uint64(20))
    bits += np.uint64(sweep) * np.uint64(0xD1B54A32D192ED03) + np.uint64(draw) * np.uint64(0x8CB92BA72F3D8DD7)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((bits ^ (bits >> np.uint64(31))) >> np.uint64(33))


@_compiled
def _distance(query, at, step, source, to, source_step, side, length, limit):
    """Return the squared distance of two patches, or a part of it that is at least ``limit``."""
    total = np.float32(0)
    for _ in range(side):
        a, b = query[at : at + length], source[to : to + length]
        for i in range(length):
            difference = a[i] - b[i]
            total += difference * difference
        if total >= limit:
            return total
        at += step
        to += source_step
    return total


@_compiled
def _offer(
    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
    y, x, picture, row, column, matches, scores,
):  # fmt: skip
    """Compare a patch with one of a picture, and insert that into its matches where it is nearer."""
    if row < 0 or column < 0 or row >= rows_of[picture] or column >= columns[picture]:
        return
    k = scores.shape[2]
    weight = weights[firsts[picture] + row * columns[picture] + column]
    worst = scores[y, x, k - 1]
    if weight == np.float32(np.inf):
        return
    for i in range(k):
        if matches[y, x, i, 0] == picture and matches[y, x, i, 1] == row and matches[y, x, i, 2] == column:
            return
    score = weight * _distance(
        query, (y * width + x) * channels, width * channels, source,
        begins[picture] + (row * widths[picture] + column) * channels, widths[picture] * channels,
        side, side * channels, worst / weight,
    )  # fmt: skip
    if not score < worst:
        return
    i = k - 1
    while i > 0 and scores[y, x, i - 1] > score:
        scores[y, x, i] = scores[y, x, i - 1]
        for axis in range(3):
            matches[y, x, i, axis] = matches[y, x, i - 1, axis]
        i -= 1
    scores[y, x, i] = score
    matches[y, x, i, 0], matches[y, x, i, 1], matches[y, x, i, 2] = picture, row, column


@_compiled
def _random_patch(seed, sweep, place, draw, firsts, columns):
    """Return a patch of all pictures, each as likely as any other."""
    number = _hashed(seed, sweep, place, draw) % firsts[-1]
    picture = 0
    while number >= firsts[picture + 1]:
        picture += 1
    number -= firsts[picture]
    return picture, number // columns[picture], number % columns[picture]


@_compiled
def start_rows(
    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, wanted,
    start, matches, scores, seed, first, last,
):  # fmt: skip
    """Score the matches to start from, of rows from ``first`` to ``last``, and fill up with random ones."""
    k = scores.shape[2]
    for y in range(first, last):
        for x in range(scores.shape[1]):
            if not wanted[y, x]:
                continue
            for i in range(start.shape[2]):
                picture, row, column = start[y, x, i, 0], start[y, x, i, 1], start[y, x, i, 2]
                if picture >= 0:
                    _offer(
                        query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
                        y, x, picture, row, column, matches, scores,
                    )  # fmt: skip
            draw = 0
            while matches[y, x, k - 1, 0] < 0 and draw < 64 * k:
                picture, row, column = _random_patch(seed, 0, y * scores.shape[1] + x, draw, firsts, columns)
                _offer(
                    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
                    y, x, picture, row, column, matches, scores,
                )  # fmt: skip
                draw += 1


@_compiled
def search_band(
    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, wanted,
    before, matches, scores, seed, sweep, radius, first, last,
):  # fmt: skip
    """Propagate matches within rows from ``first`` to ``last`` and search around them at random.

    Matches of neighbors in other rows are those ``before`` the sweep, so that bands may run in any order. Even sweeps
    go right and down, odd ones left and up.
    """
    wide, k = scores.shape[1], scores.shape[2]
    step = 1 if sweep % 2 == 0 else -1
    for line in range(last - first):
        y = first + line if step > 0 else last - 1 - line
        for turn in range(wide):
            x = turn if step > 0 else wide - 1 - turn
            if not wanted[y, x]:
                continue
            if 0 <= x - step < wide:
                for i in range(k):
                    if matches[y, x - step, i, 0] >= 0:
                        _offer(
                            query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
                            y, x, matches[y, x - step, i, 0], matches[y, x - step, i, 1],
                            matches[y, x - step, i, 2] + step, matches, scores,
                        )  # fmt: skip
            above = y - step
            if 0 <= above < scores.shape[0]:
                is_inside = first <= above < last
                for i in range(k):
                    picture = matches[above, x, i, 0] if is_inside else before[above, x, i, 0]
                    row = matches[above, x, i, 1] if is_inside else before[above, x, i, 1]
                    column = matches[above, x, i, 2] if is_inside else before[above, x, i, 2]
                    if picture >= 0:
                        _offer(
                            query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
                            y, x, picture, row + step, column, matches, scores,
                        )  # fmt: skip
            place, draw = y * wide + x, 0
            picture, row, column = _random_patch(seed, sweep + 1, place, draw, firsts, columns)
            _offer(
                query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
                y, x, picture, row, column, matches, scores,
            )  # fmt: skip
            reach = radius
            while reach >= 1:
                for i in range(k):
                    draw += 2
                    if matches[y, x, i, 0] < 0:
                        continue
                    down = _hashed(seed, sweep + 1, place, draw) % (2 * reach + 1) - reach
                    right = _hashed(seed, sweep + 1, place, draw + 1) % (2 * reach + 1) - reach
                    _offer(
                        query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of,
                        y, x, matches[y, x, i, 0], matches[y, x, i, 1] + down, matches[y, x, i, 2] + right,
                        matches, scores,
                    )  # fmt: skip
                reach //= 2


@_compiled
def vote_rows(matches, source, begins, widths, channels, side, image, first, last):
    """Write rows of a picture, from ``first`` to ``last``: each pixel the mean of the matches' patches that have it."""
    rows, columns = matches.shape[0], matches.shape[1]
    total = np.zeros(channels, np.float32)
    for y in range(first, last):
        for x in range(image.shape[1]):
            count = 0
            total[:] = 0
            for j in range(max(0, y - side + 1), min(rows, y + 1)):
                for i in range(max(0, x - side + 1), min(columns, x + 1)):
                    picture = matches[j, i, 0, 0]
                    row, column = matches[j, i, 0, 1] + y - j, matches[j, i, 0, 2] + x - i
                    at = begins[picture] + (row * widths[picture] + column) * channels
                    for channel in range(channels):
                        total[channel] += source[at + channel]
                    count += 1
            for channel in range(channels):
                image[y, x, channel] = total[channel] / np.float32(count)
