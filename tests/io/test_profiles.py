"""Colour profiles are applied, or said not to be."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.icc_profiles import PRIMARIES, grey_profile, rgb_profile
from helpers.picture_files import chunk, encode, levels, noise, png
from PIL import ImageCms

from latentpatch.errors import PictureWarning
from latentpatch.io.channels import read_channels
from latentpatch.io.images import read_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] as levels of sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize(("primaries", "gamma"), [("adobe", 2.2), ("p3", 2.2), ("srgb", 1.0), ("srgb", 1.8)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_profiles_of_colors_are_applied(primaries: str, gamma: float, kind: str) -> None:
    pixels = np.asarray(noise())
    space, srgb = (np.array(PRIMARIES[name]).T for name in (primaries, "srgb"))
    linear = np.linalg.solve(srgb, space @ ((pixels / 255) ** gamma).reshape(-1, 3).T).T.clip(0, 1)
    options = {"lossless": True} if kind == "WEBP" else {}
    read = levels(read_image(encode(noise(), kind, icc_profile=rgb_profile(primaries, gamma), **options)))
    assert np.abs(read - encoded(linear).reshape(pixels.shape)).max() < 1.5
    assert np.abs(pixels.astype(int) - read).mean() > 5  # as it would be without


def test_pictures_in_srgb_stay_as_they_are() -> None:
    for image in (noise(), noise("L")):
        read = levels(read_image(encode(image, "PNG", icc_profile=SRGB)))
        assert np.array_equal(read, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("gamma", [1.8, 2.2])
def test_grey_stays_grey(gamma: float) -> None:
    grey = noise("L")
    read = read_channels(encode(grey, "PNG", icc_profile=grey_profile(gamma)))
    assert read.shape == (1, 20, 24)
    assert np.abs(read[0].numpy() * 255 - encoded((np.asarray(grey) / 255) ** gamma)).max() < 2
    assert read_channels(encode(noise("LA"), "PNG", icc_profile=grey_profile(gamma))).shape == (2, 20, 24)


def test_alpha_stays_as_it_is_and_palettes_have_profiles() -> None:
    image = noise("RGBA")
    read = read_channels(encode(image, "PNG", icc_profile=rgb_profile()))
    assert np.array_equal((read[3] * 255).round().numpy(), np.asarray(image)[..., 3])
    palette = noise().quantize(16)
    full = read_image(encode(palette.convert("RGB"), "PNG", icc_profile=rgb_profile()))
    assert np.array_equal(levels(read_image(encode(palette, "PNG", icc_profile=rgb_profile()))), levels(full))


@pytest.mark.parametrize(
    "file",
    [
        encode(noise(), "PNG", icc_profile=b"no profile" * 30),
        encode(noise(), "JPEG", icc_profile=grey_profile(2.2)),  # of another kind of picture
        png(16, 16, 8, 2, bytes(48), chunk(b"iCCP", b"x\0\0" + b"a" * 30)[:-1] + b"!"),
    ],
)
def test_profiles_that_cannot_be_applied_are_told(file: bytes) -> None:
    with pytest.warns(PictureWarning, match=r"x\.png: its (colour )?profile"):
        read = levels(read_image(file, name="x.png"))
    if b"PNG" in file[:4] and read.shape[0] == 20:
        assert np.array_equal(read, np.asarray(noise()))
