"""``latentpatch fit``, and model files as sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.command_line import (
    PIXELS,
    contents,
    refused,
    run,
)


def test_fit_and_inspect(faces: Path, csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    options = ["--attributes", csv, "--components", 8, "--json"]
    run("fit", faces, "--autoencoder", "pixels:4", "--size", "48x64", *options, "-o", path)
    out, err = capsys.readouterr()
    assert err == f"{path}: 12 sources\n"
    fitted = json.loads(out)
    assert fitted.pop("skipped") == []
    assert fitted["ids"] == [source.stem for source in sorted(faces.iterdir())]
    assert fitted["image_size"] == [48, 64]
    assert fitted["grid"] == [12, 16]
    assert fitted["components"] == 8
    assert 0.5 < fitted["explained_variance"] < 1
    assert fitted["attributes"] == ["age", "file", "mood"]
    assert fitted["autoencoder"]["name"] == "pixels"
    assert contents(tmp_path).keys() == {"model.safetensors"}
    for arguments in (["--json"], []):
        run("inspect", path, *arguments)
        assert json.loads(capsys.readouterr().out) == fitted
    before = path.read_bytes()
    run("fit", faces, "--autoencoder", "pixels:4", "--size", "48x64", *options, "-o", path)
    assert path.read_bytes() == before


def test_a_model_file_is_what_it_was_fitted_as(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    run("fit", faces, *PIXELS, "-o", path)
    for option, value in (("--size", 64), ("--components", 8), ("--attributes", "known.csv")):
        line = refused(capsys, tmp_path, "generate", path, option, value)
        assert line.startswith(f"{option}: {path} is fitted already")
    path.write_bytes(path.read_bytes()[:-1000])
    assert refused(capsys, tmp_path, "generate", path).startswith(f"{path}: not a readable model file")
    assert refused(capsys, tmp_path, "inspect", path, output="").startswith(f"{path}: not a readable model file")


def test_fitted_files_are_named_as_such(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, tmp_path, "fit", faces, *PIXELS)
    assert line.startswith("--output ")
    assert ".safetensors" in line
