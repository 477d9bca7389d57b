"""What denoisers of one picture share: the noise level, alpha and the contract; :meth:`Denoiser.clean` is a method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import SettingError
from ...ops.noise_level import SIDE, noise_level
from ...ops.patch_nearest import BLOCK_BYTES
from ..picture import Observer, PictureMethod, PictureResult, PictureStep

__all__ = ["Denoiser", "Progress"]

#: A function of the steps done, of all steps and of the colors so far.
Progress = Callable[[int, int, Tensor], None]


class Denoiser(PictureMethod):
    """A method that takes the noise from one picture: it draws nothing, copies nothing, and keeps alpha."""

    tasks = frozenset({"denoise"})
    accepts_several = False

    def smallest_side(self, settings: Any) -> int:
        """Return the side of a patch, or of those that the noise level is estimated from."""
        return max(int(settings.patch_size), SIDE if settings.sigma is None else 1)

    def memory(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any) -> int:
        """Return the bytes of some copies of the picture and of a block of rows."""
        row = 4 * size[1] * int(settings.window) ** 2
        return 4 * 40 * size[0] * size[1] + 6 * max(BLOCK_BYTES, row)

    def resolve(self, settings: Any, context: Any) -> Any:
        """Return settings with the noise level of the picture, in levels of 255."""
        if settings.sigma is not None or min(context[0].shape[1:]) < SIDE:
            return settings
        colors, alpha = _split(context[0])
        return settings.changed(sigma=round(255 * noise_level(colors, None if alpha is None else alpha[0] > 0.5), 3))

    def make(
        self,
        pictures: Sequence[Tensor],
        size: tuple[int, int],
        seeds: Sequence[int],
        settings: Any,
        *,
        task: str,
        target: Tensor | None,
        mask: Tensor | None,
        observe: Observer | None,
    ) -> PictureResult:
        """Return the picture without noise, once a seed; its colors where it is not transparent, and its own alpha."""
        if tuple(size) != tuple(pictures[0].shape[1:]):
            raise SettingError("size", size, f"{tuple(pictures[0].shape[1:])}, that of the picture")
        colors, alpha = _split(pictures[0])

        def joined(cleaned: Tensor) -> Tensor:
            cleaned = cleaned.clamp(0, 1)
            return cleaned if alpha is None else torch.cat([cleaned * alpha, alpha])

        def progress(done: int, total: int, cleaned: Tensor) -> None:
            if observe is not None:
                observe(PictureStep(done, total, joined(cleaned)[None]))

        settings = self.resolve(settings, pictures)
        cleaned = self.clean(colors, settings, progress) if settings.sigma else colors
        return PictureResult(joined(cleaned).repeat(len(seeds), 1, 1, 1))

    @abstractmethod
    def clean(self, colors: Tensor, settings: Any, progress: Progress) -> Tensor:
        """Return colors without noise.

        Args:
            colors: ``(C, H, W)`` in [0, 1], C is 1 or 3.
            settings: with the noise level, above 0.
            progress: called after each step.
        """


def _split(picture: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return colors, not multiplied by alpha, and alpha ``(1, H, W)``."""
    if len(picture) % 2:
        return picture, None
    return (picture[:-1] / picture[-1:].clamp(min=1 / 255)).clamp(max=1), picture[-1:]
