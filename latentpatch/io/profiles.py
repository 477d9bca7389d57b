"""Convert pictures from the colors of their ICC profiles to sRGB, through littleCMS."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

__all__ = ["to_srgb"]

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile's pictures, by its colour space
_NEAR = 2  # levels of 255 by which a profile may differ from sRGB, and pictures stay as they are
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return a picture in sRGB, relative colorimetric with black point compensation; grey stays grey, alpha as it is.

    Args:
        image: of the mode L, LA, RGB, RGBA or CMYK.
        profile: its ICC profile.

    Raises:
        ValueError: where the profile cannot be applied to such a picture.
    """
    grey, colors = ("L", "LA"), ("L", "LA", "RGB", "RGBA")
    try:
        mode, transform = _transform(profile)
    except (ImageCms.PyCMSError, OSError, KeyError, ImportError) as error:
        raise ValueError(f"its profile cannot be used ({error})") from error
    if image.mode not in {"RGB": colors, "L": grey, "CMYK": ("CMYK",)}[mode]:
        raise ValueError(f"its profile is of pictures of the mode {mode}, not {image.mode}")
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    assert converted is not None  # it is not done in place
    if image.mode in grey:
        converted = converted.convert("L")
    if "A" in image.getbands():
        converted.putalpha(image.getchannel("A"))
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode of a profile's pictures, and their transform to sRGB; None where that changes next to nothing."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _MODES[source.profile.xcolor_space.strip()]
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, _FLAGS
    )
    if mode == "CMYK":
        return mode, transform
    axis = np.arange(0, 256, 15, dtype=np.uint8)
    colors = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(1, -1, 3)
    probe = Image.fromarray(colors) if mode == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    found = ImageCms.applyTransform(probe, transform)
    difference = np.asarray(found).astype(int) - np.asarray(probe.convert("RGB"))
    return mode, None if np.abs(difference).max() <= _NEAR else transform
