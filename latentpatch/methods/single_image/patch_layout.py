"""Layouts of patch diffusion: a picture at coarse scales, denoised in closed form by the patches of its sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ops.patch_nearest import levels
from ...ops.patches import extract_patches, fold_patches, patch_grid, patch_masses
from ...ops.pyramid import resize
from ...ops.transport import transport_weights
from ..picture import generators, noise_of
from .gpnn import Scale, Size
from .settings import PatchDiffusionSettings
from .source_preference import Preference

__all__ = ["Layout", "ResolvedDiffusion", "num_pairs"]

_ROUND_PAIRS = 10_000_000  # pairs that are weighed in a step, if that takes from 4 to 60 rounds of transport
_LAST_NOISE = 0.1  # least level of noise, in standard deviations of the picture
_FAR = 50.0  # cost of a patch that may not be used, in units of the entropy's factor
_WEIGHT_UNITS = 1 << 16  # of a weight of 1; with levels of 8 bits, sums are exact in float32
_MEAN_UNITS = 64  # of a level, for means of patches; likewise


def num_pairs(scale: Scale, side: int) -> int:
    """Return the number of pairs of a patch of the result and one of a source, for the side of patches."""
    rows, columns = patch_grid(scale.result, side)
    return rows * columns * sum(h * w for h, w in (patch_grid(each, side) for each in scale.sources))


class ResolvedDiffusion(PatchDiffusionSettings):
    """Settings whose sizes are set, in pixels or in cells of latents."""

    coarsest: int
    patch_size: int
    coarse_patch_size: int


class Layout:
    """The picture at coarse scales, with the patches of the sources that weigh most in it.

    Attributes:
        image: ``(C, h, w)`` in [0, 1], after the scale that was denoised last.
        grid: rows and columns of its patches.
        keys: rows and columns of the patches of each source.
        matches: ``(rows, columns, 1, 3)`` int32, see :class:`~latentpatch.ops.patchmatch.Field`.
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        settings: ResolvedDiffusion,
        seed: int,
        start: Tensor | None,
        preference: Preference | None = None,
    ):
        self.pictures, self.settings, self.preference = pictures, settings, preference
        self.random = generators([seed])
        self.image = torch.full_like(pictures[0], 0.5) if start is None else start
        self.noise = settings.noise or 0.0
        self.finer_noise = min(settings.finer_noise, self.noise)
        self.shift = settings.shift or 0.0
        self.grid: Size = (0, 0)
        self.keys: list[Size] = []
        self.matches: Tensor | None = None

    def denoise(self, scale: Scale) -> None:
        """Add noise to the picture, in the size of a scale, and take it out again."""
        settings, side = self.settings, self.settings.coarse_patch_size
        sources = [levels(resize(each[None], size)[0]) for each, size in zip(self.pictures, scale.sources, strict=True)]
        image = resize(self.image[None].to(sources[0]), scale.result)[0] * 255 - 128
        patches = torch.cat([extract_patches(each[None], side)[0].flatten(0, 1) for each in sources])
        norms = patches.square().sum(1)
        deviation = max(1.0, float(torch.cat([each.flatten(1) for each in sources], 1).cpu().numpy().std(1).mean()))
        most = self.noise if self.matches is None else self.finer_noise
        noise = noise_of(self.random, image.shape, image.device)[0] * deviation
        self.keys, self.grid = [patch_grid(size, side) for size in scale.sources], patch_grid(scale.result, side)
        rounds = 0
        if settings.balanced:
            rounds = max(4, min(60, _ROUND_PAIRS // (len(patches) * self.grid[0] * self.grid[1])))
        excluded = self._excluded(scale) if self.shift else None
        own, *others = (patch_masses(size, side).flatten() for size in (scale.result, *scale.sources))
        if self.preference is not None:
            others = [each * (part / each.sum()) for each, part in zip(others, self.preference.parts, strict=True)]
        masses, potentials = (own, torch.cat(others)), None
        groups, firsts = None, np.cumsum([0, *(len(each) for each in others[:-1])])
        shares, means = None, torch.empty(0)
        if self.preference is not None and self.preference.continuity:
            groups = [len(each) for each in others]
        for step in range(settings.steps):
            level = most * (min(_LAST_NOISE, most) / max(most, 1e-6)) ** (step / max(1, settings.steps - 1))
            part = max(0.0, 1 - level)
            noisy = image * part + noise * level
            queries = extract_patches(noisy.round().clamp(-200, 200)[None], side)[0].flatten(0, 1)
            costs = (queries @ patches.T).mul_(-2 * part).add_(norms * part**2).add_(queries.square().sum(1)[:, None])
            costs /= 2 * settings.temperature * (max(level, 1e-3) * deviation) ** 2
            if excluded is not None:
                costs[excluded] += _FAR
            if self.preference is not None:
                colors = (queries if shares is None else means / _MEAN_UNITS).view(len(queries), len(image), -1).mean(2)
                costs += self.preference.coarse(self.grid, shares, colors / deviation).pairs(self.keys)
            weights, potentials = transport_weights(costs, rounds, masses, potentials, groups)
            if self.preference is not None:
                shares = torch.from_numpy(np.add.reduceat(weights.cpu().numpy(), firsts, 1))
            weights.mul_(_WEIGHT_UNITS).round_()
            means = (weights @ patches).div_(weights.sum(1, keepdim=True)).mul_(_MEAN_UNITS).round_()
            image = fold_patches(means.view(1, *self.grid, -1), scale.result, side)[0] / _MEAN_UNITS
            if level:
                noise = (noisy - image * part) / level
        self.image = ((image + 128) / 255).clamp(0, 1)
        self.matches = self._places(weights.argmax(1)).to(torch.int32).view(*self.grid, 1, 3)

    def _places(self, positions: Tensor) -> Tensor:
        """Return the source, row and column of patches of all sources together: ``(..., 3)``."""
        firsts = torch.tensor([0, *(h * w for h, w in self.keys)], device=positions.device).cumsum(0)
        source = torch.searchsorted(firsts[1:], positions, right=True)
        columns = torch.tensor([w for _, w in self.keys], device=positions.device)[source]
        rest = positions - firsts[source]
        return torch.stack([source, rest // columns, rest % columns], -1)

    def _excluded(self, scale: Scale) -> Tensor:
        """Return which patches of the first source are too near the place of a patch: ``(Q, K)`` bool."""
        near = []
        for axis in (0, 1):
            places = torch.arange(self.grid[axis]) * (self.keys[0][axis] / self.grid[axis])
            distance = (places[:, None] - torch.arange(self.keys[0][axis])).abs()
            near.append(distance <= self.shift * min(scale.sources[0]))
        rows, columns = near
        both = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(self.grid[0] * self.grid[1], -1)
        excluded = torch.zeros(len(both), sum(h * w for h, w in self.keys), dtype=torch.bool)
        excluded[:, : both.shape[1]] = both
        return excluded.to(self.image.device)
