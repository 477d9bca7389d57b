"""GPNN: pictures whose patches are nearest neighbors from one picture (Granot et al., CVPR 2022, arXiv 2103.15545).

Coarse to fine, each patch of the result is replaced by its nearest patch of the picture, and overlapping patches are
averaged; this is repeated at each scale. A patch of the picture that is far from all patches of the result has its
distances divided by more, so that nothing of the picture goes missing (completeness, alpha).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from ...ops.palettes import transfer_palette
from ...ops.patch_nearest import BLOCK_BYTES, completeness_weights, least_distances, levels, nearest_vectors
from ...ops.patch_prior import PatchPrior
from ...ops.patches import extract_patches, patch_grid, patch_positions
from ...ops.patchmatch import Field, Sources, patchmatch, resize_matches, vote
from ...ops.pyramid import pyramid_sizes, resize
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators, noise_of
from .settings import GPNNSettings

if TYPE_CHECKING:
    from .source_preference import Preference

__all__ = ["GPNN", "NeighborSearch", "ResolvedSettings", "Scale", "pyramid_scales", "refine", "variance_of"]

Size = tuple[int, int]

_HALF_RANGE = 127.5  # levels for 1 in the unit of distances, pixels in [-1, 1]
_MOST_EXACT_PAIRS = 1_000_000  # pairs of patches up to which exact search takes next to no time
_NO_PREFERENCE = 1000.0  # alpha from which on no part of the picture is preferred
_FIRST_SWEEPS = 6  # sweeps of the first PatchMatch, which starts at random where nothing was searched exactly


class GPNN(PictureMethod):
    """Replaces patches by their nearest neighbors in the picture, coarse to fine (Granot et al., CVPR 2022)."""

    name: ClassVar[str] = "gpnn"
    Settings = GPNNSettings
    tasks: ClassVar[frozenset[str]] = frozenset({"reshuffle", "retarget", "analogy", "stylize"})

    def smallest_side(self, settings: GPNNSettings) -> int:
        return settings.patch_size

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: GPNNSettings
    ) -> float:
        """Return the time of searches by PatchMatch at all scales, or of exact ones."""
        sources, result = sum(height * width for height, width in pictures), size[0] * size[1]
        searches = settings.iterations * (1 if settings.tolerance < 0.1 else 0.3) / (1 - settings.ratio**2)
        if settings.search == "exact":
            return count * 1e-8 * sources * result * searches
        return count * 1e-7 * (sources + result) * searches * (1 + settings.sweeps) * settings.patch_size

    def memory(self, pictures: Sequence[Size], size: Size, count: int, settings: GPNNSettings) -> int:
        pixels = sum(h * w for h, w in (*pictures, size))
        return 2 * BLOCK_BYTES + pixels * 260 + count * size[0] * size[1] * 40

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
        given = pictures[0] if task == "retarget" else None if target is None else transfer_palette(target, pictures)
        settings = _resolved(settings, task, given is not None)
        scales = pyramid_scales([(each.shape[1], each.shape[2]) for each in pictures], size, settings)
        images, offsets = [], []
        for number, seed in enumerate(seeds):

            def tell(scale: int, image: Tensor, number: int = number) -> None:
                if observe is not None:
                    done = number * len(scales) + scale + 1
                    observe(PictureStep(done, len(seeds) * len(scales), image, f"scale {scale + 1} of {len(scales)}"))

            image, pixels = _one(pictures, scales, seed, settings, given, tell)
            images.append(image)
            offsets.append(pixels)
        return PictureResult(torch.stack(images), torch.stack(offsets))


@dataclass(frozen=True)
class Scale:
    """The sizes of the sources and of the result at a scale."""

    sources: list[Size]
    result: Size


class ResolvedSettings(GPNNSettings):
    """Settings without None where the task decides."""

    alpha: float
    coarsest: int
    noise: float
    start: str


def _resolved(settings: GPNNSettings, task: str, has_layout: bool) -> ResolvedSettings:
    """Return settings with the values that a task has by default."""
    is_guided = task in ("analogy", "stylize")
    defaults = {
        "alpha": 1.0 if is_guided else 0.05,
        "coarsest": max(settings.patch_size, 40 if is_guided else 14),
        "noise": 0.0 if has_layout else 0.75,
        "start": "picture" if has_layout else "grey",
    }
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return cast(ResolvedSettings, settings.changed(**missing))


def pyramid_scales(
    pictures: Sequence[Size], size: Size, settings: ResolvedSettings, least_side: int = 1
) -> list[Scale]:
    """Return the scales, coarse to fine: the shorter side of the smallest picture becomes ``coarsest``.

    No side is shorter than a patch or ``least_side``.
    """
    smallest = min(pictures, key=min)
    steps = pyramid_sizes(smallest, settings.ratio, settings.coarsest)
    factors = [min(step) / min(smallest) for step in steps]

    def at(factor: float, whole: Size) -> Size:
        height, width = (max(settings.patch_size, least_side, round(side * factor)) for side in whole)
        return height, width

    scales = [Scale([at(factor, each) for each in pictures], at(factor, size)) for factor in factors]
    if settings.square_coarsest and len(scales) > 1:
        square = (settings.coarsest, settings.coarsest)
        scales[0] = Scale([square] * len(pictures), square)
    return scales


def _one(
    pictures: Sequence[Tensor],
    scales: Sequence[Scale],
    seed: int,
    settings: ResolvedSettings,
    given: Tensor | None,
    tell: Callable[[int, Tensor], None],
) -> tuple[Tensor, Tensor]:
    """Return the picture of a seed, ``(C, h, w)``, and the pixels that it was copied from, ``(h, w, 3)``."""
    image = _start(pictures, scales[0], seed, settings, given)
    return refine(pictures, scales, image, NeighborSearch(settings, seed), tell)


def refine(
    pictures: Sequence[Tensor],
    scales: Sequence[Scale],
    image: Tensor,
    search: NeighborSearch,
    tell: Callable[[int, Tensor], None],
    first: int = 0,
    is_blurred: bool = False,
) -> tuple[Tensor, Tensor]:
    """Replace patches by their nearest neighbors at scales from ``first`` on, coarse to fine.

    Args:
        pictures: the sources, at full size.
        scales: coarse to fine.
        image: ``(C, h, w)`` in [0, 1], of any size.
        search: with its settings, and the matches of the coarser scale where there are any.
        tell: called after each scale with its number and the picture.
        first: number of the first scale.
        is_blurred: whether the image is one of the scale before ``first``, which upsampling blurs.

    Returns:
        The picture, ``(C, h, w)``, and the pixels that it was copied from, ``(h, w, 3)``.
    """
    settings = search.settings
    coarser = _rounded(_resized(pictures, scales[first - 1].sources)) if is_blurred else []
    field = None
    for number in range(first, len(scales)):
        scale = scales[number]
        sharp = _resized(pictures, scale.sources)
        # The result of the coarser scale is blurred by upsampling: it is compared with pictures as blurred.
        blurred = _resized(coarser or sharp, scale.sources)
        values = Sources([levels(each) for each in sharp], settings.patch_size)
        keys = Sources([levels(each) for each in blurred], settings.patch_size)
        image = resize(image[None], scale.result)[0]
        search.enter(keys.grids, patch_grid(scale.result, settings.patch_size))
        for turn in range(settings.iterations if number else settings.coarsest_iterations):
            before = image
            field = search(levels(image), keys if not turn or settings.blurred_keys == "all" else values)
            image = vote(field, values, scale.result).add_(128).div_(255).clamp_(0, 1)
            is_settled = turn > 0 and float((image - before).abs().mean()) * 255 <= settings.tolerance
            if is_settled or not bool(field.scores.any()):  # without any distance, all patches are the source's
                break
        coarser = _rounded(sharp) if first else sharp
        tell(number, image[None])
    if field is None:
        raise AssertionError("a pyramid has at least one scale")
    return image, patch_positions(field.matches[:, :, 0].long(), settings.patch_size, scales[-1].result)


def _resized(pictures: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    return [resize(each[None], size)[0] for each, size in zip(pictures, sizes, strict=True)]


def _rounded(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Return pictures at levels of 8 bits, as results are: a result that is the source has distances of 0."""
    return [levels(each).add_(128).div_(255) for each in pictures]


