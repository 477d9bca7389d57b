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
# # 1. Filters
#
# A picture is a function $u : \Omega \to \mathbb{R}^d$ on a grid $\Omega \subset \mathbb{Z}^2$; $d$ is 1 for grey and 3
# for color. All filters of this chapter are one formula, a weighted mean over a window $W(x)$ about each pixel $x$:
#
# $$\hat u(x) = \frac{1}{C(x)} \sum_{y \in W(x)} w(x, y)\, u(y), \qquad C(x) = \sum_{y \in W(x)} w(x, y).$$
#
# They differ in the weight $w$: does it look at places, at colors, or at the colors of another picture? You write each
# filter with one function, `windows`, and compare it with the package's, which calls OpenCV.
#
# This chapter needs the extra `filters`: `pip install '.[filters]'` in the checkout.

# %%
import torch
import torch.nn.functional as F
from course import cobbles, portrait, psnr, show, with_noise
from torch import Tensor

import latentpatch


def windows(picture: Tensor, radius: int) -> Tensor:
    """Return the window of each pixel: (C, (2 radius + 1)^2, H, W); edges are mirrored."""
    side = 2 * radius + 1
    padded = F.pad(picture[None], [radius] * 4, mode="reflect")
    return F.unfold(padded, side).view(len(picture), side**2, *picture.shape[1:])


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum(w u) / sum(w) over the windows."""
    return (weights * values).sum(1) / weights.sum(-3)


def squared_distances(radius: int) -> Tensor:
    """Return |x - y|^2 for the pixels of a window: ((2 radius + 1)^2, 1, 1)."""
    shifts = torch.arange(-radius, radius + 1).float()
    return (shifts[:, None].square() + shifts.square()).view(-1, 1, 1)


def library(picture: Tensor, method: str, guide: Tensor | None = None, **settings: float) -> Tensor:
    """Return a picture filtered by the package."""
    return latentpatch.denoise(picture, method=method, guide=guide, **settings).images[0]


clean = portrait(3)
noisy = with_noise(clean, 20)
print(f"noisy: {psnr(noisy, clean):.1f} dB")

# %% [markdown]
# ## Gaussian filter
#
# The weight depends on the distance of two pixels only:
#
# $$w(x, y) = e^{-\|x - y\|^2 / 2 \sigma^2}.$$
#
# $C$ is then the same for all $x$, and the filter is a convolution $\hat u = g_\sigma * u$. It solves the heat equation
# $\partial_t u = \Delta u$ at time $t = \sigma^2 / 2$.
#
# **Exercise 1.1.** Filter with $\sigma = 1.5$. Where do you cut the window off? OpenCV stops at $4 \sigma$, where the
# weight is $e^{-8} \approx 3 \cdot 10^{-4}$. Do you get its result?

# %%
spread = 1.5
radius = round(4 * spread)
weights = (-squared_distances(radius) / (2 * spread**2)).exp()
gaussian = weighted_mean(windows(noisy, radius), weights)

assert torch.allclose(gaussian, library(noisy, "gaussian", spread=spread), atol=1e-4)

# %% [markdown]
# **Exercise 1.2.** The window of $13 \times 13$ takes 169 products a pixel. Show that two filters in one dimension give
# the same with 26, because $e^{-(a^2 + b^2)} = e^{-a^2} e^{-b^2}$.

# %%
line = (-torch.arange(-radius, radius + 1).float().square() / (2 * spread**2)).exp()
line = (line / line.sum()).expand(3, 1, -1)
padded = F.pad(noisy[None], [radius] * 4, mode="reflect")
along = F.conv2d(padded, line[:, :, None, :], groups=3)
separated = F.conv2d(along, line[:, :, :, None], groups=3)[0]

assert torch.allclose(separated, gaussian, atol=1e-5)

# %% [markdown]
# **Exercise 1.3.** The difference of two Gaussians (DoG) responds to edges and to nothing else. Check that it vanishes
# on a plain picture.

# %%
edges = library(clean, "gaussian", spread=1.0) - library(clean, "gaussian", spread=2.0)
plain = torch.full((1, 20, 20), 0.4)
flat = library(plain, "gaussian", spread=1.0) - library(plain, "gaussian", spread=2.0)

assert flat.abs().max() < 1e-5

show(
    "01-gaussian",
    {"clean": clean, "noisy": noisy, "Gaussian, $\\sigma$ = 1.5": gaussian, "DoG + 0.5": (edges * 3 + 0.5).clamp(0, 1)},
)

# %% [markdown]
# ## Box filter and median
#
# The box filter has $w = 1$ in a square of radius $r$. It is the average pooling of neural networks. With an *integral
# image* $S(x)$, the sum of all pixels above and to the left of $x$, each window costs four look-ups, whatever $r$:
#
# $$\sum_{y \in W(x)} u(y) = S(\text{bottom right}) - S(\text{top right}) - S(\text{bottom left}) +
#   S(\text{top left}).$$
#
# **Exercise 1.4.** Write the box filter with an integral image.


# %%
def box_filter(picture: Tensor, radius: int) -> Tensor:
    """Return the mean of the square about each pixel, by an integral image in double precision."""
    side = 2 * radius + 1
    padded = F.pad(picture[None], [radius] * 4, mode="reflect")[0].double()
    total = F.pad(padded.cumsum(1).cumsum(2), (1, 0, 1, 0))
    sums = total[:, side:, side:] - total[:, :-side, side:] - total[:, side:, :-side] + total[:, :-side, :-side]
    return (sums / side**2).float()


box = box_filter(noisy, 2)
assert torch.allclose(box, windows(noisy, 2).mean(1), atol=1e-5)
assert torch.allclose(box, library(noisy, "box", radius=2), atol=1e-5)

# %% [markdown]
# The median is the value in the middle of the window. It minimizes $\sum_y |\hat u - u(y)|$ where the mean minimizes
# $\sum_y (\hat u - u(y))^2$, so outliers do not move it. You meet this pair again in chapter 4.
#
# **Exercise 1.5.** Put black and white pixels into a picture ("salt and pepper"). Which of the two takes them away?

# %%
draw = torch.rand(clean.shape[1:], generator=torch.Generator().manual_seed(0))
peppered = torch.where(draw < 0.05, 0.0, torch.where(draw > 0.95, 1.0, clean))
median = library(peppered, "median", radius=1)
levels = (windows(peppered, 1) * 255).round() / 255
inside = (slice(None), slice(1, -1), slice(1, -1))  # OpenCV repeats the edge pixels here

assert torch.allclose(levels.median(1).values[inside], median[inside], atol=1e-5)
assert psnr(median, clean) > psnr(library(peppered, "box", radius=1), clean) + 3

show(
    "01-median",
    {
        "salt and pepper": peppered,
        "box": library(peppered, "box", radius=1),
        "median": median,
    },
)

# %% [markdown]
# ## Bilateral filter
#
# Averages blur edges, because pixels of both sides are mixed. The bilateral filter (Tomasi and Manduchi, 1998) weighs
# pixels by *place and color*:
#
# $$w(x, y) = \underbrace{e^{-\|x - y\|^2 / 2 \sigma^2}}_{\text{prior of the place}}\;
#             \underbrace{e^{-\|u(x) - u(y)\|^2 / 2 h^2}}_{\text{classifier of the color}}.$$
#
# It is no convolution any more: $w$ depends on $u$, and $C$ on $x$.
#
# In the *cross-bilateral* filter the colors are those of another picture $v$, the guide: $\|v(x) - v(y)\|^2$. So one
# function serves both.
#
# **Exercise 1.6.** Write it, and compare it with the package on a grey picture. OpenCV's window is a disk of radius
# $1.5 \sigma$. (For color it adds the differences of the three channels instead of their squares.)


# %%
def bilateral(picture: Tensor, guide: Tensor, spread: float, tolerance: float) -> Tensor:
    """Return means of near pixels that have like colors in the guide."""
    radius = round(1.5 * spread)
    place = squared_distances(radius)
    near = torch.where(place <= radius**2, (-place / (2 * spread**2)).exp(), 0.0)
    differences = windows(guide, radius) - guide[:, None]
    alike = (-differences.square().sum(0) / (2 * tolerance**2)).exp()
    return weighted_mean(windows(picture, radius), near * alike)


grey = noisy.mean(0, keepdim=True)
mine = bilateral(grey, grey, spread=2.0, tolerance=0.2)
theirs = library(grey, "bilateral", spread=2.0, tolerance=0.2 * 255)  # the package counts in levels of 255

assert (mine - theirs).abs().max() < 3e-3

# %% [markdown]
# **Exercise 1.7.** Which limit of $h$ gives the Gaussian filter, and which the picture itself?

# %%
wide = bilateral(grey, grey, spread=2.0, tolerance=1e4)
place = squared_distances(3)
disk = torch.where(place <= 9, (-place / 8).exp(), 0.0)
assert torch.allclose(wide, weighted_mean(windows(grey, 3), disk), atol=1e-5)
assert torch.allclose(bilateral(grey, grey, spread=2.0, tolerance=1e-4), grey, atol=1e-4)

smooth = bilateral(noisy, noisy, spread=2.0, tolerance=0.25)
print(f"box {psnr(box, clean):.1f} dB, Gaussian {psnr(gaussian, clean):.1f} dB, bilateral {psnr(smooth, clean):.1f} dB")
assert psnr(smooth, clean) > psnr(gaussian, clean)

show("01-bilateral", {"noisy": noisy, "box": box, "Gaussian": gaussian, "bilateral": smooth})

# %% [markdown]
# ## Flash and no flash
#
# A photograph by candle light has the right colors and much noise. One with flash has little noise and the wrong
# colors. The cross-bilateral filter takes colors from the first and edges from the second (Eisemann and Durand, 2004).
#
# **Exercise 1.8.** Make such a pair from one picture, and compare the filter with and without the guide.

# %%
flash = clean
warm = torch.tensor([1.0, 0.72, 0.45])[:, None, None]
light = torch.linspace(1.0, 0.4, clean.shape[2])  # the candle stands at the left
ambient = clean * warm * light
night = with_noise(ambient, 25)
alone = bilateral(night, night, spread=3.0, tolerance=0.15)
crossed = bilateral(night, flash, spread=3.0, tolerance=0.15)

print(f"night {psnr(night, ambient):.1f} dB, bilateral {psnr(alone, ambient):.1f}, cross {psnr(crossed, ambient):.1f}")
assert psnr(crossed, ambient) > psnr(alone, ambient) + 1

show("01-flash", {"flash": flash, "no flash": night, "bilateral": alone, "cross-bilateral": crossed})

# %% [markdown]
# ## Guided filter
#
# The guided filter (He, Sun and Tang, 2010) fits a straight line in each window: $\hat u = a\, v + b$, with ridge
# regression of $u$ on the guide $v$. With $v = u$:
#
# $$a = \frac{\sigma^2}{\sigma^2 + \lambda}, \qquad b = (1 - a)\, \mu,$$
#
# where $\mu$ and $\sigma^2$ are mean and variance of the window. Where the variance is much larger than $\lambda$ there
# is an edge, $a \approx 1$, and the pixel stays. Where it is much smaller, $\hat u \approx \mu$. All means are box
# filters, so the cost does not depend on $r$. A pixel is in many windows: their $a$ and $b$ are averaged.
#
# **Exercise 1.9.** Write it with `box_filter`.


# %%
def guided(picture: Tensor, radius: int, tolerance: float) -> Tensor:
    """Return local linear functions of a grey picture."""
    mean = box_filter(picture, radius)
    variance = box_filter(picture.square(), radius) - mean.square()
    a = variance / (variance + tolerance**2)
    b = (1 - a) * mean
    return box_filter(a, radius) * picture + box_filter(b, radius)


mine = guided(grey, 4, 0.1)
theirs = library(grey, "guided", radius=4, tolerance=25.5)
edge = 2 * 4  # the library treats the edges in another way
inside = (slice(None), slice(edge, -edge), slice(edge, -edge))

assert torch.allclose(mine[inside], theirs[inside], atol=1e-3)

# %% [markdown]
# ## Rolling guidance
#
# Filter $u$ again and again, and let each result be the guide of the next turn (Zhang et al., 2014):
#
# $$u_{k+1}(x) = \frac{1}{C(x)} \sum_y u(y)\; g_\sigma(x - y)\; g_h\big(u_k(x) - u_k(y)\big).$$
#
# $u_0$ is constant, so that $u_1$ is a Gaussian blur: small things vanish. Then the edges of large things come back,
# since $u$ itself has them. This is not the same as filtering the result again: $u(y)$ in the sum is always the input.
#
# **Exercise 1.10.** Take the grain from the pavement and keep its stones.

# %%
pavement = cobbles()


def rolling(picture: Tensor, spread: float, tolerance: float, turns: int) -> list[Tensor]:
    """Return the guides u_1, u_2, ... of rolling guidance."""
    guides = [torch.zeros_like(picture)]
    for _ in range(turns):
        guides.append(bilateral(picture, guides[-1], spread, tolerance))
    return guides[1:]


steps = rolling(pavement, spread=2.0, tolerance=0.12, turns=4)
again = pavement
for _ in range(4):
    again = bilateral(again, again, 2.0, 0.12)


def roughness(picture: Tensor) -> float:
    """Return the mean difference of a pixel from the mean of its 3 x 3 window, inside stones."""
    is_stone = windows(pavement.mean(0, keepdim=True), 2).amin(1)[0] > 0.3
    return float((picture - box_filter(picture, 1)).abs().mean(0)[is_stone].mean())


assert roughness(steps[-1]) < 0.5 * roughness(pavement)
assert not torch.allclose(again, steps[-1], atol=0.05)
joints = (slice(None), pavement.mean(0) < 0.15)
assert steps[-1][joints].mean() < steps[0][joints].mean()  # the joints that the blur had filled are dark again

show(
    "01-rolling",
    {"$u$": pavement, "$u_1$, a blur": steps[0], "$u_4$": steps[-1], "bilateral, 4 times": again},
)

# %% [markdown]
# ## What to keep in mind
#
# - One formula, different weights: place (Gaussian, box), color (bilateral), color of another picture
#   (cross-bilateral), color of the last result (rolling guidance).
# - A single color says little about a pixel. The next chapter compares whole *patches*.
