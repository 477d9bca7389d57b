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
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, ImageTooLargeError, SettingTypeError

__all__ = ["MAX_PIXELS", "MIN_SIDE", "ImageSource", "open_image", "read_own_channels", "read_rgb"]

#: A path, the bytes of a file, or a binary stream, read from its position to its end.
ImageSource: TypeAlias = str | Path | bytes | BinaryIO

#: Largest number of pixels of a picture; larger ones are refused before they are decoded.
MAX_PIXELS = 64 * 2**20
#: Smallest side of a picture in pixels.
MIN_SIDE = 16

_ACCEPTED = "accepted: still JPEG, PNG, WebP, BMP, TIFF and GIF pictures, AVIF, and HEIC with the package pillow-heif"
# Encoders write some ten scans into a JPEG, and previews add theirs. Each scan costs a few bytes in the file and a
# pass over all pixels.
_MAX_JPEG_SCANS = 200

# Encoders write chunks of 8 KiB and more, beside a few small ones. Pillow takes microseconds for each.
_MAX_SMALL_CHUNKS, _CHUNK_BYTES = 4096, 1024

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
        source: a path, bytes or a binary stream.
        name: name of the picture in errors; by default its path.
        max_pixels: largest number of pixels.
    """
    stream, label = _binary_stream(source, name)
    with stream, _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check_chunks(stream, label)
            image = Image.open(stream, formats=_formats())
            _check_header(image, label, max_pixels)
            _check_scans(image, stream, label)
            if image.format == "PNG":
                # Checks every chunk; decoding alone does not look at the checksums of pixels.
                image.verify()
                stream.seek(0)
                image = Image.open(stream, formats=_formats())
            yield image
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError(label, f"more than {max_pixels} pixels") from error
        except UnidentifiedImageError as error:
            raise ImageError(label, f"not recognised as a picture; {_ACCEPTED}") from error
        except Exception as error:  # decoders raise many types on malformed bytes
            reason = str(error) or type(error).__name__
            raise ImageError(label, f"damaged, truncated or unsupported ({reason}); {_ACCEPTED}") from error


def read_rgb(source: ImageSource, name: str | None, background: str, max_pixels: int) -> Image.Image:
    """Read a picture as 8-bit RGB, upright by its EXIF orientation, transparent parts over ``background``."""
    with open_image(source, name, max_pixels) as image:
        return _flatten(_upright(image), background)


def read_own_channels(source: ImageSource, name: str | None, max_pixels: int) -> Image.Image:
    """Read a picture as 8-bit L, LA, RGB or RGBA, whichever it is, upright by its EXIF orientation."""
    with open_image(source, name, max_pixels) as image:
        picture = _upright(image)
        is_grey = picture.mode in ("1", "L", "LA", "La")
        if picture.has_transparency_data:
            return picture.convert("RGBA").convert("LA") if is_grey else picture.convert("RGBA")
        return picture.convert("L" if is_grey else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Return a decoded picture with 8 bits a channel, upright by its EXIF orientation."""
    raw_mode = _raw_mode(image)
    image.load()
    with suppress(Exception):  # a damaged EXIF block says nothing about orientation
        ImageOps.exif_transpose(image, in_place=True)
    return _to_eight_bits(image, raw_mode)


def _binary_stream(source: ImageSource, name: str | None) -> tuple[BinaryIO, str]:
    """Return a seekable stream, to be closed by the caller, and the picture's name in errors."""
    if isinstance(source, (str, Path)):
        label = name or str(source)
        try:
            if Path(source).exists() and not Path(source).is_file():  # opening a pipe might wait for ever
                raise ImageError(label, f"not a file; {_ACCEPTED}")
            return Path(source).open("rb"), label
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ImageError(label, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), name or "image data"
    if not hasattr(source, "read"):
        raise SettingTypeError("source", type(source).__name__, "a path, bytes or a binary stream")
    label = name or str(getattr(source, "name", "image data"))
    try:
        data = source.read()
    except OSError as error:
        raise ImageError(label, f"cannot be read: {error.strerror or error}") from error
    if not isinstance(data, bytes):
        raise SettingTypeError("source", f"a stream of {type(data).__name__}", "a binary stream")
    return io.BytesIO(data), label


def _check_header(image: Image.Image, label: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(label, f"{width}x{height} is more than {max_pixels} pixels")
    if min(width, height) < MIN_SIDE:
        raise ImageError(label, f"{width}x{height} pixels; sides must be at least {MIN_SIDE}")
    # A JPEG may carry previews behind the picture (MPO, from some phones): the first picture counts.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError(label, f"holds several frames or pages; {_ACCEPTED}")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError(label, "32-bit pixels, whose range is unknown; channels must have 8 or 16 bits")


def _check_chunks(stream: BinaryIO, label: str) -> None:
    """Refuse a PNG of more chunks than its size explains."""
    is_png = stream.read(8) == b"\x89PNG\r\n\x1a\n"
    most = _MAX_SMALL_CHUNKS + stream.seek(0, io.SEEK_END) // _CHUNK_BYTES
    stream.seek(8)
    while is_png and len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        most -= 1
        if most < 0:
            raise ImageError(label, "a PNG of too many chunks for its size")
        stream.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
    stream.seek(0)


def _check_scans(image: Image.Image, stream: BinaryIO, label: str) -> None:
    if image.format not in ("JPEG", "MPO"):
        return
    position = stream.tell()
    stream.seek(0)
    num_scans = stream.read().count(b"\xff\xda")
    stream.seek(position)
    if num_scans > _MAX_JPEG_SCANS:
        raise ImageError(label, f"a JPEG of {num_scans} scans; there must be at most {_MAX_JPEG_SCANS}")


def _raw_mode(image: Image.Image) -> str:
    """Return how the file packs pixels, such as "L;4"; Pillow forgets this when it decodes them."""
    tile = getattr(image, "tile", None)
    args = tile[0][3] if tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _to_eight_bits(image: Image.Image, raw_mode: str) -> Image.Image:
    """Scale 12- and 16-bit grey, which Pillow would clip, to 8 bits, and transparent colours with it."""
    transparent = image.info.get("transparency")
    if image.mode == "I" or image.mode.startswith("I;"):
        image.info.pop("transparency", None)
        white = 4095 if raw_mode == "I;12" else 65535
        deep = np.asarray(image.convert("I")).clip(0, white)
        grey = Image.fromarray(((deep * 255 + white // 2) // white).astype(np.uint8))
        if transparent is not None:
            grey.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
    elif image.mode == "RGB" and isinstance(transparent, tuple) and raw_mode.startswith("RGB;16"):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image


def _flatten(image: Image.Image, background: str) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")
