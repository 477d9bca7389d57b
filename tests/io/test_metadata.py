"""Records in PNG files read back; no bytes of others break a reader."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from helpers.errors import refuses_file
from helpers.picture_files import chunk, png

from latentpatch.errors import ImageError
from latentpatch.io.images import write_image
from latentpatch.io.metadata import parse_record, read_metadata, read_record, record_metadata


def test_a_record_reads_back(tmp_path: Path) -> None:
    record = {"seed": 3, "command": "generate", "settings": {"neighbors": 2, "where": "mood=glad"}}
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(3, 16, 16), {"note": "mine", **record_metadata(record)})
    assert read_record(path) == record
    assert parse_record(read_metadata(path)) == {"note": "mine", "latentpatch": record}
    assert record_metadata(record) == record_metadata(dict(reversed(record.items()))), "the order of keys is no matter"
    write_image(tmp_path / "b.jpg", torch.zeros(3, 16, 16))
    assert read_record(tmp_path / "b.jpg") == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"seed"', "[" * 100_000])
def test_a_chunk_that_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(3, 16, 16), {"latentpatch": text})
    assert read_record(path) == {}
    assert "latentpatch" in parse_record(read_metadata(path))


def test_constants_that_json_lacks_stay_text(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.zeros(3, 16, 16), {"latentpatch": '{"share": NaN}'})
    assert read_record(tmp_path / "a.png") == {"share": "NaN"}


def test_metadata_of_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"text")
    with refuses_file(path, "not recognised as a picture", ImageError):
        read_metadata(path)


def test_inflating_metadata_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**23)))
    path.write_bytes(png(16, 16, 8, 0, bytes(16), bomb, chunk(b"tEXt", b"other\0text")))
    assert path.stat().st_size < 20_000
    assert read_metadata(path) == {"other": "text"}
