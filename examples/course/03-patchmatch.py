# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. PatchMatch
#
# Many tasks ask for the *nearest neighbor field* of two pictures $A$ and $B$: for each patch of $A$ the place of the
# most similar patch of $B$,
#
# $$f(x) = \arg\min_y \|p_A(x) - p_B(y)\|.$$
#
# Comparing all pairs takes $N^2$ distances. For two pictures of full HD that is $4 \cdot 10^{12}$. PatchMatch (Barnes,
# Shechtman, Finkelstein and Goldman, 2009) takes about $10 N$ a turn. You write it, measure it, and use it for stereo
# vision and for filling a hole.

# %%
import time
from itertools import pairwise

import numpy as np
import torch
from course import bricks, cobbles, plot, portrait, psnr, show
from torch import Tensor

from latentpatch.ops.compositing import fill_smoothly
from latentpatch.ops.patch_nearest import levels, nearest_vectors
from latentpatch.ops.patches import extract_patches, patch_positions
from latentpatch.ops.patchmatch import Field, Sources, patchmatch, resize_matches, vote
from latentpatch.ops.pyramid import resize
from latentpatch.provenance.offsets import offset_images

side = 7
a, b = portrait(11, 48), portrait(29, 48)
query = extract_patches(levels(a)[None], side)[0]  # levels: whole numbers from -128 to 127, so that sums are exact
keys = extract_patches(levels(b)[None], side)[0]
rows, columns = query.shape[:2]
print(f"{rows} x {columns} patches of {query.shape[2]} numbers")

# %% [markdown]
# ## The exact answer
#
# **Exercise 3.1.** Find the nearest patches by comparing all pairs. `nearest_vectors` does it in blocks of bounded
# memory.

# %%
exact = nearest_vectors(query.flatten(0, 1), keys.flatten(0, 1))
least = float(exact.scores.mean())
everything = torch.cdist(query.flatten(0, 1).double(), keys.flatten(0, 1).double()).square()

assert torch.equal(exact.scores[:, 0].double(), everything.amin(1).round())
print(f"{everything.numel():,} distances, mean of the least ones {least:,.0f}")

# %% [markdown]
# ## PatchMatch by hand
#
# Three ideas:
#
# 1. **Random start.** Among thousands of random matches a few are good by luck.
# 2. **Propagation.** Pictures are smooth: if $f(x)$ is right, then $f(x + t) = f(x) + t$ is likely right, too. So each
#    patch tries the matches of its left and upper neighbors, moved along. Every second turn goes the other way: from
#    the bottom right, with the right and lower neighbors.
# 3. **Random search.** Around its best match $y_0$ each patch tries $y_0 + R\, 2^{-i} X_i$ with $X_i$ uniform in
#    $[-1, 1]^2$ and $R$ the size of the picture, until the radius is below a pixel.
#
# **Exercise 3.2.** Write it with loops, as in the paper. Count the comparisons.


# %%
def search(query: np.ndarray, keys: np.ndarray, turns: int, seed: int = 0) -> tuple[np.ndarray, list[float], int]:
    """Return matches (rows, columns, 2), the mean squared distance after each turn, and the number of comparisons."""
    generator = np.random.default_rng(seed)
    rows, columns = query.shape[:2]
    limit = np.array(keys.shape[:2])
    field = generator.integers(0, limit, (rows, columns, 2))
    errors = np.square(query - keys[field[..., 0], field[..., 1]]).sum(-1)
    curve, comparisons = [float(errors.mean())], rows * columns
    for turn in range(turns):
        step = 1 if turn % 2 == 0 else -1
        for i in range(rows)[::step]:
            for j in range(columns)[::step]:
                candidates = []
                if 0 <= i - step < rows:
                    candidates.append(field[i - step, j] + (step, 0))
                if 0 <= j - step < columns:
                    candidates.append(field[i, j - step] + (0, step))
                radius = float(limit.max())
                while radius >= 1:
                    candidates.append(np.rint(field[i, j] + radius * generator.uniform(-1, 1, 2)).astype(int))
                    radius /= 2
                inside = [each for each in candidates if (each >= 0).all() and (each < limit).all()]
                if not inside:
                    continue
                places = np.array(inside)
                distances = np.square(keys[places[:, 0], places[:, 1]] - query[i, j]).sum(1)
                comparisons += len(places)
                best = distances.argmin()
                if distances[best] < errors[i, j]:
                    field[i, j], errors[i, j] = places[best], distances[best]
        curve.append(float(errors.mean()))
    return field, curve, comparisons


mine, curve, comparisons = search(query.numpy(), keys.numpy(), turns=4)
print(f"{comparisons:,} comparisons; distance {' > '.join(f'{each / least:.2f}' for each in curve)} times the least")

