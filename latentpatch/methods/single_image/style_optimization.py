"""Style transfer by patches: a picture of patches of a style, near to a content (Elad & Milanfar, IEEE TIP 2017).

Coarse to fine, each patch of the result is matched with one of the style, and the matches are joined by least squares
whose weights fall with the distance (power r below 2). The picture that is matched lies between the result and the
content, nearer to the content at coarse scales: this is the least of the two weighted squared distances, as in the
guided matching of Samuth, Tschumperlé & Rabin (ICIP 2022). A patch of the style that is used often has its distances
multiplied by more, so that plain regions do not all become one patch. The last step copies from the style alone.

With hallucination, the content counts less where it has no edges, and the style fills these regions from noise: the
segmentation of Elad & Milanfar, who leave its choice open, is the density of edges here. With smoothing, the picture
of each scale is smoothed within its edges by the domain transform, as theirs is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...ops.edges import edge_density, smooth_within_edges
from ...ops.palettes import transfer_palette
from ...ops.patch_nearest import levels
from ...ops.patches import patch_grid, patch_positions
from ...ops.patchmatch import Field, Sources, patchmatch, resize_matches, vote
from ...ops.pyramid import pyramid_sizes, resize
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators, noise_of
from .texture_settings import StyleOptimizationSettings

__all__ = ["StyleOptimization"]

Size = tuple[int, int]

_COARSE, _FINE = 2.0, 0.5  # content against result at the coarsest and finest scale, for a strength of 0.5
_START_NOISE = 50 / 255  # standard deviation where nothing of the content counts
_FIRST_SWEEPS = 6  # sweeps of the first search, which starts at random
_UNIT_WEIGHT, _MOST_WEIGHT = 16, 256  # of a match at the mean distance, and at most: whole numbers, exact in any order


class StyleOptimization(PictureMethod):
    """Paints a picture with patches of another, coarse to fine (Elad & Milanfar, 2017; Samuth et al., 2022)."""

    name: ClassVar[str] = "style-optimization"
    Settings: ClassVar[type[StyleOptimizationSettings]] = StyleOptimizationSettings
    tasks = frozenset({"stylize"})

    def smallest_side(self, settings: StyleOptimizationSettings) -> int:
        """Return the side of a patch."""
        return settings.patch_size

    def seconds(
        self,
        pictures: Sequence[tuple[int, int]],
        size: tuple[int, int],
        count: int,
        settings: StyleOptimizationSettings,
    ) -> float:
        """Return the time of the searches at all scales."""
        searches = settings.iterations * (1 + settings.sweeps) / (1 - settings.ratio**2)
        return count * 6e-7 * (size[0] * size[1] + sum(height * width for height, width in pictures)) * searches

    def memory(self, pictures: Sequence[Size], size: Size, count: int, settings: StyleOptimizationSettings) -> int:
        """Return the bytes of pictures, matches and weights at the finest scale, and of the results."""
        return 260 * sum(height * width for height, width in (*pictures, size)) + 40 * count * size[0] * size[1]

    @torch.no_grad()
    def make(
        self,
        pictures: Sequence[Tensor],
        size: Size,
        seeds: Sequence[int],
        settings: StyleOptimizationSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return pictures, and for each pixel the pixel that its patch has in the styles."""
        assert target is not None
        content = resize(target[None], size)[0]
        edges = edge_density(content)
        content = transfer_palette(content, pictures) if settings.palette == "style" else content
        weights = 1 - settings.hallucination * (1 - edges)
        sizes = pyramid_sizes(size, settings.ratio, settings.coarsest)
        images, offsets = [], []
        for number, seed in enumerate(seeds):
            image, grids = content, list[Size]()
            matches: Tensor | None = None
            for scale, whole in enumerate(sizes):
                factor = min(whole) / min(size)
                whole = _at_least(settings.patch_size, whole)
                shapes = [
                    _at_least(settings.patch_size, (round(p.shape[1] * factor), round(p.shape[2] * factor)))
                    for p in pictures
                ]
                keys = Sources(
                    [levels(resize(p[None], s)[0]) for p, s in zip(pictures, shapes, strict=True)], settings.patch_size
                )
                grid = patch_grid(whole, settings.patch_size)
                start = None if matches is None else resize_matches(matches, grid, grids, keys.grids)
                grids = keys.grids
                image, shown, local = (resize(each[None], whole)[0] for each in (image, content, weights))
                if matches is None and settings.hallucination:
                    noise = noise_of(generators([seed]), tuple(image.shape), image.device)[0]
                    image = (image + noise * (1 - local) * _START_NOISE).clamp(0, 1)
                share = _share(settings.strength, scale / max(1, len(sizes) - 1), local)
                image, matches = _restyle(image, shown, keys, share, start, settings, seed * 1_000_003 + scale * 101)
                if settings.smoothing:
                    image = smooth_within_edges(image, settings.patch_size, settings.smoothing * len(image) / 255)
                if observe is not None:
                    done = number * len(sizes) + scale + 1
                    name = f"scale {scale + 1} of {len(sizes)}"
                    observe(PictureStep(done, len(seeds) * len(sizes), image[None], name))
            assert matches is not None
            images.append(image)
            offsets.append(patch_positions(matches[:, :, 0].long(), settings.patch_size, size))
        return PictureResult(torch.stack(images), torch.stack(offsets))


