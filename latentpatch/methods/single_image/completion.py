"""Completion: a region of a picture is made of patches from elsewhere (Wexler, Shechtman & Irani, IEEE PAMI 2007).

Coarse to fine, each patch that has pixels of the region is matched with a patch without any, and the matches are joined
by weighted means; pixels outside of the region stay as they are. Pixels near the border are known better and weigh
more. Means of patches alone drift to plain ones: the mean differences between neighboring pixels, taken at full size,
go along as two more channels (Newson et al., SIAM J. Imaging Sciences 2014).

Holes start from a smooth continuation of their surroundings with noise, several times at coarse scales; the start whose
patches are nearest to their matches goes on. Edits start from the picture
itself at a middle scale. Pasted things start at a fine scale in colors nearer to those of the rest, and what is matched
stays between the result and them, so that they keep their form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SettingError
from ...ops.compositing import fill_smoothly, join
from ...ops.palettes import transfer_palette
from ...ops.patch_nearest import levels
from ...ops.patches import patch_positions
from ...ops.patchmatch import Field, Sources, patchmatch, resize_matches, vote
from ...ops.pyramid import pyramid_sizes, resize
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators, noise_of
from .settings import CompletionSettings

__all__ = ["Completion"]

Size = tuple[int, int]

#: Settings that a task decides where they are None.
_BY_TASK: dict[str, dict[str, Any]] = {
    "inpaint": {"coarsest": 20, "margin": 0, "noise": 0.5, "fidelity": 0.0},
    "edit": {"coarsest": 60, "margin": 5, "noise": 0.0, "fidelity": 0.0},
    "harmonize": {"coarsest": 200, "margin": 2, "noise": 0.0, "fidelity": 0.7},
}
_FIRST_SWEEPS = 8  # sweeps of the first search, which starts at random
_MOST_TONE = 0.1  # difference at the border, up to which it is one of tone that fades into the region
_STARTS = (2, 2, 1, 0)  # scales at which the starts of a hole begin, of which the best is chosen
_START_PIXELS = 0.15  # part of the pixels up to which scales are made from each start
_MOST_LAST = 3  # searches at full size, which take most of the time and change little
_LEAST_CHOICE = 0.25  # patches to copy, for each that is made, of a scale that is not left out
_TEXTURE_REACH = 8  # pixels over which differences of neighbors are averaged
_CONFIDENCE = 0.95  # factor of a pixel's weight with each pixel of distance from the border
_POWER = 0.8  # of the distance that joined patches minimize
_UNIT_WEIGHT, _MOST_WEIGHT = 64, 1024  # of a patch at the mean distance, and at most: whole numbers have exact sums


class Completion(PictureMethod):
    """Makes a region of patches from elsewhere, coarse to fine (Wexler et al., IEEE PAMI 2007)."""

    name: ClassVar[str] = "completion"
    Settings: ClassVar[type[CompletionSettings]] = CompletionSettings
    tasks: ClassVar[frozenset[str]] = frozenset(_BY_TASK)

    def smallest_side(self, settings: CompletionSettings) -> int:
        """Return the side of a patch."""
        return settings.patch_size

    def seconds(self, pictures: Sequence[Size], size: Size, count: int, settings: CompletionSettings) -> float:
        """Return the time of the searches at all scales for a region of a fifth of the picture."""
        searches = settings.iterations * (1 + settings.sweeps) / (1 - settings.ratio**2)
        return count * 3e-7 * size[0] * size[1] * searches

    def memory(self, pictures: Sequence[Size], size: Size, count: int, settings: CompletionSettings) -> int:
        """Return the bytes of the pictures at all scales, of matches and weights, and of the results."""
        return 300 * sum(height * width for height, width in (*pictures, size)) + 40 * count * size[0] * size[1]

    @torch.no_grad()
    def make(
        self,
        pictures: Sequence[Tensor],
        size: Size,
        seeds: Sequence[int],
        settings: CompletionSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return pictures, and for each pixel of the region the pixel that it has in the best patch."""
        assert target is not None
        assert mask is not None
        missing = {name: value for name, value in _BY_TASK[task].items() if getattr(settings, name) is None}
        settings = settings.changed(**missing)
        region = _dilated(mask, settings.margin or 0)
        scales = _scales(pictures, target, mask, region, settings, task)
        images, offsets = [], []
        for number, seed in enumerate(seeds):
            run, first = _best_start(scales, settings, seed)
            for index, scale in enumerate(scales):
                is_last = index == len(scales) - 1
                made = run.refine(scale, index, is_last) if index >= first else run.image
                image = resize(run.image[None, : len(target)], scale.region.shape)
                if is_last:
                    inside = _alike(made[: len(target)], scale.known[: len(target)], region)[None]
                    image = join(inside, target[None], region, settings.fade)
                if observe is not None:
                    done, total = number * len(scales) + index + 1, len(seeds) * len(scales)
                    observe(PictureStep(done, total, image, f"scale {index + 1} of {len(scales)}"))
            images.append(image[0])
            places = patch_positions(run.matches[:, :, 0].long(), settings.patch_size, size)
            offsets.append(torch.where(region[..., None], places, -1))
        return PictureResult(torch.stack(images), torch.stack(offsets))


