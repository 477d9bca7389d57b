"""Open picture files of unknown origin: any bytes give a picture or an :class:`ImageError`."""

from __future__ import annotations

import importlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, ImageTooLargeError, PictureWarning, SettingError, SettingTypeError
from .containers import num_scans, positive_tiff, sound_png
from .depth import NEGATIVE, NOTES, raw_mode_of, to_eight_bits
from .profiles import to_srgb

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "Array",
    "ImageSource",
    "array_picture",
    "open_image",
    "read_own_channels",
    "read_rgb",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
_File: TypeAlias = str | Path | bytes | BinaryIO
#: A path, the bytes of a file, a binary stream, read from its position to its end, a picture of Pillow, or an array of
#: NumPy: ``(H, W)`` or ``(H, W, C)``, C from 1 to 4, uint8, or ``(H, W)`` bool or uint16.
ImageSource: TypeAlias = _File | Image.Image | Array

#: Largest number of pixels of a picture; larger ones are refused before they are decoded.
MAX_PIXELS = 64 * 2**20
#: Smallest side of a picture in pixels.
MIN_SIDE = 16

_ACCEPTED = "accepted: still JPEG, PNG, WebP, BMP, TIFF and GIF pictures, AVIF, and HEIC with the package pillow-heif"
# Encoders write some ten scans into a JPEG. Each scan costs a few bytes in the file and a pass over all pixels.
_MAX_JPEG_SCANS = 200
_MAX_PAGES = 32  # pages of a TIFF that are looked at for the one that is no thumbnail or mask

# The warning filters, which open_image changes, belong to the whole process.
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow, with the optional plugin for HEIC, can read here."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    wanted = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "HEIF")
    return tuple(name for name in wanted if name in Image.OPEN)


