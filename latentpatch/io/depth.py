"""Bring pictures of more bits to 8 bits a channel, and pictures whose 0 is white to 0 as black."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

__all__ = ["NEGATIVE", "NOTES", "raw_mode_of", "to_eight_bits"]

NEGATIVE, NOTES = "is negative", "notes"  # keys of a picture's info

_TWELVE_BITS, _SIXTEEN_BITS = 4095, 65535  # largest values
_MAX_SAMPLE_VALUE = 281  # tag of TIFF


def raw_mode_of(image: Image.Image) -> str:
    """Return how the file packs pixels, such as "L;4"; Pillow forgets this when it decodes them."""
    tile = getattr(image, "tile", None)
    args = tile[0][3] if tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def to_eight_bits(image: Image.Image, raw_mode: str, notes: list[str]) -> Image.Image:
    """Scale 12- and 16-bit grey, which Pillow would clip, to 8 bits, and transparent colors with it.

    Args:
        image: decoded; its info says under :data:`NEGATIVE` whether 0 is white.
        raw_mode: see :func:`raw_mode_of`.
        notes: gets one where the picture cannot be read as it was meant.
    """
    transparent, is_negative = image.info.get("transparency"), image.info.get(NEGATIVE, False)
    if image.mode == "I" or image.mode.startswith("I;"):
        image.info.pop("transparency", None)
        deep = np.asarray(image.convert("I"))
        white = _white_of(image, int(deep.max()), raw_mode)
        deep = deep.clip(0, white)
        levels = (white - deep if is_negative else deep) * 255
        grey = Image.fromarray(((levels + white // 2) // white).astype(np.uint8))
        if transparent is not None:
            grey.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
        return grey
    if raw_mode.startswith("RGB") and ";16" in raw_mode and 0 < _largest_color(image) <= _TWELVE_BITS >> 8:
        notes.append("its 16-bit channels hold 12 bits or less, so that it is nearly black; convert it to 8 bits")
    if is_negative and image.mode in ("1", "L", "LA"):
        grey, *alpha = image.convert("LA" if image.mode == "LA" else "L").split()
        return Image.merge(("L", "LA")[len(alpha)], [ImageOps.invert(grey), *alpha])
    if image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
    elif image.mode == "RGB" and isinstance(transparent, tuple) and raw_mode.startswith("RGB;16"):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image


def _white_of(image: Image.Image, largest: int, raw_mode: str) -> int:
    """Return the value of white: what a TIFF says of it, or that of 12 bits where no value needs more."""
    declared = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
    first = declared[0] if isinstance(declared, tuple) and declared else declared
    if isinstance(first, int) and max(largest, 255) <= first <= _SIXTEEN_BITS:
        return first
    return _TWELVE_BITS if raw_mode == "I;12" or largest <= _TWELVE_BITS else _SIXTEEN_BITS


def _largest_color(image: Image.Image) -> int:
    return int(np.asarray(image)[..., :3].max())
