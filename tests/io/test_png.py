"""PNG files of our own encoder."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers.paths import PORTRAITS
from PIL import Image

from latentpatch.io.png import encode_levels


def drawn(kind: str, shape: tuple[int, int, int]) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return {"noise": noise, "one color": np.full_like(noise, 77), "stripes": np.repeat(noise[:1], len(noise), 0)}[kind]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("sides", [(1, 1), (17, 5), (1, 300), (300, 1), (900, 301)])
@pytest.mark.parametrize("kind", ["noise", "one color", "stripes"])
def test_other_readers_see_every_pixel(channels: int, sides: tuple[int, int], kind: str) -> None:
    """The widest and longest picture is coded in several bands."""
    levels = drawn(kind, (*sides, channels))
    data = encode_levels(levels, {"key": "日本", "other": "naïve"})
    assert data == encode_levels(levels, {"key": "日本", "other": "naïve"})
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        assert np.array_equal(np.asarray(image).reshape(levels.shape), levels)
        assert image.text == {"key": "日本", "other": "naïve"}


def test_files_are_about_as_small_as_pillows() -> None:
    photograph = Image.open(sorted(PORTRAITS.glob("*.jpg"))[0]).convert("RGB")
    tiles = Image.effect_noise((16, 16), 90).convert("RGB").resize((512, 512), Image.Resampling.NEAREST)
    for picture in (photograph, tiles):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=6)
        assert len(encode_levels(np.asarray(picture))) < 1.15 * buffer.tell() + 200
