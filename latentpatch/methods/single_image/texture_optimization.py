"""Texture optimization: pictures whose patches are all near patches of the exemplars (Kwatra et al., SIGGRAPH 2005).

From coarse to fine, and at each scale from large patches to small ones, two steps alternate. Each patch of the result
is matched with the nearest patch of the exemplars; then the matches, which overlap, are joined: by least squares whose
weights fall with the distance (power r below 2), by the median (Gutierrez et al., 2017: power 1) or by the mean.

With an assignment, patches decide together instead: all patches of the exemplars are used alike (Gutierrez et al.), on
grids that are decimated, as time grows with the cube of the number of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SettingError
from ...ops.assignment import assign
from ...ops.transport import transport_weights
from ..picture import Observer, PictureMethod, PictureResult, PictureStep, generators
from .texture_settings import TextureOptimizationSettings

__all__ = ["PatchGrid", "TextureOptimization", "assigned_rows", "frequencies", "nearest_rows", "resized"]

_BLOCK_BYTES = 4 << 20  # bytes of the distances that are computed at a time: they stay in the cache
_LEAST_SQUARE = 1e-8  # least squared distance that is raised to a negative power
_STEPS_PER_PATCH = 4  # patches overlap: the next one begins a quarter further
_FEWER_STEPS = 2  # on grids that are decimated for an assignment
_MOST_ASSIGNED = 1024  # patches of a grid
_ENTROPY, _ROUNDS = 0.3, 50  # of entropic assignments: in mean distances to the nearest patch; and of Sinkhorn


class TextureOptimization(PictureMethod):
    """Lowers the distance of all patches to patches of the exemplars, coarse to fine (Kwatra et al., SIGGRAPH 2005)."""

    name: ClassVar[str] = "texture-optimization"
    Settings: ClassVar[type[TextureOptimizationSettings]] = TextureOptimizationSettings
    tasks = frozenset({"texture", "reshuffle"})

    def smallest_side(self, settings: TextureOptimizationSettings) -> int:
        """Return the side of the smallest patches."""
        return min(settings.patch_sizes)

    def seconds(
        self,
        pictures: Sequence[tuple[int, int]],
        size: tuple[int, int],
        count: int,
        settings: TextureOptimizationSettings,
    ) -> float:
        """Return the time to compare the patches of a result with all of the exemplars."""
        patches = sum((_STEPS_PER_PATCH / side) ** 2 for side in settings.patch_sizes) * size[0] * size[1]
        pairs = patches * sum(height * width for height, width in pictures)
        return count * 1e-9 * settings.iterations * pairs * (0.5 + settings.detail)

    def memory(
        self,
        pictures: Sequence[tuple[int, int]],
        size: tuple[int, int],
        count: int,
        settings: TextureOptimizationSettings,
    ) -> int:
        """Return the bytes of the patches of exemplars and of one result."""
        pixels = size[0] * size[1] + sum(height * width for height, width in pictures)
        return 16 * pixels * 3 * _STEPS_PER_PATCH**2

    def make(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: TextureOptimizationSettings,
        *,
        task: str,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        observe: Observer | None = None,
    ) -> PictureResult:
        """Return pictures, the pixel that each pixel's nearest patch has there, and the mean energy of the patches."""
        anchor = target
        if settings.fidelity or settings.border:
            anchor = pictures[0] if target is None else target
            if tuple(anchor.shape[1:]) != tuple(size):
                raise SettingError("size", tuple(size), f"{tuple(anchor.shape[1:])}, as the picture to be near to")
        runs = [_Run(list(pictures), size, settings, generator, anchor) for generator in generators(seeds)]
        runs[0].check()
        images, maps, losses = [], [], []
        for number, run in enumerate(runs):
            image, offsets, curve = run.optimize(observe, number, len(seeds))
            images.append(image)
            maps.append(offsets)
            losses.append(curve)
        return PictureResult(torch.stack(images), torch.stack(maps), torch.stack(losses).mean(0))


