"""Rows of evaluation tables: their text, JSON, settings and identity."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.errors import refuses
from helpers.paths import ROOT

from latentpatch import SAMPLERS, FileError, LatentPatch, Settings, register, setting
from latentpatch.evaluation import Row, RowError, parse_row, read_tables, standard_rows
from latentpatch.methods.latent.random_tiles import RandomCells


def test_rows_are_text() -> None:
    row = parse_row("big patches, few sources: raster patch_size=8 scales=null bank=16 decoding=unproject")
    assert row == Row("big patches, few sources", "raster", {"patch_size": 8, "scales": None}, "unproject", 16)
    assert parse_row("random-cells").name == "random-cells"
    assert parse_row("raster stride=2").name == "raster stride=2"


@pytest.mark.parametrize(
    ("text", "name", "value", "constraint"),
    [
        ("painter", "sampler", "painter", "one of resynthesis, diffusion, raster"),
        ("raster color=red", "settings", "color", "one of patch_size, stride, neighbors"),
        ("raster decoding=jpeg", "decoding", "jpeg", "one of "),
        ("raster bank=0", "bank", 0, "at least 1"),
        ("raster bank=many", "bank", "many", "an integer"),
        ("sources stride=1", "settings", {"stride": 1}, "absent: sources takes no settings"),
        ("sources bank=3", "settings", {}, "absent: sources takes no settings"),
    ],
)
def test_rows_of_unknown_names_and_values_are_refused(text: str, name: str, value: object, constraint: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(text)
    error = caught.value
    assert (error.row, error.name, error.value) == (text, name, value)
    assert error.constraint.startswith(constraint)
    assert str(error).startswith(f"row {text!r}: {name} must be ")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("text", ["", "name: ", "raster patch_size", "raster stride=1 stride=2"])
def test_other_texts_are_no_rows(text: str) -> None:
    with refuses("row") as caught:
        parse_row(text)
    assert caught.value.value == text


@dataclass(frozen=True)
class SweepSettings(Settings):
    windows: tuple[int, ...] = setting((16, 8), "sides")
    temperature: float = setting(1.0, "temperature")
    mode: str = setting("nearest", "way of choosing")


class Sweep(RandomCells):
    """Draw cells, with settings of several types."""

    name = "sweep"
    Settings = SweepSettings


def test_rows_work_for_any_sampler(model: LatentPatch, request: pytest.FixtureRequest) -> None:
    register(Sweep)
    request.addfinalizer(lambda: SAMPLERS.remove("sweep"))
    row = parse_row("sweep windows=16,11,9 temperature=0.5 mode=soft")
    assert row.settings_for(model) == SweepSettings((16, 11, 9), 0.5, "soft")
    hash(row.settings_for(model))
    assert row.identity(model)["settings"] == {"windows": [16, 11, 9], "temperature": 0.5, "mode": "soft"}
    assert "sweep (default)" in [each.name for each in standard_rows()]


def test_identity_decides_the_images(model: LatentPatch) -> None:
    default = parse_row("raster").identity(model)
    assert parse_row("the paper: raster patch_size=6 stride=2 bank=12").identity(model) == default
    assert parse_row("raster stride=1").identity(model) != default
    assert parse_row("raster bank=11").identity(model) != default
    for text, name in (("raster patch_size=0", "patch_size"), ("raster neighbors=4 bank=3", "neighbors")):
        with pytest.raises(RowError) as caught:
            parse_row(text).identity(model)
        assert (caught.value.row, caught.value.name) == (text, name)


def test_tables_are_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"One": ["raster", {"name": "b", "sampler": "raster", "settings": {"stride": 1}}]}))
    assert read_tables(path) == {"One": [Row("raster", "raster"), Row("b", "raster", {"stride": 1})]}
    path.write_text('["raster stride=2"]')
    assert list(read_tables(path)) == ["rows"]
    misshapen = [
        '{"name": "a"}',
        '{"name": "a", "sampler": "raster", "settings": 3}',
        '{"name": 3, "sampler": "raster"}',
    ]
    for text in ("", "3", "{}", '{"a": 1}', "[3]", '["painter"]', "[" * 9999, *(f"[{row}]" for row in misshapen)):
        path.write_text(text)
        with pytest.raises(FileError) as caught:
            read_tables(path)
        assert caught.value.path == path
    with pytest.raises(FileError) as caught:
        read_tables(tmp_path / "none.json")
    assert caught.value.path == tmp_path / "none.json"


def test_the_repositorys_tables_are_rows_of_these_samplers() -> None:
    names = {path.stem: read_tables(path) for path in (ROOT / "benchmarks" / "tables").glob("*.json")}
    assert {"results", "autoencoders"} <= set(names)
    assert len(names["results"]) == 5
