"""Patch diffusion: noise becomes a picture by the closed-form denoiser of one picture's patches, without training.

Let the patches y of the picture be all the data there is. The denoiser of a noisy patch x = (1 - s) y + s n is then
their mean, weighted by exp(-|x - (1 - s) y|^2 / 2 s^2); means of overlapping patches are averaged, and noise levels s
fall in deterministic steps (efficient-SID, arXiv 2606.04299; NIFTY, arXiv 2509.22318). This alone settles on common
patches, such as sky. Here weights are those of entropic optimal transport between all patches of the result and all of
the picture: each patch of the picture is used as much as any other, so that nothing goes missing.

Noise is taken out at coarse scales, which have few patches. At finer ones, each patch is replaced by its nearest
neighbor near where its coarser one was found, weighted by completeness as in :mod:`.gpnn`: pixels are copies, from
places that are known. With several sources, there may be costs for leaving the place and for changing the source
(:mod:`.source_preference`). All of it may be done in latents instead of pixels (:mod:`.latent_space`).

Weights, means and their sums are integers or computed on one thread, so that a seed gives the same picture alone, in
any batch and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ...ops.palettes import transfer_palette
from ...ops.patch_nearest import BLOCK_BYTES, levels
from ...ops.patches import patch_positions
from ...ops.patchmatch import Sources, patchmatch, vote
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators
from .gpnn import NeighborSearch, ResolvedSettings, Scale, Size, pyramid_scales, refine, variance_of
from .latent_space import CELL, LatentSpace, cells_of, pixel_offsets
from .patch_layout import Layout, ResolvedDiffusion, num_pairs
from .settings import GPNNSettings, PatchDiffusionSettings
from .source_preference import EXTREME, Preference

__all__ = ["PatchDiffusion"]

_MOST_PAIRS = 1_000_000  # pairs of patches up to which a scale is denoised
_BYTES_PER_PAIR = 24
_NETWORK_SHARE = 4  # memory of a pixel in an autoencoder, relative to that in a search


class PatchDiffusion(PictureMethod):
    """Denoises noise by the picture's patches in closed form, all used alike; then copies the nearest patches."""

    name: ClassVar[str] = "patch-diffusion"
    Settings = PatchDiffusionSettings
    tasks: ClassVar[frozenset[str]] = frozenset({"reshuffle", "retarget", "compose", "texture"})
    accepts_shares: ClassVar[bool] = True

    def smallest_side(self, settings: PatchDiffusionSettings) -> int:
        side = max(settings.sizes()[1:])
        return side if settings.space == "pixels" else (side - 1) * CELL + 1

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: PatchDiffusionSettings
    ) -> float:
        """Return the time of the coarse scales, which is bounded, and that of the finer ones."""
        coarsest, side, coarse_side = settings.sizes()
        coarse = 0.12 * settings.steps + 1e-6 * coarsest**2 * coarse_side**2
        pixels = sum(height * width for height, width in pictures) + size[0] * size[1]
        fine = 5e-7 * pixels * (1 + settings.sweeps) * side / (1 - settings.ratio**2)
        return count * (coarse + fine)

    def memory(self, pictures: Sequence[Size], size: Size, count: int, settings: PatchDiffusionSettings) -> int:
        pixels, coarse_side = sum(h * w for h, w in (*pictures, size)), settings.sizes()[2]
        if settings.space != "pixels":
            pictures, size, pixels = [cells_of(each) for each in pictures], cells_of(size), pixels * _NETWORK_SHARE
        first = pyramid_scales(pictures, size, _refinement(settings), coarse_side)[0]
        pairs = max(_MOST_PAIRS, num_pairs(first, coarse_side))
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
        shares: Tensor | None = None,
    ) -> PictureResult:
        settings = _resolved(settings, task, target is not None)
        space = None if settings.space == "pixels" else LatentSpace(settings.space, pictures)
        values = pictures if space is None else space.latents
        sizes = [(each.shape[1], each.shape[2]) for each in values]
        grid = size if space is None else cells_of(size)
        scales = pyramid_scales(sizes, grid, _refinement(settings), settings.coarse_patch_size)
        steps = len(scales) + (settings.neighbors > 1)
        images, offsets = [], []
        for number, seed in enumerate(seeds):

            def tell(step: int, image: Tensor, number: int = number) -> None:
                if observe is not None:
                    if space is not None:
                        rows, columns = image.shape[2:]
                        image = space.decode(image[0], (min(rows * CELL, size[0]), min(columns * CELL, size[1])))[None]
                    name = f"scale {step + 1} of {len(scales)}" if step < len(scales) else "means of neighbors"
                    observe(PictureStep(number * steps + step + 1, len(seeds) * steps, image, name))

            chosen, preference = _chosen(len(pictures), settings, seed, shares)
            own = [Scale([scale.sources[i] for i in chosen], scale.result) for scale in scales]
            start = values[0] if task == "retarget" else None
            if target is not None:
                start = transfer_palette(target, [pictures[i] for i in chosen])
                start = start if space is None else space.encode(start)
            image, pixels = _one([values[i] for i in chosen], own, seed, settings, start, preference, tell)
            numbers = torch.tensor(chosen, device=pixels.device)[pixels[..., :1]]
            pixels = torch.cat([numbers, pixels[..., 1:]], -1)
            if space is not None:
                image = space.decode(image, size)
                pixels = pixel_offsets(pixels, [each.shape[1:] for each in pictures], size)
            images.append(image)
            offsets.append(pixels)
        return PictureResult(torch.stack(images), torch.stack(offsets))


