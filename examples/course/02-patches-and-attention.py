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
# # 2. Patches and attention
#
# A patch is a small square of pixels, written as a vector: $p(x) = \big(u_i(x + t)\big)_{i \le d,\; t \in \omega}$ with
# $\omega = \{0, \dots, w - 1\}^2$. It has $D = d\,w^2$ numbers. Two pixels are alike when their patches are:
#
# $$\|p(x) - p(y)\|^2 = \sum_{i = 1}^{d} \sum_{t \in \omega} \big(u_i(x + t) - u_i(y + t)\big)^2.$$
#
# This chapter takes noise away with patches, in two ways: NL-means, which is attention, and NL-PCA, which is a network
# of two layers.

# %%
import torch
import torch.nn.functional as F
from course import plot, portrait, psnr, show, with_noise
from torch import Tensor, nn

import latentpatch
from latentpatch.methods.single_image.nl_means import nl_means
from latentpatch.ops.noise_level import noise_level
from latentpatch.ops.patches import extract_patches, fold_patches

# %% [markdown]
# ## Out and back
#
# **Exercise 2.1.** Take all patches out of a picture and put them back. Each pixel is in up to $w^2$ patches; the mean
# of their opinions is the pixel:
#
# $$\hat u_i(x) = \frac{1}{|\omega|} \sum_{t \in \omega} \hat p_i(x - t)|_t.$$

# %%
clean = portrait(11, 64)
side = 5
patches = extract_patches(clean[None], side)
print(f"{patches.shape[1]} x {patches.shape[2]} patches of {patches.shape[3]} numbers")

assert patches.shape == (1, 60, 60, 3 * side**2)
assert torch.equal(patches[0, 7, 9].view(3, side, side), clean[:, 7 : 7 + side, 9 : 9 + side])
assert torch.allclose(fold_patches(patches, (64, 64), side)[0], clean, atol=1e-6)

# %% [markdown]
# **Exercise 2.2.** All distances between $N$ patches and $M$ patches at once: write $\|p - q\|^2 = \|p\|^2 - 2 p \cdot
# q + \|q\|^2$, so that a matrix product does the work.

# %%
some, others = patches[0, :4].flatten(0, 1), patches[0, 20:26].flatten(0, 1)
norms = some.square().sum(1)[:, None] + others.square().sum(1)
distances = norms - 2 * some @ others.T
direct = (some[:, None] - others[None]).square().sum(2)

assert torch.allclose(distances, direct, atol=1e-3)

# %% [markdown]
# ## NL-means
#
# Non-local means (Buades, Coll and Morel, 2005) replaces each pixel by the mean of the pixels whose patches are alike:
#
# $$\hat u(x) = \frac{1}{C(x)} \sum_{y \in W} u(y)\; e^{-\|p(x) - p(y)\|^2 / h}.$$
#
# Here $p(x)$ is the patch *about* $x$. Attention ("Attention is all you need", 2017) is
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right) V.$$
#
# Let queries and keys be patches and values be pixels. Then $-\|q - k\|^2 / h = (2\, q \cdot k - \|k\|^2 - \|q\|^2) /
# h$. The term $\|q\|^2$ is the same for all keys of a query, so softmax drops it. What is left is a product $Q K^\top$
# and a bias for each key.
#
# **Exercise 2.3.** Write NL-means over the whole picture as `softmax(QK) V`. Compare it with the package's.

# %%
crop = portrait(11, 40)
noisy_crop = with_noise(crop, 20)
scale = 0.07  # root mean square difference at which a weight has fallen to 1/e


