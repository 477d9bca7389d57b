"""Pictures in and out: finding, reading, masking, writing.

A picture that was read is a float32 tensor ``(3, H, W)`` of RGB values in [0, 1]. Files are read as
if made by an adversary: whatever their bytes, there is a tensor or an :class:`ImageError`.
"""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..errors import FileError, ImageError, ImageTooLargeError
from .atomic import write_bytes

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "SUFFIXES",
    "contact_sheet",
    "encode_lossy",
    "encode_png",
    "identifiers",
    "list_images",
    "parse_box",
    "read_image",
    "read_mask",
    "read_metadata",
    "to_pil",
    "write_image",
]

#: Suffixes of the files taken for pictures, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
#: Pictures of more pixels are refused, before they are decoded.
MAX_PIXELS = 64 * 2**20
#: Pictures with a shorter side are refused.
MIN_SIDE = 16

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
_EXPECTED = "a still JPEG, PNG, WebP, BMP, TIFF or GIF picture is expected"
_JPEG_QUALITY = 92
_MOST_SCANS = 200  # of a JPEG; encoders make some ten, and previews add theirs

# What brings a picture of each EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The warning filters, which _opened changes, belong to the whole process.
_lock = threading.Lock()


# --- Finding -----------------------------------------------------------------------------------


def list_images(*sources: str | Path) -> list[Path]:
    """The pictures that ``sources`` stand for, in their order.

    Args:
        sources: each a folder (all pictures below it by suffix, sorted by path; hidden files and
            folders are skipped, links to folders are not followed), a picture, or a ``.txt`` file
            with the path of one picture a line, relative to its own folder (blank lines and lines
            that begin with ``#`` are skipped).

    Raises:
        ValueError: where there are no sources.
        FileError: where a source does not exist, is of another kind or holds no pictures, or where
            a picture comes twice.
    """
    if not sources:
        raise ValueError("no folder or file of pictures was given")
    paths = [path for source in sources for path in _pictures_of(Path(source))]
    first: dict[Path, Path] = {}
    for path in paths:
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise FileError(f"{path}: cannot be resolved ({error})") from error
        if resolved in first:
            raise FileError(f"{path}: given twice, the first time as {first[resolved]}; give every picture once")
        first[resolved] = path
    return paths


