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
# # 6. New pictures from one picture: GPNN and GPDM
#
# A landscape is no texture: sky is above, meadow below. The task is a *new* landscape with the same kind of things in
# plausible places. SinGAN (Rott Shaham, Dekel and Michaeli, 2019) trains a pyramid of networks on the one picture, for
# about an hour. Two methods take seconds and no training, with the tools you have:
#
# - **GPNN** (Granot et al., "Drop the GAN", 2022): patches are replaced by nearest neighbors, coarse to fine.
# - **GPDM** (Elnekave and Weiss, 2022): gradient descent on the distance of two *distributions* of patches.

# %%
import torch
import torch.nn.functional as F
from course import landscape, plot, show
from torch import Tensor

import latentpatch
from latentpatch.ops.patch_nearest import completeness_weights, least_distances, nearest_vectors
from latentpatch.ops.patches import extract_patches, fold_patches
from latentpatch.ops.pyramid import pyramid_sizes, resize
from latentpatch.ops.wasserstein import project, random_directions, sliced_wasserstein

source = landscape(64, 96, seed=1)
side = 7


def patches_of(picture: Tensor) -> Tensor:
    """Return all patches (N, D)."""
    return extract_patches(picture[None], side)[0].flatten(0, 1)


def distances(picture: Tensor) -> tuple[float, float]:
    """Return coherence and completeness: from patches of the picture to the source's, and back; levels of 255."""
    own, theirs = patches_of(picture), patches_of(source)
    both = least_distances(theirs, own).mean(), least_distances(own, theirs).mean()
    return tuple(255 * float(each / own.shape[1]) ** 0.5 for each in both)


# %% [markdown]
# ## Layout comes from coarse scales
#
# **Exercise 6.1.** Treat the landscape as a texture, as in chapter 4. Then compare with GPNN, which starts at a height
# of 14 pixels: a patch of 7 then sees half of the picture, and knows above from below.

# %%
options = {"method": "texture-optimization", "patch_sizes": (16, 8), "iterations": 6}
as_texture = latentpatch.texture(source, (64, 96), seed=1, **options)
as_layout = latentpatch.reshuffle(source, n=3, seed=1, method="gpnn")

top, bottom = source[:, :8].mean((1, 2)), source[:, -8:].mean((1, 2))


def keeps_layout(picture: Tensor) -> bool:
    """Return whether the top is nearer to the source's top than to its bottom, and the bottom the other way round."""
    above, below = picture[:, :8].mean((1, 2)), picture[:, -8:].mean((1, 2))
    return bool((above - top).norm() < (above - bottom).norm() and (below - bottom).norm() < (below - top).norm())


assert all(keeps_layout(each) for each in as_layout.images)

first, second, third = as_layout.images
assert (first - second).abs().mean() > 0.02  # seeds give different pictures
again = latentpatch.reshuffle(source, seed=2, method="gpnn").images[0]
assert torch.equal(again, second)  # and each seed always the same one

show(
    "06-layout",
    {"source": source, "as a texture": as_texture.images[0], "GPNN, seed 1": first, "GPNN, seed 2": second},
)

# %% [markdown]
# ## GPNN by hand
#
# At each scale, coarse to fine, for a few turns:
#
# 1. distances $d_{ij}$ of patch $i$ of the result and patch $j$ of the source,
# 2. scores $s_{ij} = d_{ij} \,/\, (\alpha + \min_l d_{lj})$: a patch of the source that is far from everything in the
#    result has its distances divided by more, so it is preferred (**completeness**),
# 3. each patch becomes the source's patch of the least score, and overlapping patches are averaged.
#
# Compare step 2 with attention: queries are patches of the result, keys and values patches of the source, and softmax
# is replaced by its hard limit.
#
# **Exercise 6.2.** Write it. The start is noise at the coarsest scale.


# %%
def gpnn(source: Tensor, alpha: float, noise: float, seed: int = 0, turns: int = 4, coarsest: int = 14) -> Tensor:
    """Return a new picture of the source's size."""
    sizes = pyramid_sizes(source.shape[1:], ratio=0.75, coarsest=coarsest)
    generator = torch.Generator().manual_seed(seed)
    picture = resize(source[None], sizes[0])[0] if noise == 0 else torch.full((3, *sizes[0]), 0.5)
    picture = picture + noise * torch.randn(picture.shape, generator=generator)
    for scale, size in enumerate(sizes):
        sharp = resize(source[None], size)
        values = extract_patches(sharp, side)[0].flatten(0, 1)
        keys = values
        if scale:  # the result was upsampled, which blurs: compare it with what is as blurred
            keys = extract_patches(resize(resize(source[None], sizes[scale - 1]), size), side)[0].flatten(0, 1)
        picture = resize(picture[None], size)[0]
        for _ in range(turns if scale else 1):
            queries = patches_of(picture)
            weights = completeness_weights(least_distances(queries, keys), alpha)  # 1 / (alpha + least)
            found = values[nearest_vectors(queries, keys, weights=weights).positions[:, 0]]
            grid = (1, size[0] - side + 1, size[1] - side + 1, -1)
            picture = fold_patches(found.view(grid), size, side)[0]
    return picture


