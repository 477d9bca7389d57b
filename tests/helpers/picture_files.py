"""Picture files made byte by byte, and a check of what is read from them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["SEEDS", "chunk", "encode", "levels", "noise", "pixel", "png", "tiff", "with_checksums"]


def noise(mode: str = "RGB", width: int = 24, height: int = 20) -> Image.Image:
    """A picture of seeded random bytes."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """A PNG of equal rows, ``extra`` chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * min(height, 64))
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")])


def tiff(
    width: int,
    height: int,
    bits: int,
    sample_format: int,
    pixels: bytes,
    *,
    order: str = "<",
    samples: int = 1,
    photometric: int = 1,
    extra: dict[int, int] | None = None,
) -> bytes:
    """An uncompressed TIFF of one strip and few samples; ``order`` is that of struct, ``extra`` has further tags."""
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: samples, 278: height,
        279: len(pixels), 339: sample_format, **({338: 2} if samples == 2 else {}), **(extra or {}),
    }  # fmt: skip
    entries = b""
    for tag, value in sorted(tags.items()):
        is_short = tag in (258, 259, 262, 277, 281, 338, 339)
        values = [value] * (samples if tag == 258 else 1)
        data = struct.pack(f"{order}{len(values)}{'H' if is_short else 'I'}", *values)
        entries += struct.pack(f"{order}HHI", tag, 3 if is_short else 4, len(values)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4


def levels(image: Tensor) -> np.ndarray:
    """Convert (3, H, W) in [0, 1] to (H, W, 3) uint8; check what every picture must be."""
    assert image.dtype == torch.float32
    assert image.ndim == 3
    assert image.shape[0] == 3
    assert image.is_contiguous()
    assert 0 <= image.min() <= image.max() <= 1
    scaled = image.mul(255).permute(1, 2, 0).numpy()
    assert np.allclose(scaled, scaled.round(), atol=1e-4)
    return scaled.round().astype(np.uint8)


def pixel(image: Tensor, x: int, y: int) -> tuple[int, ...]:
    return tuple(levels(image)[y, x].tolist())


def with_checksums(data: bytes) -> bytes:
    """The chunks of a PNG with their checksums put right, so that what they hold is looked at."""
    parts, start = [data[:8]], 8
    while start + 12 <= len(data):
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        if end > len(data):
            break
        parts.append(chunk(data[start + 4 : start + 8], data[start + 8 : end - 4]))
        start = end
    return b"".join([*parts, data[start:]])


SEEDS = {
    "jpeg": encode(noise(), "JPEG"),
    "png": encode(noise(), "PNG"),
    "palette png": encode(noise().quantize(8), "PNG", transparency=bytes([0, 99]), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "grey png": png(16, 16, 16, 0, bytes(range(32)), chunk(b"tRNS", b"\0\1"), chunk(b"tEXt", b"key\0value")),
    "gif": encode(noise().quantize(8), "GIF", transparency=3),
    "tiff": encode(noise(), "TIFF"),
    "webp": encode(noise("RGBA"), "WEBP"),
    "bmp": encode(noise(), "BMP"),
}
