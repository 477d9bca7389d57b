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
# # 7. Style transfer
#
# Two pictures go in: a **content** $c$ says what is where, a **style** $s$ gives colors and strokes. One comes out. The
# tools are those of the chapters before: match patches, join them, go from coarse to fine.

# %%
import torch
from course import cobbles, landscape, painting, plot, portrait, show
from torch import Tensor

import latentpatch
from latentpatch.methods.single_image.texture_optimization import PatchGrid, nearest_rows
from latentpatch.ops.palettes import transfer_palette
from latentpatch.ops.patch_nearest import least_distances, levels
from latentpatch.ops.patches import extract_patches, patch_positions
from latentpatch.ops.patchmatch import Sources, patchmatch, vote
from latentpatch.ops.pyramid import pyramid_sizes, resize

content, style = portrait(29, 144), painting(144, 144)


def distance_to(picture: Tensor, other: Tensor, side: int = 7) -> float:
    """Return the distance of every ninth patch of a picture to the nearest one in another, in levels of 255."""
    own, theirs = (extract_patches(each[None], side, n)[0].flatten(0, 1) for each, n in ((picture, 3), (other, 1)))
    return 255 * float(least_distances(theirs, own).mean() / own.shape[1]) ** 0.5


# %% [markdown]
# ## Colors first
#
# A face in pink has no near patches in a painting in blue. So move the *palette* first: colors are points in space,
# and the content's points have to become distributed as the style's. That is optimal transport in three dimensions,
# solved along random lines: replace values by those of equal rank (Pitié, Kokaram and Dahyot, 2007). It is the sliced
# transport of chapter 6, for patches of one pixel.
#
# **Exercise 7.1.** Do it. Check that the means and deviations of the channels are those of the style, and that a
# picture with its own palette stays as it is.

# %%
recolored = transfer_palette(content, [style])


def moments(picture: Tensor) -> Tensor:
    """Return mean and standard deviation of each channel."""
    return torch.stack([picture.mean((1, 2)), picture.std((1, 2))])


assert torch.allclose(moments(recolored), moments(style), atol=0.03)
assert torch.allclose(transfer_palette(style, [style]), style, atol=1e-4)

# %% [markdown]
# ## The simplified energy of Elad and Milanfar
#
# Elad and Milanfar (2017) add the content to the energy of texture optimization, with the patches $p_s$ of the style:
#
# $$\arg\min_u \; \min_f \sum_{x \in \Omega'} \|p(x) - p_s(f(x))\|^r \;+\; \lambda \sum_x \|u(x) - c(x)\|^2.$$
#
# Matching does not change. Joining gets one more line: $u \leftarrow (u + \lambda c) / (1 + \lambda)$, the spatial
# fidelity of chapter 6 with another picture.
#
# **Exercise 7.2.** Write it, with a weight $\lambda$ that is large at coarse scales and small at fine ones: the layout
# is the content's, the strokes are the style's.


# %%
def stylize(content: Tensor, style: Tensor, fidelity: float, side: int = 8, turns: int = 3) -> Tensor:
    """Return the content in patches of the style."""
    sizes = pyramid_sizes(content.shape[1:], ratio=0.6, coarsest=32)
    goal = transfer_palette(content, [style])
    picture = goal
    for scale, size in enumerate(sizes):
        factor = size[0] / content.shape[1]
        shape = (round(style.shape[1] * factor), round(style.shape[2] * factor))
        target, painted = resize(goal[None], size)[0], resize(style[None], shape)[0]
        picture = resize(picture[None], size)[0]
        grid, source = PatchGrid.of(size, side), PatchGrid.of(shape, side)
        keys = source.extract(painted)
        weight = fidelity * 4.0 ** (len(sizes) - 1 - scale)
        for _ in range(turns):
            own = grid.extract(picture)
            found = keys[nearest_rows(own.flatten(1), keys.flatten(1))]
            squares = (own - found).square().flatten(1).sum(1)
            weights = squares.clamp(min=1e-8).pow(-0.6)
            weights = (weights / weights.amax())[:, None, None, None].expand(-1, 1, side, side).contiguous()
            joined = grid.add(found * weights) / grid.add(weights)
            picture = (joined + weight * target) / (1 + weight)
    return joined


mine = stylize(content, style, fidelity=0.1)
loose = stylize(content, style, fidelity=0.0)
print(f"to the style: recolored {distance_to(recolored, style):.1f} levels, by hand {distance_to(mine, style):.1f}")
print(f"from the recolored content: {255 * float((mine - recolored).abs().mean()):.0f} levels", end=", ")
print(f"without fidelity {255 * float((loose - recolored).abs().mean()):.0f}")

assert distance_to(mine, style) < 0.7 * distance_to(recolored, style)
assert (mine - recolored).abs().mean() < (loose - recolored).abs().mean()

show("07-by-hand", {"content": content, "style": style, "its palette": recolored, "by hand": mine})

# %% [markdown]
# ## The package's style transfer
#
# `style-optimization` follows Samuth, Tschumperlé and Rabin (2022), too: PatchMatch compares a blend of result and
# content with the style, patches that are used often cost more, and the last step copies from the style alone. So each
# pixel is a mean of pixels of the style, and there is a map.
#
# **Exercise 7.3.** Vary `strength`. The higher it is, the nearer the result is to the style and the farther from the
# content.

