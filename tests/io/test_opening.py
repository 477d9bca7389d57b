"""Picture files are read rightly or refused by name, whatever their bytes."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.errors import refuses, refuses_file
from helpers.picture_files import SEEDS, chunk, encode, levels, noise, pixel, png, tiff, with_checksums
from PIL import Image

from latentpatch.errors import ImageError, ImageTooLargeError, SettingTypeError
from latentpatch.io.images import MIN_SIDE, read_image, read_mask, read_metadata

# --- Reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_read_exactly(tmp_path: Path, kind: str) -> None:
    image = noise()
    path = tmp_path / "a.any"  # the contents decide, not the suffix
    path.write_bytes(encode(image, kind))
    expected = np.asarray(image)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert np.array_equal(levels(read_image(source)), expected)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 95})])
def test_lossy_formats_read_nearly(kind: str, options: dict[str, object]) -> None:
    image = noise(width=4, height=4).resize((32, 32), Image.Resampling.BICUBIC)
    error = np.abs(levels(read_image(encode(image, kind, **options))).astype(int) - np.asarray(image).astype(int))
    assert error.mean() < 8


def test_modes_become_rgb() -> None:
    grey = noise("L")
    assert np.array_equal(levels(read_image(encode(grey, "PNG"))), np.asarray(grey.convert("RGB")))
    bits = grey.convert("1")
    assert np.array_equal(levels(read_image(encode(bits, "PNG"))), np.asarray(bits.convert("RGB")))
    palette = noise().quantize(16)
    for kind in ("PNG", "GIF", "BMP"):
        assert np.array_equal(levels(read_image(encode(palette, kind))), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    red, green, blue = pixel(read_image(encode(image, kind)), 5, 5)
    assert red > 240
    assert green < 15
    assert blue < 15


def test_ycbcr_and_lab() -> None:
    colour = (200, 30, 60)
    ycbcr = Image.new("RGB", (32, 32), colour).convert("YCbCr")
    assert (
        np.abs(np.subtract(pixel(read_image(encode(ycbcr, "TIFF", compression="tiff_lzw")), 5, 5), colour)).max() <= 2
    )
    lab = Image.new("LAB", (32, 32), (110, 128 + 64, 128 + 28))  # L* 43, a* 64, b* 28
    red, green, blue = pixel(read_image(encode(lab, "TIFF")), 5, 5)
    assert red > 150
    assert green < 60
    assert blue < 110


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 10, 20))
    image.paste((0, 0, 0, 102), (0, 0, 10, 10))
    for kind in ("PNG", "TIFF"):
        read = read_image(encode(image, kind))
        assert pixel(read, 5, 5) == (153, 153, 153)
        assert pixel(read, 5, 15) == (255, 0, 0)
        assert pixel(read, 15, 5) == (255, 255, 255)
    webp = read_image(encode(image, "WEBP", lossless=True))
    assert pixel(webp, 15, 5) == (255, 255, 255)
    grey = Image.new("LA", (20, 20), (0, 51))
    assert pixel(read_image(encode(grey, "PNG")), 3, 3) == (204, 204, 204)


def test_palette_transparency() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 10, 20))
    image.paste(2, (0, 0, 10, 10))
    alphas = read_image(encode(image, "PNG", transparency=bytes([0, 255, 102])))
    index = read_image(encode(image, "GIF", transparency=0))
    assert pixel(alphas, 15, 5) == pixel(index, 15, 5) == (255, 255, 255)
    assert pixel(alphas, 5, 15) == pixel(index, 5, 15) == (255, 0, 0)
    assert pixel(alphas, 5, 5) == (153, 153, 255)
    assert pixel(index, 5, 5) == (0, 0, 255)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "rest"),
    [
        (1, 0, b"\x0f\xff", (0,), 255),
        (2, 0, b"\x00\x00\xff\xff", (0,), 255),
        (2, 0, b"\xff\xff\x55\x55", (3,), 85),
        (4, 0, b"\x11" * 4 + b"\x22" * 4, (1,), 34),
        (8, 0, b"\x10" * 8 + b"\x20" * 8, (16,), 32),
        (16, 0, b"\x10\x01" * 8 + b"\x10\x02" * 8, (0x1001,), 16),
        (8, 2, b"\x01\x02\x03" * 8 + b"\x09\x09\x09" * 8, (1, 2, 3), 9),
        (16, 2, b"\x10\x01" * 24 + b"\x20\x02" * 24, (0x1001,) * 3, 32),
    ],
)
def test_transparent_colours_of_png(depth: int, colour: int, row: bytes, transparent: tuple[int], rest: int) -> None:
    keyed = chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in transparent))
    read = read_image(png(16, 16, depth, colour, row, keyed))
    assert pixel(read, 0, 0) == (255, 255, 255)
    assert pixel(read, 15, 0) == (rest, rest, rest)


def test_deep_grey_is_scaled_not_clipped() -> None:
    values = (np.arange(20 * 24, dtype=np.uint16) * 136).reshape(20, 24)
    expected = np.repeat((values.astype(np.float64) / 257).round().astype(np.uint8)[..., None], 3, 2)
    assert expected.max() > 250
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(levels(read_image(encode(Image.fromarray(values), kind))), expected)
    big_endian = Image.frombytes("I;16B", (24, 20), values.astype(">u2").tobytes())
    assert np.array_equal(levels(read_image(encode(big_endian, "TIFF"))), expected)


def test_twelve_bit_grey() -> None:
    two_pixels = bytes([0xFF, 0xF8, 0x00])  # 4095, 2048
    read = read_image(tiff(16, 16, 12, 1, two_pixels * 128))
    assert pixel(read, 0, 0) == (255, 255, 255)
    assert pixel(read, 1, 0) == (128, 128, 128)


@pytest.mark.parametrize("sample_format", [1, 2, 3])
def test_32_bit_pixels_are_refused(sample_format: int) -> None:
    with refuses_file("x.tif", "32-bit pixels", ImageError):
        read_image(tiff(16, 16, 32, sample_format, bytes(16 * 16 * 4)), name="x.tif")


# Where the corners of the upright picture (top left, top right, bottom left) lie in what is stored.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = (255, 0, 0)
    upright[:16, 32:] = (0, 255, 0)
    upright[16:, :16] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    read = levels(read_image(encode(stored, kind, exif=exif, **options)))
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright)[4:12, 4:-4].max() < 40
    assert np.abs(read.astype(int) - upright)[20:-4, 4:-4].max() < 40


def test_unreadable_exif_is_no_obstacle() -> None:
    image = Image.new("RGB", (32, 32), (10, 20, 30))
    for exif in (b"Exif\0\0II*\0", b"Exif\0\0garbage!", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff"):
        assert pixel(read_image(encode(image, "PNG", exif=exif)), 0, 0) == (10, 20, 30)
        assert read_image(encode(image, "JPEG", exif=exif)).shape == (3, 32, 32)


def test_the_first_picture_of_a_phone_photograph_counts() -> None:
    data = encode(Image.new("RGB", (32, 32), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    assert pixel(read_image(data), 9, 9)[0] > 240


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    other = noise().rotate(180)
    data = encode(noise(), kind, save_all=True, append_images=[other])
    with refuses_file("x", "holds several frames or pages", ImageError):
        read_image(data, name="x")


# --- Refusals ----------------------------------------------------------------------------------


def test_enormous_headers_are_refused_before_decoding() -> None:
    for side, message in ((40_000, "more than 67108864 pixels"), (9_000, "9000x9000 is more than 67108864 pixels")):
        with refuses_file("image data", message, ImageTooLargeError):
            read_image(png(side, side, 8, 2, b""))
    bomb = bytearray(encode(Image.new("L", (32, 32)), "BMP"))
    bomb[18:26] = struct.pack("<ii", 40_000, 40_000)
    with refuses_file("image data", "more than 67108864 pixels", ImageTooLargeError):
        read_image(bytes(bomb))


@pytest.mark.parametrize("shape", [(1, 1), (MIN_SIDE - 1, 100), (100, MIN_SIDE - 1)])
def test_tiny_pictures_are_refused(shape: tuple[int, int]) -> None:
    with refuses_file("image data", f"{shape[0]}x{shape[1]} pixels; sides must be at least 16", ImageError):
        read_image(encode(Image.new("RGB", shape), "PNG"))
    assert read_image(encode(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")).shape == (3, MIN_SIDE, MIN_SIDE)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"This is a text.\n" * 20, b"%!PS-Adobe-3.0\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(data)
    with refuses_file(path, "JPEG, PNG, WebP, BMP, TIFF and GIF", ImageError):
        read_image(path)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PDF"])
def test_other_formats_are_refused(kind: str) -> None:
    with refuses_file("image data", "JPEG, PNG, WebP, BMP, TIFF and GIF", ImageError):
        read_image(encode(noise(), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    data = encode(noise(), kind)
    path = tmp_path / "cut.png"
    for length in [*range(1, 64), *range(64, len(data) * 9 // 10, 97)]:
        path.write_bytes(data[:length])
        with refuses_file(path, "", ImageError):
            read_image(path)


def test_png_checksums_are_checked() -> None:
    data = encode(noise(), "PNG")
    for kind in (b"IHDR", b"IDAT"):
        start = data.index(kind) - 4
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        altered = data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]
        with pytest.raises(ImageError):
            read_image(altered)
    with pytest.raises(ImageError):
        read_image(data[:-12])  # the pixels are complete, but not the file


@pytest.mark.parametrize("kind", SEEDS)
def test_random_damage_gives_a_tensor_or_an_image_error(tmp_path: Path, kind: str) -> None:
    data = SEEDS[kind]
    assert read_image(data, (16, 16)).shape == (3, 16, 16)
    path = tmp_path / "damaged.png"
    generator = random.Random(7)
    outcomes = {True: 0, False: 0}
    for _ in range(250):
        damaged = bytearray(data)
        reach = generator.choice((64, len(data)))  # headers are short, so hit them often
        for _ in range(generator.choice((1, 1, 2, 8))):
            damaged[generator.randrange(min(reach, len(data)))] ^= generator.randrange(1, 256)
        if generator.random() < 0.1:
            del damaged[generator.randrange(len(damaged)) :]
        content = with_checksums(bytes(damaged)) if "png" in kind else bytes(damaged)
        try:
            image = read_image(content, (16, 16), name="damaged")
            levels(image)
            outcomes[True] += 1
        except ImageError as error:
            assert error.path == "damaged"  # noqa: PT017
            outcomes[False] += 1
        path.write_bytes(content)
        for read in (lambda: read_mask(path, (16, 16)), lambda: read_metadata(path)):
            try:
                read()
            except ImageError as error:
                assert error.path == str(path)  # noqa: PT017
    assert outcomes[True] > 5
    assert outcomes[False] > 5


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with refuses_file("none.png", "cannot be read: No such file", ImageError):
        read_image(tmp_path / "none.png")
    with refuses_file("below.png", "cannot be read: Not a directory", ImageError):
        read_image(tmp_path / "file" / "below.png")
    with refuses_file(tmp_path, "not a file", ImageError):
        read_image(tmp_path)
    with refuses_file("nul\0.png", "cannot be read", ImageError):
        read_image("nul\0.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with refuses_file("pipe.png", "not a file", ImageError):
            read_image(tmp_path / "pipe.png")


def test_wrong_arguments() -> None:
    with refuses("source", SettingTypeError):
        read_image(3)  # type: ignore[arg-type]
    with refuses("source", SettingTypeError):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]
    for size in ((0, 16), (16, -1), (16,), (16.0, 16)):
        with refuses("size"):
            read_image(SEEDS["png"], size)  # type: ignore[arg-type]


def test_a_stream_that_fails_is_an_image_error() -> None:
    class Failing(io.RawIOBase):
        name = "failing.png"

        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with refuses_file("failing.png", "cannot be read: Input/output error", ImageError):
        read_image(Failing())  # type: ignore[arg-type]
