"""Loops of PatchMatch on CPUs, compiled by Numba; :mod:`.patchmatch` calls them.

Pictures are flat: pixel by pixel, row by row, all channels of a pixel together. A match is the number of a picture, a
row and a column; matches of a patch are sorted by score.
"""

from __future__ import annotations

import numpy as np

from ..runs.system import njit

__all__ = ["search_band", "start_rows", "vote_rows"]

# Sums may be reordered: of integers they are exact. Infinity is a score, so infinities have to be respected.
_compiled = njit(fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")

_HALF = np.uint64(0xFFFFFFFF)
_TRIES = 64  # random patches that are tried for each match a patch has to have


@_compiled
def _hashed(seed, sweep, place, draw):
    """Return 64 random bits of a place: the same in any order of places."""
    bits = (np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(place) << np.uint64(20))
    bits += np.uint64(sweep) * np.uint64(0xD1B54A32D192ED03) + np.uint64(draw) * np.uint64(0x8CB92BA72F3D8DD7)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@_compiled
def _below(bits, count):
    """Return a number from 0 to ``count - 1`` of 32 random bits."""
    return np.int64((bits * np.uint64(count)) >> np.uint64(32))


@_compiled
def _offer(
    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, costs, position,
    y, x, picture, row, column, matches, scores,
):  # fmt: skip
    """Compare a patch with one of a picture, and insert that into its matches where it is nearer.

    Without ``costs``, None, a loop of its own is compiled: the branch for them made searches by a fifth slower.
    """
    if row < 0 or column < 0 or row >= rows_of[picture] or column >= columns[picture]:
        return
    k = scores.shape[2]
    for i in range(k):
        if matches[y, x, i, 0] == picture and matches[y, x, i, 1] == row and matches[y, x, i, 2] == column:
            return
    weight = weights[firsts[picture] + row * columns[picture] + column]
    if weight == np.float32(np.inf):
        return
    added = np.float32(0)
    if costs is not None:
        down = np.float32(y) / max(1, scores.shape[0] - 1) - np.float32(row) / max(1, rows_of[picture] - 1)
        right = np.float32(x) / max(1, scores.shape[1] - 1) - np.float32(column) / max(1, columns[picture] - 1)
        added = costs[y, x, picture] + position * np.float32(4) * np.float32(down * down + right * right)
        if not added < scores[y, x, k - 1]:
            return
    limit = (scores[y, x, k - 1] - added) / weight
    length, step = side * channels, widths[picture] * channels
    at, to = (y * width + x) * channels, begins[picture] + row * step + column * channels
    total = np.float32(0)
    for _ in range(side):
        a, b = query[at : at + length], source[to : to + length]
        for i in range(length):
            difference = a[i] - b[i]
            total += difference * difference
        if total >= limit:
            return
        at += width * channels
        to += step
    score = weight * total + added
    if not score < scores[y, x, k - 1]:
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
def _random_patch(bits, firsts, columns):
    """Return a patch of all pictures, each as likely as any other."""
    number = _below(bits & _HALF, firsts[-1])
    picture = 0
    while number >= firsts[picture + 1]:
        picture += 1
    number -= firsts[picture]
    return picture, number // columns[picture], number % columns[picture]


@_compiled
def start_rows(
    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, costs, position, wanted,
    start, matches, scores, seed, first, last,
):  # fmt: skip
    """Score the matches to start from, of rows from ``first`` to ``last``, and fill up with random ones."""
    k, given = scores.shape[2], start.shape[2]
    for y in range(first, last):
        for x in range(scores.shape[1]):
            if not wanted[y, x]:
                continue
            for draw in range(given + _TRIES * k):
                if draw < given:
                    picture, row, column = (
                        np.int64(start[y, x, draw, 0]), np.int64(start[y, x, draw, 1]), np.int64(start[y, x, draw, 2])
                    )  # fmt: skip
                    if picture < 0:
                        continue
                elif matches[y, x, k - 1, 0] >= 0:
                    break
                else:
                    picture, row, column = _random_patch(
                        _hashed(seed, 0, y * scores.shape[1] + x, draw), firsts, columns
                    )
                _offer(
                    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, costs,
                    position, y, x, picture, row, column, matches, scores,
                )  # fmt: skip


@_compiled
def search_band(
    query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, costs, position, wanted,
    before, matches, scores, seed, sweep, radius, first, last,
):  # fmt: skip
    """Propagate matches within rows from ``first`` to ``last`` and search around them at random.

    Matches of neighbors in other rows are those ``before`` the sweep, so that bands may run in any order. Even sweeps
    go right and down, odd ones left and up.
    """
    tall, wide, k = scores.shape
    step = 1 if sweep % 2 == 0 else -1
    reaches = 0  # of the random search: each half of the one before
    while radius >> reaches >= 1:
        reaches += 1
    for line in range(last - first):
        y = first + line if step > 0 else last - 1 - line
        above = y - step
        is_inside = first <= above < last
        for turn in range(wide):
            x = turn if step > 0 else wide - 1 - turn
            if not wanted[y, x]:
                continue
            for draw in range(2 * k + 1 + reaches * k):
                if draw < k:
                    if not 0 <= x - step < wide:
                        continue
                    picture = np.int64(matches[y, x - step, draw, 0])
                    row = np.int64(matches[y, x - step, draw, 1])
                    column = np.int64(matches[y, x - step, draw, 2]) + step
                elif draw < 2 * k:
                    if not 0 <= above < tall:
                        continue
                    if is_inside:
                        picture = np.int64(matches[above, x, draw - k, 0])
                        row = np.int64(matches[above, x, draw - k, 1]) + step
                        column = np.int64(matches[above, x, draw - k, 2])
                    else:
                        picture = np.int64(before[above, x, draw - k, 0])
                        row = np.int64(before[above, x, draw - k, 1]) + step
                        column = np.int64(before[above, x, draw - k, 2])
                elif draw == 2 * k:
                    picture, row, column = _random_patch(_hashed(seed, sweep + 1, y * wide + x, draw), firsts, columns)
                else:
                    reach, i = radius >> ((draw - 2 * k - 1) // k), (draw - 2 * k - 1) % k
                    bits = _hashed(seed, sweep + 1, y * wide + x, draw)
                    picture = np.int64(matches[y, x, i, 0])
                    row = np.int64(matches[y, x, i, 1]) + _below(bits & _HALF, 2 * reach + 1) - reach
                    column = np.int64(matches[y, x, i, 2]) + _below(bits >> np.uint64(32), 2 * reach + 1) - reach
                if picture >= 0:
                    _offer(
                        query, width, channels, side, source, begins, widths, weights, firsts, columns, rows_of, costs,
                        position, y, x, picture, row, column, matches, scores,
                    )  # fmt: skip


@_compiled
def vote_rows(matches, shares, source, begins, widths, channels, side, image, first, last):
    """Write rows of a picture, from ``first`` to ``last``: each pixel the mean of the matches' patches that have it."""
    rows, columns, k = shares.shape
    width = image.shape[1]
    total, sums = np.zeros((width, channels), np.float32), np.zeros(width, np.float32)
    for y in range(first, last):
        total[:], sums[:] = 0, 0
        for j in range(max(0, y - side + 1), min(rows, y + 1)):
            for i in range(columns):
                for match in range(k):
                    share = shares[j, i, match]
                    if share == 0:
                        continue
                    picture = matches[j, i, match, 0]
                    row, column = np.int64(matches[j, i, match, 1]) + y - j, np.int64(matches[j, i, match, 2])
                    at = begins[picture] + (row * widths[picture] + column) * channels
                    for x in range(side):
                        sums[i + x] += share
                        for channel in range(channels):
                            total[i + x, channel] += share * source[at + x * channels + channel]
        for x in range(width):
            for channel in range(channels):
                image[y, x, channel] = total[x, channel] / sums[x]
