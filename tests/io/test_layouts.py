"""Layouts of pictures: shards are put together from batches in any order, however often it is interrupted."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from latentpatch.io.layouts import DatasetFolder, PictureFolder, Shards


def rows(numbers: range) -> list[dict[str, Any]]:
    return [{"file": "", "seed": n, "shares": {"a": 0.75, "b": 0.25}, "label": "x", "class": n % 2} for n in numbers]


def put(layout: PictureFolder, first: int, last: int) -> None:
    layout.put(first, rows(range(first, last)), [b"%d" % n for n in range(first, last)])


def test_shards_hold_every_picture_in_order(tmp_path: Path) -> None:
    contents = []
    for name, batches in {
        "a": [(0, 4), (4, 8), (8, 11)],
        "b": [(8, 11), (0, 4), (4, 8), (0, 4)],
        "c": [(0, 11)],
    }.items():
        (tmp_path / name).mkdir()
        shards = Shards(tmp_path / name, 11, ".png", 3)
        for batch in batches:
            put(shards, *batch)
        shards.finish()
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1] == contents[2]
    assert sorted(contents[0]) == [f"shard-00000{i}.tar" for i in range(4)]
    with tarfile.open(tmp_path / "a" / "shard-000001.tar") as shard:
        assert shard.getnames() == [f"000{n}.{kind}" for n in (3, 4, 5) for kind in ("png", "json", "cls")]
        member = shard.extractfile("0004.json")
        assert member is not None
        assert json.loads(member.read()) == {"seed": 4, "shares": {"a": 0.75, "b": 0.25}, "label": "x"}
    assert Shards(tmp_path / "a", 11, ".png", 3).read(10, lambda name: tmp_path / "a" / name) == b"10"


def test_putting_shards_together_may_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(tmp_path, 6, ".png", 2)
    put(shards, 0, 6)

    def interrupt(self: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shards.finish()
    first = (tmp_path / "shard-000000.tar").read_bytes()
    again = Shards(tmp_path, 6, ".png", 2)
    again.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"shard-00000{i}.tar" for i in range(3)]
    assert (tmp_path / "shard-000000.tar").read_bytes() == first


def test_columns_of_a_data_set_do_not_depend_on_the_sources(tmp_path: Path) -> None:
    folder = DatasetFolder(tmp_path, 3, ".webp")
    row = {"file": folder.file(2), "seed": 7, "index": [[0]], "shares": {"a": 1.0}, "label": "x", "where": "l=x"}
    assert folder.describe(row) == {
        "file_name": "0002.webp", "seed": 7, "label": "x", "where": "l=x", "shares": [{"source": "a", "share": 1.0}]
    }  # fmt: skip


def test_names_sort_in_order_and_older_files_are_found(tmp_path: Path) -> None:
    assert [PictureFolder(tmp_path, n).file(9) for n in (1, 10_000, 10_001)] == ["0009.png", "0009.png", "00009.png"]
    for name in ("0000.png", "0001.png", "0002.png", "0001.jpg", "notes.png"):
        (tmp_path / name).write_bytes(b"")
    assert PictureFolder(tmp_path, 2).older(tmp_path) == ["0001.jpg", "0002.png"]
