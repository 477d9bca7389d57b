"""``latentpatch inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.command_line import (
    record,
    run,
)
from PIL import Image, PngImagePlugin

from latentpatch import LatentPatch, load_autoencoder
from latentpatch.io.images import encode_png


def test_inspect_needs_no_weights(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = load_autoencoder("taef2", pretrained=False)
    path = tmp_path / "model.safetensors"
    LatentPatch(network).fit(sorted(faces.iterdir())[:3], size=64).save(path)
    run("inspect", path)
    report = json.loads(capsys.readouterr().out)
    assert report["autoencoder"]["sha256"] == network.fingerprint()
    assert report["sources"] == 3


def test_inspect_a_picture(five: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", five / "0003.png")
    report = json.loads(capsys.readouterr().out)
    assert report["size"] == [64, 64]
    assert report["latentpatch"]["seed"] == 3
    assert report["latentpatch"]["settings"] == record(five)["settings"]
    run("inspect", faces / "face00.png", "--json")
    assert json.loads(capsys.readouterr().out) == {"size": [64, 64]}


def test_inspect_a_picture_of_someone_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[" * 100_000, "NaN", '{"a": [Infinity', "1" * 10_000, ""):
        chunks = PngImagePlugin.PngInfo()
        for key in ("latentpatch", "size", "Software"):
            chunks.add_text(key, text)
        Image.new("RGB", (32, 16)).save(tmp_path / "a.png", pnginfo=chunks)
        run("inspect", tmp_path / "a.png", "--json")

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        report = json.loads(capsys.readouterr().out, parse_constant=refuse)
        assert report == {"size": [16, 32], "latentpatch": text, "Software": text}


def test_inspect_a_folder(some: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (some / "text.png").write_text("This is a text.")
    (some / "small.png").write_bytes(encode_png(torch.zeros(3, 1, 1)))
    run("inspect", some)
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 6
    assert report["unusable"].keys() == {str(some / "text.png"), str(some / "small.png")}
    assert "1x1 pixels; sides must be at least 16" in report["unusable"][str(some / "small.png")]