def _beginning(target: Tensor, mask: Tensor, settings: CompletionSettings, task: str) -> Tensor:
    """Return the picture to start from, ``(C, H, W)``."""
    if task == "inpaint":
        return fill_smoothly(target[None], mask)[0]
    if task == "edit" or not settings.palette:
        return target
    moved = transfer_palette(target[:, mask][:, None], [target[:, ~mask][:, None]])[:, 0]
    result = target.clone()
    result[:, mask] += (moved - result[:, mask]) * settings.palette
    return result


@dataclass(frozen=True)
class _Scale:
    """Pictures and region at a scale; the pictures have two more channels, of texture.

    Attributes:
        keys: patches that may be copied.
        known: ``(C + 2, h, w)``, the picture outside of the region, and what the region starts from.
        region: ``(h, w)`` bool.
        wanted: ``(rows, columns)`` bool, patches with pixels of the region.
        confidence: ``(rows, columns)`` float64, mean weights of their pixels.
        content: weight of ``known`` in what is matched.
    """

    keys: Sources
    known: Tensor
    region: Tensor
    wanted: Tensor
    confidence: np.ndarray
    content: float


def _scales(
    pictures: Sequence[Tensor],
    target: Tensor,
    mask: Tensor,
    region: Tensor,
    settings: CompletionSettings,
    task: str,
) -> list[_Scale]:
    """Return the scales, coarse to fine, without coarse ones of next to no patch that may be copied.

    Raises:
        SettingError: where no patch without masked pixels is left.
    """
    begin = _beginning(target, mask, settings, task)
    side, size = settings.patch_size, (target.shape[1], target.shape[2])
    masks = [
        mask if torch.equal(picture, target) else torch.zeros(picture.shape[1:], dtype=torch.bool)
        for picture in pictures
    ]
    whole = [_textured(picture, each, settings) for picture, each in zip(pictures, masks, strict=True)]
    hidden = region if task == "inpaint" else torch.zeros_like(region)  # edits and pasted things have their own texture
    known = torch.cat([begin, fill_smoothly(_textured(begin, hidden, settings)[None, -2:], hidden)[0]])
    scales = []
    for height, width in pyramid_sizes(size, settings.ratio, settings.coarsest or 0):
        here = max(side, height), max(side, width)
        factor = min(height, width) / min(size)
        shapes = [(max(side, round(p.shape[1] * factor)), max(side, round(p.shape[2] * factor))) for p in pictures]
        allowed = [~_covered(each, shape) for each, shape in zip(masks, shapes, strict=True)]
        small = _covered(region, here)
        wanted = small.unfold(0, side, 1).unfold(1, side, 1).any(-1).any(-1)
        try:
            keys = Sources([levels(resize(p[None], s)[0]) for p, s in zip(whole, shapes, strict=True)], side)
            keys = keys.masked(allowed)
        except SettingError:
            if here == size:
                raise
            continue
        assert keys.weights is not None
        choice = sum(int(each.isfinite().sum()) for each in keys.weights)
        if here == size or choice >= _LEAST_CHOICE * int(wanted.sum()):
            weights = np.power(_CONFIDENCE, _depths(small).numpy())
            confidence = F.avg_pool2d(torch.from_numpy(weights)[None], side, 1)[0].numpy()
            scales.append(
                _Scale(keys, resize(known[None], here)[0], small, wanted, confidence, settings.fidelity or 0.0)
            )
    return scales


def _alike(made: Tensor, known: Tensor, region: Tensor) -> Tensor:
    """Return what was made, but the picture beside the region where these differ in more than tone.

    A thing that the border cuts would else be smeared into the region.
    """
    is_near = (made - known).abs().amax(0) <= _MOST_TONE  # false where nothing was made
    return torch.where(region | is_near, made, known)


def _best_start(scales: list[_Scale], settings: CompletionSettings, seed: int) -> tuple[_Run, int]:
    """Return the start whose patches are nearest to their matches at the coarse scales, and the next scale.

    Holes that go on at the coarsest scale keep large shapes, those that begin at a finer one keep colors.
    """
    count = sum(scale.region.numel() <= _START_PIXELS * scales[-1].region.numel() for scale in scales)
    if not settings.noise or not count:
        return _Run(scales[0], settings, seed), 0
    runs = []
    for number, begin in enumerate(_STARTS):
        first = min(begin, count - 1)
        run = _Run(scales[first], settings, (seed + 7_368_787 * number) % 2**62)
        for index in range(first, count):
            run.refine(scales[index], index, False)
        runs.append(run)
    return min(runs, key=lambda run: run.energy), count