mine = gpnn(source, alpha=0.5, noise=0.4)
plain = gpnn(source, alpha=float("inf"), noise=0.4)
print("coherence, completeness: with alpha {:.1f}, {:.1f};".format(*distances(mine)), end=" ")
print("without {:.1f}, {:.1f}".format(*distances(plain)))

assert distances(mine)[1] < distances(plain)[1]
assert keeps_layout(mine)

# %% [markdown]
# **Exercise 6.3.** Start from the picture itself instead of noise. What comes out, and why?

# %%
itself = gpnn(source, alpha=float("inf"), noise=0.0)
print(f"mean difference from the source: {255 * float((itself - source).abs().mean()):.2f} levels")

assert (itself - source).abs().mean() < 0.01

show("06-gpnn", {"source": source, "with $\\alpha$": mine, "without": plain, "no noise": itself})

# %% [markdown]
# ## Alpha, and how much is copied
#
# **Exercise 6.4.** Lower the package's `alpha`, which counts in variances of the picture. Completeness gets better, and
# at some point coherence gets worse.

# %%
alphas = [1000.0, 0.1, 0.01]
measured = []
for alpha in alphas:
    results = latentpatch.reshuffle(source, n=2, method="gpnn", alpha=alpha)
    each = torch.tensor([distances(image) for image in results.images]).mean(0).tolist()
    measured.append(each)
    print(f"alpha {alpha:g}: coherence {each[0]:.1f}, completeness {each[1]:.1f}")

assert measured[-1][1] < measured[0][1]

coherence, completeness = zip(*measured, strict=True)
curves = {"coherence": (alphas, coherence), "completeness": (alphas, completeness)}
plot("06-alpha", curves, "alpha", "levels", log=True)

# %% [markdown]
# Every result says where its pixels come from. *In place* is the share of pixels that stayed where they were: a method
# that copies the input scores well in coherence.

# %%
for seed, figures in zip(as_layout.seeds, as_layout.copying(), strict=True):
    print(f"seed {seed}:", {name: round(value, 2) for name, value in figures.items()})
maps = as_layout.provenance()

assert as_layout.offsets.shape == (3, 64, 96, 3)
show("06-maps", {"GPNN, seed 1": first, "its map": maps[0], "GPNN, seed 3": third, "the map": maps[2]})

# %% [markdown]
# ## Spatial fidelity
#
# Another way to say what should be where is a term in the energy of chapter 4:
#
# $$\arg\min_u \Big\{ E(u) + \alpha \sum_x \|u(x) - u_0(x)\|^2 \Big\}.$$
#
# After each join, the picture is blended with the original: $u \leftarrow (u + \alpha u_0) / (1 + \alpha)$. As a hard
# constraint, the border can be copied.
#
# **Exercise 6.5.** Use the settings `fidelity` and `border` of `texture-optimization`. Give it the edit of a picture as
# its source of places: here a mountain that somebody moved without care.

# %%
edit = source.clone()
edit[:, 12:40, 8:40] = source[:, 12:40, 56:88]
method = latentpatch.PICTURE_METHODS["texture-optimization"]
kept = {}
for fidelity in (0.02, 0.3, 3.0):
    settings = method.Settings(patch_sizes=(8,), iterations=6, fidelity=fidelity, border=4)
    kept[fidelity] = method([source], (64, 96), [0], settings, task="reshuffle", target=edit).images[0]
apart = {fidelity: float((each - edit).square().mean() ** 0.5) for fidelity, each in kept.items()}
print("distance from the edit:", {fidelity: round(255 * each, 1) for fidelity, each in apart.items()})

assert apart[3.0] < apart[0.3] < apart[0.02]
edge = torch.ones(64, 96, dtype=torch.bool)
edge[4:-4, 4:-4] = False
assert all(torch.allclose(each[:, edge], edit[:, edge], atol=1e-6) for each in kept.values())

show("06-fidelity", {"edit": edit, **{f"fidelity {fidelity:g}": each for fidelity, each in kept.items()}})

