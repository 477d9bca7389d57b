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
# # 4. Texture optimization
#
# **Texture synthesis by example:** from a picture of a texture make another one, of any size, that looks like more of
# the same. The hypothesis is that the texture is *stationary*: all its places are alike.
#
# This chapter looks at two early methods that grow a texture piece by piece. Then you write the one that all later
# methods of this course build on: texture optimization (Kwatra, Essa, Bobick and Kwatra, 2005).

# %%
from itertools import pairwise

import torch
from course import cobbles, plot, show
from torch import Tensor

import latentpatch
from latentpatch.methods.single_image.texture_optimization import PatchGrid, nearest_rows

exemplar = cobbles(96, 96, seed=3)

# %% [markdown]
# ## Two ways to grow a texture
#
# - **Pixel by pixel** (Efros and Leung, 1999). Take an unknown pixel with known neighbors. Find windows of the exemplar
#   that agree with these neighbors, draw one of them, copy its center.
# - **Block by block** (image quilting, Efros and Freeman, 2001). Draw a block that agrees with what is there where the
#   two overlap, and cut the overlap along the path of least error.
#
# **Exercise 4.1.** Run both. All pixels are exact copies: check it with the offsets of the results.

# %%
small = cobbles(40, 40, seed=3)
grown = latentpatch.texture(small, (56, 56), method="efros-leung", window=9)
quilted = latentpatch.texture(exemplar, (96, 144), method="quilting", block=24)


def looked_up(offsets: Tensor, source: Tensor) -> Tensor:
    """Return the pixels of the source that an offset map (h, w, 3) names."""
    return source[:, offsets[..., 1], offsets[..., 2]]


assert torch.allclose(looked_up(grown.offsets[0], small), grown.images[0], atol=1e-6)
assert torch.allclose(looked_up(quilted.offsets[0], exemplar), quilted.images[0], atol=1e-6)

show(
    "04-grown",
    {
        "exemplar": small,
        "pixel by pixel": grown.images[0],
        "block by block": quilted.images[0],
        "where the blocks come from": quilted.provenance()[0],
    },
)

# %% [markdown]
# Both decide once and never look back. A wrong piece stays, and the rest has to fit to it.
#
# ## The energy
#
# Kwatra et al. ask for a picture $u$ all of whose patches are near patches $p_0$ of the exemplar $u_0$:
#
# $$\arg\min_u \Big\{ E(u) := \min_f \sum_{x \in \Omega'} \|p(x) - p_0(f(x))\|^r \Big\}.$$
#
# $\Omega'$ is a coarse grid of patches, a quarter of their side apart (`PatchGrid`). Two steps alternate, and neither
# raises the energy:
#
# 1. **Match** ($u$ fixed): $f(x)$ is the nearest patch of the exemplar.
# 2. **Join** ($f$ fixed): each pixel becomes what suits all the patches that cover it. For $r = 2$ it is their mean.
#
# The exemplar itself has $E(u_0) = 0$, so you do not want the *global* minimum: the start has to be random.
#
# **Exercise 4.2.** Write the two steps for $r = 2$. Check that the energy never rises, and that the exemplar has none.


# %%
def match(picture: Tensor, exemplar: Tensor, side: int) -> tuple[PatchGrid, Tensor, Tensor]:
    """Return the grid of a picture, the nearest patches of the exemplar and the squared distances to them."""
    grid, source = (PatchGrid.of(tuple(each.shape[1:]), side) for each in (picture, exemplar))
    own, keys = grid.extract(picture), source.extract(exemplar)
    found = keys[nearest_rows(own.flatten(1), keys.flatten(1))]
    return grid, found, (own - found).square().flatten(1).sum(1)