def _start(
    pictures: Sequence[Tensor], scale: Scale, seed: int, settings: ResolvedSettings, given: Tensor | None
) -> Tensor:
    """Return the picture of the coarsest scale before the first search, from the picture that gives its layout."""
    first = pictures[0] if given is None else given
    is_copy = settings.start == "picture"
    base = resize(first[None], scale.result)[0] if is_copy else torch.full((len(first), *scale.result), 0.5)
    channels = 1 if settings.grey_noise else len(first)
    noise = noise_of(generators([seed]), (channels, *scale.result))[0].to(first.device)
    return base.to(first.device) + noise * (settings.noise / 2)


class NeighborSearch:
    """Nearest neighbors with completeness, which begins where the last search ended."""

    def __init__(self, settings: ResolvedSettings, seed: int) -> None:
        self.settings, self.seed, self.count = settings, seed, 0
        self.keys: list[Size] = []
        self.result: Size = (0, 0)
        self.forth: Tensor | None = None  # matches of the result's patches among the keys
        self.back: list[Tensor] = []  # and of the keys' patches, picture by picture, in the result
        self.preference: Preference | None = None

    def enter(self, keys: list[Size], result: Size) -> None:
        """Go on to a scale where pictures and result have these rows and columns of patches."""
        if self.forth is not None:
            self.forth = resize_matches(self.forth, result, self.keys, keys)
        self.back = [
            resize_matches(matches, grid, [self.result], [result])
            for matches, grid in zip(self.back, keys, strict=False)
        ]
        self.keys, self.result = keys, result

    def __call__(self, image: Tensor, keys: Sources) -> Field:
        """Return the matches of an image's patches, both in levels."""
        self.count += 1
        prior = None
        if self.preference is not None:
            variance = variance_of(keys) * len(image) * keys.side**2
            prior = self.preference.fine(self.result, self.forth, variance, image.device)
        pairs = self.result[0] * self.result[1] * sum(h * w for h, w in self.keys)
        is_exact = self.settings.search == "exact" or (self.settings.search is None and pairs <= _MOST_EXACT_PAIRS)
        field = self._exact(image, keys, prior) if is_exact else self._patchmatch(image, keys, prior)
        self.forth = field.matches
        return field

    def _weights(self, least: Tensor, keys: Sources) -> Tensor:
        """Return the weights of patches' squared distances, for the distances to their nearest in the result."""
        length = len(keys.pictures[0]) * keys.side**2
        alpha, unit = self.settings.alpha, self.settings.alpha_unit
        if alpha >= _NO_PREFERENCE:
            return torch.ones_like(least)
        if unit == "distance":  # alpha is for pixels in [0, 1]; scores are squared distances, hence squared weights
            return completeness_weights(least.sqrt(), alpha * 2 * _HALF_RANGE).square()
        if unit == "squared":
            return completeness_weights(least, alpha * length * _HALF_RANGE**2)
        return completeness_weights(least, alpha * length * variance_of(keys))

    def _exact(self, image: Tensor, keys: Sources, prior: PatchPrior | None) -> Field:
        side = keys.side
        queries = extract_patches(image[None], side)[0].flatten(0, 1)
        patches = torch.cat([extract_patches(each[None], side)[0].flatten(0, 1) for each in keys.pictures])
        weights = self._weights(least_distances(queries, patches), keys)
        found = nearest_vectors(queries, patches, 1, weights, costs=None if prior is None else prior.pairs(self.keys))
        firsts = torch.tensor([0, *(h * w for h, w in self.keys)], device=image.device).cumsum(0)
        picture = torch.searchsorted(firsts[1:], found.positions, right=True)
        columns = torch.tensor([w for _, w in self.keys], device=image.device)[picture]
        rest = found.positions - firsts[picture]
        matches = torch.stack([picture, rest // columns, rest % columns], -1).to(torch.int32)
        return Field(matches.view(*self.result, 1, 3), found.scores.view(*self.result, 1))

    def _patchmatch(self, image: Tensor, keys: Sources, prior: PatchPrior | None) -> Field:
        seed = (self.seed * 1_000_003 + self.count * 101) % 2**62
        weights = None
        if self.settings.alpha < _NO_PREFERENCE:
            least = []
            result = Sources([image], keys.side)
            for number, picture in enumerate(keys.pictures):
                start = self.back[number] if number < len(self.back) else None
                sweeps = _FIRST_SWEEPS if start is None else 1  # weights vary slowly: one sweep follows them
                field = patchmatch(picture, result, seed=seed + 1 + number, sweeps=sweeps, start=start)
                self.back[number : number + 1] = [field.matches]
                least.append(field.scores[..., 0])
            flat = self._weights(torch.cat([each.flatten() for each in least]), keys)
            parts = flat.split([each.numel() for each in least])
            weights = [part.view(each.shape) for part, each in zip(parts, least, strict=True)]
        start = self.forth
        sweeps = _FIRST_SWEEPS if start is None else self.settings.sweeps
        found = Sources(keys.pictures, keys.side, weights)
        return patchmatch(image, found, seed=seed, sweeps=sweeps, start=start, prior=prior)


def variance_of(keys: Sources) -> float:
    """Return the variance of a pixel, the mean over the channels; at least 1, as a picture of one color has none."""
    every = torch.cat([each.flatten(1) for each in keys.pictures], 1).double()
    return max(float(every.var(1, correction=0).mean()), 1.0)
