"""What surrounds pixels in a file does not decide whether these can be read."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from helpers.errors import refuses_file
from helpers.picture_files import chunk, encode, levels, noise, png
from PIL import Image, TiffImagePlugin

from latentpatch.errors import ImageError
from latentpatch.io.containers import num_scans
from latentpatch.io.images import read_image

MEGABYTES = b"a" * (2 << 20)


@pytest.mark.parametrize(
    "extra",
    {
        "compressed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(MEGABYTES)),
        "compressed unicode text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(MEGABYTES)),
        "another compression": chunk(b"zTXt", b"workflow\0\7text"),
        "a checksum": chunk(b"tEXt", b"key\0value")[:-1] + b"!",
        "a size": chunk(b"pHYs", b"x"),
        "a gamma": chunk(b"gAMA", b"x"),
        "primaries": chunk(b"cHRM", b"x"),
        "a rendering intent": chunk(b"sRGB", b""),
        "an animation": chunk(b"acTL", b"x"),
        "a private one": chunk(b"vpAg", b"x"),
    }.items(),
    ids=lambda each: each[0],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_ancillary_chunks_do_not_condemn_pixels(extra: tuple[str, bytes], is_last: bool) -> None:
    row = bytes(range(0, 160, 10))
    file = png(16, 16, 8, 0, row, *([] if is_last else [extra[1]]))
    if is_last:
        file = file[:-12] + extra[1] + file[-12:]
    assert np.array_equal(levels(read_image(file))[:, :, 0], np.tile(np.frombuffer(row, np.uint8), (16, 1)))


def test_chunks_that_pixels_depend_on_are_still_checked() -> None:
    transparent = chunk(b"tRNS", struct.pack(">H", 3))
    for file in (
        png(16, 16, 8, 0, bytes(16), transparent[:-1] + b"!"),
        png(16, 16, 8, 0, bytes(16), chunk(b"IDAT", b"")[:-1] + b"!"),
    ):
        with pytest.raises(ImageError):
            read_image(file)


def test_scans_are_counted_by_segments() -> None:
    start = b"\xff\xda" * 300
    image, plain = noise(), encode(noise(), "JPEG")
    for file in (
        encode(image, "JPEG", exif=b"Exif\0\0" + start),
        encode(image, "JPEG", comment=start),
        plain + start,  # behind the picture, where phones put films
    ):
        assert num_scans(file) == 1
        assert np.array_equal(levels(read_image(file)), levels(read_image(plain)))
    progressive = encode(image, "JPEG", progressive=True)
    assert 5 < num_scans(progressive) < 15
    head, scan = plain[: plain.index(b"\xff\xda")], plain[plain.index(b"\xff\xda") : -2]
    with refuses_file("x", "a JPEG of 300 scans", ImageError):
        read_image(head + scan * 300 + b"\xff\xd9", name="x")


def tiff_pages(*pages: tuple[Image.Image, dict[int, int]]) -> bytes:
    images = []
    for image, tags in pages:
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in tags.items():
            directory[tag] = value
        images.append(image.copy())
        images[-1].encoderinfo = {"tiffinfo": directory}  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    images[0].save(buffer, "TIFF", save_all=True, append_images=images[1:], tiffinfo=images[0].encoderinfo["tiffinfo"])
    return buffer.getvalue()


def test_thumbnails_and_masks_of_a_tiff_are_no_pages() -> None:
    picture, thumbnail, mask = noise(width=64, height=48), noise(width=32, height=24), noise("L", 64, 48)
    expected = np.asarray(picture)
    for pages in (
        [(picture, {}), (thumbnail, {254: 1})],
        [(thumbnail, {254: 1}), (picture, {254: 0})],
        [(picture, {}), (mask, {254: 4}), (thumbnail, {255: 2})],
    ):
        assert np.array_equal(levels(read_image(tiff_pages(*pages))), expected)
    for several in ([(picture, {}), (picture, {})], [(thumbnail, {254: 1}), (thumbnail, {254: 1})]):
        with refuses_file("x", "several frames or pages", ImageError):
            read_image(tiff_pages(*several), name="x")
