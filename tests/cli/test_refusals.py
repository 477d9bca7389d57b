"""Requests that are refused: one line that names the fault, and nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import (
    PIXELS,
    RASTER,
    contents,
    jpeg,
    refused,
)
from PIL import Image

from latentpatch import Autoencoder, load_autoencoder
from latentpatch.cli.entry import main

IMAGE = ["--image", "FACES/face00.png"]

#: Command lines, and words that the one line about them holds: the argument at fault and its value.
CASES: dict[str, tuple[list[object], list[str]]] = {
    "missing folder": (["generate", "none"], ["none: no such file"]),
    "empty folder": (["generate", "hollow"], ["hollow: ", ".jpg"]),
    "text without pictures": (["generate", "hollow/empty.txt"], ["empty.txt: "]),
    "wrong list": (["generate", "hollow/wrong.txt"], ["wrong.txt: ", "line 2", "gone.png"]),
    "one source": (["generate", "FACES/face00.png"], ["sources", "2"]),
    "one for the raster": (["generate", "FACES/face00.png", *RASTER], ["neighbors", "at most 1 ", "3"]),
    "a source twice": (["generate", "FACES", "FACES/face00.png"], ["face00.png"]),
    "k > B": (["generate", "FACES", *RASTER, "--neighbors", 13], ["--neighbors ", "12", "13"]),
    "k > B by a former name": (["generate", "FACES", *RASTER, "--neighbours", 13], ["neighbors", "12", "13"]),
    "k = B": (["generate", "FACES", "--neighbors", 12, "--donors", "1.0"], ["--neighbors ", "11", "12"]),
    "many donors": (["generate", "FACES", "--donors", 1.5], ["donors", "1.5"]),
    "small share": (["generate", "FACES", "--max-share", 0.05], ["--max-share ", "0.05"]),
    "foreign": (["generate", "FACES", "--scales", 2], ["--scales ", "raster", "--preset paper"]),
    "foreign sweeps": (["generate", "FACES", *RASTER, "--sweeps", 2], ["--sweeps ", "resynthesis", "diffusion"]),
    "k > B'": (["generate", "FACES", "--attributes", "CSV", "--where", "age<22", *RASTER], ["neighbors", "2", "3"]),
    "large patch": (["generate", "FACES", *RASTER, "--patch-size", 11], ["--patch-size ", "10", "11"]),
    "large stride": (["generate", "FACES", *RASTER, "--stride", 7], ["--stride ", "6", "7"]),
    "large start": (["generate", "FACES", *RASTER, "--start-size", 17], ["--start-size ", "16", "17"]),
    "many components": (["generate", "FACES", "--components", 49], ["components", "48", "49"]),
    "odd size": (["generate", "FACES", "--size", 63], ["63"]),
    "huge size": (["generate", "FACES", "--size", 1000000], ["--size ", "67108864", "1000000"]),
    "wrong argument": (["generate", "FACES", "--autoencoder", "pixels:0"], ["downsampling", "0", "64"]),
    "missing weights": (["generate", "FACES", "--autoencoder", "taesd:none"], ["none", "taesd_encoder.pth"]),
    "missing reference": (["generate", "FACES", "--reference", "none.png"], ["none.png: "]),
    "guided baseline": (
        ["generate", "FACES", "--sampler", "random-cells", "--reference", "FACES/face00.png"],
        ["--reference ", "random-cells", "resynthesis"],
    ),
    "foreign setting": (
        ["generate", "FACES", "--sampler", "random-patches", "--stride", 2],
        ["--stride ", "resynthesis", "raster"],
    ),
    "missing table": (["generate", "FACES", "--attributes", "none.csv"], ["none.csv: "]),
    "wrong table": (["generate", "FACES", "--attributes", "hollow/wrong.csv"], ["wrong.csv", "line 3"]),
    "foreign table": (["generate", "FACES", "--attributes", "hollow/foreign.csv"], ["--attributes ", "'face00'"]),
    "no table": (["generate", "FACES", "--where", "mood=glad"], ["where", "mood"]),
    "unknown attribute": (
        ["generate", "FACES", "--attributes", "CSV", "--where", "hat=yes"],
        ["where", "hat", "age, file, mood"],
    ),
    "bad condition": (["generate", "FACES", "--attributes", "CSV", "--where", "mood ="], ["mood =", "position 7"]),
    "nobody": (["generate", "FACES", "--attributes", "CSV", "--where", "age>90"], ["where", "age>90", "12 sources"]),
    "not a model": (["generate", "hollow/wrong.safetensors"], ["wrong.safetensors: "]),
    "missing model": (["generate", "none.safetensors"], ["none.safetensors: "]),
    "sources that are not fitted": (["generate", "FACES", "--shard-bank"], ["--shard-bank ", "fit"]),
    "short box": (["inpaint", "FACES", *IMAGE, "--box", "1,2,3"], ["box ", "'1,2,3'"]),
    "box outside": (["inpaint", "FACES", *IMAGE, "--box", "0,0,65,9"], ["box ", "64 wide", "'0,0,65,9'"]),
    "empty box": (["edit", "FACES/face00.png", "--donor", "FACES/face01.png", "--box", "9,9,9,20"], ["9,9,9,20"]),
    "tiny box": (["edit", "FACES/face00.png", "--donor", "FACES/face01.png", "--box", "0,0,2,3"], ["mask", "cell"]),
    "black mask": (["inpaint", "FACES", *IMAGE, "--mask", "hollow/black.jpeg2"], ["mask", "cell"]),
    "missing mask": (["inpaint", "FACES", *IMAGE, "--mask", "none.png"], ["none.png: "]),
    "missing donor": (["edit", "FACES/face00.png", "--donor", "none.png", "--box", "0,0,9,9"], ["none.png: "]),
    "missing pictures": (["reconstruct", "none"], ["none: no such file"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_requests_are_named(
    faces: Path,
    csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    (hollow / "empty.txt").write_text("# nothing\n")
    (hollow / "wrong.txt").write_text("# one\ngone.png\n")
    (hollow / "wrong.csv").write_text("id,mood\nface00,glad\nface01\n")
    (hollow / "foreign.csv").write_text("id,mood\nsomeone,glad\n")
    (hollow / "wrong.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    (hollow / "black.jpeg2").write_bytes(jpeg(Image.new("L", (64, 64))))
    arguments, words = CASES[name]
    given = [str(argument).replace("FACES", str(faces)).replace("CSV", str(csv)) for argument in arguments]
    standard = [
        text for i, text in enumerate(PIXELS) if PIXELS[i - i % 2] not in given and "safetensors" not in given[1]
    ]
    line = refused(capsys, tmp_path, *given, *standard)
    assert all(word in line for word in words), line


def test_what_is_wrong_is_found_before_encoding(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any) -> None:
        raise AssertionError("encoding began")

    monkeypatch.setattr(Autoencoder, "encode", encode)
    for option, value in {
        "--neighbors": 13,
        "--patch-size": 11,
        "--where": "mood=",
        "--attributes": "none.csv",
    }.items():
        refused(capsys, tmp_path, "generate", faces, *PIXELS, *RASTER, option, value)


def test_output_within_the_sources_is_refused(some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(some)
    assert main(["generate", str(some), *PIXELS, "-o", str(some / "out")]) == 1
    assert "lies within the sources" in capsys.readouterr().err
    assert contents(some) == before


def test_weights_that_are_not_numbers(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    network = load_autoencoder("taesd", pretrained=False)
    for half in ("encoder", "decoder"):
        state = {key.partition(".")[2]: value for key, value in network.state_dict().items() if key.startswith(half)}
        if half == "decoder":
            state["19.bias"] = torch.full((3,), float("nan"))
        torch.save(state, folder / f"taesd_{half}.pth")
    place = tmp_path / "place"
    place.mkdir()
    command = ["generate", faces, "--autoencoder", f"taesd:{folder}", "--size", 160]
    line = refused(capsys, place, *command)
    assert line.startswith(f"{folder}: ")
    assert "decoder.19.bias" in line
    assert "NaN" in line


def test_weights_that_do_not_fit(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").mkdir()
    for half in ("encoder", "decoder"):
        torch.save({"0.weight": torch.zeros(1)}, tmp_path / "weights" / f"taesd_{half}.pth")
    (tmp_path / "place").mkdir()
    line = refused(capsys, tmp_path / "place", "generate", faces, "--autoencoder", f"taesd:{tmp_path / 'weights'}")
    assert line.startswith(f"{tmp_path / 'weights'} does not fit taesd: ")
    assert "encoder.1.conv" in line