# %% [markdown]
# ## Another size
#
# **Exercise 6.6.** Make the landscape twice as wide. Resizing stretches firs and mountains; patches do not.
# Completeness stays, coherence tells them apart.

# %%
wide = latentpatch.retarget(source, (64, 192), seed=0, method="gpnn").images[0]
stretched = resize(source[None], (64, 192))[0]
print(f"coherence: stretched {distances(stretched)[0]:.1f}, retargeted {distances(wide)[0]:.1f}")

assert distances(wide)[0] < distances(stretched)[0]
show("06-wide", {"stretched": stretched, "retargeted": wide}, zoom=4)

# %% [markdown]
# ## GPDM: distributions of patches
#
# GPNN pairs patches one by one. GPDM compares two *sets* of patches by the sliced Wasserstein distance: project both
# onto a random direction $\theta$, sort (chapter 5: on a line that is optimal transport), and average over directions:
#
# $$\mathrm{SWD}(U, V) = \mathbb{E}_\theta \; \frac{1}{N} \sum_{i = 1}^{N}
#   \big| \langle \theta, u \rangle_{(i)} - \langle \theta, v \rangle_{(i)} \big|.$$
#
# All patches are projected at once by a convolution whose filter is $\theta$. A distance costs $N \log N$.
#
# **Exercise 6.7.** Write it in three lines. It vanishes for equal sets, whatever their order, and it has a gradient.

# %%
generator = torch.Generator().manual_seed(0)
directions = random_directions(64, 3, side, generator)


def swd(one: Tensor, other: Tensor, directions: Tensor) -> Tensor:
    """Return the sliced Wasserstein distance of the patches of two pictures of one size."""
    lines = [F.conv2d(each[None], directions)[0].flatten(1).sort(1).values for each in (one, other)]
    return (lines[0] - lines[1]).abs().mean()


theirs = sliced_wasserstein(first[None], source[None], side=side, num_projections=64, seed=0)
assert torch.allclose(swd(first, source, directions), theirs, atol=1e-5)
assert torch.equal(project(first[None], directions)[3], F.conv2d(first[None], directions)[0, 3].flatten())
assert swd(source, source, directions) == 0

# %% [markdown]
# **Exercise 6.8.** Start from noise, and let Adam lower the distance, coarse to fine, with new directions at each step.

# %%
sizes = pyramid_sizes((64, 96), ratio=0.6, coarsest=16)
picture = 0.5 + 0.3 * torch.randn(3, *sizes[0], generator=generator)
curve = []
for size in sizes:
    goal = resize(source[None], size)[0]
    picture = resize(picture[None], size)[0].detach().requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        loss = swd(picture, goal, random_directions(32, 3, side, generator))
        loss.backward()
        optimizer.step()
        curve.append(float(loss.detach()))
mine = picture.detach().clamp(0, 1)
start = (0.5 + 0.3 * torch.randn(3, 64, 96, generator=generator)).clamp(0, 1)
fell = [float(swd(each, source, directions)) for each in (start, mine)]
print(f"SWD: noise {fell[0]:.3f}, in the end {fell[1]:.3f}")

assert fell[1] < 0.2 * fell[0]

plot("06-swd", {"SWD at each step": curve}, "step", "SWD")

# %% [markdown]
# **Exercise 6.9.** The package's `gpdm` has the gradient in closed form, sorts by radix and mirrors the edges. Compare
# it with GPNN: which has the better distribution, which the sharper patches? GPDM copies nothing, so it has no map.

# %%
made = latentpatch.reshuffle(source, n=1, seed=0, method="gpdm", steps=60)
reached = {
    "GPDM": float(swd(made.images[0], source, directions)),
    "GPNN": sum(float(swd(each, source, directions)) for each in as_layout.images) / 3,
    "by hand": fell[1],
}
print("SWD:", {name: round(each, 4) for name, each in reached.items()})
print(f"coherence: GPDM {distances(made.images[0])[0]:.1f}, GPNN {distances(first)[0]:.1f}")

assert made.offsets is None
assert made.losses[-1] < 0.3 * made.losses[0]
assert reached["GPDM"] < reached["GPNN"]
assert distances(first)[0] < distances(made.images[0])[0]

show("06-gpdm", {"source": source, "by hand": mine, "GPDM": made.images[0], "GPNN": first})

# %% [markdown]
# ## What to keep in mind
#
# - The coarsest scale decides the layout, noise there the variety.
# - GPNN copies: look at its maps. GPDM matches statistics and copies nothing.
# - The package's default, `patch-diffusion`, denoises noise by the patches of the picture in closed form: attention
#   again, with a temperature that falls.
