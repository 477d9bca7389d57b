"""PSin: pictures whose patches are matched in colors and gradients (Cherel et al., ICIP 2022, hal-03822204).

At each of a few scales, half as large as the next finer one, two steps alternate. Each patch of the result is matched
with a near patch of the picture by PatchMatch; then each pixel becomes the mean of what the patches that have it were
matched with, weighted by exp(-d / 2 sigma^2) for squared distances d. Sigma is their 75th percentile at that pixel.
The magnitudes of the gradients are channels that are matched and joined as colors are: they tell texture from plain
regions, which the colors of a mean do not. Matches of a scale are where those of the next finer one begin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.palettes import luminance
from ...ops.patch_nearest import levels
from ...ops.patches import patch_grid, patch_positions
from ...ops.patchmatch import Field, Sources, patchmatch, resize_matches
from ...ops.pyramid import resize
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators, noise_of
from .settings import PSINSettings

__all__ = ["PSIN", "halved", "join", "with_gradients"]

Size = tuple[int, int]

_MOST_LEVELS = 255.0  # a unit of distances is that of pixels in [0, 1]
_SIDE_WEIGHT = 0.800737  # of the neighbors of a pixel in a Gaussian of standard deviation 1.5, cut off beyond them
_QUANTILE, _LEAST_SIGMA = 0.75, 1.0
_BLOCK_PIXELS = 8192  # that are joined at a time; it changes no result


class PSIN(PictureMethod):
    """Matches patches in colors and gradients, and joins them by their distances (Cherel et al., ICIP 2022)."""

    name: ClassVar[str] = "psin"
    Settings: ClassVar[type[PSINSettings]] = PSINSettings
    tasks = frozenset({"reshuffle", "retarget"})

    def smallest_side(self, settings: PSINSettings) -> int:
        """Return the side of a patch."""
        return settings.patch_size

    def memory(self, pictures: Sequence[Size], size: Size, count: int, settings: PSINSettings) -> int:
        """Return the bytes of pyramids and matches, of a block that is joined, and of the results."""
        pixels = sum(height * width for height, width in (*pictures, size))
        return 260 * pixels + 100 * _BLOCK_PIXELS * settings.patch_size**2 + 40 * count * size[0] * size[1]

    def seconds(self, pictures: Sequence[Size], size: Size, count: int, settings: PSINSettings) -> float:
        """Return the time of the searches and joints at all scales."""
        patches = count * size[0] * size[1] * settings.iterations * settings.patch_size**2
        return 2e-8 * patches * (2 + settings.sweeps)

    @torch.no_grad()
    def make(
        self,
        pictures: Sequence[Tensor],
        size: Size,
        seeds: Sequence[int],
        settings: PSINSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return pictures, and for each pixel the pixel that its patch has in the sources."""
        sizes, stacks = [size], [[with_gradients(each, settings.gradients)] for each in pictures]
        for _ in range(settings.scales - 1):
            shapes = [stack[-1].shape[1:] for stack in stacks]
            if min(min(shape) for shape in (sizes[-1], *shapes)) < 2 * settings.patch_size:
                break
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
            for stack in stacks:
                stack.append(halved(stack[-1]))
        images, offsets = [], []
        for number, seed in enumerate(seeds):

            def tell(scale: int, image: Tensor, number: int = number) -> None:
                if observe is not None:
                    done = number * len(sizes) + scale + 1
                    shown = _colors(image, len(pictures[0]))[None]
                    observe(PictureStep(done, len(seeds) * len(sizes), shown, f"scale {scale + 1} of {len(sizes)}"))

            if task == "retarget":
                start = with_gradients(resize(pictures[0][None], size)[0], settings.gradients)
                start = resize(start[None], sizes[-1])[0].round_()
            else:
                noise = noise_of(generators([seed]), (len(pictures[0]), *sizes[-1]))[0].to(pictures[0].device)
                start = noise.mul_(_MOST_LEVELS).round_()
            image, field = _one(stacks, sizes, start, seed, settings, tell)
            images.append(_colors(image, len(pictures[0])))
            offsets.append(patch_positions(field.matches[:, :, 0].long(), settings.patch_size, size))
        return PictureResult(torch.stack(images), torch.stack(offsets))


def with_gradients(picture: Tensor, weight: float) -> Tensor:
    """Return the levels of a picture, and the weighted magnitudes of its luminance's gradients: ``(C + 2, H, W)``."""
    down, right = np.gradient(luminance(picture)[0].cpu().numpy() * _MOST_LEVELS)
    gradients = torch.from_numpy(np.stack([down, right])).to(picture).abs_().mul_(weight).round_()
    return torch.cat([levels(picture), gradients])


