"""Patch diffusion: noise becomes a picture by the closed-form denoiser of one picture's patches, without training.

Let the patches y of the picture be all the data there is. The denoiser of a noisy patch x = (1 - s) y + s n is then
their mean, weighted by exp(-|x - (1 - s) y|^2 / 2 s^2); means of overlapping patches are averaged, and noise levels s
fall in deterministic steps (efficient-SID, arXiv 2606.04299; NIFTY, arXiv 2509.22318). This alone settles on common
patches, such as sky. Here weights are those of entropic optimal transport between all patches of the result and all of
the picture: each patch of the picture is used as much as any other, so that nothing goes missing.

Noise is taken out at coarse scales, which have few patches. At finer ones, each patch is replaced by its nearest
neighbor near where its coarser one was found, weighted by completeness as in :mod:`.gpnn`: pixels are copies, from
places that are known. Weights, means and their sums are integers or computed on one thread, so that a seed gives
the same picture alone, in any batch and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ...ops.patch_nearest import BLOCK_BYTES, levels
from ...ops.patches import extract_patches, fold_patches, patch_grid, patch_masses, patch_positions
from ...ops.patchmatch import Sources, patchmatch, vote
from ...ops.pyramid import resize
from ...ops.transport import transport_weights
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators, noise_of
from .gpnn import NeighborSearch, ResolvedSettings, Scale, Size, pyramid_scales, refine
from .settings import GPNNSettings, PatchDiffusionSettings

__all__ = ["PatchDiffusion"]

_MOST_PAIRS = 1_000_000  # pairs of patches up to which a scale is denoised
_BYTES_PER_PAIR = 24
_ROUND_PAIRS = 5_000_000  # pairs that are weighed in a step, if that takes from 4 to 60 rounds of transport
_LAST_NOISE = 0.1  # least level of noise, in standard deviations of the picture
_FAR = 50.0  # cost of a patch that may not be used, in units of the entropy's factor
_WEIGHT_UNITS = 1 << 16  # of a weight of 1; with levels of 8 bits, sums are exact in float32
_MEAN_UNITS = 64  # of a level, for means of patches; likewise


class PatchDiffusion(PictureMethod):
    """Denoises noise by the picture's patches in closed form, all used alike; then copies the nearest patches."""

    name: ClassVar[str] = "patch-diffusion"
    Settings = PatchDiffusionSettings
    tasks: ClassVar[frozenset[str]] = frozenset({"reshuffle", "retarget"})

    def smallest_side(self, settings: PatchDiffusionSettings) -> int:
        return max(settings.patch_size, settings.coarse_patch_size)

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: PatchDiffusionSettings
    ) -> float:
        """Return the time of the coarse scales, which is bounded, and that of the finer ones."""
        coarse = 0.12 * settings.steps + 1e-6 * settings.coarsest**2 * settings.coarse_patch_size**2
        pixels = sum(height * width for height, width in pictures) + size[0] * size[1]
        fine = 5e-7 * pixels * (1 + settings.sweeps) * settings.patch_size / (1 - settings.ratio**2)
        return count * (coarse + fine)

    def memory(self, pictures: Sequence[Size], size: Size, count: int, settings: PatchDiffusionSettings) -> int:
        first = pyramid_scales(pictures, size, _refinement(settings), settings.coarse_patch_size)[0]
        pairs = max(_MOST_PAIRS, _pairs(first, settings.coarse_patch_size))
        pixels = sum(h * w for h, w in (*pictures, size))
        return 2 * BLOCK_BYTES + pairs * _BYTES_PER_PAIR + pixels * 260 + count * size[0] * size[1] * 40

    @torch.no_grad()
    def make(
        self,
        pictures: Sequence[Tensor],
        size: Size,
        seeds: Sequence[int],
        settings: Any,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        refinement = _refinement(settings)
        sizes = [(each.shape[1], each.shape[2]) for each in pictures]
        scales = pyramid_scales(sizes, size, refinement, settings.coarse_patch_size)
        steps = len(scales) + (settings.neighbors > 1)
        images, offsets = [], []
        for number, seed in enumerate(seeds):

            def tell(step: int, image: Tensor, number: int = number) -> None:
                if observe is not None:
                    name = f"scale {step + 1} of {len(scales)}" if step < len(scales) else "means of neighbors"
                    observe(PictureStep(number * steps + step + 1, len(seeds) * steps, image, name))

            layout = _Layout(pictures, settings, seed, is_retarget=task == "retarget")
            few = [_pairs(scale, settings.coarse_patch_size) <= _MOST_PAIRS for scale in scales]
            coarse = max(1, (*few, False).index(False)) if layout.finer_noise else 1
            for index in range(coarse):
                layout.denoise(scales[index])
                if index < len(scales) - 1:
                    tell(index, layout.image[None])
            search = NeighborSearch(refinement, seed)
            search.keys, search.result, search.forth = layout.keys, layout.grid, layout.matches
            first = min(coarse, len(scales) - 1)
            image, pixels = refine(pictures, scales, layout.image, search, tell, first, is_blurred=first == coarse)
            if settings.neighbors > 1:
                image, pixels = _mean_of_nearest(pictures, image, search, settings, seed)
                tell(len(scales), image[None])
            images.append(image)
            offsets.append(pixels)
        return PictureResult(torch.stack(images), torch.stack(offsets))


def _refinement(settings: PatchDiffusionSettings) -> ResolvedSettings:
    """Return the settings of the finer scales."""
    finer = GPNNSettings(
        patch_size=settings.patch_size,
        alpha=settings.alpha,
        ratio=settings.ratio,
        coarsest=max(settings.coarsest, settings.patch_size),
        iterations=settings.iterations,
        coarsest_iterations=settings.iterations,
        sweeps=settings.sweeps,
    )
    return cast(ResolvedSettings, finer)


def _mean_of_nearest(
    pictures: Sequence[Tensor], image: Tensor, search: NeighborSearch, settings: PatchDiffusionSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """Return a picture whose patches are means of their nearest neighbors, and the pixels of the nearest."""
    sources, size = Sources([levels(each) for each in pictures], settings.patch_size), image.shape[1:]
    k = min(settings.neighbors, sum(rows * columns for rows, columns in sources.grids))
    field = patchmatch(levels(image), sources, k=k, seed=seed, sweeps=1, start=search.forth)
    scores = field.scores.cpu().numpy() / (len(image) * settings.patch_size**2)
    shares = np.exp((scores[..., :1] - scores) / (2 * max(settings.softness, 1e-3) ** 2))
    shares /= shares.sum(-1, keepdims=True)
    mean = vote(field, sources, size, shares=torch.from_numpy(shares)).add_(128).div_(255).clamp_(0, 1)
    return mean, patch_positions(field.matches[:, :, 0].long(), settings.patch_size, size)


def _pairs(scale: Scale, side: int) -> int:
    """Return the number of pairs of patches of the result and of the sources."""
    rows, columns = patch_grid(scale.result, side)
    return rows * columns * sum(h * w for h, w in (patch_grid(each, side) for each in scale.sources))


class _Layout:
    """The picture at coarse scales, with the patches of the sources that weigh most in it.

    Attributes:
        image: ``(C, h, w)`` in [0, 1], after the scale that was denoised last.
        grid: rows and columns of its patches.
        keys: those of the patches of each source.
        matches: ``(rows, columns, 1, 3)`` int32, see :class:`~latentpatch.ops.patchmatch.Field`.
    """

    def __init__(self, pictures: Sequence[Tensor], settings: PatchDiffusionSettings, seed: int, is_retarget: bool):
        self.pictures, self.settings = pictures, settings
        self.random = generators([seed])
        grey = torch.full_like(pictures[0], 0.5)
        self.image = pictures[0] if is_retarget else grey
        self.noise = settings.noise if settings.noise is not None else 0.3 if is_retarget else 1.0
        self.finer_noise = min(settings.finer_noise, self.noise)
        self.shift = settings.shift if settings.shift is not None else 0.0 if is_retarget else 0.1
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
        masses, potentials = (own, torch.cat(others)), None
        for step in range(settings.steps):
            level = most * (min(_LAST_NOISE, most) / max(most, 1e-6)) ** (step / max(1, settings.steps - 1))
            part = max(0.0, 1 - level)
            noisy = image * part + noise * level
            queries = extract_patches(noisy.round().clamp(-200, 200)[None], side)[0].flatten(0, 1)
            costs = (queries @ patches.T).mul_(-2 * part).add_(norms * part**2).add_(queries.square().sum(1)[:, None])
            costs /= 2 * settings.temperature * (max(level, 1e-3) * deviation) ** 2
            if excluded is not None:
                costs[excluded] += _FAR
            weights, potentials = transport_weights(costs, rounds, masses, potentials)
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