# %%
strengths = [0.1, 0.5, 0.9]
made = {strength: latentpatch.stylize(content, style, strength=strength) for strength in strengths}
to_style = [distance_to(each.images[0], style) for each in made.values()]
to_content = [255 * float((each.images[0] - recolored).abs().mean()) for each in made.values()]
print("to the style:", [round(each, 1) for each in to_style])
print("to the content:", [round(each, 1) for each in to_content])

assert to_style[2] < to_style[0] < distance_to(recolored, style)
assert to_content[0] < to_content[2]

curves = {"to the style": (strengths, to_style), "to the content": (strengths, to_content)}
plot("07-curves", curves, "strength", "levels")
show(
    "07-strength",
    {
        **{f"strength {strength}": each.images[0] for strength, each in made.items()},
        "map of 0.5": made[0.5].provenance()[0],
    },
)

# %% [markdown]
# **Exercise 7.4.** What is the style of a picture itself?

# %%
same = latentpatch.stylize(content, content, strength=0.5).images[0]
assert (same - content).abs().mean() < 0.01

# %% [markdown]
# ## Texture transfer by correspondence maps
#
# Before that, Efros and Freeman (2001) matched patches in a *correspondence map*, such as brightness, and copied the
# colors. With PatchMatch it takes a few lines: search with channels for the map, and vote with the colors.
#
# **Exercise 7.5.** Draw a face in stones. The map is brightness, equalized by rank in both pictures so that they have
# the same range. The colors of the last turn keep neighboring pieces alike.


# %%
def brightness(picture: Tensor) -> Tensor:
    """Return the rank of each pixel's brightness, from 0 to 1: (1, H, W)."""
    grey = picture.mean(0).flatten()
    ranks = grey.argsort(stable=True).argsort(stable=True).float() / (len(grey) - 1)
    return ranks.view(1, *picture.shape[1:])


stones = cobbles(144, 144, seed=4, stone=9)
side = 11  # larger than a stone: smaller patches would find plain stone for everything
wanted, offered = brightness(content), brightness(stones)
colors, keys = levels(stones), torch.cat([levels(offered), levels(stones)])
result = transfer_palette(content, [stones])
for turn in range(3):
    query = torch.cat([levels(wanted), levels(result)])
    field = patchmatch(query, Sources([keys], side), seed=turn)
    result = (vote(field, Sources([colors], side), content.shape[1:]) + 128) / 255
places = patch_positions(field.matches[:, :, 0].long(), side, content.shape[1:])
copied = stones[:, places[..., 1], places[..., 2]]  # in the end pixels are copied, not averaged
correlation = float(torch.corrcoef(torch.stack([brightness(copied).flatten(), wanted.flatten()]))[0, 1])
print(f"correlation of brightness with the content: {correlation:.2f}")

assert correlation > 0.4

show("07-stones", {"content": content, "its map": wanted, "means of patches": result, "copied pixels": copied})

# %% [markdown]
# ## Blending two pictures by a mask
#
# To keep contours, blend a second picture into the one that is matched:
#
# $$\tilde J = (1 - M) \odot J + M \odot I.$$
#
# $M$ is near 1 where the content has contours. Diffusion models use the same formula on latents to let a drawing
# control the result.
#
# **Exercise 7.6.** Take contours from the difference of two Gaussian pyramids' levels (chapter 1), and blend them in.

# %%
blurred = [resize(resize(content[None], (144 // n, 144 // n)), (144, 144))[0] for n in (2, 6)]
contour = (blurred[0] - blurred[1]).abs().mean(0, keepdim=True)
mask = (contour / contour.quantile(0.95)).clamp(0, 1)
strong = made[0.9].images[0]
blended = (1 - mask) * strong + mask * recolored
restyled = latentpatch.stylize(blended, style, strength=0.1, palette="content").images[0]

assert torch.allclose(blended[:, mask[0] == 0], strong[:, mask[0] == 0])
assert (restyled - recolored).abs().mean() < (strong - recolored).abs().mean()
assert distance_to(restyled, style) < distance_to(blended, style)

show("07-mask", {"strength 0.9": strong, "mask": mask, "blended": blended, "painted again": restyled})

# %% [markdown]
# ## Analogies
#
# An analogy takes only the coarse layout of one picture, and everything else from another: GPNN (chapter 6) that starts
# from the structure instead of noise.
#
# **Exercise 7.7.** Give one landscape the layout of another one.

# %%
structure, patches = landscape(64, 96, seed=3), landscape(64, 96, seed=8)
analogy = latentpatch.analogy(structure, patches, coarsest=24)
coarse = [resize(each[None], (8, 12))[0] for each in (structure, patches, analogy.images[0])]
print(f"coarse difference: from the structure {255 * float((coarse[2] - coarse[0]).abs().mean()):.0f} levels", end=", ")
print(f"from the patches' own layout {255 * float((coarse[2] - coarse[1]).abs().mean()):.0f}")

assert (coarse[2] - coarse[0]).abs().mean() < (coarse[1] - coarse[0]).abs().mean()
assert distance_to(analogy.images[0], patches) < distance_to(structure, patches)

show(
    "07-analogy",
    {
        "structure": structure,
        "patches": patches,
        "analogy": analogy.images[0],
        "its map": analogy.provenance()[0],
    },
)

# %% [markdown]
# ## What to keep in mind
#
# - Style transfer is texture synthesis with one more term. All of the course's tools meet here: palettes by transport,
#   PatchMatch, robust joining, pyramids.
# - **For patches:** they are plain, flexible and need no training. You can say where each pixel comes from.
# - **Against them:** nearest neighbors fail for large patches, and one picture knows one picture. The rest of this
#   package takes the same ideas to many registered pictures, in the latents of an autoencoder.
