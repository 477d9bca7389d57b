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
# # 5. Assignment
#
# Texture optimization gives each patch of the result its nearest patch of the exemplar. Nothing says that all patches
# of the exemplar are used. Gutierrez, Rabin, Galerne and Hurtut (2017) ask that **each is used exactly once**: the
# match $f$ has to be a permutation $\sigma$,
#
# $$\min_{\sigma \in \Sigma} \sum_x \|p(x) - p_0(\sigma(x))\|^2
#   = \min_P \sum_{x, y} P_{xy}\, \|p(x) - p_0(y)\|^2
#   \quad \text{with} \quad \sum_x P_{xy} = \sum_y P_{xy} = 1, \; P_{xy} \ge 0.$$
#
# This is the *linear sum assignment problem*. It does not fall apart into one search for each patch: all patches decide
# together. It is optimal transport between two sets of equal size.

# %%
from collections.abc import Callable
from itertools import pairwise, permutations

import torch
from course import cobbles, plot, show
from torch import Tensor

from latentpatch.methods.single_image.texture_optimization import PatchGrid, nearest_rows
from latentpatch.ops.assignment import assign
from latentpatch.ops.patch_nearest import least_distances
from latentpatch.ops.patches import extract_patches
from latentpatch.ops.pyramid import resize
from latentpatch.ops.transport import transport_weights
from latentpatch.ops.wasserstein import transport_plan, w1

# %% [markdown]
# ## Small problems
#
# **Exercise 5.1.** Try all $6! = 720$ permutations of six points. `assign` finds the best one without that. What does
# the nearest neighbor of each point cost, and why is it no permutation?

# %%
generator = torch.Generator().manual_seed(4)
costs = torch.cdist(torch.rand(6, 2, generator=generator), torch.rand(6, 2, generator=generator)).square()
best = min(permutations(range(6)), key=lambda each: sum(float(costs[i, j]) for i, j in enumerate(each)))
nearest = costs.argmin(1).tolist()
print(f"best permutation {list(best)}, nearest neighbors {nearest}")

assert assign(costs).tolist() == list(best)
assert len(set(nearest)) < 6
assert float(costs.amin(1).sum()) < float(costs[torch.arange(6), assign(costs)].sum())

# %% [markdown]
# **Exercise 5.2.** On a line, optimal transport pairs numbers *by rank*: the smallest with the smallest, and so on. So
# one sort solves it, in $N \log N$ instead of $N^3$. This is why chapter 6 projects patches onto lines.

# %%
first, second = torch.randn(2, 200, generator=generator)
pairs = assign((first[:, None] - second).square())
distance = float((first.sort().values - second.sort().values).abs().mean())

assert torch.equal(pairs[first.argsort()], second.argsort())
assert abs(distance - float(w1(first[None], second[None]))) < 1e-6

# %% [markdown]
# For sets of different sizes mass is split. Three points that each weigh 1/3 go to two that each weigh 1/2: the middle
# one goes half to the left and half to the right.

# %%
left, right, mass = transport_plan(3, 2)
print([(i, j, round(m, 3)) for i, j, m in zip(left.tolist(), right.tolist(), mass.tolist(), strict=True)])

assert left.tolist() == [0, 1, 1, 2]
assert right.tolist() == [0, 0, 1, 1]
assert torch.allclose(mass, torch.tensor([2.0, 1.0, 1.0, 2.0], dtype=torch.float64) / 6)

# %% [markdown]
# ## Textures with the constraint
#
# The cube of the size is the price: 441 patches take a tenth of a second, 4,000 would take minutes. So the grid of
# patches is *decimated*: patches of 16 pixels every 4 pixels.
#
# **Exercise 5.3.** Write texture optimization with a function that does the matching. Run it with `nearest_rows` and
# with `assign`, from the same start.

# %%
exemplar = cobbles(96, 96, seed=3)
Matching = Callable[[Tensor, Tensor], Tensor]  # patches and keys to the patch for each place


def nearest_patches(own: Tensor, keys: Tensor) -> Tensor:
    """Return the nearest key of each patch."""
    return keys[nearest_rows(own, keys)]


def assigned_patches(own: Tensor, keys: Tensor) -> Tensor:
    """Return a key of its own for each patch."""
    return keys[assign(torch.cdist(own.double(), keys.double()).square())]


def synthesize(matching: Matching, start: Tensor, turns: int = 8) -> Tensor:
    """Return a texture of the exemplar's size, from scales of 24, 48 and 96 pixels."""
    picture = start
    for width, side in ((24, 8), (48, 8), (96, 16)):
        source = resize(exemplar[None], (width, width))[0]
        picture = resize(picture[None], (width, width))[0]
        grid = PatchGrid.of((width, width), side)
        keys = grid.extract(source).flatten(1)
        for _ in range(turns):
            own = grid.extract(picture).flatten(1)
            found = matching(own, keys)
            squares = (own - found).square().sum(1)
            weights = squares.clamp(min=1e-8).pow(-0.6)  # r = 0.8, as in chapter 4
            weights = (weights / weights.amax())[:, None, None, None].expand(-1, 1, side, side).contiguous()
            picture = grid.add(found.view(-1, 3, side, side) * weights) / grid.add(weights)
    return picture


order = torch.randperm(24 * 24, generator=torch.Generator().manual_seed(2))
noise = resize(exemplar[None], (24, 24))[0].flatten(1)[:, order].view(3, 24, 24)
free, once = synthesize(nearest_patches, noise), synthesize(assigned_patches, noise)

