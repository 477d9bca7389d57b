"""Pictures are read rightly or refused by name, whatever the bytes; what is written reads back."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latentpatch.errors import FileError, ImageError
from latentpatch.io.images import (
    MIN_SIDE,
    SUFFIXES,
    contact_sheet,
    encode_png,
    identifiers,
    list_images,
    parse_box,
    read_image,
    read_mask,
    read_metadata,
    to_pil,
    write_image,
)

# --- Fabrication -------------------------------------------------------------------------------


def noise(mode: str = "RGB", width: int = 24, height: int = 20) -> Image.Image:
    """A picture of seeded random bytes."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """A PNG of equal rows, ``extra`` chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * min(height, 64))
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")])


def tiff(width: int, height: int, bits: int, sample_format: int, pixels: bytes) -> bytes:
    """An uncompressed grey TIFF of one strip."""
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
        (279, len(pixels)), (339, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def levels(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8; checks what every picture must be."""
    assert image.dtype == torch.float32
    assert image.ndim == 3
    assert image.shape[0] == 3
    assert image.is_contiguous()
    assert 0 <= image.min() <= image.max() <= 1
    scaled = image.mul(255).permute(1, 2, 0).numpy()
    assert np.allclose(scaled, scaled.round(), atol=1e-4)
    return scaled.round().astype(np.uint8)


def pixel(image: Tensor, x: int, y: int) -> tuple[int, ...]:
    return tuple(levels(image)[y, x].tolist())


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
    with pytest.raises(ImageError, match=r"x\.tif: "):
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
    with pytest.raises(ImageError, match=r"x: holds several frames or pages; a still picture is expected"):
        read_image(data, name="x")


# --- Refusals ----------------------------------------------------------------------------------


def test_enormous_headers_are_refused_before_decoding() -> None:
    for side, message in ((40_000, "more than 67108864 pixels"), (9_000, "9000x9000 is more than 67108864 pixels")):
        with pytest.raises(ImageError, match=message):
            read_image(png(side, side, 8, 2, b""))
    bomb = bytearray(encode(Image.new("L", (32, 32)), "BMP"))
    bomb[18:26] = struct.pack("<ii", 40_000, 40_000)
    with pytest.raises(ImageError, match="more than 67108864 pixels"):
        read_image(bytes(bomb))


@pytest.mark.parametrize("shape", [(1, 1), (MIN_SIDE - 1, 100), (100, MIN_SIDE - 1)])
def test_tiny_pictures_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"{shape[0]}x{shape[1]} pixels; sides of at least 16"):
        read_image(encode(Image.new("RGB", shape), "PNG"))
    assert read_image(encode(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")).shape == (3, MIN_SIDE, MIN_SIDE)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"This is a text.\n" * 20, b"%!PS-Adobe-3.0\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"text\.png: .*JPEG, PNG, WebP, BMP, TIFF or GIF picture is expected"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PDF"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="JPEG, PNG, WebP, BMP, TIFF or GIF"):
        read_image(encode(noise(), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    data = encode(noise(), kind)
    path = tmp_path / "cut.png"
    for length in [*range(1, 64), *range(64, len(data) * 9 // 10, 97)]:
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"cut\.png: "):
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


def with_checksums(data: bytes) -> bytes:
    """The chunks of a PNG with their checksums put right, so that what they hold is looked at."""
    parts, start = [data[:8]], 8
    while start + 12 <= len(data):
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        if end > len(data):
            break
        parts.append(chunk(data[start + 4 : start + 8], data[start + 8 : end - 4]))
        start = end
    return b"".join([*parts, data[start:]])


SEEDS = {
    "jpeg": encode(noise(), "JPEG"),
    "png": encode(noise(), "PNG"),
    "palette png": encode(noise().quantize(8), "PNG", transparency=bytes([0, 99]), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "grey png": png(16, 16, 16, 0, bytes(range(32)), chunk(b"tRNS", b"\0\1"), chunk(b"tEXt", b"key\0value")),
    "gif": encode(noise().quantize(8), "GIF", transparency=3),
    "tiff": encode(noise(), "TIFF"),
    "webp": encode(noise("RGBA"), "WEBP"),
    "bmp": encode(noise(), "BMP"),
}


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
            assert str(error).startswith("damaged: ")  # noqa: PT017
            outcomes[False] += 1
        path.write_bytes(content)
        for read in (lambda: read_mask(path, (16, 16)), lambda: read_metadata(path)):
            try:
                read()
            except ImageError as error:
                assert "damaged.png: " in str(error)  # noqa: PT017
    assert outcomes[True] > 5
    assert outcomes[False] > 5


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match=r"none\.png: cannot be read: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"below\.png: cannot be read: Not a directory"):
        read_image(tmp_path / "file" / "below.png")
    with pytest.raises(ImageError, match="not a file"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image("nul\0.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ImageError, match=r"pipe\.png: not a file"):
            read_image(tmp_path / "pipe.png")


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="a path, bytes or a binary stream"):
        read_image(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="binary stream"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]
    for size in ((0, 16), (16, -1), (16,), (16.0, 16)):
        with pytest.raises(ValueError, match="size"):
            read_image(SEEDS["png"], size)  # type: ignore[arg-type]


def test_a_stream_that_fails_is_an_image_error() -> None:
    class Failing(io.RawIOBase):
        name = "failing.png"

        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(ImageError, match=r"failing\.png: cannot be read: Input/output error"):
        read_image(Failing())  # type: ignore[arg-type]


# --- Sizes and masks ---------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90)])
def test_the_centre_is_cropped_to_the_aspect_ratio(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), "red")
    left, top = (width - 30) // 2, (height - 30) // 2
    image.paste((0, 255, 0), (left, top, left + 30, top + 30))
    read = read_image(encode(image, "PNG"), (15, 15))
    assert (levels(read) == (0, 255, 0)).all()


@pytest.mark.parametrize("size", [(16, 16), (20, 24), (1, 1), (7, 300), (300, 7), (37, 41), (40, 48)])
def test_any_size_can_be_had(size: tuple[int, int]) -> None:
    read = read_image(SEEDS["png"], size)
    assert read.shape == (3, *size)
    levels(read)
    assert torch.equal(read, read_image(SEEDS["png"], size))
    assert read_mask(SEEDS["png"], size).shape == size


def test_the_size_it_has_changes_nothing() -> None:
    assert torch.equal(read_image(SEEDS["png"], (20, 24)), read_image(SEEDS["png"]))


def test_the_aspect_ratio_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encode(noise(width=48, height=32), "PNG", exif=exif)).shape == (3, 48, 32)


def test_masks_select_what_is_bright_and_opaque() -> None:
    image = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 16, 16))
    image.paste((127, 127, 127, 255), (16, 0, 32, 16))
    image.paste((128, 128, 128, 255), (16, 16, 32, 32))
    mask = read_mask(encode(image, "PNG"), (32, 32))
    assert mask.dtype == torch.bool
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[:16, :16] = expected[16:, 16:] = True
    assert torch.equal(mask, expected)
    small = read_mask(encode(image, "PNG"), (4, 4))
    assert torch.equal(small, expected[::8, ::8])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_of_any_mode(mode: str) -> None:
    image = Image.new("L", (60, 30), 0)
    image.paste(255, (15, 0, 30, 30))  # the left half of the centre
    mask = read_mask(encode(image.convert(mode), "PNG"), (30, 30))
    assert mask[:, :15].all()
    assert not mask[:, 15:].any()


def test_boxes() -> None:
    mask = parse_box("1, 2,4,3", (5, 6))
    assert mask.shape == (5, 6)
    assert mask.dtype == torch.bool
    assert mask.nonzero().tolist() == [[2, 1], [2, 2], [2, 3]]
    assert parse_box("0,0,6,5", (5, 6)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "four whole numbers"),
        ("1,2,3", "four whole numbers"),
        ("1,2,3,4,5", "four whole numbers"),
        ("a,0,1,1", "four whole numbers"),
        ("-1,0,1,1", "four whole numbers"),
        ("0.5,0,1,1", "four whole numbers"),
        ("²,0,1,1", "four whole numbers"),
        ("0,0,9999999999999999999999,1", "four whole numbers"),
        ("2,0,2,1", "empty"),
        ("0,3,1,2", "empty"),
        ("0,0,7,5", "6 wide and 5 high"),
        ("0,0,6,6", "6 wide and 5 high"),
    ],
)
def test_wrong_boxes_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_box(text, (5, 6))
    assert repr(text) in str(caught.value)


# --- Writing -----------------------------------------------------------------------------------


def test_rounding_to_eight_bits() -> None:
    values = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1 / 255, 254.4 / 255, 254.6 / 255, 1.0, 1.5, -0.5])
    image = to_pil(values.expand(3, 1, 9))
    assert image.mode == "RGB"
    assert image.size == (9, 1)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 1, 254, 255, 255, 255, 0]


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(TypeError, match="floating-point"):
        to_pil(torch.zeros(3, 4, 4, dtype=torch.uint8))
    for shape in ((4, 4), (1, 4, 4), (1, 3, 4, 4), (3, 0, 4)):
        with pytest.raises(ValueError, match="shape"):
            to_pil(torch.zeros(shape))
    with pytest.raises(ValueError, match="NaN"):
        to_pil(torch.full((3, 4, 4), float("nan")))


METADATA = {"seed": "1", "note": "naïve", "title": "日本", "long": "x\n" * 5000, "empty": ""}


def test_png_round_trip(tmp_path: Path) -> None:
    image = read_image(SEEDS["png"])
    path = tmp_path / "a.PNG"
    write_image(path, image, METADATA)
    assert torch.equal(read_image(path), image)
    assert read_metadata(path) == METADATA
    assert path.read_bytes() == encode_png(image, METADATA)
    write_image(str(path), image)
    assert read_metadata(path) == {}


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP"), (".png", "PNG")])
def test_suffixes_decide_and_bytes_repeat(tmp_path: Path, suffix: str, kind: str) -> None:
    image = torch.linspace(0, 1, 32).expand(3, 32, 32)
    for name in ("a", "b"):
        write_image(tmp_path / (name + suffix), image)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with Image.open(tmp_path / f"a{suffix}") as written:
        assert written.format == kind
    assert (read_image(tmp_path / f"a{suffix}") - image).abs().mean() < 0.02
    assert read_metadata(tmp_path / f"a{suffix}") == {}


def test_unusable_names_and_metadata_are_refused(tmp_path: Path) -> None:
    image = torch.zeros(3, 16, 16)
    for name in ("a", "a.gif", "a.txt"):
        with pytest.raises(ValueError, match=r"\.png, \.jpg, \.jpeg or \.webp"):
            write_image(tmp_path / name, image)
    with pytest.raises(ValueError, match=r"only \.png keeps metadata"):
        write_image(tmp_path / "a.jpg", image, {"seed": "1"})
    for key in ("", "x" * 80, "日", "a\0b"):
        with pytest.raises(ValueError, match="keyword"):
            write_image(tmp_path / "a.png", image, {key: "1"})
    assert not list(tmp_path.iterdir())


def test_sides_that_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write .*a\.jpg"):
        write_image(tmp_path / "a.jpg", torch.zeros(3, 1, 70_000))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(3, 16, 16))
    before = path.read_bytes()

    def write_half(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(FileError, match=r"a\.png: No space left on device"):
        write_image(path, torch.ones(3, 16, 16))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_of_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"text")
    with pytest.raises(ImageError, match=r"a\.png"):
        read_metadata(path)


def test_inflating_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**23)))
    path.write_bytes(png(16, 16, 8, 0, bytes(16), bomb))
    assert path.stat().st_size < 20_000
    with pytest.raises(ImageError, match=r"bomb\.png"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("count", "columns", "rows_and_columns"),
    [(1, None, (1, 1)), (2, None, (1, 2)), (5, None, (2, 3)), (9, None, (3, 3)), (3, 1, (3, 1)), (2, 4, (1, 4))],
)
def test_contact_sheets(count: int, columns: int | None, rows_and_columns: tuple[int, int]) -> None:
    rows, across = rows_and_columns
    images = torch.arange(count, dtype=torch.float64).div(10).view(-1, 1, 1, 1).expand(count, 3, 4, 6)
    sheet = contact_sheet(images, columns, padding=2)
    assert sheet.shape == (3, rows * 6 + 2, across * 8 + 2)
    assert sheet.dtype == torch.float64
    for index in range(count):
        top, left = index // across * 6 + 2, index % across * 8 + 2
        assert torch.equal(sheet[:, top : top + 4, left : left + 6], images[index])
    assert int((sheet == 1).all(0).sum()) == sheet[0].numel() - count * 24


def test_contact_sheets_of_nothing() -> None:
    assert torch.equal(contact_sheet(torch.zeros(1, 3, 4, 4), padding=0), torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="shape"):
        contact_sheet(torch.zeros(0, 3, 4, 4))
    with pytest.raises(ValueError, match="shape"):
        contact_sheet(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="columns 0"):
        contact_sheet(torch.zeros(1, 3, 4, 4), 0)


# --- Finding -----------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names_below(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_folders_are_searched(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.PNG", "a.jpg", "sub/z.gif", "sub/y.tif", "sub-1/x.webp", ".hidden.png", ".git/x.png", "notes.txt"
    )
    touch(tmp_path, *(f"all/x{suffix}" for suffix in SUFFIXES))
    found = names_below(tmp_path, list_images(str(tmp_path)))
    others = sorted(f"all/x{suffix}" for suffix in SUFFIXES)
    assert found == ["a.jpg", *others, "b.PNG", "sub/y.tif", "sub/z.gif", "sub-1/x.webp"]


def test_sources_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.png", "m.png", "a/b.png")
    found = list_images(tmp_path / "z", tmp_path / "m.png", tmp_path / "a")
    assert names_below(tmp_path, found) == ["z/a.png", "m.png", "a/b.png"]


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path, "pictures/b b.png", "pictures/a.png", "c.png")
    text = f"\ufeff# pictures\r\n\r\n  b b.png \r\n../c.png\n{tmp_path / 'pictures' / 'a.png'}"
    (tmp_path / "pictures" / "list.txt").write_text(text, encoding="utf-8", newline="")
    found = list_images(tmp_path / "pictures" / "list.txt")
    assert [path.name for path in found] == ["b b.png", "c.png", "a.png"]
    assert all(path.is_file() for path in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a.png\n\nnone.png\n", r"line 3: none\.png: no such file"),
        (b"a.png\nx" + b"y" * 5000 + b".png\n", "line 2: .*: no such file"),
        (b"a.png\n.\n", r"line 2: \.: no such file"),
        (b"# a\nlist.txt\n", r"line 2: list\.txt: not a picture; accepted: \.jpg"),
        (b"# only\n\n", "lists no images"),
        (b"\xff\xfe", "not a readable UTF-8 text file"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(FileError, match=rf"list\.txt.*{message}"):
        list_images(tmp_path / "list.txt")


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "empty/notes.md", "a.png", "a.csv")
    with pytest.raises(ValueError, match="no folder or file"):
        list_images()
    with pytest.raises(FileError, match="none: no such file or folder"):
        list_images(tmp_path / "none")
    with pytest.raises(FileError, match="xxx: "):
        list_images(tmp_path / ("x" * 5000))
    with pytest.raises(FileError, match=r"a\.csv: .* expected; accepted: \.jpg"):
        list_images(tmp_path / "a.csv")
    with pytest.raises(FileError, match=r"empty: holds no images; accepted: \.jpg \.jpeg \.png"):
        list_images(tmp_path / "empty")


def test_repeats_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "d/a.png", "d/b.png")
    with pytest.raises(FileError, match=r"a\.png: given twice"):
        list_images(tmp_path / "d", tmp_path / "d" / ".." / "d" / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "d" / "b.png")
    with pytest.raises(FileError, match=r"link\.png: given twice, the first time as .*b\.png"):
        list_images(tmp_path / "d", tmp_path / "link.png")


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "d/a.png")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    assert names_below(tmp_path, list_images(tmp_path)) == ["d/a.png"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["d/a.png", "e/b.png"], ["a", "b"]),
        (["d/a.png", "d/a.jpg"], ["a.png", "a.jpg"]),
        (["top/d/a.png", "top/e/a.png", "top/e/b.png"], ["d/a.png", "e/a.png", "e/b.png"]),
        (["top/a.png", "top/e/a.png"], ["a.png", "e/a.png"]),
        (["a.png"], ["a"]),
        ([], []),
    ],
)
def test_identifiers(tmp_path: Path, paths: list[str], expected: list[str]) -> None:
    assert identifiers([tmp_path / path for path in paths]) == expected
    assert identifiers([Path(path) for path in paths]) == expected


def test_identifiers_of_repeats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: given twice"):
        identifiers([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"])