def _at_least(side: int, size: Size) -> Size:
    return max(side, size[0]), max(side, size[1])


def _share(strength: float, progress: float, weights: Tensor) -> Tensor:
    """Return the part of the content in the picture that is matched, by pixel.

    Args:
        strength: of the style, from 0 to 1.
        progress: of the scales, from 0, the coarsest, to 1.
        weights: of the content, ``(1, h, w)`` from 0 to 1.
    """
    if strength == 0:
        return weights.gt(0).to(weights)
    weight = weights * (_COARSE * (_FINE / _COARSE) ** progress * (1 - strength))
    share: Tensor = weight / (weight + strength)
    return share


def _restyle(
    image: Tensor,
    content: Tensor,
    keys: Sources,
    share: Tensor,
    matches: Tensor | None,
    settings: StyleOptimizationSettings,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return the picture of a scale, ``(C, h, w)``, and the matches of its patches."""
    weights = None
    for turn in range(settings.iterations):
        query = levels(image * (1 - share) + content * share)
        sweeps = _FIRST_SWEEPS if matches is None else settings.sweeps
        sources = Sources(keys.pictures, keys.side, weights)
        field = patchmatch(query, sources, seed=(seed + turn) % 2**62, sweeps=sweeps, start=matches)
        matches = field.matches
        if settings.variety:
            weights = _uses(matches, keys, settings.variety)
        joint = vote(field, keys, image.shape[1:], shares=_robust(field, settings.power))
        image = (joint + 128).div_(255).clamp_(0, 1)
    assert matches is not None
    return image, matches


def _uses(matches: Tensor, keys: Sources, variety: float) -> list[Tensor]:
    """Return factors of the distances of the styles' patches: 1 and ``variety`` times the uses beyond one's share."""
    firsts = torch.tensor([0, *(rows * columns for rows, columns in keys.grids)]).cumsum(0)
    picture, row, column = matches[:, :, 0].long().flatten(0, 1).T
    columns = torch.tensor([columns for _, columns in keys.grids])[picture]
    counts = torch.bincount(firsts[picture] + row * columns + column, minlength=int(firsts[-1]))
    usual = max(1.0, matches.shape[0] * matches.shape[1] / int(firsts[-1]))
    factors = 1 + variety * (counts / usual - 1).clamp(min=0)
    return [part.view(grid) for part, grid in zip(factors.split(firsts.diff().tolist()), keys.grids, strict=True)]


def _robust(field: Field, power: float) -> Tensor:
    """Return the weights of matches in least squares that stand for a power of the distance."""
    scores = field.scores.double().clamp(min=1)
    relative = (scores / scores.mean()).numpy()  # numpy's powers are the same with any number of threads
    weights = _UNIT_WEIGHT * np.power(relative, (power - 2) / 2)
    return torch.from_numpy(np.clip(np.rint(weights), 1, _MOST_WEIGHT).astype(np.float32))
