"""Pictures that cannot be used, and unusual ones that can."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import (
    PIXELS,
    RASTER,
    jpeg,
    pictures,
    record,
    refused,
    run,
    written,
)
from PIL import Image

from latentpatch.io.images import encode_png


def truncated_jpeg(path: Path) -> None:
    data = jpeg(Image.effect_noise((64, 64), 50).convert("RGB"), quality=95)
    path.write_bytes(data[: len(data) // 2])


def animated_gif(path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def enormous_png(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


BAD = {
    "cut.jpg": (truncated_jpeg, "damaged, truncated or unsupported"),
    "text.png": (lambda path: path.write_text("This is a text.\n" * 9), "still JPEG, PNG, WebP, BMP, TIFF and GIF"),
    "moves.gif": (animated_gif, "holds several frames or pages"),
    "dot.png": (
        lambda path: path.write_bytes(encode_png(torch.ones(3, 1, 1))),
        "1x1 pixels; sides must be at least 16",
    ),
    "huge.png": (enormous_png, "more than 67108864 pixels"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "still JPEG, PNG, WebP, BMP, TIFF and GIF"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_by_name(
    some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, message = BAD[name]
    good = some / "face00.png"
    make(some / name)
    for command in (["generate", some], ["reconstruct", some], ["generate", good, some / "face01.png", some / name]):
        line = refused(capsys, tmp_path, *command, *PIXELS)
        assert line.startswith(f"{some / name}: ")
        assert message in line
    others = [path for path in sorted(some.iterdir()) if path.name != name]
    box = ["--box", "0,0,32,32"]
    for command in (
        ["generate", *others, "--reference", some / name],
        ["inpaint", *others, "--image", some / name, *box],
        ["inpaint", *others, "--image", good, "--mask", some / name],
        ["edit", some / name, "--donor", good, *box],
        ["edit", good, "--donor", some / name, *box],
    ):
        assert refused(capsys, tmp_path, *command, *PIXELS).startswith(f"{some / name}: ")


def test_bad_pictures_are_skipped_on_demand(some: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", some, *PIXELS, "-n", 2, "-o", tmp_path / "good")
    run("reconstruct", some, *PIXELS, "-o", tmp_path / "good again")
    bad = sorted(some / name for name in BAD)
    for path in bad:
        BAD[path.name][0](path)
    capsys.readouterr()
    run("generate", some, *PIXELS, "-n", 2, "--skip-bad", "-o", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad) + 2
    assert lines[-2].startswith("4 sources: one may give up to ")
    for path, line in zip(bad, lines, strict=False):
        assert line.startswith(f"skipped: {path}: ")
        assert BAD[path.name][1] in line
    skipped = record(tmp_path / "out")["skipped"]
    assert [row["file"] for row in skipped] == [str(path) for path in bad]
    assert all(BAD[path.name][1] in row["reason"] for path, row in zip(bad, skipped, strict=True))
    assert record(tmp_path / "out")["ids"] == [f"face{i:02d}" for i in range(4)]
    assert pictures(tmp_path / "out") == pictures(tmp_path / "good")

    run("reconstruct", some, *PIXELS, "--skip-bad", "-o", tmp_path / "again")
    assert capsys.readouterr().err.count("skipped: ") == len(bad)
    assert record(tmp_path / "again", "reconstruct.json")["skipped"] == skipped
    assert pictures(tmp_path / "again") == pictures(tmp_path / "good again")

    run("fit", some, *PIXELS, "--skip-bad", "--json", "-o", tmp_path / "model.safetensors")
    report = json.loads(capsys.readouterr().out)
    assert report["skipped"] == skipped
    assert report["sources"] == 4


def test_nothing_but_bad_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("dot.png", "text.png"):
        BAD[name][0](tmp_path / "bad" / name)
    line = refused(capsys, tmp_path, "generate", tmp_path / "bad", *PIXELS, "--skip-bad", "--neighbors", 1)
    assert line.startswith(f"none of the 2 sources could be used; the first: {tmp_path / 'bad' / 'dot.png'}: 1x1")


@pytest.mark.parametrize(
    "kind", ["cmyk.jpg", "palette.png", "deep.png", "clear.png", "turned.jpg", "large.png", "flat.bmp"]
)
def test_unusual_pictures_are_used(some: Path, faces: Path, tmp_path: Path, kind: str) -> None:
    face = Image.open(faces / "face05.png").convert("RGB")
    path = some / kind
    expected, tolerance = np.asarray(face).astype(int), 0
    if kind == "cmyk.jpg":
        path.write_bytes(jpeg(face.convert("CMYK"), quality=95, subsampling=0))
        tolerance = 40
    elif kind == "palette.png":
        few = face.quantize(256)
        few.save(path)
        expected = np.asarray(few.convert("RGB")).astype(int)
    elif kind == "deep.png":
        grey = np.asarray(face.convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        expected = np.repeat(grey[..., None], 3, 2).astype(int)
    elif kind == "clear.png":
        clear = face.copy()
        clear.putalpha(Image.fromarray(np.tile(np.repeat([0, 255], 32).astype(np.uint8), (64, 1))))
        clear.save(path)
        expected[:, :32] = 255  # over white
    elif kind == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        path.write_bytes(jpeg(face.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95, subsampling=0))
        tolerance = 40
    elif kind == "large.png":  # cropped about the centre, then resized
        wide = Image.new("RGB", (400, 128), "red")
        wide.paste(face.resize((128, 128), Image.Resampling.NEAREST), (136, 0))
        wide.save(path)
        tolerance = 60
    else:
        face.save(path)
    run("reconstruct", path, *PIXELS, "-o", tmp_path / "one")
    difference = np.abs(written(tmp_path / "one" / "0000.png").astype(int) - expected)
    assert np.percentile(difference, 99) <= tolerance
    assert difference.mean() <= tolerance / 8
    run("generate", some, *PIXELS, "-n", 1, *RASTER, "--neighbors", 5, "-o", tmp_path / "out")
    assert len(record(tmp_path / "out")["ids"]) == 5


def test_a_profile_that_cannot_be_applied_is_noted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(3):
        options = {"icc_profile": b"no profile" * 20} if i == 1 else {}
        Image.effect_noise((64, 64), 50).save(folder / f"{i}.png", **options)
    run("fit", folder, "-o", tmp_path / "m.safetensors", *PIXELS)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "profile" in notes[0]
    assert "1.png" in notes[0]
