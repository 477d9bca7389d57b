"""Patch diffusion without training: the closed-form denoiser of the sources' patches.

Let the data distribution be the sources themselves. A noisy grid x = y + sigma n then has a closed-form denoiser: the
mean of the sources y, weighted by exp(-|x - y|^2 / 2 sigma^2). On whole grids this only returns sources. Applied to
windows at the same place, as in the equivariance-broken local score machine of Kamb and Ganguli ("An analytic theory of
creativity in convolutional diffusion models", ICML 2025), each window has a mean of its own, and overlapping windows
are averaged: the image is coherent without being like one source. Noise levels fall geometrically in deterministic
steps (DDIM, Song et al. 2021). Windows shrink along, from the whole grid, which decides the layout, to a few cells.

By default, sweeps of :mod:`.resynthesis` over the denoised grid choose the source of each cell and cap each source's
share; without sweeps, a cell takes the source of largest weight at the last level. A reference is noised and denoised
(SDEdit, Meng et al. 2022). With a mask, the unmasked cells of the reference are restored at every level (RePaint,
Lugmayr et al. 2022, without its resampling).

Weights are floating point, unlike the distances of the other samplers. Images are denoised one at a time, so that an
image is the same in any batch; another device or number of threads may decide near-ties differently. Each level reads
the bank about twice: time is linear in the sources, and a large bank takes seconds a level.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, inf, prod, sqrt

import torch
from torch import Tensor

from ...errors import SettingError
from ...runs.interruption import checkpoint
from ...validation import check_noise, check_reference
from ..base import Context, Sampler
from .resynthesis import Resynthesis, resynthesis, resynthesis_steps
from .search.prepared import MAX_MEMORY, PreparedSources
from .settings import DiffusionSettings

__all__ = ["DiffusionSettings", "PatchDiffusion", "diffusion", "diffusion_steps"]

LEVEL_WORK = 256  # cost of a cell at a level, in compared window cells; measured, whatever the size of windows
_WINDOW_UNITS = 16  # units of a window's side in a grid's side


def diffusion_steps(grid: tuple[int, int], settings: DiffusionSettings | None = None) -> int:
    """Return the number of uniform variates of one image: one a cell.

    Raises:
        SettingError: where the patch of the sweeps exceeds the grid.
    """
    settings = settings or DiffusionSettings()
    if settings.sweeps:
        resynthesis_steps(grid, settings.sweep_settings(), reference=True)
    return grid[0] * grid[1]


@torch.no_grad()
def diffusion(
    keys: Tensor | PreparedSources,
    noise: Tensor,
    settings: DiffusionSettings | None = None,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    memory: int = MAX_MEMORY,
) -> Tensor:
    """Denoise Gaussian noise, or a noised reference, by the patches of the sources.

    Args:
        keys: ``(B, h, w, r)`` int16 sources, or prepared ones.
        noise: ``(N, h * w)`` uniforms in [0, 1): each gives the Gaussian noise of a cell.
        settings: defaults where None.
        reference: ``(N, h, w, r)`` or ``(1, h, w, r)`` int16 keys to start from, noised.
        mask: ``(h, w)`` bool, True for cells to sample; the others keep the reference and get index -1. A mask is
            filled without sweeps, so the cap on a share is aimed at only.
        memory: bytes of sources in floating point at a time; more sources go in parts.

    Returns:
        ``(N, h, w)`` int64 positions of sources.

    Raises:
        SettingError: where shapes, settings and bank do not go together.
    """
    sources = keys if isinstance(keys, PreparedSources) else PreparedSources(keys)
    bank = sources.keys
    height, width, depth = bank.shape[1:]
    chosen = (settings or DiffusionSettings()).in_cells((height, width))
    chosen = chosen.resolved(sources.pictures, reference is not None and mask is None)
    steps = diffusion_steps((height, width), chosen)
    check_noise(noise, steps)
    if mask is not None and reference is None:
        raise SettingError("reference", None, "there with a mask, to give the cells that are kept")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (height, width)):
        raise SettingError("mask", (mask.dtype, tuple(mask.shape)), f"bool of shape {(height, width)}")
    check_reference(reference, bank, len(noise))
    sweeps = chosen.sweep_settings() if chosen.sweeps and mask is None else None
    blank = noise.new_zeros((len(noise), 0))  # sweeps take the nearest source, so they need no noise
    if sweeps is not None:
        blank = noise.new_zeros((len(noise), resynthesis_steps((height, width), sweeps, reference=True)))
        resynthesis(sources, blank[:0], sweeps, bank[:1])  # refuse before minutes of denoising
    index = torch.zeros((len(noise), height, width), dtype=torch.int64, device=noise.device)
    denoised = bank.new_zeros((len(noise), height, width, depth))
    with torch.autocast(noise.device.type, enabled=False):
        denoiser = _Denoiser(sources, chosen, None if mask is None else mask.to(bank.device), memory)
        for image, uniforms in enumerate(noise):
            start = None if reference is None else reference[image if len(reference) > 1 else 0]
            denoised[image], index[image] = denoiser.run(gaussian(uniforms, depth), start)
    if sweeps is not None and len(noise):
        return resynthesis(sources, blank, sweeps, denoised, memory=memory)
    return index if mask is None else torch.where(mask.to(index.device), index, -1)


class PatchDiffusion(Sampler):
    """Denoise Gaussian noise, or a noised reference, in closed form by the patches of the sources."""

    name = "diffusion"
    Settings = DiffusionSettings
    accepts_reference = accepts_mask = True
    default_decoding = "blend"

    def resolve(self, settings: DiffusionSettings, context: Context) -> DiffusionSettings:
        has_reference = context.has_reference and context.mask is None
        return settings.in_cells(context.grid).resolved(context.num_sources, has_reference)

    def noise_dim(self, settings: DiffusionSettings, context: Context) -> int:
        return diffusion_steps(context.grid, settings)

    def work(self, settings: DiffusionSettings, context: Context) -> int:
        denoising = prod(context.grid) * settings.levels * LEVEL_WORK
        if not settings.sweeps or context.mask is not None:
            return denoising
        return denoising + Resynthesis().work(settings.sweep_settings(), context)

    def sample(
        self,
        sources: PreparedSources,
        noise: Tensor,
        settings: DiffusionSettings,
        reference: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return diffusion(sources, noise, settings, reference, mask)


class _Denoiser:
    """A denoiser of one image at a time.

    Args:
        sources: the B sources.
        settings: resolved settings.
        mask: ``(h, w)`` bool, the cells to fill; None for all.
        memory: bound in bytes.
    """

    def __init__(self, sources: PreparedSources, settings: DiffusionSettings, mask: Tensor | None, memory: int) -> None:
        self.count, self.height, self.width, self.depth = sources.keys.shape
        assert settings.max_share is not None
        self.settings, self.mask, self.max_share = settings, mask, settings.max_share
        self.sources = _FloatSources(sources, memory)
        self.groups, self.pictures = sources.groups, sources.pictures
        self.unit = spread(sources.keys)

    def run(self, normal: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """Denoise one image of ``(h * w, r)`` Gaussian noise, over a reference's ``(h, w, r)`` int16 keys.

        Returns:
            ``(h, w, r)`` int16 denoised keys and ``(h, w)`` int64 most likely sources.
        """
        sigmas, sides, first = self._schedule(reference is not None)
        clean = torch.zeros_like(normal) if reference is None else reference.reshape(normal.shape).to(normal.dtype)
        kept = None if self.mask is None else ~self.mask.view(-1, 1)
        penalty = normal.new_zeros(self.count)
        x = clean + sigmas[first] * normal
        mean, likeliest = x, torch.empty(0)
        for level in range(first, len(sigmas)):
            checkpoint()
            sigma = sigmas[level]
            mean, likeliest, shares = self._posterior(x, sigma, sides[level], penalty)
            group_shares = shares.new_zeros(self.pictures).index_add_(0, self.groups, shares)
            penalty += (group_shares / self.max_share).clamp(min=1).log()[self.groups]
            if level + 1 < len(sigmas):
                x = mean + (x - mean) * (sigmas[level + 1] / sigma)
                if kept is not None:
                    x = torch.where(kept, clean + sigmas[level + 1] * normal, x)
        shape = self.height, self.width
        return mean.round().to(torch.int16).view(*shape, -1), likeliest.view(shape)

    def _schedule(self, has_reference: bool) -> tuple[list[float], list[int], int]:
        """Return each level's standard deviation and window side, and the first level."""
        settings = self.settings
        fall = (settings.end_noise / settings.start_noise) ** (1 / max(1, settings.levels - 1))
        sigmas = [self.unit * settings.start_noise * fall**level for level in range(settings.levels)]
        sides = [settings.windows[level * len(settings.windows) // settings.levels] for level in range(settings.levels)]
        strength = settings.strength if has_reference and settings.strength is not None else 1.0
        return sigmas, sides, settings.levels - ceil(strength * settings.levels)

    def _posterior(self, x: Tensor, sigma: float, side: int, penalty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior mean of a noisy image ``(h * w, r)`` over windows of a side.

        Returns:
            ``(h * w, r)`` means, ``(h * w,)`` sources of largest weight, ``(B,)`` shares of all weight.
        """
        windows = Windows.of((self.height, self.width), side, x.device)
        total = x.new_full((self.height, self.width), -inf)
        logits = x.new_zeros(0)
        for some, vectors, norms in self.sources:
            logits = self._logits(x, vectors, norms, sigma, windows) - penalty[some]
            total = torch.logaddexp(total, logits.logsumexp(2))
        mean, most = torch.zeros_like(x), x.new_full((len(x),), -inf)
        likeliest = torch.zeros_like(most, dtype=torch.int64)
        shares = torch.zeros_like(penalty)
        for some, vectors, norms in self.sources:
            if not self.sources.whole:  # the only part's logits are still there
                logits = self._logits(x, vectors, norms, sigma, windows) - penalty[some]
            weights = (logits - total[:, :, None]).exp_()
            shares[some] = weights.mean((0, 1))
            weights = windows.average(weights).flatten(0, 1)
            mean += torch.bmm(weights[:, None], vectors)[:, 0]
            top, place = weights.max(1)
            likeliest = torch.where(top > most, place + some.start, likeliest)
            most = torch.maximum(top, most)
        return mean, likeliest, shares

    def _logits(self, x: Tensor, vectors: Tensor, norms: Tensor, sigma: float, windows: Windows) -> Tensor:
        """Return -|x - y|^2 / 2 sigma^2 summed over windows, less |x|^2, which all sources share: ``(h, w, b)``."""
        products = torch.bmm(vectors, x[:, :, None])[:, :, 0]
        scores = (products - norms / 2) / sigma**2
        return windows.sum(scores.view(self.height, self.width, -1))


class _FloatSources:
    """Iterate over the sources in floating point, in parts that fit the memory; one part is kept.

    Yields:
        A part's positions, its vectors ``(h * w, b, r)``, and their squared norms with costs ``(h * w, b)``.
    """

    def __init__(self, sources: PreparedSources, memory: int) -> None:
        self.bank, self.costs = sources.keys, sources.costs
        count, height, width, depth = self.bank.shape
        self.part = max(
            1, memory // (4 * height * width * (depth + 8))
        )  # 8 numbers a cell: scores, weights, temporaries
        self.whole = self.part >= count
        self._cached = [self._load(0)] if self.whole else []

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        yield from self._cached or map(self._load, range(0, len(self.bank), self.part))

    def _load(self, first: int) -> tuple[slice, Tensor, Tensor]:
        some = slice(first, min(first + self.part, len(self.bank)))
        vectors = self.bank[some].flatten(1, 2).transpose(0, 1).contiguous().float()
        norms = vectors.square().sum(2)
        return some, vectors, norms if self.costs is None else norms + self.costs[some]


class Windows:
    """Windows centred at every cell of a grid, cut at its border.

    Attributes:
        down: ``(h, h)``, 1 in (i, j) where the windows of row i cover row j.
        across: ``(w, w)``, the same of columns.
    """

    def __init__(self, down: Tensor, across: Tensor) -> None:
        self.down, self.across = down, across

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, grid: tuple[int, int], side: int, device: torch.device) -> Windows:
        """Return the windows of a side in sixteenths of the grid's sides."""
        return cls(*(_band(length, max(1, round(side * length / _WINDOW_UNITS))).to(device) for length in grid))

    def sum(self, cells: Tensor) -> Tensor:
        """Return the sums of cells ``(h, w, m)`` over windows: ``(h, w, m)``."""
        return _separable(self.down, self.across, cells)

    def average(self, windows: Tensor) -> Tensor:
        """Return the average, at each cell, of the windows ``(h, w, m)`` that cover it: ``(h, w, m)``."""
        down, across = (each.T / each.T.sum(1, keepdim=True) for each in (self.down, self.across))
        return _separable(down, across, windows)


def _separable(down: Tensor, across: Tensor, cells: Tensor) -> Tensor:
    return torch.mm(down, torch.matmul(across, cells).flatten(1)).view(cells.shape)


def _band(length: int, side: int) -> Tensor:
    """Return ``(length, length)``: 1 in row i for the ``side`` positions around i; the odd one lies after i."""
    offsets = torch.arange(length) - torch.arange(length)[:, None]
    return ((offsets >= -((side - 1) // 2)) & (offsets <= side // 2)).float()


def spread(bank: Tensor) -> float:
    """Return the standard deviation of keys as vectors, at least 1.

    It is the root of the sum, over components, of the variance about the mean of all numbers. Sums are exact.
    """
    total = squares = 0
    for chunk in bank.split(1024):
        total += int(chunk.sum(dtype=torch.int64))
        squares += sum(int(part.long().square().sum()) for part in chunk.split(64))
    number = bank.numel()
    return max(1.0, sqrt(bank.shape[3] * (squares * number - total * total) / number**2))


def gaussian(uniforms: Tensor, depth: int) -> Tensor:
    """Return ``depth`` standard normal variates of each uniform: ``(m,)`` to ``(m, depth)`` float32.

    Noise comes as uniforms, because graphs and callers pass it in. The first 32 bits of a uniform, its position and the
    component form a counter; splitmix64 (Steele et al. 2014) hashes it, and the inverse normal distribution maps the
    hash to a variate.
    """
    words = (uniforms.double() * 2**32).long().clamp(0, 2**32 - 1)[:, None]
    places = torch.arange(len(words) * depth, device=words.device).view(-1, depth)
    mixed = ((words << 31) + places + 1) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    mixed = mixed ^ _shifted(mixed, 31)
    normal: Tensor = torch.special.ndtri((_shifted(mixed, 12) + 0.5) * 2.0**-52)
    return normal.float()


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right, filling with zeros."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
