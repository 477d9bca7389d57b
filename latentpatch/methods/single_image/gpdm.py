"""GPDM: pictures whose patches are distributed as those of the sources (Elnekave & Weiss, ECCV 2022).

From coarse to fine, steps of Adam lower the sliced Wasserstein distance between the patches of the result and those of
all sources together. The gradient is in closed form: projected patches are paired with the sources' by rank, and the
signs of the differences are projected back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.wasserstein import project, random_directions, repeated, sorted_rows, transport_gradient
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators
from .texture_settings import GPDMSettings

__all__ = ["GPDM"]

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Adam's decay rates and smallest divisor
_BLUR = 7  # side and sigma, in pixels, of the blur of a start from the source


class GPDM(PictureMethod):
    """Matches the distribution of patches by steps of gradient descent (Elnekave & Weiss, ECCV 2022)."""

    name: ClassVar[str] = "gpdm"
    Settings: ClassVar[type[GPDMSettings]] = GPDMSettings
    tasks = frozenset({"reshuffle", "retarget", "texture"})

    def smallest_side(self, settings: GPDMSettings) -> int:
        """Return the side of a patch."""
        return settings.patch_size

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: GPDMSettings
    ) -> float:
        """Return the time of all steps, each in proportion to the pixels of its scale."""
        factors = scale_factors(min(size), settings)
        steps = sum(n * factor**2 for n, factor in zip(steps_of_scales(len(factors), settings), factors, strict=True))
        pixels = size[0] * size[1] + sum(height * width for height, width in pictures)
        return count * 2e-9 * pixels * steps * settings.projections * settings.patch_size

    def memory(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: GPDMSettings
    ) -> int:
        """Return the bytes of the finest scale: projections of the sources, and unfolded patches of a result."""
        sources = sum(height * width for height, width in pictures)
        pixels = size[0] * size[1] * (count if settings.matching == "together" else 1)
        directions = max(settings.pool or 0, settings.projections)
        return 4 * (sources * (2 * directions + 16) + pixels * (3 * settings.projections + 9 * settings.patch_size**2))

    def make(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: GPDMSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return pictures and the loss of every step, the mean over the pictures, in half ranges."""
        start = target
        if start is None and (settings.start == "source" or task == "retarget"):
            start = pictures[0]
        groups = [list(seeds)] if settings.matching == "together" else [[seed] for seed in seeds]
        results, losses = [], []
        for number, group in enumerate(groups):
            run = _Run(settings, [2 * picture[None] - 1 for picture in pictures], size, group)
            made, curve = run.optimize(None if start is None else 2 * start[None] - 1, observe, number, len(groups))
            results.append(made)
            losses.append(curve)
        return PictureResult((torch.cat(results) + 1) / 2, losses=torch.stack(losses).mean(0))


def scale_factors(side: int, settings: GPDMSettings) -> list[float]:
    """Return the scales from coarse to fine, relative to the full size, for a shorter side in pixels."""
    sides = [side]
    while sides[-1] > max(settings.coarsest, settings.patch_size):
        sides.append(max(int(sides[-1] * settings.ratio), settings.patch_size))
    return [each / side for each in reversed(sides)]


def steps_of_scales(count: int, settings: GPDMSettings) -> list[int]:
    """Return the steps at each scale, from coarse to fine."""
    last = settings.steps if settings.last_steps is None else settings.last_steps
    ratio = last / settings.steps
    return [max(1, round(settings.steps * ratio ** (i / max(1, count - 1)))) for i in range(count)]


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures in another size, bilinear and antialiased."""
    if pictures.shape[-2:] == size:
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", antialias=True)


def edge_places(length: int, side: int, edges: str) -> Tensor:
    """Return the pixels of a line that patches are cut from: itself, mirrored at both ends or wrapped around.

    Args:
        length: pixels of the line.
        side: of the patches.
        edges: ``plain``, ``mirrored`` or ``wrapped``.

    Returns:
        ``(n,)`` int64, positions in the line; n is at least the length.
    """
    at = torch.arange(length)
    if edges == "mirrored":
        edge = min(side // 2, length - 1)
        return torch.cat([at[1 : edge + 1].flip(0), at, at[length - 1 - edge : length - 1].flip(0)])
    if edges == "wrapped":
        return torch.arange(length + side - 1) % length
    return at


def extended(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return pictures ``(N, C, H, W)`` of the rows and columns at some places."""
    if (len(rows), len(columns)) == pictures.shape[2:]:
        return pictures
    return pictures[:, :, rows][:, :, :, columns]