@contextmanager
def open_image(source: ImageSource, name: str | None, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture and check its header; decoding is left to the block.

    Warnings of the block are silenced, and errors of the block become an ImageError.

    Args:
        source: see :data:`ImageSource`; a picture in memory is copied, and of several frames the present one is it.
        name: name of the picture in errors; by default its path.
        max_pixels: largest number of pixels.
    """
    if isinstance(source, np.ndarray):
        source = array_picture(source, name or "image")
    label = _label_of(source, name)
    stream: BinaryIO = io.BytesIO()
    if not isinstance(source, Image.Image):
        source = stream = _binary_stream(source, label)
    with stream, _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if isinstance(source, Image.Image):
                _check_size(source, label, max_pixels)
                yield source.copy()
            else:
                yield _opened(stream, label, max_pixels)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError(label, f"more than {max_pixels} pixels") from error
        except UnidentifiedImageError as error:
            raise ImageError(label, f"not recognised as a picture; {_ACCEPTED}") from error
        except Exception as error:  # decoders raise many types on malformed bytes
            reason = str(error) or type(error).__name__
            raise ImageError(label, f"damaged, truncated or unsupported ({reason}); {_ACCEPTED}") from error


def _opened(stream: BinaryIO, label: str, max_pixels: int) -> Image.Image:
    """Return the picture of a file, whose header is sound."""
    stream, dropped = sound_png(stream, label)
    stream, negative = positive_tiff(stream)
    image = Image.open(stream, formats=_formats())
    _seek_picture(image, label)
    _check_header(image, label, max_pixels)
    _check_scans(image, stream, label)
    if image.format == "PNG":
        # Checks every chunk; decoding alone does not look at the checksums of pixels.
        image.verify()
        stream.seek(0)
        image = Image.open(stream, formats=_formats())
        if image.mode == "P" and image.palette is None:
            raise ImageError(label, f"damaged: it has colors of a palette, and no palette; {_ACCEPTED}")
    image.info[NEGATIVE] = any(negative[image.tell() : image.tell() + 1])
    image.info[NOTES] = ["its colour profile is damaged or too large"] if "iCCP" in dropped else []
    return image


def read_rgb(source: ImageSource, name: str | None, background: str, max_pixels: int) -> Image.Image:
    """Read a picture as 8-bit RGB in sRGB, upright by its EXIF orientation, transparent parts over ``background``.

    Warns:
        PictureWarning: where its colour profile is not applied, or it is nearly black for its depth.
    """
    return _flatten(_upright(source, name, max_pixels), background)


def read_own_channels(source: ImageSource, name: str | None, max_pixels: int) -> Image.Image:
    """Read a picture as 8-bit L, LA, RGB or RGBA, whichever it is; else as :func:`read_rgb`."""
    return _plain_mode(_upright(source, name, max_pixels))


def _upright(source: ImageSource, name: str | None, max_pixels: int) -> Image.Image:
    """Return a decoded picture with 8 bits a channel in sRGB, upright by its EXIF orientation."""
    with open_image(source, name, max_pixels) as image:
        raw_mode = raw_mode_of(image)
        image.load()
        with suppress(Exception):  # a damaged EXIF block says nothing about orientation
            ImageOps.exif_transpose(image, in_place=True)
        profile, notes = image.info.get("icc_profile"), list(image.info.get(NOTES, ()))
        picture = to_eight_bits(image, raw_mode, notes)
        if profile and picture.mode not in ("LAB", "YCbCr", "HSV"):  # Pillow converts these
            try:
                picture = to_srgb(picture if picture.mode == "CMYK" else _plain_mode(picture), profile)
            except ValueError as error:
                notes.append(str(error))
    for note in notes:
        warnings.warn(f"{_label_of(source, name)}: {note}", PictureWarning, stacklevel=2)
    return picture


def _plain_mode(picture: Image.Image) -> Image.Image:
    """Return a picture as L, LA, RGB or RGBA, whichever it is."""
    is_grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        return picture.convert("RGBA").convert("LA") if is_grey else picture.convert("RGBA")
    return picture.convert("L" if is_grey else "RGB")


def _label_of(source: ImageSource, name: str | None) -> str:
    own = source if isinstance(source, (str, Path)) else getattr(source, "filename", "") or getattr(source, "name", "")
    return name or str(own or "image data")


def array_picture(array: Array, name: str) -> Image.Image:
    """Return an array as a picture of Pillow.

    Raises:
        SettingError, SettingTypeError: for another shape or type.
    """
    if array.dtype not in (np.uint8, np.uint16, np.bool_):
        raise SettingTypeError(name, f"an array of {array.dtype}", "an array of uint8, uint16 or bool")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    channels = (2, 3, 4) if array.dtype == np.uint8 else ()
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in channels)) or not array.size:
        wanted = "(H, W) or (H, W, C), C from 1 to 4" if channels else "(H, W)"
        raise SettingError(name, array.shape, f"of shape {wanted}")
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array))


def _binary_stream(source: _File, label: str) -> BinaryIO:
    """Return a seekable stream, to be closed by the caller."""
    if isinstance(source, (str, Path)):
        try:
            if Path(source).exists() and not Path(source).is_file():  # opening a pipe might wait for ever
                raise ImageError(label, f"not a file; {_ACCEPTED}")
            return Path(source).open("rb")
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ImageError(label, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if not hasattr(source, "read"):
        wanted = "a path, bytes, a binary stream, a picture of Pillow or an array"
        raise SettingTypeError("source", type(source).__name__, wanted)
    try:
        data = source.read()
    except OSError as error:
        raise ImageError(label, f"cannot be read: {error.strerror or error}") from error
    if not isinstance(data, bytes):
        raise SettingTypeError("source", f"a stream of {type(data).__name__}", "a binary stream")
    return io.BytesIO(data)


def _seek_picture(image: Image.Image, label: str) -> None:
    """Go to the one page of a TIFF that is no thumbnail and no mask.

    Raises:
        ImageError: where there are several, or none.
    """
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count == 1:
        return
    pages = []
    for page in range(min(count, _MAX_PAGES + 1)):
        image.seek(page)
        tags: Any = image.tag_v2  # type: ignore[attr-defined]  # of a TIFF
        if not int(tags.get(254, 0)) & 5 and int(tags.get(255, 1)) != 2:
            pages.append(page)
    if len(pages) != 1 or count > _MAX_PAGES:
        raise ImageError(label, f"holds several frames or pages; {_ACCEPTED}")
    image.seek(pages[0])


def _check_header(image: Image.Image, label: str, max_pixels: int) -> None:
    # A JPEG may carry previews behind the picture (MPO, from some phones): the first picture counts.
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "TIFF"):
        raise ImageError(label, f"holds several frames or pages; {_ACCEPTED}")
    if image.format == "TIFF" and "16" in raw_mode_of(image) and image.mode == "I":
        raise ImageError(label, "signed 16-bit pixels, whose black and white are unknown; convert it to 8 or 16 bits")
    _check_size(image, label, max_pixels)


def _check_size(image: Image.Image, label: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(label, f"{width}x{height} is more than {max_pixels} pixels")
    if min(width, height) < MIN_SIDE:
        raise ImageError(label, f"{width}x{height} pixels; sides must be at least {MIN_SIDE}")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError(label, "32-bit pixels, whose range is unknown; channels must have 8 or 16 bits")


def _check_scans(image: Image.Image, stream: BinaryIO, label: str) -> None:
    if image.format not in ("JPEG", "MPO"):
        return
    position = stream.tell()
    stream.seek(0)
    count = num_scans(stream.read())
    stream.seek(position)
    if count > _MAX_JPEG_SCANS:
        raise ImageError(label, f"a JPEG of {count} scans; there must be at most {_MAX_JPEG_SCANS}")


def _flatten(image: Image.Image, background: str) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")
