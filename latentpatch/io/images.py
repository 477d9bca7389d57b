"""Read and write pictures as tensors: float32 RGB ``(3, H, W)`` in [0, 1].

Files are read as if made by an adversary: whatever their bytes, there is a tensor or an :class:`ImageError`.
Names of :mod:`.listing`, :mod:`.sheets` and :mod:`.metadata` are at hand here, too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import FileError, SettingError, SettingTypeError
from ..runs.system import check_memory
from .atomic import write_bytes
from .encoding import LOSSY_QUALITY, Encoding
from .listing import SUFFIXES, identifiers, list_images
from .metadata import parse_record, read_metadata, read_record, record_metadata
from .opening import MAX_PIXELS, MIN_SIDE, ImageSource, read_rgb
from .png import encode_levels
from .sheets import contact_sheet

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "MOST_SIDE",
    "SUFFIXES",
    "as_written",
    "contact_sheet",
    "encode_lossy",
    "encode_png",
    "identifiers",
    "list_images",
    "parse_box",
    "parse_record",
    "read_image",
    "read_levels",
    "read_mask",
    "read_metadata",
    "read_record",
    "record_metadata",
    "to_levels",
    "to_pil",
    "write_image",
    "write_sheet",
]

#: Pixels of the longest side that a picture can be resized to.
MOST_SIDE = 1_000_000

_PIXEL_BYTES = 18  # memory of a pixel of a resized picture: levels, twice, and numbers
_MASK_THRESHOLD = 128  # luminance of 255 from which a pixel is selected


def read_image(
    source: ImageSource,
    size: tuple[int, int] | None = None,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a picture as RGB.

    EXIF orientation and colour profiles are applied. Transparent parts are laid over white. 12- and 16-bit grey is
    scaled to 8 bits; where no 16-bit value is above 4095, that is white, unless a TIFF says another one.

    Args:
        source: see :data:`~latentpatch.io.opening.ImageSource`.
        size: ``(height, width)`` of the result. The picture is cropped about its centre to that aspect ratio, to
            the nearest pixel, then resized (Lanczos). None keeps its own size.
        name: name of the picture in errors; by default its path.
        max_pixels: largest number of pixels; checked before the picture is decoded.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Warns:
        PictureWarning: where the colour profile cannot be applied, or 16-bit colours are nearly black.

    Raises:
        ImageTooLargeError: for more than ``max_pixels`` pixels.
        ImageError: where the picture cannot be read, is damaged or truncated, is not one still JPEG, PNG, WebP, BMP,
            TIFF or GIF picture, has a side below :data:`MIN_SIDE`, or 32-bit pixels, whose range is unknown.
        SettingError: where an argument is out of range.
    """
    levels = read_levels(source, size, name=name, max_pixels=max_pixels)
    return torch.from_numpy(levels).permute(2, 0, 1).contiguous().float().div_(255)


