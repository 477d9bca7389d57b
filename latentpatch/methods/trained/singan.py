"""SinGAN: a pyramid of patch-GANs of one picture (Shaham, Dekel & Michaeli, ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...runs.defaults import plain_torch
from ...validation import check_number
from ..picture import check_picture
from .base import TrainedModel
from .networks import PatchScale, conv_stack, upsample

__all__ = ["PADDING", "SinGAN", "width_of"]

#: Pixels that five 3 x 3 convolutions without padding take from each edge.
PADDING = 5
_SCALES_OF_A_WIDTH, _LARGEST_FACTOR = 4, 4


def width_of(scale: int, width: int) -> int:
    """Return the channels of a scale: twice as many after every four scales, at most four times as many."""
    return int(width * min(2 ** (scale // _SCALES_OF_A_WIDTH), _LARGEST_FACTOR))


class SinGAN(TrainedModel):
    """A pyramid of generators, each of which adds a residual to the enlarged picture of the one before.

    Args:
        method, sizes, size, trained: see :class:`~latentpatch.methods.trained.base.TrainedModel`.
        width: channels of the coarsest scale.

    Attributes:
        scales: the generators, coarse to fine.
        anchor: ``(1, 1, h, w)`` float32, the noise of the coarsest scale from which the picture itself is made.
    """

    anchor: Tensor

    @plain_torch(keeps_device=True)
    def __init__(
        self,
        method: str,
        sizes: Sequence[Sequence[int]],
        size: Sequence[int] | None = None,
        trained: dict[str, Any] | None = None,
        *,
        width: int = 32,
    ) -> None:
        super().__init__(method, sizes, size, trained)
        self.width = width
        self.scales = nn.ModuleList(
            PatchScale(nn.Sequential(*conv_stack(3, width_of(k, width), 3), nn.Tanh()), PADDING)
            for k in range(len(self.sizes))
        )
        self.register_buffer("anchor", torch.zeros(1, 1, *self.sizes[0]))

    def arguments(self) -> dict[str, Any]:
        return {"width": self.width}

    def noise(self, generator: torch.Generator, scale: int, size: Sequence[int], like: Tensor, n: int = 1) -> Tensor:
        """Draw the noise ``(n, 3, h, w)`` of a scale: that of the coarsest is the same in all channels."""
        noise = torch.randn(n, 1 if scale == 0 else 3, *size, generator=generator)
        return noise.to(like.device, like.dtype).expand(n, 3, *size)

    def before(self, generator: torch.Generator | None, scale: int, n: int = 1) -> Tensor:
        """Return the enlarged picture ``(n, 3, h, w)`` that a scale starts from: zeros for the coarsest.

        Args:
            generator: of the noise; None for the reconstruction of the training picture.
            scale: the scale.
            n: number of pictures.
        """
        images = self.anchor.new_zeros(n, 3, *self.sizes[0])
        for k in range(scale):
            noise = self.anchor.expand_as(images) if k == 0 else None
            if generator is not None:
                noise = self.noise(generator, k, self.sizes[k], images, n)
            images = upsample(self.step(k, images, noise), self.sizes[k + 1])
        return images

    def amplitude(self, scale: int) -> Tensor:
        """Return the standard deviation of a scale's noise, a buffer."""
        return cast(PatchScale, self.scales[scale]).amplitude

    def step(self, scale: int, before: Tensor, noise: Tensor | None) -> Tensor:
        """Return the picture of a scale, from the enlarged one of the scale before and noise."""
        result: Tensor = before + self.scales[scale](before, noise)
        return result

    def make_one(
        self, generator: torch.Generator, sizes: list[tuple[int, int]], start: int, before: Tensor | None
    ) -> Tensor:
        if before is None:
            before = self.anchor.new_zeros(1, 3, *sizes[0])
            if start:
                before = upsample(self.before(None, start), sizes[start])
        elif start == 0:
            raise SettingError("start_scale", 0, "at least 1: the coarsest scale of SinGAN starts from noise alone")
        for k in range(start, len(sizes)):
            made = self.step(k, before, self.noise(generator, k, sizes[k], before))
            before = upsample(made, sizes[min(k + 1, len(sizes) - 1)])
        return made

    @torch.no_grad()
    @plain_torch()
    def enlarge(self, picture: Tensor, factor: float) -> Tensor:
        """Return a picture enlarged by super-resolution: the finest generator adds detail after each step.

        A step enlarges by about the ratio of the pyramid. The model should be trained with a ratio of (1/2)^(1/3), a
        reconstruction of 100 and a coarsest scale of 18 pixels (section 4, "super-resolution").

        Args:
            picture: ``(3, h, w)`` in [0, 1], such as the training picture.
            factor: how many times as high and wide, above 1.

        Raises:
            SettingError: for a factor out of range, or a model of a single scale.
        """
        factor = check_number("factor", factor, 1, 64)
        picture = check_picture("picture", picture)
        if picture.shape[0] != 3:
            raise SettingError("picture", tuple(picture.shape), "of 3 channels")
        self.check_memory([round(side * factor) for side in picture.shape[1:]])
        if len(self.sizes) < 2:
            raise SettingError("model", "one scale", "of at least two scales")
        self.eval()
        image = picture[None].to(self.anchor) * 2 - 1
        height, width = image.shape[2:]
        steps = max(1, round(log(factor) / log(self.sizes[-1][0] / self.sizes[-2][0])))
        for k in range(1, steps + 1):
            image = upsample(image, (round(height * factor ** (k / steps)), round(width * factor ** (k / steps))))
            image = self.step(len(self.sizes) - 1, image, torch.zeros_like(image)).clamp(-1, 1)
        return (image[0].cpu() + 1) / 2
