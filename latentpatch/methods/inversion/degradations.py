"""Differentiable degradations, which a generator's picture goes through before it is compared.

A degradation is any function of pictures ``(N, 3, H, W)`` with gradients. Those here are named in text:
``downsample:FACTOR``, ``blur:SIGMA``, ``grey``, ``mask:FILE`` and ``jpeg:QUALITY``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SettingError
from ...io.images import read_mask
from ...ops.pyramid import resize
from ...runs.defaults import plain_torch

__all__ = [
    "Degradation",
    "Degrade",
    "blur",
    "degraded_targets",
    "downsample",
    "grey",
    "jpeg",
    "masked",
    "parse_degradation",
]

#: A differentiable function of pictures ``(N, 3, H, W)`` to pictures.
Degrade = Callable[[Tensor], Tensor]

_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
_TO_YCC = ((*_LUMA,), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # JFIF 1.02
_LUMA_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # ITU-T T.81, table K.1; rows of 8  # fmt: skip
_CHROMA_STEPS = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, *[99] * 38,
)  # table K.2  # fmt: skip


@dataclass(frozen=True)
class Degradation:
    """A degradation with a name.

    Attributes:
        name: its text.
        function: of pictures ``(N, 3, H, W)`` in about [0, 1].
        is_projection: whether a second time changes nothing; targets go through it, too.
    """

    name: str
    function: Degrade
    is_projection: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return degraded pictures."""
        return self.function(images)


def downsample(factor: int) -> Degradation:
    """Return a reduction by a factor from 1 to 64, with a bicubic filter: the task of super-resolution."""
    if not 1 <= factor <= 64:
        raise SettingError("degrade", f"downsample:{factor}", "downsample:FACTOR, from 1 to 64")
    return Degradation(
        f"downsample:{factor}",
        lambda x: F.interpolate(x, (x.shape[2] // factor, x.shape[3] // factor), mode="bicubic", antialias=True),
    )


def blur(sigma: float) -> Degradation:
    """Return a Gaussian blur of a standard deviation above 0, at most 64 pixels; edges are mirrored."""
    if not 0 < sigma <= 64:
        raise SettingError("degrade", f"blur:{sigma}", "blur:SIGMA, above 0 and at most 64")
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)]

    def function(images: Tensor) -> Tensor:
        if radius >= min(images.shape[2:]):
            raise SettingError("degrade", f"blur:{sigma:g}", f"narrower for pictures of {min(images.shape[2:])} pixels")
        kernel = images.new_tensor(weights) / sum(weights)
        flat = F.pad(images.flatten(0, 1)[:, None], (radius,) * 4, mode="reflect")
        return F.conv2d(F.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None]).view_as(images)

    return Degradation(f"blur:{sigma:g}", function)


def grey() -> Degradation:
    """Return the luma of pictures in three channels: the task of coloring."""

    def function(images: Tensor) -> Tensor:
        return torch.einsum("nchw,c->nhw", images, images.new_tensor(_LUMA))[:, None].expand(-1, 3, -1, -1)

    return Degradation("grey", function, is_projection=True)


def masked(mask: Tensor, name: str = "mask") -> Degradation:
    """Return a removal of the pixels under a mask: the task of completion.

    Args:
        mask: ``(H, W)`` bool, True where pixels do not count; resized to pictures of another size.
        name: of the degradation.
    """
    if mask.dtype != torch.bool or mask.ndim != 2 or bool(mask.all()):
        raise SettingError("mask", f"{mask.dtype} {tuple(mask.shape)}", "bool of shape (H, W), False somewhere")

    def function(images: Tensor) -> Tensor:
        kept = F.interpolate((~mask)[None, None].to(images), images.shape[2:], mode="nearest")
        return images * kept

    return Degradation(name, function, is_projection=True)