def read_levels(
    source: ImageSource,
    size: tuple[int, int] | None = None,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray[Any, Any]:
    """Read a picture as ``(H, W, 3)`` uint8, without torch; arguments and errors are those of :func:`read_image`."""
    return np.array(_crop_and_resize(read_rgb(source, name, "white", max_pixels), size, Image.Resampling.LANCZOS))


def read_mask(
    source: ImageSource,
    size: tuple[int, int] | None = None,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a picture as a selection: bright pixels are selected.

    Args:
        source, name, max_pixels: as for :func:`read_image`.
        size: ``(height, width)`` of the result; cropped as by :func:`read_image`, resized to the nearest pixels. None
            keeps its own size.

    Returns:
        ``(H, W)`` bool: whether the luminance, over black where transparent, is at least 128 of 255.

    Raises:
        ImageError, SettingError: as :func:`read_image`.
    """
    image = _crop_and_resize(read_rgb(source, name, "black", max_pixels), size, Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image.convert("L"))) >= _MASK_THRESHOLD


def _crop_and_resize(image: Image.Image, size: tuple[int, int] | None, resampling: Image.Resampling) -> Image.Image:
    """Crop a picture about its centre to the aspect ratio of ``size = (height, width)``, then resize it.

    ``ImageOps.fit`` does not serve: it crops by a box of fractions, and its resampling looks beyond the box.
    """
    if size is None:
        return image
    height, width = _check_size(size)
    check_memory("size", (height, width), _PIXEL_BYTES * height * width)
    crop_width = max(1, min(image.width, round(image.height * width / height)))
    crop_height = max(1, min(image.height, round(image.width * height / width)))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height)).resize((width, height), resampling)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= MOST_SIDE for side in size):
        raise SettingError("size", size, f"(height, width) in pixels, at most {MOST_SIDE}")
    return size


def parse_box(text: str, size: tuple[int, int]) -> Tensor:
    """Parse a rectangular selection.

    Args:
        text: ``"LEFT,TOP,RIGHT,BOTTOM"`` in pixels; RIGHT and BOTTOM are the first outside.
        size: ``(height, width)`` of the picture in pixels.

    Returns:
        ``(H, W)`` bool, True inside.

    Raises:
        SettingError: where the box is malformed, empty or not inside the picture.
    """
    height, width = _check_size(size)
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise SettingError("box", text, "LEFT,TOP,RIGHT,BOTTOM as four whole numbers of pixels")
    left, top, right, bottom = map(int, parts)
    if left >= right or top >= bottom:
        raise SettingError("box", text, "not empty, LEFT below RIGHT and TOP below BOTTOM")
    if right > width or bottom > height:
        raise SettingError("box", text, f"inside the picture, which is {width} wide and {height} high")
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def to_levels(images: Tensor) -> np.ndarray[Any, Any]:
    """Convert images ``(N, 3, H, W)`` in [0, 1] to ``(N, H, W, 3)`` uint8, to the nearest level.

    Values outside [0, 1] become 0 or 1.

    Raises:
        SettingError: where the images are of another shape or dtype, or hold NaN.
    """
    if not images.is_floating_point():
        raise SettingTypeError("image", str(images.dtype), "a floating-point tensor")
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise SettingError("image", tuple(images.shape[1:]), "of shape (3, H, W)")
    if bool(images.amin().isnan()):  # that of a NaN is a NaN
        raise SettingError("image", float("nan"), "in [0, 1]")
    levels = images.detach().to(torch.float32).clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image ``(3, H, W)`` to an 8-bit RGB picture, as :func:`to_levels`."""
    return Image.fromarray(to_levels(image[None])[0])


def write_sheet(path: str | Path, levels: Sequence[np.ndarray[Any, Any]]) -> None:
    """Write a contact sheet of pictures ``(H, W, 3)`` uint8 as PNG.

    Raises:
        FileError: where the file cannot be written.
    """
    sheet = contact_sheet(torch.from_numpy(np.stack(levels)).permute(0, 3, 1, 2))
    write_bytes(path, encode_levels(sheet.permute(1, 2, 0).contiguous().numpy()))


def write_image(path: str | Path, image: Tensor, metadata: Mapping[str, str] | None = None) -> None:
    """Write a picture, replacing an older file in one step. Equal arguments give equal bytes.

    Args:
        path: ends in ``.png``, or ``.jpg``, ``.jpeg`` or ``.webp``, which lose some detail.
        image: as for :func:`to_pil`.
        metadata: as for :func:`encode_png`; only ``.png`` files keep it.

    Raises:
        FileError: where the file cannot be written.
        SettingError: for another suffix, image or metadata, or metadata without ``.png``.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        data = encode_png(image, metadata)
    elif suffix not in (".jpg", ".jpeg", ".webp"):
        raise SettingError("path", str(path), "a name ending in .png, .jpg, .jpeg or .webp")
    elif metadata:
        raise SettingError("metadata", dict(metadata), "empty for files other than .png")
    else:
        try:
            data = encode_lossy(image, "WEBP" if suffix == ".webp" else "JPEG")
        except SettingError:
            raise
        except (OSError, ValueError) as error:  # these formats limit the sides
            raise FileError(path, f"cannot be written: {error}") from error
    write_bytes(path, data)


def as_written(image: Tensor, encoding: Encoding) -> Tensor:
    """Return an image as a reader of its file sees it; in a lossless format as it is, not rounded to levels."""
    return image if encoding.quality is None else read_image(encoding.encode(to_levels(image[None])[0]))


def encode_lossy(image: Tensor, kind: str) -> bytes:
    """Encode a picture as a ``JPEG`` or ``WEBP`` file. Equal arguments give equal bytes.

    Raises:
        OSError, ValueError: where the image is not as for :func:`to_pil`, or too long for the format.
    """
    buffer = io.BytesIO()
    to_pil(image).save(buffer, kind, quality=LOSSY_QUALITY)
    return buffer.getvalue()


def encode_png(image: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a picture as a PNG file. Equal arguments give equal bytes.

    Args:
        image: as for :func:`to_pil`.
        metadata: text chunks by keyword, in order.

    Raises:
        SettingError: for a wrong image, or a keyword that is not 1 to 79 characters of Latin-1.
    """
    return encode_levels(to_levels(image[None])[0], metadata)