@dataclass(frozen=True)
class PatchGrid:
    """The overlapping patches of a picture, a quarter of their side apart, the last at the edge.

    Attributes:
        rows, columns: int64 ``(n, side)`` and ``(m, side)``, the rows and columns of the picture in each patch.
        size: height and width of the picture.
    """

    rows: Tensor
    columns: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], side: int, wraps: bool = False, steps: int = _STEPS_PER_PATCH) -> PatchGrid:
        """Return the patches of a picture, so many along a side; those of a tile continue at the opposite edge."""
        lines = []
        for length in size:
            step = max(1, side // steps)
            if wraps:
                starts = torch.arange(0, length, step)
            else:
                starts = torch.cat([torch.arange(0, length - side, step), torch.tensor([length - side])])
            lines.append((starts[:, None] + torch.arange(side)) % length)
        return cls(lines[0], lines[1], size)

    @property
    def side(self) -> int:
        """Side of a patch in pixels."""
        return self.rows.shape[1]

    def extract(self, picture: Tensor) -> Tensor:
        """Return the patches ``(n * m, C, side, side)`` of ``(C, H, W)``."""
        lines = picture[:, self.rows.reshape(-1)][:, :, self.columns.reshape(-1)]
        shape = (picture.shape[0], len(self.rows), self.side, len(self.columns), self.side)
        return lines.view(shape).permute(1, 3, 0, 2, 4).reshape(-1, picture.shape[0], self.side, self.side)

    def add(self, patches: Tensor) -> Tensor:
        """Return the sum of patches, each at its place: ``(C, H, W)``."""
        channels = patches.shape[1]
        shape = (len(self.rows), len(self.columns), channels, self.side, self.side)
        lines = patches.view(shape).permute(2, 0, 3, 1, 4).reshape(channels, len(self.rows) * self.side, -1)
        across = torch.zeros(*lines.shape[:2], self.size[1]).index_add_(2, self.columns.reshape(-1), lines)
        return torch.zeros(channels, *self.size).index_add_(1, self.rows.reshape(-1), across)

    def median(self, patches: Tensor) -> Tensor:
        """Return the median at each pixel of the patches that cover it; the lower one of two."""
        classes = [
            max(
                len(lines) if (lines[:, -1] < lines[:, 0]).any() else 1,  # patches that wrap around: each by itself
                int(torch.searchsorted(lines[:, 0].contiguous(), lines[0, 0] + self.side)),
                int((lines[:, 0][None] - lines[:, 0][:, None]).abs().lt(self.side).sum(1).max() // 2 + 1),
            )
            for lines in (self.rows, self.columns)
        ]
        shaped = patches.view(len(self.rows), len(self.columns), *patches.shape[1:])
        layers = []
        for down in range(classes[0]):
            for right in range(classes[1]):
                part = shaped[down :: classes[0], right :: classes[1]]
                if not part.numel():
                    continue
                layer = torch.full((patches.shape[1], *self.size), torch.nan)
                rows = self.rows[down :: classes[0]].reshape(-1)
                columns = self.columns[right :: classes[1]].reshape(-1)
                lines = part.permute(2, 0, 3, 1, 4).reshape(patches.shape[1], len(rows), len(columns))
                layer[:, rows[:, None], columns] = lines
                layers.append(layer)
        return torch.stack(layers).nanmedian(0).values

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Return for each row and each column the patch whose center is nearest, and the place within the patch."""
        found = []
        for lines, length in zip((self.rows, self.columns), self.size, strict=True):
            inside = lines[..., None] == torch.arange(length)  # (patches, place, pixel)
            place = torch.arange(self.side)[:, None].expand(-1, length)
            distance = torch.where(inside, (2 * place - self.side + 1).abs(), 2 * self.side).amin(1)
            patch = distance.argmin(0)
            found.append(torch.stack([patch, inside[patch, :, torch.arange(length)].to(torch.uint8).argmax(1)]))
        return found[0], found[1]


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a picture in another size, bicubic and not filtered, as in the public code.

    Smaller exemplars stay as sharp as the finest one: after filtering, the energy of a texture was a sixth higher.
    """
    return F.interpolate(picture[None], size, mode="bicubic", align_corners=False)[0].clamp(0, 1)


def frequencies(patches: Tensor, count: int) -> Tensor:
    """Return the lowest frequencies of patches, by an orthonormal cosine transform: ``(n, C * count^2)``.

    Distances between results are at most those between the patches, and equal where all frequencies are kept.

    Args:
        patches: ``(n, C, side, side)``.
        count: frequencies in each direction; the side for the patches themselves.
    """
    side = patches.shape[-1]
    if count >= side:
        return patches.flatten(1)
    at = (torch.arange(side) + 0.5) * pi / side
    basis = torch.cos(torch.arange(count)[:, None] * at) * (2 / side) ** 0.5
    basis[0] /= 2**0.5
    kept: Tensor = (basis @ patches @ basis.T).flatten(1)
    return kept


def nearest_rows(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the position of the nearest key of each query, the lower one of equals: int64 ``(Q,)``.

    Args:
        queries: ``(Q, d)`` float32.
        keys: ``(K, d)`` float32.
    """
    # The squared distance less the query's own norm is one product: of (q, 1) and (-2 k, |k|^2).
    table = torch.cat([-2 * keys, keys.square().sum(1, keepdim=True)], 1).T.contiguous()
    found = []
    for block in queries.split(max(16, _BLOCK_BYTES // (4 * len(keys)))):
        scores = torch.addmm(table[-1:], block, table[:-1])
        found.append(torch.from_numpy(np.argmin(scores.numpy(), axis=1)))
    return torch.cat(found)


def assigned_rows(queries: Tensor, keys: Tensor, is_exact: bool) -> Tensor:
    """Return the position of a key for each query such that all keys are used alike, at the least distances.

    Args:
        queries: ``(Q, d)`` float32.
        keys: ``(K, d)`` float32. With more queries than keys, each key is used up to Q / K times, rounded up.
        is_exact: whether the bound holds exactly; else the assignment is the largest weight of entropic transport.

    Returns:
        ``(Q,)`` int64.
    """
    costs = torch.cdist(queries.double(), keys.double()).square()
    if is_exact:
        return assign(costs.repeat(1, -(-len(queries) // len(keys)))) % len(keys)
    unit = max(float(costs.amin(1).mean()) * _ENTROPY, _LEAST_SQUARE)
    return transport_weights((costs / unit).float(), _ROUNDS)[0].argmax(1)


class _Run:
    """The optimization of one picture."""

    def __init__(
        self,
        pictures: list[Tensor],
        size: tuple[int, int],
        settings: TextureOptimizationSettings,
        generator: torch.Generator,
        anchor: Tensor | None,
    ) -> None:
        self.pictures, self.size, self.settings = pictures, size, settings
        self.generator, self.anchor = generator, anchor

    def optimize(self, observe: Observer | None, number: int, runs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the picture ``(C, h, w)``, its offsets ``(h, w, 3)`` and the energy of each iteration."""
        settings = self.settings
        stages = self._stages()
        result, losses = None, []
        for done, (factor, side) in enumerate(stages):
            size = self._scaled(self.size, factor)
            exemplars = [resized(p, self._scaled(tuple(p.shape[1:]), factor)) for p in self.pictures]
            anchor = None if self.anchor is None else resized(self.anchor, size)
            if result is None:
                result = self._start(exemplars, size) if anchor is None or not settings.fidelity else anchor
            result = resized(result, size)
            steps = self._steps(side, size, [(p.shape[1], p.shape[2]) for p in exemplars])
            grids = [PatchGrid.of((p.shape[1], p.shape[2]), side, steps=steps) for p in exemplars]
            patches = torch.cat([grid.extract(p) for grid, p in zip(grids, exemplars, strict=True)])
            grid = PatchGrid.of(size, side, settings.tileable, steps)
            count, exact = max(1, round(side * settings.detail)), settings.iterations - settings.exact_iterations
            keys = frequencies(patches, count)
            for iteration in range(settings.iterations):
                if iteration == max(0, exact):
                    count, keys = side, patches.flatten(1)
                own = grid.extract(result)
                seen = frequencies(own, count)
                if settings.assignment == "none":
                    match = nearest_rows(seen, keys)
                else:
                    match = assigned_rows(seen, keys, settings.assignment == "exact")
                found = patches[match]
                squares = (own - found).square().flatten(1).sum(1)
                losses.append(squares.pow(settings.power / 2).mean())
                result = self._join(grid, found, squares, anchor)
            if observe is not None:
                name = f"scale {round(1 / factor)}, patches of {side}"
                observe(PictureStep(number * len(stages) + done + 1, runs * len(stages), result[None], name))
        assert result is not None
        return result, _offsets(grid, grids, match), torch.stack(losses)

    def _stages(self) -> list[tuple[float, int]]:
        """Return the scale and the side of the patches of each stage: at coarse scales only the smaller sides."""
        settings = self.settings
        shortest = min(min(self.size), *(min(p.shape[1:]) for p in self.pictures))
        stages = []
        for scale in range(settings.scales - 1, -1, -1):
            sides = settings.patch_sizes[-(settings.scales - scale) :]
            stages += [(0.5**scale, side) for side in sides if side <= shortest * 0.5**scale]
        return stages or [(1.0, min(settings.patch_sizes))]

    def check(self) -> None:
        """Refuse an assignment of more patches than it can take.

        Raises:
            SettingError: naming the patch sizes.
        """
        for factor, side in self._stages():
            self._steps(
                side, self._scaled(self.size, factor), [self._scaled(p.shape[1:], factor) for p in self.pictures]
            )

    def _steps(self, side: int, size: tuple[int, int], exemplars: list[tuple[int, int]]) -> int:
        """Return the patches along a patch's side: fewer on a grid that is decimated for an assignment."""
        if self.settings.assignment == "none":
            return _STEPS_PER_PATCH
        for steps in (_STEPS_PER_PATCH, _FEWER_STEPS):
            own, *keys = (PatchGrid.of(each, side, steps=steps) for each in (size, *exemplars))
            counts = len(own.rows) * len(own.columns), sum(len(each.rows) * len(each.columns) for each in keys)
            if max(counts) <= _MOST_ASSIGNED:
                return steps
        text = f"such that pictures have at most {_MOST_ASSIGNED} patches to assign, not {max(counts)} of {side} pixels"
        raise SettingError("patch_sizes", self.settings.patch_sizes, text)

    @staticmethod
    def _scaled(size: tuple[int, ...], factor: float) -> tuple[int, int]:
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def _start(self, exemplars: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Return random blocks of the exemplars, or noise with the mean and spread of their channels."""
        block = self.settings.start_block
        if block == 0:
            pixels = torch.cat([each.flatten(1) for each in exemplars], 1)
            noise = torch.randn(len(pixels), *size, generator=self.generator)
            return (noise * pixels.std(1)[:, None, None] + pixels.mean(1)[:, None, None]).clamp(0, 1)
        block = min(block, *(min(each.shape[1:]) for each in exemplars))
        rows, columns = (-(-side // block) for side in size)
        counts = torch.tensor([(each.shape[1] - block + 1) * (each.shape[2] - block + 1) for each in exemplars])
        draws = torch.rand(rows * columns, generator=self.generator, dtype=torch.float64)
        ends = counts.cumsum(0)
        canvas = torch.empty(len(exemplars[0]), rows * block, columns * block)
        for place, position in enumerate((draws * int(ends[-1])).long().tolist()):
            source = int(torch.searchsorted(ends, position, right=True))
            first = position - int(ends[source] - counts[source])
            top, left = divmod(first, exemplars[source].shape[2] - block + 1)
            y, x = place // columns * block, place % columns * block
            canvas[:, y : y + block, x : x + block] = exemplars[source][:, top : top + block, left : left + block]
        return canvas[:, : size[0], : size[1]]

    def _join(self, grid: PatchGrid, found: Tensor, squares: Tensor, anchor: Tensor | None) -> Tensor:
        """Return the picture that the matched patches make together, near to the anchor where there is one."""
        settings = self.settings
        if settings.join == "median":
            joined = grid.median(found)
        else:
            weights = torch.ones_like(squares)
            if settings.join == "weighted":
                weights = squares.clamp(min=_LEAST_SQUARE).pow((settings.power - 2) / 2)
            weights = (weights / weights.amax())[:, None, None, None]
            total = grid.add(weights.expand(-1, 1, grid.side, grid.side).contiguous())
            joined = grid.add(found * weights) / total
        if anchor is not None:
            joined = (joined + settings.fidelity * anchor) / (1 + settings.fidelity)
            edge = round(settings.border * grid.size[0] / self.size[0])
            if edge:
                inside = torch.zeros(grid.size, dtype=torch.bool)
                inside[edge:-edge, edge:-edge] = True
                joined = torch.where(inside, joined, anchor)
        return joined


def _offsets(grid: PatchGrid, grids: list[PatchGrid], match: Tensor) -> Tensor:
    """Return the pixel of the exemplars that each pixel has in the match of its nearest patch: ``(h, w, 3)``."""
    counts = torch.tensor([len(each.rows) * len(each.columns) for each in grids])
    ends = counts.cumsum(0)
    source = torch.searchsorted(ends, match, right=True)
    first = match - (ends - counts)[source]
    widths = torch.tensor([len(each.columns) for each in grids])[source]
    row, column = first // widths, first % widths
    tops, lefts = torch.empty_like(match), torch.empty_like(match)
    for number, each in enumerate(grids):
        at = source == number
        tops[at], lefts[at] = each.rows[row[at], 0], each.columns[column[at], 0]
    rows, columns = grid.nearest()
    patch = rows[0][:, None] * len(grid.columns) + columns[0]
    return torch.stack([source[patch], tops[patch] + rows[1][:, None], lefts[patch] + columns[1]], -1)