def _pictures_of(source: Path) -> list[Path]:
    try:
        is_folder, exists = source.is_dir(), source.exists()
    except OSError as error:  # no permission, or too long for a name
        raise FileError(f"{source}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        return _pictures_in(source)
    if not exists:
        raise FileError(f"{source}: no such file or folder")
    if source.suffix.lower() in SUFFIXES:
        return [source]
    if source.suffix.lower() == ".txt":
        return _pictures_listed(source)
    raise FileError(f"{source}: a folder, a .txt list or a picture is expected; accepted: {' '.join(SUFFIXES)}")


def _pictures_in(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise FileError(f"{error.filename}: cannot be listed: {error.strerror or error}") from error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    if not found:
        raise FileError(f"{folder}: holds no images; accepted: {' '.join(SUFFIXES)}")
    return sorted(found, key=lambda path: path.parts)


def _pictures_listed(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{file}: not a readable UTF-8 text file: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        path = file.parent / entry
        try:
            there = path.is_file()
        except (OSError, ValueError):  # too long for a name, or a null character
            there = False
        if not there:
            raise FileError(f"{file}, line {number}: {entry}: no such file")
        if path.suffix.lower() not in SUFFIXES:
            raise FileError(f"{file}, line {number}: {entry}: not a picture; accepted: {' '.join(SUFFIXES)}")
        found.append(path)
    if not found:
        raise FileError(f"{file}: lists no images; the path of one picture a line is expected")
    return found


def identifiers(paths: Sequence[Path]) -> list[str]:
    """Names that tell pictures apart: stems, else file names, else paths below their common folder.

    Args:
        paths: as from :func:`list_images`.

    Returns:
        One unique string a path, the same wherever the folder lies.

    Raises:
        ValueError: where a path comes twice.
    """
    absolute = [path.absolute() for path in paths]
    if len(set(absolute)) < len(absolute):
        raise ValueError(f"{Counter(absolute).most_common(1)[0][0]}: given twice; every path once is expected")
    for names in ([path.stem for path in paths], [path.name for path in paths]):
        if len(set(names)) == len(names):
            return names
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common).as_posix() for path in absolute]


# --- Reading -----------------------------------------------------------------------------------


def read_image(
    source: str | Path | bytes | BinaryIO,
    size: tuple[int, int] | None = None,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a picture as RGB.

    EXIF orientation is applied, colour profiles are not. Transparent parts are laid over white;
    12- and 16-bit grey is brought to 8 bits.

    Args:
        source: a path, the bytes of a file, or a binary stream (read from where it is to its end).
        size: ``(height, width)`` wanted. The picture is cropped about its centre to that aspect
            ratio, to the nearest pixel, then resized (Lanczos); None leaves it as it is.
        name: what errors call the picture; by default its path.
        max_pixels: pictures of more are refused with an ImageTooLargeError, before they are decoded.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        ImageError: where it cannot be read, is damaged or truncated, is not one still JPEG, PNG,
            WebP, BMP, TIFF or GIF picture, has more than ``max_pixels`` pixels or a side below
            :data:`MIN_SIDE`, or pixels without a known range (32-bit).
        TypeError, ValueError: where an argument is not that.
    """
    image = _fit(_read_rgb(source, name, "white", max_pixels), size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def read_mask(
    source: str | Path | bytes | BinaryIO,
    size: tuple[int, int],
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a picture as a selection: what is bright is selected.

    Args:
        source: as for :func:`read_image`.
        size: ``(height, width)`` wanted; cropped as there, resized to the nearest pixels.
        name, max_pixels: as there.

    Returns:
        ``(H, W)`` bool: luminance, over black where transparent, is at least 128 of 255.

    Raises:
        ImageError, TypeError, ValueError: as :func:`read_image`.
    """
    luminance = _fit(_read_rgb(source, name, "black", max_pixels), size, Image.Resampling.NEAREST).convert("L")
    return torch.from_numpy(np.array(luminance)) >= 128


def _read_rgb(source: str | Path | bytes | BinaryIO, name: str | None, background: str, max_pixels: int) -> Image.Image:
    with _opened(source, name, max_pixels) as image:
        return _flat(_upright(image), background)


@contextmanager
def _opened(
    source: str | Path | bytes | BinaryIO, name: str | None, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """The picture, its header checked; any error of the block becomes an ImageError, warnings are silenced."""
    stream, label = _stream_of(source, name)
    with stream, _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(stream, formats=_FORMATS)
            _check_header(image, label, max_pixels)
            _check_scans(image, stream, label)
            if image.format == "PNG":
                # Checks every chunk; decoding alone does not look at the checksums of pixels.
                image.verify()
                stream.seek(0)
                image = Image.open(stream, formats=_FORMATS)
            yield image
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError(
                f"{label}: more than {max_pixels} pixels; a smaller picture is expected"
            ) from error
        except UnidentifiedImageError as error:
            raise ImageError(f"{label}: not recognised as a picture; {_EXPECTED}") from error
        except Exception as error:  # decoders raise many types on malformed bytes
            reason = str(error) or type(error).__name__
            raise ImageError(f"{label}: damaged, truncated or unsupported ({reason}); {_EXPECTED}") from error


def _stream_of(source: str | Path | bytes | BinaryIO, name: str | None) -> tuple[BinaryIO, str]:
    """A seekable stream of our own, to be closed, and what to call it."""
    if isinstance(source, (str, Path)):
        label = name or str(source)
        try:
            if Path(source).exists() and not Path(source).is_file():  # opening a pipe might wait for ever
                raise ImageError(f"{label}: not a file; {_EXPECTED}")
            return Path(source).open("rb"), label
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ImageError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), name or "image data"
    if not hasattr(source, "read"):
        raise TypeError(f"source: a path, bytes or a binary stream is expected, got {type(source).__name__}")
    label = name or str(getattr(source, "name", "image data"))
    try:
        data = source.read()
    except OSError as error:
        raise ImageError(f"{label}: cannot be read: {error.strerror or error}") from error
    if not isinstance(data, bytes):
        raise TypeError(f"source: a binary stream is expected, {label} gives {type(data).__name__}")
    return io.BytesIO(data), label


def _check_header(image: Image.Image, label: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{label}: {width}x{height} is more than {max_pixels} pixels; a smaller picture is expected"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{label}: {width}x{height} pixels; sides of at least {MIN_SIDE} are expected")
    # A JPEG may carry previews behind the picture (MPO, as of some phones): the first one counts.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError(f"{label}: holds several frames or pages; a still picture is expected")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError(f"{label}: 32-bit pixels, whose range is not known; 8 or 16 bits a channel are expected")


def _check_scans(image: Image.Image, stream: BinaryIO, label: str) -> None:
    """Refuse a JPEG of very many scans: a few bytes each, they go through all of its pixels."""
    if image.format not in ("JPEG", "MPO"):
        return
    place = stream.tell()
    stream.seek(0)
    scans = stream.read().count(b"\xff\xda")
    stream.seek(place)
    if scans > _MOST_SCANS:
        raise ImageError(f"{label}: {scans} scans; a JPEG of at most {_MOST_SCANS} is expected")


def _upright(image: Image.Image) -> Image.Image:
    """Eight bits a channel, rotated and mirrored as the EXIF orientation says."""
    raw_mode = _raw_mode(image)
    image.load()
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a damaged EXIF block says nothing about orientation
        orientation = None
    image = _eight_bit(image, raw_mode)
    step = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if step is None else image.transpose(step)


def _raw_mode(image: Image.Image) -> str:
    """How pixels are packed in the file, such as "L;4"; only known before they are decoded."""
    tile = getattr(image, "tile", None)
    args = tile[0][3] if tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _eight_bit(image: Image.Image, raw_mode: str) -> Image.Image:
    """Scale 12- and 16-bit grey to 8 bits, which Pillow would clip, and transparent colours likewise."""
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


def _flat(image: Image.Image, background: str) -> Image.Image:
    """RGB, transparent parts over ``background``."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _fit(image: Image.Image, size: tuple[int, int] | None, resampling: Image.Resampling) -> Image.Image:
    """Crop about the centre to the aspect ratio of ``size = (height, width)``, then resize."""
    if size is None:
        return image
    height, width = _checked(size)
    # An integer crop, as the resampling would look beyond the edges of a box.
    crop_width = max(1, min(image.width, round(image.height * width / height)))
    crop_height = max(1, min(image.height, round(image.width * height / width)))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height)).resize((width, height), resampling)


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"size: (height, width) in pixels is expected, got {size!r}")
    return size


def parse_box(text: str, size: tuple[int, int]) -> Tensor:
    """A rectangular selection.

    Args:
        text: ``"LEFT,TOP,RIGHT,BOTTOM"`` in pixels; RIGHT and BOTTOM are the first outside.
        size: ``(height, width)`` in pixels of the whole.

    Returns:
        ``(H, W)`` bool, True inside.

    Raises:
        ValueError: where the box is malformed, empty or not inside the whole.
    """
    height, width = _checked(size)
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ValueError(f"box {text!r}: LEFT,TOP,RIGHT,BOTTOM as four whole numbers of pixels is expected")
    left, top, right, bottom = map(int, parts)
    if left >= right or top >= bottom:
        raise ValueError(f"box {text!r}: empty; LEFT below RIGHT and TOP below BOTTOM are expected")
    if right > width or bottom > height:
        raise ValueError(f"box {text!r}: reaches outside the picture, which is {width} wide and {height} high")
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


# --- Writing -----------------------------------------------------------------------------------


def to_pil(image: Tensor) -> Image.Image:
    """An 8-bit RGB picture of ``(3, H, W)`` floating point in [0, 1], rounded to the nearest level.

    Values outside [0, 1] become 0 or 1.

    Raises:
        TypeError, ValueError: where the image is not that, or holds NaN.
    """
    if not image.is_floating_point():
        raise TypeError(f"image: a floating-point tensor is expected, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"image: shape (3, H, W) is expected, got {tuple(image.shape)}")
    if bool(image.isnan().any()):
        raise ValueError("image: holds NaN; values in [0, 1] are expected")
    levels = image.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def write_image(path: str | Path, image: Tensor, metadata: Mapping[str, str] | None = None) -> None:
    """Write a picture, replacing what was there in one step. Equal arguments give equal bytes.

    Args:
        path: ends in ``.png``, or ``.jpg``, ``.jpeg`` or ``.webp``, which lose some detail.
        image: as for :func:`to_pil`.
        metadata: as for :func:`encode_png`; only ``.png`` keeps it.

    Raises:
        FileError: where it cannot be written.
        TypeError, ValueError: for another suffix, image or metadata, or metadata without ``.png``.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png":
        data = encode_png(image, metadata)
    elif suffix not in (".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path}: a name ending in .png, .jpg, .jpeg or .webp is expected")
    elif metadata:
        raise ValueError(f"{path}: only .png keeps metadata")
    else:
        try:
            data = encode_lossy(image, "WEBP" if suffix == ".webp" else "JPEG")
        except (OSError, ValueError) as error:  # these formats limit the sides
            raise FileError(f"cannot write {path}: {error}") from error
    write_bytes(path, data)


def encode_lossy(image: Tensor, kind: str) -> bytes:
    """A ``JPEG`` or ``WEBP`` file. Equal arguments give equal bytes.

    Raises:
        OSError, TypeError, ValueError: where the image is not as for :func:`to_pil`, or too long for the format.
    """
    buffer = io.BytesIO()
    to_pil(image).save(buffer, kind, quality=_JPEG_QUALITY)
    return buffer.getvalue()


def encode_png(image: Tensor, metadata: Mapping[str, str] | None = None, compress_level: int = 6) -> bytes:
    """A PNG file. Equal arguments give equal bytes.

    Args:
        image: as for :func:`to_pil`.
        metadata: text chunks by keyword, in order.
        compress_level: from 0, fast, to 9, small.

    Raises:
        TypeError, ValueError: where the image is not that, or a keyword is not 1 to 79 characters
            of Latin-1.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        if not 1 <= len(key) <= 79 or "\0" in key or any(ord(character) > 255 for character in key):
            raise ValueError(f"metadata: keyword {key!r}: 1 to 79 characters of Latin-1 are expected")
        chunks.add_text(key, value)  # as UTF-8 where Latin-1 does not hold it
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG", pnginfo=chunks, compress_level=compress_level)
    return buffer.getvalue()


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text chunks of a PNG by keyword, at most some 64 MiB; none for pictures of other formats.

    Raises:
        ImageError: as :func:`read_image`.
    """
    with _opened(path, None) as image:
        image.load()  # chunks may follow the pixels
        if not isinstance(image, PngImagePlugin.PngImageFile):
            return {}
        return {str(key): str(value) for key, value in image.text.items()}


def contact_sheet(images: Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Pictures side by side on white, row by row.

    Args:
        images: ``(N, 3, H, W)`` floating point in [0, 1], N at least 1.
        columns: pictures a row; by default as many as make the sheet about as many wide as high.
        padding: white pixels between pictures and around all.

    Returns:
        ``(3, H', W')``, of the same type and device.

    Raises:
        ValueError: where the arguments are not that.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images: shape (N, 3, H, W) with N at least 1 is expected, got {tuple(images.shape)}")
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    if columns < 1 or padding < 0:
        raise ValueError(f"columns {columns}, padding {padding}: at least 1 and at least 0 are expected")
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[2] + padding, images.shape[3] + padding
    sheet = images.new_ones((3, rows * height + padding, columns * width + padding))
    for index, image in enumerate(images):
        top, left = index // columns * height + padding, index % columns * width + padding
        sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return sheet