def _resolved(settings: PatchDiffusionSettings, task: str, has_target: bool) -> ResolvedDiffusion:
    """Return settings with the values that a task has by default."""
    is_composed = task == "compose"
    has_layout = has_target or task == "retarget"
    defaults: dict[str, float | int | None] = {
        "shift": 0.0 if has_layout or is_composed else 0.1,
        "noise": 0.5 if has_target else 0.3 if has_layout else 1.0,
        "continuity": 50.0 if is_composed else 0.0,
        "position": 2.0 if is_composed else 0.0,
        "mixed": 3 if is_composed else None,
    }
    defaults |= dict(zip(("coarsest", "patch_size", "coarse_patch_size"), settings.sizes(), strict=True))
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    changes = {name: value for name, value in missing.items() if value is not None}
    return cast(ResolvedDiffusion, settings.changed(**changes))


def _chosen(
    count: int, settings: PatchDiffusionSettings, seed: int, shares: Tensor | None
) -> tuple[list[int], Preference | None]:
    """Return the numbers of the sources that a result is made of, in order, and what it prefers among them."""
    continuity, position = settings.continuity or 0.0, settings.position or 0.0
    if shares is not None:
        parts = shares.mean((1, 2)).tolist()
        return list(range(count)), Preference(parts, continuity, position, shares)
    random = generators([seed])[0]
    most = count if settings.mixed is None else min(count, settings.mixed)
    order = torch.randperm(count, generator=random)[: 1 if continuity >= EXTREME else most]
    chosen: list[int] = order.sort().values.tolist()
    if not (continuity and len(chosen) > 1) and not position:
        return chosen, None
    drawn = torch.rand(len(chosen), generator=random) + 0.5
    return chosen, Preference((drawn / drawn.sum()).tolist(), continuity, position)


def _one(
    pictures: Sequence[Tensor],
    scales: Sequence[Scale],
    seed: int,
    settings: ResolvedDiffusion,
    start: Tensor | None,
    preference: Preference | None,
    tell: Callable[[int, Tensor], None],
) -> tuple[Tensor, Tensor]:
    """Return the picture of a seed, ``(C, h, w)``, and the pixels that it was copied from, ``(h, w, 3)``."""
    refinement = _refinement(settings)
    layout = Layout(pictures, settings, seed, start, preference)
    few = [num_pairs(scale, settings.coarse_patch_size) <= _MOST_PAIRS for scale in scales]
    coarse = max(1, (*few, False).index(False)) if layout.finer_noise else 1
    for index in range(coarse):
        layout.denoise(scales[index])
        if index < len(scales) - 1:
            tell(index, layout.image[None])
    search = NeighborSearch(refinement, seed)
    search.keys, search.result, search.forth = layout.keys, layout.grid, layout.matches
    search.preference = preference
    first = min(coarse, len(scales) - 1)
    image, pixels = refine(pictures, scales, layout.image, search, tell, first, is_blurred=first == coarse)
    if settings.neighbors > 1:
        image, pixels = _mean_of_nearest(pictures, image, search, settings, seed)
        tell(len(scales), image[None])
    return image, pixels


def _refinement(settings: PatchDiffusionSettings) -> ResolvedSettings:
    """Return the settings of the finer scales."""
    coarsest, side, _ = settings.sizes()
    finer = GPNNSettings(
        patch_size=side,
        alpha=settings.alpha,
        ratio=settings.ratio,
        coarsest=max(coarsest, side),
        iterations=settings.iterations,
        coarsest_iterations=settings.iterations,
        sweeps=settings.sweeps,
    )
    return cast(ResolvedSettings, finer)


def _mean_of_nearest(
    pictures: Sequence[Tensor], image: Tensor, search: NeighborSearch, settings: ResolvedDiffusion, seed: int
) -> tuple[Tensor, Tensor]:
    """Return a picture whose patches are means of their nearest neighbors, and the pixels of the nearest."""
    sources, size = Sources([levels(each) for each in pictures], settings.patch_size), image.shape[1:]
    k = min(settings.neighbors, sum(rows * columns for rows, columns in sources.grids))
    prior = None
    if search.preference is not None:
        variance = variance_of(sources) * len(image) * sources.side**2
        prior = search.preference.fine(search.result, search.forth, variance, image.device)
    field = patchmatch(levels(image), sources, k=k, seed=seed, sweeps=1, start=search.forth, prior=prior)
    scores = field.scores.cpu().numpy() / (len(image) * settings.patch_size**2)
    shares = np.exp((scores[..., :1] - scores) / (2 * max(settings.softness, 1e-3) ** 2))
    shares /= shares.sum(-1, keepdims=True)
    mean = vote(field, sources, size, shares=torch.from_numpy(shares)).add_(128).div_(255).clamp_(0, 1)
    return mean, patch_positions(field.matches[:, :, 0].long(), settings.patch_size, size)
