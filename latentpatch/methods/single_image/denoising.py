"""Share what denoisers of one picture have in common: the contract, alpha and the noise level."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import SettingError
from ...ops.noise_level import SIDE, noise_level
from ...ops.patch_nearest import BLOCK_BYTES
from ..picture import Observer, PictureMethod, PictureResult, PictureStep

__all__ = ["Denoiser", "PatchDenoiser", "Progress"]

#: A function of the steps done, of all steps and of the colors so far.
Progress = Callable[[int, int, Tensor], None]


class Denoiser(PictureMethod):
    """A method that takes the noise from one picture: it draws nothing, copies nothing, and keeps alpha.

    Attributes:
        accepts_guide: whether edges can be those of another picture, the target.
    """

    accepts_guide: ClassVar[bool] = False
    tasks = frozenset({"denoise"})
    accepts_several = False

    def memory(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any) -> int:
        """Return the bytes of some copies of the picture."""
        return 4 * 40 * size[0] * size[1]

    def seconds(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any) -> float:
        """Return the time of a filter whose window does not matter."""
        return 1e-6 * size[0] * size[1]

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
        if target is not None and not (self.accepts_guide and target.shape == pictures[0].shape):
            constraint = f"of shape {tuple(pictures[0].shape)}" if self.accepts_guide else f"absent for {self.name}"
            raise SettingError("guide", tuple(target.shape), constraint)
        colors, alpha = _split(pictures[0])

        def joined(cleaned: Tensor) -> Tensor:
            cleaned = cleaned.clamp(0, 1)
            return cleaned if alpha is None else torch.cat([cleaned * alpha, alpha])

        def progress(done: int, total: int, cleaned: Tensor) -> None:
            if observe is not None:
                observe(PictureStep(done, total, joined(cleaned)[None]))

        guide = None if target is None else _split(target)[0]
        cleaned = self.clean(colors, guide, self.resolve(settings, pictures), progress)
        return PictureResult(joined(cleaned).repeat(len(seeds), 1, 1, 1))

    @abstractmethod
    def clean(self, colors: Tensor, guide: Tensor | None, settings: Any, progress: Progress) -> Tensor:
        """Return colors without noise.

        Args:
            colors: ``(C, H, W)`` in [0, 1], C is 1 or 3.
            guide: the same of another picture, for methods that accept it.
            settings: of this method, with the values that pictures decide.
            progress: called after each step.
        """


class PatchDenoiser(Denoiser):
    """A denoiser that compares patches in windows, by the noise level of the picture."""

    def smallest_side(self, settings: Any) -> int:
        """Return the side of a patch, or of those that the noise level is estimated from."""
        return max(int(settings.patch_size), SIDE if settings.sigma is None else 1)

    def memory(self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Any) -> int:
        """Return the bytes of some copies of the picture and of the distances in a block of rows."""
        row = 4 * size[1] * int(settings.window) ** 2
        return super().memory(pictures, size, count, settings) + 6 * max(BLOCK_BYTES, row)

    def resolve(self, settings: Any, context: Any) -> Any:
        """Return settings with the noise level of the picture, in levels of 255."""
        if settings.sigma is not None or min(context[0].shape[1:]) < SIDE:
            return settings
        colors, alpha = _split(context[0])
        return settings.changed(sigma=round(255 * noise_level(colors, None if alpha is None else alpha[0] > 0.5), 3))

    def clean(self, colors: Tensor, guide: Tensor | None, settings: Any, progress: Progress) -> Tensor:
        """Return colors without noise; the same colors for no noise."""
        sigma = self.resolve(settings, [colors]).sigma / 255
        return self.clean_patches(colors, sigma, settings, progress) if sigma else colors

    @abstractmethod
    def clean_patches(self, colors: Tensor, sigma: float, settings: Any, progress: Progress) -> Tensor:
        """Return colors without noise; ``sigma`` is that of pixels in [0, 1], and above 0."""


def _split(picture: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return colors, not multiplied by alpha, and alpha ``(1, H, W)``."""
    if len(picture) % 2:
        return picture, None
    return (picture[:-1] / picture[-1:].clamp(min=1 / 255)).clamp(max=1), picture[-1:]