class _Run:
    """The picture of a seed, and the matches of its patches.

    Attributes:
        image: ``(C + 2, h, w)`` in [0, 1].
        matches: ``(rows, columns, 1, 3)`` int32, see :class:`~latentpatch.ops.patchmatch.Field`.
    """

    matches: Tensor

    def __init__(self, scale: _Scale, settings: CompletionSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.random = generators([seed])
        deviation = float(levels(scale.known[:-2]).flatten(1).numpy().std(1).mean()) / 255
        noise = noise_of(self.random, scale.known.shape)[0] * (deviation * (settings.noise or 0.0))
        self.image = (scale.known + noise).clamp(0, 1)
        self.grids: list[Size] | None = None
        self.energy = 0.0

    def refine(self, scale: _Scale, index: int, is_last: bool) -> Tensor:
        """Search and join patches at a scale; return their means, NaN where there are none."""
        grid, size = (scale.wanted.shape[0], scale.wanted.shape[1]), (scale.region.shape[0], scale.region.shape[1])
        start = self._allowed(scale.keys, grid)
        if self.grids is not None:
            start = torch.cat([resize_matches(self.matches, grid, self.grids, scale.keys.grids), start], 2)
        self.image = torch.where(scale.region, resize(self.image[None], size)[0], scale.known)
        made = self.image
        is_short = is_last and not scale.content  # what is pasted starts at a fine scale and is not yet sharp
        for turn in range(min(_MOST_LAST, self.settings.iterations) if is_short else self.settings.iterations):
            query = levels(self.image * (1 - scale.content) + scale.known * scale.content)
            sweeps = self.settings.sweeps if self.grids or turn else _FIRST_SWEEPS
            seed = (self.seed * 1_000_003 + index * 101 + turn) % 2**62
            field = patchmatch(query, scale.keys, seed=seed, sweeps=sweeps, start=start, wanted=scale.wanted)
            start, self.energy = field.matches, float(field.scores[..., 0][scale.wanted].double().mean())
            made = vote(field, scale.keys, size, shares=_shares(field, scale)).add_(128).div_(255).clamp_(0, 1)
            self.image = torch.where(scale.region, made, scale.known)
        self.matches, self.grids = start, scale.keys.grids
        return made

    def _allowed(self, keys: Sources, grid: Size) -> Tensor:
        """Return a random patch that may be copied for each patch: ``(rows, columns, 1, 3)`` int32."""
        assert keys.weights is not None
        places = torch.cat([F.pad(each.isfinite().nonzero(), (1, 0), value=i) for i, each in enumerate(keys.weights)])
        drawn = torch.randint(len(places), (grid[0], grid[1], 1), generator=self.random[0])
        return places.to(torch.int32)[drawn]


def _shares(field: Field, scale: _Scale) -> Tensor:
    """Return the weights of matches in the means: for a power of the distance, and by confidence."""
    wanted = scale.wanted.numpy()
    scores = np.where(wanted, field.scores[..., 0].double().clamp(min=1).numpy(), 1)
    weights = np.power(scores / scores[wanted].mean(), (_POWER - 2) / 2) * scale.confidence * _UNIT_WEIGHT
    whole = np.where(wanted, np.clip(np.rint(weights), 1, _MOST_WEIGHT), 0)
    return torch.from_numpy(whole.astype(np.float32))[..., None]


def _textured(picture: Tensor, mask: Tensor, settings: CompletionSettings) -> Tensor:
    """Return a picture without its masked pixels and with two more channels: mean differences of neighbors."""
    filled, side = fill_smoothly(picture[None], mask)[0], 2 * _TEXTURE_REACH + 1
    known, channels = (~mask).float()[None], [filled]
    for axis in (1, 2):
        both = known.narrow(axis, 1, known.shape[axis] - 1) * known.narrow(axis, 0, known.shape[axis] - 1)
        pad = (0, 0, 0, 1) if axis == 1 else (0, 1)
        parts = torch.stack([F.pad(filled.diff(dim=axis).abs().mean(0, keepdim=True) * both, pad), F.pad(both, pad)])
        sums, counts = F.avg_pool2d(parts, side, 1, _TEXTURE_REACH)
        mean = fill_smoothly((sums / counts.clamp(min=1e-6))[None], counts[0] < 1e-6)[0]
        channels.append((mean * settings.texture).clamp(0, 1))
    return torch.cat(channels)


def _covered(mask: Tensor, size: Size) -> Tensor:
    """Return a mask in another size: pixels with any part of it."""
    return F.adaptive_max_pool2d(mask[None].float(), size)[0] > 0


def _dilated(mask: Tensor, reach: int) -> Tensor:
    """Return a mask with all pixels up to ``reach`` away."""
    return F.max_pool2d(mask[None].float(), 2 * reach + 1, 1, reach)[0] > 0


def _depths(mask: Tensor) -> Tensor:
    """Return how far each pixel is from those outside of a mask, in pixels: ``(h, w)`` float64, 0 outside."""
    depths, rest = mask.double(), mask
    for _ in range(max(mask.shape)):
        rest = rest & ~_dilated(~rest, 1)
        depths += rest
        if not bool(rest.any()) or bool(rest.all()):
            break
    return depths
