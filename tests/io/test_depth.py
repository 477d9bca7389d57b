"""Greys of every depth and photometric interpretation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers.errors import refuses_file
from helpers.picture_files import encode, levels, png, tiff
from PIL import Image

from latentpatch.errors import ImageError, PictureWarning
from latentpatch.io.channels import read_channels
from latentpatch.io.images import read_image


def row_of(bits: int, order: str) -> bytes:
    """Sixteen black pixels, the last of which is white."""
    if bits == 16:
        return np.array([0] * 15 + [65535], f"{order}u2").tobytes()
    digits = "0" * (15 * bits) + "1" * bits
    return int(digits, 2).to_bytes(len(digits) // 8, "big")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_white_may_be_low(bits: int, order: str) -> None:
    if bits == 12 and order == ">":
        pytest.skip("Pillow reads no 12-bit TIFF in this order of bytes")
    rows = row_of(bits, order) * 16
    high, low = (read_image(tiff(16, 16, bits, 1, rows, order=order, photometric=each)) for each in (1, 0))
    assert levels(high)[3, :, 0].tolist() == [0] * 15 + [255]
    assert levels(low)[3, :, 0].tolist() == [255] * 15 + [0]


def test_low_white_has_alpha() -> None:
    rows = bytes([0, 255] * 8 + [255, 128] * 8) * 16
    grey, alpha = read_channels(tiff(16, 16, 8, 1, rows, samples=2, photometric=0))[:, 0]
    assert grey.tolist() == [1] * 8 + [0] * 8
    assert alpha.mul(255).tolist() == [255] * 8 + [128] * 8


def test_twelve_bits_in_sixteen_are_noticed() -> None:
    values = np.tile(np.arange(16) * 273, (16, 1)).astype(np.uint16)
    expected = (np.arange(16) * 17).tolist()
    for file in (encode(Image.fromarray(values), "PNG"), encode(Image.fromarray(values), "TIFF")):
        assert levels(read_image(file))[0, :, 0].tolist() == expected
    low = tiff(16, 16, 16, 1, values.astype("<u2").tobytes(), photometric=0)
    assert levels(read_image(low))[0, :, 0].tolist() == expected[::-1]
    ten = tiff(16, 16, 16, 1, (values // 4).astype("<u2").tobytes(), extra={281: 1023})  # a TIFF can say it
    assert levels(read_image(ten))[0, -1, 0] == 255
    values[0, 0] = 4096
    assert levels(read_image(encode(Image.fromarray(values), "PNG")))[0, :, 0].max() == 16


def test_deep_colors_that_are_nearly_black_are_told() -> None:
    values = np.tile(np.arange(16) * 273, (16, 1)).astype(">u2").repeat(3).tobytes()
    file = png(16, 16, 16, 2, values[: 16 * 6])
    with pytest.warns(PictureWarning, match="12 bits or less"):
        read_image(file, name="x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(png(16, 16, 16, 2, bytes(16 * 6)))


def test_signed_greys_are_refused_for_what_they_are() -> None:
    with refuses_file("x.tif", "signed 16-bit", ImageError):
        read_image(tiff(16, 16, 16, 2, bytes(512)), name="x.tif")
