"""The steps of a method on pictures as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..methods.picture import PictureStep

__all__ = ["Trace"]

_MOST_FRAMES = 64
_FRAME_MS, _LAST_MS, _ALL_MS = 500, 2000, 8000


class Trace:
    """An observer that keeps the steps of the first picture.

    Args:
        count: number of pictures that are made.
    """

    def __init__(self, count: int) -> None:
        self._count, self._share = count, 0.0
        self._frames: list[Image.Image] = []

    def __call__(self, step: PictureStep) -> None:
        """Keep the first picture of a step, unless the step is of a later picture, or little was done since the last.

        Methods make one picture after the other, or all of them together.
        """
        share = step.done / step.total * (1 if len(step.images) == self._count else self._count)
        if share < 1 and (not self._frames or share - self._share >= 1 / _MOST_FRAMES):
            self._share = share
            self._frames.append(_frame(step.images))

    def write(self, path: Path, images: Tensor) -> None:
        """Write the steps and the first result as a GIF that repeats, enlarged to its size without new colors."""
        from PIL import Image

        last = _frame(images)
        frames = [*(frame.resize(last.size, Image.Resampling.NEAREST) for frame in self._frames), last]
        times = [min(_FRAME_MS, _ALL_MS // len(frames))] * (len(frames) - 1) + [_LAST_MS]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)


def _frame(images: Tensor) -> Image.Image:
    from ..io.channels import on_white
    from ..io.images import to_pil

    return to_pil(on_white(images[:1])[0])
