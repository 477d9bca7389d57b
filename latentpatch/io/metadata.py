"""Write and read records in picture files, to repeat a picture.

They are JSON: in PNG files in a text chunk ``latentpatch``, in WebP and JPEG files in the EXIF tag ``ImageDescription``
after that word. Readers believe nothing: anyone may have written them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from .opening import open_image

__all__ = ["exif_of", "parse_record", "read_metadata", "read_record", "record_metadata"]

_KEYWORD = "latentpatch"
_IMAGE_DESCRIPTION = 0x010E  # EXIF tag
_MAX_RECORD = 1 << 20  # characters that are parsed: some JSON takes a hundred times its size in memory


def record_metadata(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a record's text chunks for ``write_image`` and ``encode_png``; equal records, equal text."""
    return {_KEYWORD: json.dumps(dict(record), sort_keys=True)}


def exif_of(metadata: Mapping[str, str]) -> bytes:
    """Return the EXIF block with the package's record among the texts of :func:`record_metadata`."""
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = f"{_KEYWORD} {metadata[_KEYWORD]}"
    return exif.tobytes()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the text chunks of a PNG by keyword, at most some 64 MiB; of other formats the package's record alone.

    Raises:
        ImageError: as :func:`~latentpatch.io.images.read_image`.
    """
    with open_image(path, None) as image:
        image.load()  # chunks may follow the pixels
        if isinstance(image, PngImagePlugin.PngImageFile):
            return {str(key): str(value) for key, value in image.text.items()}
        try:
            keyword, _, text = str(image.getexif().get(_IMAGE_DESCRIPTION, "")).partition(" ")
        except Exception:  # a damaged EXIF block
            return {}
        return {_KEYWORD: text} if keyword == _KEYWORD else {}


def parse_record(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return text chunks with the package's record parsed; it stays text where it is not JSON, or above 1 MiB."""
    try:
        if len(metadata[_KEYWORD]) > _MAX_RECORD:
            return dict(metadata)
        return {**metadata, _KEYWORD: json.loads(metadata[_KEYWORD], parse_constant=str)}
    except (KeyError, ValueError, RecursionError):
        return dict(metadata)


def read_record(path: str | Path) -> dict[str, Any]:
    """Read the package's record from a picture; empty where there is none, or it is no JSON object.

    Raises:
        ImageError: as :func:`~latentpatch.io.images.read_image`.
    """
    record = parse_record(read_metadata(path)).get(_KEYWORD)
    return record if isinstance(record, dict) else {}