def patches_about(picture: Tensor, side: int) -> Tensor:
    """Return the patch about each pixel: (H W, D)."""
    padded = F.pad(picture[None], [side // 2] * 4, mode="reflect")
    return extract_patches(padded, side)[0].flatten(0, 1)


queries = keys = patches_about(noisy_crop, 3)
values = noisy_crop.flatten(1).T
h = scale**2 * queries.shape[1]
scores = (2 * queries @ keys.T - keys.square().sum(1)) / h
weights = scores.softmax(1)
attention = (weights @ values).T.view_as(noisy_crop)
theirs = nl_means(noisy_crop, scale, side=3, radius=39)  # a radius that reaches every pixel

assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-5)
assert torch.allclose(attention, theirs, atol=1e-4)

# %% [markdown]
# **Exercise 2.4.** PyTorch has a fused attention without a bias for keys. Append 1 to each query and $-\|k\|^2 / 2$ to
# each key. Why is that enough?

# %%
extended_queries = torch.cat([queries, torch.ones(len(queries), 1)], 1)
extended_keys = torch.cat([keys, -0.5 * keys.square().sum(1, keepdim=True)], 1)
fused = F.scaled_dot_product_attention(extended_queries[None], extended_keys[None], values[None], scale=2 / h)

assert torch.allclose(fused[0].T.view_as(noisy_crop), attention, atol=1e-4)

# %% [markdown]
# The row of `weights` that belongs to a pixel is a picture: it shows where the pixel looks. Below, a pixel of one eye
# finds the other eye, and a pixel of the hair looks along the hair.

# %%
eye, hair = (18, 14), (6, 20)
maps = {}
for name, (row, column) in {"an eye looks at": eye, "hair looks at": hair}.items():
    looks = weights[row * 40 + column].view(1, 40, 40)
    maps[name] = (looks / looks.max()).sqrt()
show("02-attention", {"noisy": noisy_crop, "NL-means": attention, **maps})

# %% [markdown]
# **Exercise 2.5.** With patches of one pixel, what is left? The bilateral filter of chapter 1, without its prior of
# the place.

# %%
pixels = noisy_crop.flatten(1).T
colors = (-torch.cdist(pixels, pixels).square() / (0.15**2 * 3)).softmax(1)
by_color = (colors @ pixels).T.view_as(noisy_crop)

assert torch.allclose(nl_means(noisy_crop, 0.15, side=1, radius=39), by_color, atol=1e-4)

# %% [markdown]
# ## How strong is the noise?
#
# $h$ has to grow with the noise, so you need its standard deviation $\sigma$. Patches of clean pictures lie near few
# directions, while noise is as strong in all of them. The smallest eigenvalues of the covariance of patches are
# therefore $\sigma^2$ (Chen, Zhu and Heng, 2015).
#
# **Exercise 2.6.** Plot the eigenvalues, and compare the estimate with the truth.

# %%
clean = portrait(11, 96)
sigma = 20
noisy = with_noise(clean, sigma)


def spectrum(picture: Tensor, side: int = 5) -> Tensor:
    """Return the eigenvalues of the covariance of patches, the largest first."""
    return torch.linalg.eigvalsh(extract_patches(picture[None], side)[0].flatten(0, 1).T.cov()).flip(0)


estimate = noise_level(noisy) * 255
print(f"sigma = {sigma}, estimated {estimate:.1f}")
assert abs(estimate - sigma) < 1.5

roots = {name: (spectrum(each).clamp(min=1e-9).sqrt() * 255) for name, each in (("clean", clean), ("noisy", noisy))}
plot("02-spectrum", {name: each.tolist()[3:] for name, each in roots.items()}, "component", "deviation, levels of 255")

# %% [markdown]
# ## NL-PCA
#
# Rotate patches into their principal components $v_1, \dots, v_D$. Clean patches need few of them, so small
# coefficients are noise. Set those to 0, and rotate back:
#
# $$\hat p = \bar p + \sum_{j = 1}^{D} \rho\big(\langle p - \bar p, v_j \rangle\big)\, v_j, \qquad
#   \rho(a) = \begin{cases} a & |a| > \tau \\ 0 & \text{otherwise.} \end{cases}$$
#
# Then fold the patches. The usual threshold is $\tau \approx 3 \sigma$.
#
# **Exercise 2.7.** Do it with the components of all patches of the picture.

# %%
vectors = extract_patches(noisy[None], side)[0].flatten(0, 1)
mean = vectors.mean(0)
basis = torch.linalg.eigh((vectors - mean).T.cov()).eigenvectors  # columns are components
tau = 3 * sigma / 255
coefficients = (vectors - mean) @ basis
kept = torch.where(coefficients.abs() > tau, coefficients, 0.0)
rebuilt = mean + kept @ basis.T
rows = columns = 96 - side + 1
global_pca = fold_patches(rebuilt.view(1, rows, columns, -1), (96, 96), side)[0].clamp(0, 1)

print(f"noisy {psnr(noisy, clean):.1f} dB, {float((kept != 0).float().mean()):.0%} of the coefficients are left")

# %% [markdown]
# **Exercise 2.8.** This is a neural network: a linear layer, a function of each number, a linear layer. PyTorch calls
# $\rho$ `Hardshrink`. Build it, with the components as weights.

# %%
network = nn.Sequential(nn.Linear(75, 75), nn.Hardshrink(tau), nn.Linear(75, 75))
with torch.no_grad():
    network[0].weight.copy_(basis.T)
    network[0].bias.copy_(-mean @ basis)
    network[2].weight.copy_(basis)
    network[2].bias.copy_(mean)
    answer = network(vectors)

is_clear = ((coefficients.abs() - tau).abs() > 1e-5).all(1)  # rounding decides at the threshold itself
assert is_clear.float().mean() > 0.95
assert torch.allclose(answer[is_clear], rebuilt[is_clear], atol=1e-4)

# %% [markdown]
# The package's `nl-pca` does more: it finds a *group* of similar patches for each place, computes the components of the
# group, shrinks them by the law of random matrices, and does it all once more with the first result as its guide.
#
# **Exercise 2.9.** Compare the methods. The package estimates $\sigma$ where you give none.

# %%
means = latentpatch.denoise(noisy, method="nl-means").images[0]
groups = latentpatch.denoise(noisy, method="nl-pca").images[0]
results = {"noisy": noisy, "NL-means": means, "PCA of all patches": global_pca, "NL-PCA": groups}
figures = {name: psnr(each, clean) for name, each in results.items()}
print(", ".join(f"{name} {figure:.1f} dB" for name, figure in figures.items()))

assert figures["NL-PCA"] > figures["NL-means"] > figures["noisy"] + 4
assert figures["NL-PCA"] > figures["PCA of all patches"] > figures["noisy"] + 4

show("02-denoised", {f"{name}, {figures[name]:.1f} dB": each for name, each in results.items()})

# %% [markdown]
# ## A network that learns its own components
#
# Let a linear autoencoder learn to rebuild patches through $k$ numbers: $\hat p = B (A p + a) + b$, by gradient
# descent on $\|\hat p - p\|^2$. No linear map does better than the first $k$ principal components (Eckart and Young,
# 1936). Does it get there?
#
# **Exercise 2.10.** Train it, and compare it with PCA.

# %%
k = 4
torch.manual_seed(0)
autoencoder = nn.Sequential(nn.Linear(75, k), nn.Linear(k, 75))
training = extract_patches(clean[None], side)[0].flatten(0, 1)
training = (training - training.mean(0)) / training.std()
optimizer = torch.optim.Adam(autoencoder.parameters(), lr=0.03)
losses = []
for step in range(250):
    optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 250)
    loss = (autoencoder(training) - training).square().sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
best = float(torch.linalg.eigvalsh(training.T @ training / len(training))[:-k].sum())
print(f"autoencoder {losses[-1]:.3f}, PCA {best:.3f}")

assert 0.999 * best <= losses[-1] < 1.1 * best

plot("02-autoencoder", {"autoencoder": losses, "PCA": [best] * len(losses)}, "step", "squared error of a patch")

# %% [markdown]
# ## What to keep in mind
#
# - NL-means is attention with patches as queries and keys. A transformer learns the maps from patches to queries, keys
#   and values; NL-means uses the identity.
# - NL-PCA is a network of two layers whose weights come from the picture itself.
# - Both compare each patch with all others. The next chapter finds the nearest patch without that.