def join(grid: PatchGrid, found: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean, at each pixel, of the patches that cover it; weights (patches,)."""
    weights = (weights / weights.amax())[:, None, None, None]
    cover = grid.add(weights.expand(-1, 1, grid.side, grid.side).contiguous())
    return grid.add(found * weights) / cover


def optimize(start: Tensor, side: int, power: float, turns: int) -> tuple[Tensor, list[float]]:
    """Return the picture after some turns, and the energy at each."""
    picture, energies = start, []
    for _ in range(turns):
        grid, found, squares = match(picture, exemplar, side)
        energies.append(float(squares.pow(power / 2).sum()))
        picture = join(grid, found, squares.clamp(min=1e-8).pow((power - 2) / 2))
    return picture, energies


generator = torch.Generator().manual_seed(0)
start = exemplar.flatten(1)[:, torch.randperm(96 * 96, generator=generator)].view(3, 96, 96)
mean, mean_curve = optimize(start, side=16, power=2.0, turns=12)

assert all(later <= earlier * 1.0001 for earlier, later in pairwise(mean_curve))
assert match(exemplar, exemplar, 16)[2].amax() == 0
print(f"energy: {mean_curve[0]:,.0f} at the start, {mean_curve[-1]:,.0f} after 12 turns")
assert mean_curve[-1] < 0.5 * mean_curve[0]

# %% [markdown]
# ## Powers below 2
#
# The mean of patches that disagree is a blur. With $r < 2$ large distances count for less. To minimize $\sum_j d_j^r$
# with means, give each patch the weight $d_j^{\,r - 2}$ of the last turn: *iteratively reweighted least squares*. The
# authors use $r = 0.8$; the function `optimize` above already has it.
#
# For $r = 1$ and absolute values, pixel by pixel, the best value is the **median** of the patches (Gutierrez et al.,
# 2017).
#
# **Exercise 4.3.** Compare. Is the result with the weights sharper?

# %%
robust, robust_curve = optimize(start, side=16, power=0.8, turns=12)
median = start
for _ in range(12):
    grid, found, _ = match(median, exemplar, 16)
    median = grid.median(found)

assert all(later <= earlier * 1.0001 for earlier, later in pairwise(robust_curve))


def contrast(picture: Tensor) -> float:
    """Return the mean difference of a pixel from the one below."""
    return float(picture.diff(dim=1).abs().mean())


print({name: round(contrast(each), 3) for name, each in (("r = 2", mean), ("r = 0.8", robust), ("r = 1", median))})
assert contrast(mean) < 0.9 * contrast(robust)
assert contrast(mean) < 0.9 * contrast(median)

curves = {
    "$r$ = 2": [each / mean_curve[0] for each in mean_curve],
    "$r$ = 0.8": [each / robust_curve[0] for each in robust_curve],
}
plot("04-energy", curves, "turn", "energy / energy at the start")
show("04-one-scale", {"start": start, "mean, $r$ = 2": mean, "weights, $r$ = 0.8": robust, "median, $r$ = 1": median})

# %% [markdown]
# From noise, at one scale, all of them end in a poor local minimum: stones that nobody finished. Pieces that settled
# early do not fit together, and no patch is large enough to see that.
#
# ## Coarse to fine
#
# The cure is a pyramid: first a small picture, where a patch of 8 pixels covers whole stones. Each scale starts from
# the result of the coarser one. At each scale the patches go from large to small. The package does this as
# `texture-optimization`; its presets `kwatra` and `gutierrez` follow the papers.
#
# **Exercise 4.4.** Compare the energy with that of one scale, with the same patches.

# %%
settings = {"method": "texture-optimization", "patch_sizes": (16, 8), "iterations": 8}
made = {
    name: latentpatch.texture(exemplar, (96, 96), seed=1, join=how, power=power, **settings)
    for name, how, power in (("mean", "mean", 2.0), ("weights", "weighted", 0.8), ("median", "median", 1.0))
}


def energy(picture: Tensor, side: int = 8) -> float:
    """Return the mean distance of a picture's patches to those of the exemplar."""
    return float(match(picture, exemplar, side)[2].sqrt().mean())


one_scale, pyramid = energy(robust), energy(made["weights"].images[0])
print(f"mean distance of patches: one scale {one_scale:.2f}, pyramid {pyramid:.2f}, exemplar {energy(exemplar):.2f}")

assert pyramid < 0.6 * one_scale

show("04-pyramid", {"exemplar": exemplar, **{f"pyramid, {name}": each.images[0] for name, each in made.items()}})

# %% [markdown]
# ## How much is copied?
#
# **Exercise 4.5.** Look at the offsets. Texture optimization finds the large pieces by itself that quilting cuts out.

# %%
figures = made["weights"].copying()[0]
print({name: value if value is None else round(value, 2) for name, value in figures.items()})

assert figures["contiguity"] > 0.8  # most neighbors are neighbors in the exemplar, too

wide = latentpatch.texture(exemplar, (96, 192), seed=2, **settings)
show("04-offsets", {"a wider texture": wide.images[0], "where it comes from": wide.provenance()[0]}, zoom=4)

# %% [markdown]
# ## Tiles
#
# **Exercise 4.6.** With patches that continue at the opposite edge, the texture can be repeated. Is the seam between
# two tiles stronger than other places?

# %%
tile = latentpatch.texture(exemplar, (96, 96), seed=1, tileable=True, **settings).images[0]


def seam(picture: Tensor) -> float:
    """Return the step between the last column and the first, relative to that of other neighbors."""
    return float((picture[:, :, 0] - picture[:, :, -1]).abs().mean() / picture.diff(dim=2).abs().mean())


print(f"seam of a tile {seam(tile):.2f}, of the exemplar {seam(exemplar):.2f}")
assert seam(tile) < 1.4 < seam(exemplar)

show("04-tile", {"exemplar, repeated": exemplar.repeat(1, 1, 2), "tile, repeated": tile.repeat(1, 1, 2)}, zoom=4)

# %% [markdown]
# ## What to keep in mind
#
# - An energy over all patches, two steps that lower it, and a pyramid against local minima.
# - Means blur, small powers and medians do not.
# - Large pieces are copied, and nothing makes sure that all of the exemplar is used: it can "grow garbage", the
#   plainest patch everywhere. The next chapter forbids that.