def halved(picture: Tensor) -> Tensor:
    """Return every second pixel of every second row of ``(C, H, W)``, blurred and rounded."""
    for axis in (1, 2):
        padded = F.pad(picture, (0, 0, 1, 1) if axis == 1 else (1, 1, 0, 0), mode="reflect")
        before, own, after = (padded.narrow(axis, at, picture.shape[axis]) for at in range(3))
        blurred = ((before + after) * _SIDE_WEIGHT + own) / (1 + 2 * _SIDE_WEIGHT)
        picture = blurred[:, ::2] if axis == 1 else blurred[:, :, ::2]
    return picture.round()


def _colors(image: Tensor, channels: int) -> Tensor:
    return (image[:channels] + 128).div_(_MOST_LEVELS).clamp_(0, 1)


def _one(
    stacks: Sequence[Sequence[Tensor]],
    sizes: Sequence[Size],
    start: Tensor,
    seed: int,
    settings: PSINSettings,
    tell: Callable[[int, Tensor], None],
) -> tuple[Tensor, Field]:
    """Return the picture of a seed, in levels and with its gradients, and the matches of its patches.

    Args:
        stacks: levels and gradients of each picture at each scale, fine to coarse.
        sizes: of the result, fine to coarse.
        start: in levels, at the coarsest scale; without gradients it is matched in colors alone.
        seed: of the search.
        settings: of the method.
        tell: called after each scale with its number, coarse to fine, and the picture.
    """
    side, field, grids, image = settings.patch_size, None, list[Size](), start
    for scale, size in enumerate(reversed(sizes)):
        sources = Sources([stack[-1 - scale] for stack in stacks], side)
        grid, own = patch_grid(size, side), (seed * 1_000_003 + scale * 101) % 2**62
        if field is None:
            seen = Sources([each[: len(start)] for each in sources.pictures], side)
            field = patchmatch(start, seen, seed=own, sweeps=settings.sweeps)
        else:
            rows, columns = (torch.arange(n) * before // n for n, before in zip(grid, field.scores.shape, strict=False))
            matches = resize_matches(field.matches, grid, grids, sources.grids)
            field = Field(matches, field.scores[rows[:, None], columns])
        grids, image = sources.grids, join(field, sources, size)
        for turn in range(settings.iterations):
            before = image
            field = patchmatch(image, sources, seed=own + 1 + turn, sweeps=settings.sweeps, start=field.matches)
            image = join(field, sources, size)
            if float((image - before).abs().mean()) <= settings.tolerance:
                break
        tell(scale, image)
    assert field is not None
    return image, field


def join(field: Field, sources: Sources, size: Size) -> Tensor:
    """Return the picture that matches make together, in whole levels: ``(C, h, w)``.

    Args:
        field: matches of all patches; scores are squared distances in levels.
        sources: the pictures to take pixels from.
        size: height and width of the result.
    """
    side, pad = sources.side, (sources.side - 1,) * 4
    flat = torch.cat([each.flatten(1) for each in sources.pictures], 1).cpu().numpy()
    widths = torch.tensor([each.shape[2] for each in sources.pictures])
    firsts = torch.tensor([0, *(each[0].numel() for each in sources.pictures)]).cumsum(0)
    picture, row, column = field.matches[:, :, 0].cpu().long().unbind(-1)
    scores = F.pad(field.scores[:, :, 0].cpu() / _MOST_LEVELS**2, pad, value=torch.nan)
    corners = F.pad(firsts[picture] + row * widths[picture] + column, pad)
    # The patches that have a pixel, from the one whose last pixel it is to the one whose first pixel it is.
    covering = [each.unfold(0, side, 1).unfold(1, side, 1) for each in (scores, corners, F.pad(widths[picture], pad))]
    inside = np.arange(side)[::-1]
    result = np.empty((len(flat), *size), np.float32)
    step = max(1, _BLOCK_PIXELS // size[1])
    for top in range(0, size[0], step):
        distances, at, steps = (each[top : top + step].reshape(-1, side, side).numpy() for each in covering)
        distances = distances.reshape(len(at), -1)
        weights = np.nan_to_num(np.exp(-distances / (2 * _sigma(distances)[:, None] ** 2)))
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        pixels = np.where(steps > 0, at + inside[:, None] * steps + inside, 0).reshape(len(at), -1)
        for channel, values in enumerate(flat):
            result[channel, top : top + step] = (values[pixels] * weights).sum(1).reshape(-1, size[1])
    return torch.from_numpy(np.rint(result)).to(field.matches.device)


def _sigma(distances: np.ndarray) -> np.ndarray:
    """Return the 75th percentile of each row, which may hold NaN for no patch; at least 1."""
    ordered = np.sort(distances, 1)  # NaN comes last
    rank = _QUANTILE * (np.isfinite(ordered).sum(1, keepdims=True) - 1)
    low = np.floor(rank).astype(np.int64)
    below, above = (np.take_along_axis(ordered, each, 1) for each in (low, np.ceil(rank).astype(np.int64)))
    sigma: np.ndarray = np.maximum(below + (above - below) * (rank - low), _LEAST_SIGMA)[:, 0]
    return sigma