@plain_torch(for_gradients=True)
def jpeg(quality: int) -> Degradation:
    """Return the loss of a JPEG file (4:2:0): rounding passes gradients unchanged, all else is exact.

    Args:
        quality: from 1 to 100, as in libjpeg.
    """
    if not 1 <= quality <= 100:
        raise SettingError("degrade", f"jpeg:{quality}", "jpeg:QUALITY, from 1 to 100")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = torch.tensor([_LUMA_STEPS, _CHROMA_STEPS]).mul(scale).add(50).div(100, rounding_mode="floor").clamp(1, 255)
    angle = (2 * torch.arange(8.0) + 1)[None] * torch.arange(8.0)[:, None] * math.pi / 16
    basis = torch.cos(angle) / 2
    basis[0] *= math.sqrt(0.5)
    to_ycc = torch.tensor(_TO_YCC)

    def coded(plane: Tensor, steps: Tensor) -> Tensor:
        """Round the cosine transform of each block of 8 pixels of ``(N, 1, h, w)`` in levels."""
        height, width = plane.shape[2:]
        blocks = F.pad(plane, (0, -width % 8, 0, -height % 8), mode="replicate").unfold(2, 8, 8).unfold(3, 8, 8)
        cosines = basis.to(plane)
        spectrum = cosines @ blocks @ cosines.T / steps
        spectrum = spectrum + (spectrum.round() - spectrum).detach()
        result = (cosines.T @ (spectrum * steps) @ cosines).transpose(3, 4).flatten(4).flatten(2, 3)
        return result[..., :height, :width]

    def function(images: Tensor) -> Tensor:
        matrix, steps = to_ycc.to(images), tables.to(images).view(2, 8, 8)
        planes = torch.einsum("nchw,kc->nkhw", images.clamp(0, 1) * 255, matrix)
        height, width = images.shape[2:]
        luma = coded(planes[:, :1] - 128, steps[0]) + 128
        even = F.pad(planes[:, 1:], (0, width % 2, 0, height % 2), mode="replicate")
        chroma = [coded(each, steps[1]) for each in F.avg_pool2d(even, 2).split(1, 1)]
        wide = F.interpolate(torch.cat(chroma, 1), scale_factor=2, mode="bilinear")[..., :height, :width]
        return torch.einsum("nkhw,ck->nchw", torch.cat([luma, wide], 1), matrix.inverse()) / 255

    return Degradation(f"jpeg:{quality}", function)


def parse_degradation(text: str) -> Degradation:
    """Return the degradation of a text such as ``downsample:8``, ``blur:2``, ``grey`` or ``mask:FILE``.

    Raises:
        SettingError: for another text.
        ImageError: for a mask that cannot be read.
    """
    name, _, value = text.partition(":")
    try:
        if name == "grey" and not value:
            return grey()
        if name == "mask" and value:
            return masked(read_mask(value), "mask")
        if name == "blur":
            return blur(float(value))
        return {"downsample": downsample, "jpeg": jpeg}[name](int(value))
    except (KeyError, ValueError) as error:
        if isinstance(error, SettingError):
            raise
        forms = "downsample:FACTOR, blur:SIGMA, grey, mask:FILE or jpeg:QUALITY"
        raise SettingError("degrade", text, forms) from error


def degraded_targets(
    degrade: Degrade | Sequence[Degradation] | None, targets: Tensor, size: tuple[int, int]
) -> tuple[Degrade, Tensor]:
    """Return one degradation, and targets that went through those parts of it that are projections.

    Where there is no degradation and targets are smaller than the generator's pictures, it is downsampling.

    Args:
        degrade: a function, several that are done in order, or None.
        targets: ``(N, 3, h, w)``.
        size: height and width of the generator's pictures.

    Raises:
        SettingError: for targets without a degradation that are larger, or of other proportions.
    """
    if degrade is None:
        height, width = targets.shape[2:]
        if height > size[0] or height * size[1] != width * size[0]:
            raise SettingError("targets", (height, width), f"{size[0]}x{size[1]}, or smaller in the same proportions")
        return (lambda images: resize(images, (height, width))), targets
    steps = list(degrade) if isinstance(degrade, Sequence) else [degrade]
    for step in steps:
        if getattr(step, "is_projection", False):
            targets = step(targets)

    def chain(images: Tensor) -> Tensor:
        for step in steps:
            images = step(images)
        return images

    return chain, targets
