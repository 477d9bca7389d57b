"""ICC profiles made byte by byte: of RGB by primaries and gamma, and of grey by gamma."""

from __future__ import annotations

import struct

import numpy as np

__all__ = ["PRIMARIES", "grey_profile", "rgb_profile"]

#: Red, green and blue of spaces as XYZ at the white point D50.
PRIMARIES = {
    "srgb": ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
    "adobe": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
    "p3": ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),
}


def rgb_profile(primaries: str = "adobe", gamma: float = 2.2) -> bytes:
    """A matrix profile; ``primaries`` is ``srgb``, ``adobe`` or ``p3``."""
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, PRIMARIES[primaries]), strict=True))
    return _profile(b"RGB ", {**columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))})


def grey_profile(gamma: float) -> bytes:
    """A profile of grey pictures."""
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"made for a test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78 + (-len(text) - 90) % 4),
        b"wtpt": _xyz((0.9642, 1.0, 0.8249)),
        b"cprt": b"text" + bytes(4) + text,
        **tags,
    }
    start = 128 + 4 + 12 * len(tags)
    places = np.cumsum([start, *(len(body) for body in tags.values())]).tolist()
    table = b"".join(
        name + struct.pack(">II", place, len(body)) for (name, body), place in zip(tags.items(), places, strict=False)
    )
    body = struct.pack(">I", len(tags)) + table + b"".join(tags.values())
    head = struct.pack(
        ">I4sI4s4s4s12s4s", 128 + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"
    )
    white = struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    return (head + bytes(28) + white).ljust(128, b"\0") + body
