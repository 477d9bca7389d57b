"""Formats of the pictures that a command writes: PNG, WebP or JPEG, with their records."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SettingError
from .metadata import exif_of
from .png import encode_levels

__all__ = ["FORMATS", "LOSSY_QUALITY", "Encoding"]

#: Suffixes of files by the name of their format.
FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
#: Quality of lossy files where none is chosen, of 100.
LOSSY_QUALITY = 92
_WEBP_METHOD = 1  # of 0, fast, to 6, small
_LOSSLESS_WEBP_EFFORT = 0  # of 100


@dataclass(frozen=True)
class Encoding:
    """The format of a picture file.

    Attributes:
        name: one of :data:`FORMATS`.
        quality: 1 to 100 of a JPEG or a lossy WebP; None for lossless PNG and WebP.
    """

    name: str = "png"
    quality: int | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Encoding:
        """Return the encoding that a picture's record names; PNG where the record names no valid one."""
        name, quality = record.get("format"), record.get("quality")
        if name not in ("webp", "jpeg") or type(quality) is not int or not 1 <= quality <= 100:
            return cls()
        return cls(str(name), quality)

    def record(self) -> dict[str, Any]:
        """Return format and quality for a picture's record; nothing where no detail is lost."""
        return {} if self.quality is None else {"format": self.name, "quality": self.quality}

    @property
    def suffix(self) -> str:
        """The suffix of files."""
        return FORMATS[self.name]

    def encode(self, levels: np.ndarray[Any, Any], metadata: Mapping[str, str] | None = None) -> bytes:
        """Encode a picture ``(H, W, 3)`` uint8. Equal arguments give equal bytes.

        Args:
            levels: the picture.
            metadata: texts by keyword; WebP and JPEG keep that of :func:`~latentpatch.io.metadata.record_metadata`.

        Raises:
            SettingError: for metadata that the format cannot hold, or sides that it cannot have.
        """
        if self.name == "png":
            return encode_levels(levels, metadata)
        options: dict[str, Any] = {"quality": self.quality}
        if self.name == "webp":
            options = {"method": _WEBP_METHOD, **options}
            if self.quality is None:
                options = {"method": 0, "lossless": True, "quality": _LOSSLESS_WEBP_EFFORT}
        if metadata:
            options["exif"] = exif_of(metadata)
        buffer = io.BytesIO()
        try:
            Image.fromarray(levels).save(buffer, self.name, **options)
        except (OSError, ValueError) as error:
            shape = "x".join(map(str, levels.shape[:2]))
            raise SettingError("format", self.name, f"one that can hold {shape} pixels and their record") from error
        return buffer.getvalue()
