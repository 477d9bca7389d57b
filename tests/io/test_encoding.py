"""Formats of pictures, with their records."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import refuses
from PIL import Image

from latentpatch.io.encoding import Encoding
from latentpatch.io.images import read_record, record_metadata

SMOOTH = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 48, 3)) * 3


@pytest.mark.parametrize(
    ("encoding", "kind", "most"),
    [
        (Encoding(), "PNG", 0),
        (Encoding("webp"), "WEBP", 0),
        (Encoding("webp", 80), "WEBP", 12),
        (Encoding("jpeg", 92), "JPEG", 12),
    ],
    ids=str,
)
def test_formats_keep_pixels_and_the_record(encoding: Encoding, kind: str, most: int, tmp_path: Path) -> None:
    record = {"seed": 2**63, "where": 'name="é"', "settings": {"neighbors": 3}}
    data = encoding.encode(SMOOTH, record_metadata(record))
    assert data == encoding.encode(SMOOTH, record_metadata(record))
    path = tmp_path / f"a{encoding.suffix}"
    path.write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind
        assert np.abs(np.asarray(image).astype(int) - SMOOTH).max() <= most
    assert read_record(path) == record
    path.write_bytes(encoding.encode(SMOOTH))
    assert read_record(path) == {}


def test_what_a_format_cannot_hold_is_refused() -> None:
    with refuses("format"):
        Encoding("jpeg", 92).encode(np.zeros((1, 70_000, 3), np.uint8))
    with refuses("format"):
        Encoding("jpeg", 92).encode(SMOOTH, record_metadata({"where": "x" * 70_000}))


@pytest.mark.parametrize("encoding", [Encoding("webp", 80), Encoding("jpeg", 1)], ids=str)
def test_records_name_lossy_formats(encoding: Encoding) -> None:
    assert Encoding.of_record(encoding.record()) == encoding
    for wrong in ({"format": "gif"}, {"quality": 0}, {"quality": 101}, {"quality": True}, {"format": ["jpeg"]}):
        assert Encoding.of_record({**encoding.record(), **wrong}) == Encoding()
    assert Encoding("webp").record() == {}
