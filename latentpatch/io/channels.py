"""Read and write pictures with their own channels: grey stays grey, and alpha stays.

Colours are multiplied by alpha on reading and divided by it on writing: so the colour of a transparent pixel, which
nobody sees, has no weight in a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError
from .atomic import write_bytes
from .opening import MAX_PIXELS, ImageSource, read_own_channels
from .png import encode_levels

__all__ = ["encode_channels", "on_white", "read_channels", "with_channels", "write_channels"]


def read_channels(source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture with the channels that it has.

    Args:
        source, name, max_pixels: as for :func:`~latentpatch.io.images.read_image`.

    Returns:
        ``(C, H, W)`` float32 in [0, 1]: C is 3 for colour and 1 for grey, and one more with alpha, by which the others
        are multiplied.

    Raises:
        ImageError: as :func:`~latentpatch.io.images.read_image`.
    """
    image = np.array(read_own_channels(source, name, max_pixels))
    picture = torch.from_numpy(image).view(*image.shape[:2], -1).permute(2, 0, 1).contiguous().float().div_(255)
    if len(picture) % 2 == 0:
        picture[:-1] *= picture[-1:]
    return picture


def on_white(images: Tensor) -> Tensor:
    """Return pictures ``(N, C, H, W)`` of any channels as RGB ``(N, 3, H, W)``, over white where transparent."""
    count = images.shape[1]
    colors = images if count % 2 else images[:, :-1] + (1 - images[:, -1:])
    return colors.expand(-1, 3, -1, -1).clamp(0, 1)


def with_channels(image: Tensor, count: int) -> Tensor:
    """Return a picture ``(C, H, W)`` with as many channels: over white without alpha, opaque with a new one."""
    if len(image) == count:
        return image
    alpha = image[-1:] if len(image) % 2 == 0 else torch.ones_like(image[:1])
    colors = on_white(image[None])[0] if count % 2 else image[: 3 if len(image) > 2 else 1]
    colors = colors.mean(0, keepdim=True) if count < 3 else colors.expand(3, -1, -1)
    return colors if count % 2 else torch.cat([colors, alpha])


def write_channels(path: str | Path, image: Tensor, metadata: Mapping[str, str] | None = None) -> None:
    """Write a picture as PNG with the channels that it has. Equal arguments give equal bytes.

    Args:
        path: ends in ``.png``.
        image, metadata: as for :func:`encode_channels`.

    Raises:
        FileError: where the file cannot be written.
        SettingError: for an image of another shape, or with NaN.
    """
    write_bytes(path, encode_channels(image, metadata))


def encode_channels(image: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a picture as a PNG file with the channels that it has. Equal arguments give equal bytes.

    Args:
        image: ``(C, H, W)``, as :func:`read_channels` returns it.
        metadata: text chunks by keyword.

    Raises:
        SettingError: for an image of another shape, or with NaN.
    """
    if image.ndim != 3 or not 1 <= image.shape[0] <= 4 or not image.numel():
        raise SettingError("image", tuple(image.shape), "of shape (C, H, W), C from 1 to 4")
    if bool(image.isnan().any()):
        raise SettingError("image", float("nan"), "in [0, 1]")
    if len(image) % 2 == 0:
        image = torch.cat([image[:-1] / image[-1:].clamp(min=1 / 255), image[-1:]])
    levels = image.detach().cpu().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return encode_levels(levels.permute(1, 2, 0).contiguous().numpy(), metadata)