@dataclass
class _Run:
    """The optimization of results that match the sources each by itself, or one group together."""

    settings: GPDMSettings
    sources: list[Tensor]
    size: tuple[int, int]
    seeds: list[int]

    def optimize(self, start: Tensor | None, observe: Observer | None, number: int, runs: int) -> tuple[Tensor, Tensor]:
        """Return results ``(N, C, h, w)`` in [-1, 1] and the loss of each step."""
        settings = self.settings
        own = generators(self.seeds)
        shared = own[0]
        results = self._start(start, own)
        factors = scale_factors(min(self.size), settings)
        counts = steps_of_scales(len(factors), settings)
        losses: list[float] = []
        for level, (factor, steps) in enumerate(zip(factors, counts, strict=True)):
            results = resized(results, self._scaled(self.size, factor))
            sources = [resized(each, self._scaled(each.shape[-2:], factor)) for each in self.sources]
            results = self._descend(results, sources, steps, shared, losses).clamp(-1, 1)
            if observe is not None:
                name = f"scale {level + 1} of {len(factors)}"
                done = number * len(factors) + level + 1
                observe(PictureStep(done, runs * len(factors), (results + 1) / 2, name))
        return results, torch.tensor(losses)

    def _start(self, start: Tensor | None, own: list[torch.Generator]) -> Tensor:
        channels = self.sources[0].shape[1]
        noise = torch.stack([torch.randn(channels, *self.size, generator=each) for each in own]) * self.settings.noise
        if start is None:
            return noise
        at = torch.arange(_BLUR) - _BLUR // 2
        kernel = torch.exp(-at.square() / (2 * _BLUR**2))
        window = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(channels, 1, -1, -1)
        fitted = resized(start, self.size)
        edge = min(_BLUR // 2, min(self.size) - 1)
        window = window[..., _BLUR // 2 - edge : _BLUR // 2 + edge + 1, _BLUR // 2 - edge : _BLUR // 2 + edge + 1]
        padded = F.pad(fitted, [edge] * 4, mode="reflect")
        return F.conv2d(padded, window / window[0].sum(), groups=channels) + noise

    def _scaled(self, size: Sequence[int], factor: float) -> tuple[int, int]:
        least = self.settings.patch_size
        return max(least, round(size[0] * factor)), max(least, round(size[1] * factor))

    def _descend(
        self, results: Tensor, sources: list[Tensor], steps: int, generator: torch.Generator, losses: list[float]
    ) -> Tensor:
        """Return results after steps of Adam at one scale; append the losses."""
        settings = self.settings
        side, channels = settings.patch_size, results.shape[1]
        count, height, width = len(results), results.shape[2], results.shape[3]
        edges = "wrapped" if settings.tileable else settings.edges
        rows, across = (edge_places(length, side, edges) for length in (height, width))
        patches = (len(rows) - side + 1) * (len(across) - side + 1)
        if edges == "mirrored":
            sources = [extended(each, *(edge_places(n, side, "mirrored") for n in each.shape[2:])) for each in sources]
        pool = targets = None
        if settings.pool is not None:
            pool = self._directions(settings.pool, channels, generator)
            targets = self._targets(pool, sources, count * patches, generator)
        first, second = torch.zeros_like(results), torch.zeros_like(results)
        results = results.clone()
        for step in range(1, steps + 1):
            if pool is None or targets is None:
                directions = self._directions(settings.projections, channels, generator)
                target = self._targets(directions, sources, count * patches, generator)
            else:
                chosen = torch.randperm(len(pool), generator=generator)[: settings.projections]
                directions, target = pool[chosen], targets[chosen]
            loss, moved = transport_gradient(project(extended(results, rows, across), directions), target)
            losses.append(loss)
            back = directions.flatten(1).T / len(directions)
            shape = len(rows), len(across)
            folded = torch.stack([F.fold(back @ part, shape, side) for part in moved.split(patches, dim=1)])
            gradient = torch.zeros(*folded.shape[:2], height, shape[1]).index_add_(2, rows, folded)
            gradient = torch.zeros_like(results).index_add_(3, across, gradient)
            first.lerp_(gradient, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            scale = second.sqrt().div_(sqrt(1 - _BETAS[1] ** step)).add_(_EPSILON)
            results.addcdiv_(first, scale, value=-self._rate(step, steps) / (1 - _BETAS[0] ** step))
        return results

    def _rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 1: constant, then falling to ``1 - decay`` of itself."""
        settings = self.settings
        return settings.learning_rate * (1 - settings.decay * max(0.0, 2 * (step - 0.5) / steps - 1))

    def _directions(self, count: int, channels: int, generator: torch.Generator) -> Tensor:
        return random_directions(count, channels, self.settings.patch_size, generator)

    def _targets(self, directions: Tensor, sources: list[Tensor], size: int, generator: torch.Generator) -> Tensor:
        """Return the sources' projections, sorted; repeated to ``size`` where the settings say so."""
        projected = torch.cat([project(each, directions) for each in sources], 1)
        if self.settings.unequal == "repeat" and projected.shape[1] < size:
            projected = repeated(projected, size, generator)
        return sorted_rows(projected)
