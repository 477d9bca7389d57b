"""Metadata of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from helpers.command_line import (
    PIXELS,
    run,
)
from helpers.paths import ROOT

from latentpatch.io.images import read_metadata, to_pil


def test_no_picture_tells_where_it_was_made(faces: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    to_pil(torch.ones(3, 64, 64)).save(mask)
    a, b = faces / "face00.png", faces / "face01.png"
    run("generate", faces, *PIXELS, "-n", 1, "--reference", a, "-o", tmp_path / "generate")
    run("inpaint", faces, *PIXELS, "-n", 1, "--image", a, "--mask", mask, "-o", tmp_path / "inpaint")
    run("edit", a, *PIXELS, "--donor", b, "--mask", mask, "-o", tmp_path / "edit")
    run("reconstruct", a, *PIXELS, "-o", tmp_path / "reconstruct")
    for command in ("generate", "inpaint", "edit", "reconstruct"):
        found = sorted((tmp_path / command).glob("*.png"))
        assert len(found) >= 2
        for path in found:
            text = json.dumps(read_metadata(path))
            for folder in (tmp_path, faces, ROOT, Path.home()):
                assert str(folder) not in text
        facts = json.loads(read_metadata(tmp_path / command / "0000.png")["latentpatch"])
        assert facts["command"] == command
        assert facts["autoencoder"].keys() == {"name", "downsampling", "sha256", "license"}