# %% [markdown]
# **Exercise 5.4.** Count how often each patch of the exemplar is used. Then measure *coherence* (distance from patches
# of the result to their nearest ones in the exemplar) and *completeness* (the other way round).

# %%
grid = PatchGrid.of((96, 96), 16)
keys = grid.extract(exemplar).flatten(1)
uses = {
    "nearest": nearest_rows(grid.extract(free).flatten(1), keys).bincount(minlength=len(keys)),
    "assigned": assign(torch.cdist(grid.extract(once).flatten(1), keys)).bincount(minlength=len(keys)),
}
print({name: f"{int((each == 0).sum())} of {len(keys)} unused, most {int(each.amax())}" for name, each in uses.items()})

assert (uses["assigned"] == 1).all()
assert (uses["nearest"] == 0).sum() > len(keys) // 10


def distances(picture: Tensor, side: int = 7) -> tuple[float, float]:
    """Return coherence and completeness, root mean squares in levels of 255."""
    own, theirs = (extract_patches(each[None], side)[0].flatten(0, 1) for each in (picture, exemplar))
    both = least_distances(theirs, own).mean(), least_distances(own, theirs).mean()
    return tuple(255 * float(each / own.shape[1]) ** 0.5 for each in both)


coherence, completeness = zip(distances(free), distances(once), strict=True)
print(f"nearest: coherence {coherence[0]:.1f}, completeness {completeness[0]:.1f}")
print(f"assigned: coherence {coherence[1]:.1f}, completeness {completeness[1]:.1f}")

assert completeness[1] < 0.8 * completeness[0]

picture = {"exemplar": exemplar, "nearest patches": free, "each patch once": once}
unused = {name: grid.add((each > 0).float().view(-1, 1, 1, 1).expand(-1, 1, 16, 16)) for name, each in uses.items()}
cover = grid.add(torch.ones(len(keys), 1, 16, 16))
show("05-once", {**picture, "used by nearest patches": unused["nearest"] / cover})

# %% [markdown]
# With the constraint all kinds of stones come back, in about their numbers. In the last picture, black parts of the
# exemplar were used by none of the nearest patches.
#
# ## Entropy
#
# Add the entropy of $P$ to the cost:
#
# $$\min_P \sum_{x, y} P_{xy}\, c_{xy} + \varepsilon \sum_{x, y} P_{xy} \log P_{xy}.$$
#
# The solution is $P_{xy} = e^{(a_x + b_y - c_{xy}) / \varepsilon}$. Sinkhorn's iteration finds $a$ and $b$: scale the
# rows so that each sums to 1, then the columns, and so on. It is made of sums and exponentials, so it runs in parallel
# and takes $N^2$ a round (Cuturi, 2013). Without any round, rows are plain softmax: attention, as in chapter 2.
#
# **Exercise 5.5.** Follow `transport_weights` from small to large $\varepsilon$. Where does it meet the exact solution?

# %%
own = grid.extract(free).flatten(1)
table = torch.cdist(own.double(), keys.double()).square().float()
exact = float(table[torch.arange(len(own)), assign(table)].mean())
sharpness, paid = [1.0, 0.3, 0.1, 0.03, 0.01], []
for softness in sharpness:
    weights, _ = transport_weights(table / (softness * table.mean()), rounds=200)
    assert torch.allclose(weights.sum(1), torch.ones(len(own)), atol=1e-4)
    paid.append(float((weights * table).sum(1).mean()))
attention, _ = transport_weights(table / (0.03 * table.mean()), rounds=0)
balanced, _ = transport_weights(table / (0.03 * table.mean()), rounds=200)
print(f"exact {exact:.2f}, entropic {', '.join(f'{each:.2f}' for each in paid)}")
print(f"use of a patch: softmax {attention.sum(0).min():.2f} to {attention.sum(0).max():.2f}", end=", ")
print(f"balanced {balanced.sum(0).min():.2f} to {balanced.sum(0).max():.2f}")

assert torch.allclose(attention, (-table / (0.03 * table.mean())).softmax(1), atol=1e-5)
assert all(less < more for more, less in pairwise(paid))
assert 0.99 * exact <= paid[-1] < 1.1 * exact
assert (balanced.sum(0) - 1).abs().max() < 0.1
assert attention.sum(0).max() > 2

curves = {"entropic": (sharpness, paid), "exact": (sharpness, [exact] * 5)}
plot("05-entropy", curves, "softness", "mean cost", log=True)

# %% [markdown]
# **Exercise 5.6.** Use the entropic solution as the matching: each place gets the mean of patches under its row of $P$.


# %%
def balanced_patches(own: Tensor, keys: Tensor) -> Tensor:
    """Return means of keys that use all keys alike."""
    costs = torch.cdist(own, keys).square()
    weights, _ = transport_weights(costs / (0.02 * costs.mean()), rounds=20)
    return weights @ keys


soft = synthesize(balanced_patches, noise)
coherence_soft, completeness_soft = distances(soft)
print(f"entropic: coherence {coherence_soft:.1f}, completeness {completeness_soft:.1f}")

assert completeness_soft < completeness[0]

show("05-entropic", {"nearest patches": free, "each patch once": once, "entropic": soft})

# %% [markdown]
# ## What to keep in mind
#
# - Nearest neighbors minimize what is wrong with each patch, and forget parts of the exemplar. A permutation forgets
#   nothing.
# - The exact solution is cubic; entropy makes it parallel, and soft. On a line it is a sort.
# - The package's default method for one picture, `patch-diffusion`, uses the entropic form at its coarse scales
#   (setting `balanced`).