assert all(later < earlier for earlier, later in pairwise(curve))
assert least <= curve[-1] < 1.25 * least
assert comparisons < everything.numel() / 50

# %% [markdown]
# ## The package's PatchMatch
#
# `patchmatch` is the same idea, compiled by Numba where it is installed: `Sources` names the pictures to search and the
# side of patches, and the result has matches `(rows, columns, k, 3)` (picture, row, column) and scores.
#
# **Exercise 3.3.** Plot the mean distance against the number of sweeps. Equal seeds give equal matches.

# %%
sources = Sources([levels(b)], side)
fields = [patchmatch(levels(a), sources, sweeps=n, seed=1) for n in range(7)]
sweeps = [float(each.scores.mean()) for each in fields]
print("distance by sweeps:", ", ".join(f"{each / least:.2f}" for each in sweeps))

assert all(later <= earlier for earlier, later in pairwise(sweeps))
assert least <= sweeps[-1] < 1.15 * least
assert torch.equal(fields[6].matches, patchmatch(levels(a), sources, sweeps=6, seed=1).matches)
at = fields[6].matches[5, 8, 0].tolist()
assert float((query[5, 8] - keys[at[1], at[2]]).square().sum()) == float(fields[6].scores[5, 8, 0])

relative = {"loops": [each / least for each in curve], "package": [each / least for each in sweeps], "exact": [1.0] * 7}
plot("03-sweeps", relative, "sweeps", "mean distance / least")

# %% [markdown]
# ## What the field looks like
#
# Propagation makes the *offset* $o(x) = f(x) - x$ piecewise constant: large pieces are copied as a whole. In the maps
# below red is the column and green the row that a pixel comes from, so a piece shows as a smooth ramp.
#
# **Exercise 3.4.** Rebuild $A$ from patches of $B$: each pixel is the mean of the patches that cover it (`vote`). How
# many neighbors have the same offset, at the start and in the end?


# %%
def same_offsets(field: Field) -> float:
    """Return the share of patches whose match continues that of the patch to their left."""
    place = field.matches[:, :, 0]
    return float((place[:, 1:] - place[:, :-1] == torch.tensor([0, 0, 1])).all(-1).float().mean())


rebuilt = [(vote(each, sources, (48, 48)) + 128) / 255 for each in fields]
maps = [
    offset_images(patch_positions(each.matches[:, :, 0].long(), side, (48, 48))[None], [(48, 48)])[0] for each in fields
]
print(f"same offset: {same_offsets(fields[0]):.0%} at the start, {same_offsets(fields[6]):.0%} in the end")

assert same_offsets(fields[0]) < 0.01
assert same_offsets(fields[6]) > 0.3
assert psnr(rebuilt[6], a) > psnr(rebuilt[0], a) + 3

show(
    "03-fields",
    {
        "$A$": a,
        "random start": rebuilt[0],
        "1 sweep": rebuilt[1],
        "6 sweeps": rebuilt[6],
        "$B$": b,
        "its map": maps[0],
        "map, 1 sweep": maps[1],
        "map, 6 sweeps": maps[6],
    },
)

# %% [markdown]
# ## Coarse to fine, and several neighbors
#
# **Exercise 3.5.** Search at half the size first, and start from the result (`resize_matches`). Compare one sweep with
# one from a random start.

# %%
half = [levels(resize(each[None], (24, 24))[0]) for each in (a, b)]
coarse = patchmatch(half[0], Sources([half[1]], side), seed=1)
grids = (Sources([half[1]], side).grids, sources.grids)
start = resize_matches(coarse.matches, (rows, columns), *grids)
from_coarse = patchmatch(levels(a), sources, sweeps=1, seed=1, start=start)

assert from_coarse.scores.mean() < fields[1].scores.mean()

several = patchmatch(levels(a), sources, k=3, seed=1)
assert (several.scores.diff(dim=2) >= 0).all()  # nearest first

# %% [markdown]
# ## Cost
#
# **Exercise 3.6.** Measure both searches at three sizes. Exact search grows with $N^2$, PatchMatch with $N$. (Times are
# those of your machine, so there is nothing to assert.)

# %%
pixels, exact_times, quick_times = [], [], []
for width in (24, 48, 96):
    one, two = levels(cobbles(width, width, 1)), levels(cobbles(width, width, 2))
    began = time.perf_counter()
    nearest_vectors(*(extract_patches(each[None], 5)[0].flatten(0, 1) for each in (one, two)))
    middle = time.perf_counter()
    patchmatch(one, Sources([two], 5), sweeps=4)
    quick_times.append(time.perf_counter() - middle)
    exact_times.append(middle - began)
    pixels.append(width**2)
    print(f"{width} x {width}: exact {exact_times[-1]:.3f} s, PatchMatch {quick_times[-1]:.3f} s")
