"""Look into PNG, JPEG and TIFF files before they are decoded: at chunks, scans and directories."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import BinaryIO

from PIL import PngImagePlugin

from ..errors import ImageError

__all__ = ["num_scans", "positive_tiff", "sound_png"]

# Encoders write chunks of 8 KiB and more, beside a few small ones. Pillow takes microseconds for each.
_MAX_SMALL_CHUNKS, _CHUNK_BYTES = 4096, 1024
_DECISIVE = (b"tRNS", b"fcTL", b"fdAT")  # ancillary chunks that pixels depend on

# Markers with their number, but for stuffed bytes and restarts, which are parts of a scan.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")

_MAX_PAGES = 64  # directories of a TIFF that are looked at
_PHOTOMETRIC = 262  # tag whose value 0 says that white is 0


def sound_png(stream: BinaryIO, label: str) -> tuple[BinaryIO, set[str]]:
    """Return a PNG without the ancillary chunks that are damaged or too large, and the names of these.

    Such chunks hold texts, profiles and dates, and pixels do not depend on them. Other streams are returned as they
    are, from their beginning.

    Raises:
        ImageError: for a PNG of more chunks than its size explains.
    """
    is_png = stream.read(8) == b"\x89PNG\r\n\x1a\n"
    end = stream.seek(0, io.SEEK_END)
    most, start, first, parts = _MAX_SMALL_CHUNKS + end // _CHUNK_BYTES, 8, 0, []
    dropped, parser = set(), PngImagePlugin.PngStream(io.BytesIO())
    stream.seek(start)
    while is_png and len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        most -= 1
        if most < 0:
            raise ImageError(label, "a PNG of too many chunks for its size")
        kind, following = head[4:], start + 12 + int.from_bytes(head[:4], "big")
        is_ancillary = kind.isalpha() and kind[:1].islower() and kind not in _DECISIVE
        if is_ancillary and following <= end and not _is_sound(parser, kind, stream.read(following - start - 8)):
            dropped.add(kind.decode("ascii"))
            parts.append((first, start))
            first = following
        start = stream.seek(following)
    stream.seek(0)
    if not dropped:
        return stream, dropped
    data = stream.read()
    return io.BytesIO(b"".join(data[begin:stop] for begin, stop in [*parts, (first, end)])), dropped


def _is_sound(parser: PngImagePlugin.PngStream, kind: bytes, body: bytes) -> bool:
    """Return whether a chunk's checksum is right, and Pillow can read its data; ``body`` is data and checksum."""
    data, checksum = body[:-4], body[-4:]
    if zlib.crc32(kind + data) != int.from_bytes(checksum, "big"):
        return False
    parser.fp = io.BytesIO(data)
    try:
        getattr(parser, f"chunk_{kind.decode('ascii')}", lambda *_: b"")(0, len(data))
    except Exception:  # of many types
        return False
    return True


def num_scans(data: bytes) -> int:
    """Return the number of scans of a JPEG up to its end, without what its segments hold."""
    position = count = 0
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            break
        if marker not in (0x01, 0xD8):  # these have no length
            count += marker == 0xDA
            position += int.from_bytes(data[position : position + 2], "big")
    return count


def positive_tiff(stream: BinaryIO) -> tuple[BinaryIO, list[bool]]:
    """Return a TIFF that says of all pages that 0 is black, and for each page whether it said that 0 is white.

    Pillow inverts greys of up to 8 bits alone. Other streams are returned as they are, from their beginning.
    """
    places: list[int | None] = []
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) == 16 else 0
    if version in (42, 43):  # the latter has 64-bit offsets
        offset, count, step, value = ("I", "H", 12, 8) if version == 42 else ("Q", "Q", 20, 12)
        width = struct.calcsize(f"<{offset}")
        place = struct.unpack_from(f"{order}{offset}", head, 4 if version == 42 else 8)[0]
        while place and len(places) < _MAX_PAGES:
            stream.seek(place)
            place += len(size := stream.read(struct.calcsize(f"<{count}")))
            if len(size) < struct.calcsize(f"<{count}"):
                break
            entries = stream.read(step * min(struct.unpack(f"{order}{count}", size)[0], 0xFFFF))
            tags = [struct.unpack_from(f"{order}H", entries, at)[0] for at in range(0, len(entries) - step + 1, step)]
            at = step * tags.index(_PHOTOMETRIC) + value if _PHOTOMETRIC in tags else None
            is_low = at is not None and entries[at : at + 2] == b"\0\0"
            places.append(place + at if at is not None and is_low else None)
            following = stream.read(width)
            place = struct.unpack(f"{order}{offset}", following)[0] if len(following) == width else 0
    stream.seek(0)
    if not any(place is not None for place in places):
        return stream, []
    data = bytearray(stream.read())
    for each in places:
        if each is not None:
            data[each : each + 2] = struct.pack(f"{order}H", 1)
    return io.BytesIO(bytes(data)), [each is not None for each in places]