plot("03-cost", {"exact": (pixels, exact_times), "PatchMatch": (pixels, quick_times)}, "pixels", "seconds", log=True)

# %% [markdown]
# ## Stereo vision
#
# Two cameras side by side see near things shifted by more pixels than far ones: depth is inversely proportional to the
# shift (the *disparity*). So a nearest neighbor field of the two views is a map of depth.
#
# **Exercise 3.7.** Put a square of one pavement in front of another, shift the two by 3 and 9 pixels, and recover the
# shifts.

# %%
behind, front = cobbles(64, 96, seed=5, stone=8), cobbles(32, 32, seed=6, stone=8)
far, near = 3, 9
left, right = behind[:, :, 16:80].clone(), behind[:, :, 16 + far : 80 + far].clone()
left[:, 16:48, 24:56] = front
right[:, 16:48, 24 - near : 56 - near] = front
views = patchmatch(levels(left), Sources([levels(right)], 5), seed=0, sweeps=8)  # small patches: sharper borders
place = patch_positions(views.matches[:, :, 0].long(), 5, (64, 64))
disparity = torch.arange(64) - place[..., 2]
depth = (disparity.float().clamp(0, 12) / 12)[None]
is_front = torch.zeros(64, 64, dtype=torch.bool)
is_front[16:48, 24:56] = True
truth = torch.where(is_front, near, far)
inner = torch.zeros_like(is_front)
inner[8:-8, 16:-8] = True  # what only one camera sees has no match
share = float((disparity == truth)[inner].float().mean())
print(f"right disparity: {share:.0%} of the pixels")

assert share > 0.7
assert disparity[20:44, 28:52].median() == near
assert disparity[52:60, 16:56].median() == far

show("03-stereo", {"left": left, "right": right, "disparity, white is near": depth})

# %% [markdown]
# ## Filling a hole
#
# Editing with PatchMatch alternates two steps: find the nearest patch *outside the hole* for each patch, and let the
# patches vote for the pixels of the hole. `Sources.masked` leaves out patches that touch the hole.
#
# **Exercise 3.8.** Take a square out of a wall, and fill it, coarse to fine.


# %%
def fill(picture: Tensor, hole: Tensor, scales: int = 3, turns: int = 8) -> tuple[Tensor, Field]:
    """Return a picture whose hole is filled with patches from outside, and the last matches."""
    size = picture.shape[1:]
    smooth = fill_smoothly(picture[None], hole)
    result, field, grids = smooth, None, None
    for scale in reversed(range(scales)):
        small = (size[0] >> scale, size[1] >> scale)
        is_hole = resize(hole[None, None].float(), small)[0, 0] > 0.01
        target = resize(smooth, small)
        sources = Sources([levels(target[0])], side).masked([~is_hole])
        result = torch.where(is_hole, resize(result, small), target)
        start = None if field is None else resize_matches(field.matches, sources.grids[0], grids, sources.grids)
        for turn in range(turns):
            field = patchmatch(levels(result[0]), sources, seed=turn, start=start, sweeps=3)
            start = field.matches
            voted = (vote(field, sources, small) + 128) / 255
            result = torch.where(is_hole, voted, target)
        grids = sources.grids
    return result[0], field


wall = bricks()
hole = torch.zeros(96, 96, dtype=torch.bool)
hole[30:60, 36:66] = True
with_hole = torch.where(hole, 0.0, wall)
filled, matched = fill(with_hole, hole)
smooth = fill_smoothly(with_hole[None], hole)[0]
before, after = (psnr(each[:, hole], wall[:, hole]) for each in (smooth, filled))
print(f"in the hole: smooth {before:.1f} dB, patches {after:.1f} dB")

assert torch.equal(filled[:, ~hole], wall[:, ~hole])
touches = extract_patches(hole[None, None].float(), side)[0].amax(-1) > 0
used = matched.matches[:, :, 0].long()
assert not touches[used[..., 1], used[..., 2]].any()  # no patch is copied from the hole
assert after > before + 8

show("03-hole", {"hole": with_hole, "a smooth filling": smooth, "patches": filled, "what was there": wall})

# %% [markdown]
# A wall has one right continuation. A pavement has many, and the mean of many is a blur: try `cobbles()` here. The next
# two chapters deal with that.

# %% [markdown]
# ## What to keep in mind
#
# - A nearest neighbor field of natural pictures is piecewise constant; PatchMatch lives off that.
# - Random start, propagation, random search: some ten comparisons a patch and turn.
# - Search and vote, one after the other, is the pattern of all the chapters that follow.
