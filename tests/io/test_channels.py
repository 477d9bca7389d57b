"""Pictures keep their channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from PIL import Image

from latentpatch.io.channels import on_white, read_channels, write_channels
from latentpatch.io.metadata import read_metadata


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 1)])
def test_channels_survive(mode: str, channels: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    picture = Image.fromarray(noise, "RGBA").convert(mode) if mode in ("LA", "RGBA") else (
        Image.fromarray(noise[:, :, :3]).convert(mode))  # fmt: skip
    picture.save(tmp_path / "in.png")
    tensor = read_channels(tmp_path / "in.png")
    assert tensor.shape == (channels, 20, 24)
    write_channels(tmp_path / "out.png", tensor, {"key": "value"})
    assert read_metadata(tmp_path / "out.png") == {"key": "value"}
    with Image.open(tmp_path / "out.png") as again:
        assert again.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        one, other = (np.asarray(each.convert("RGBA")).astype(int) for each in (picture, again))
    is_seen = one[..., 3] > 0
    assert np.array_equal(one[..., 3], other[..., 3])
    assert np.abs(one - other)[is_seen].max() <= (1 if channels % 2 == 0 else 0)


def test_transparent_colors_have_no_weight(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = read_channels(tmp_path / "clear.png")
    assert float(clear.abs().max()) == 0
    assert float(on_white(clear[None]).min()) == 1
    assert on_white(torch.zeros(2, 1, 4, 4)).shape == (2, 3, 4, 4)


def test_other_images_are_refused(tmp_path: Path) -> None:
    with refuses("image"):
        write_channels(tmp_path / "a.png", torch.zeros(5, 4, 4))
    with refuses("image"):
        write_channels(tmp_path / "a.png", torch.full((1, 4, 4), torch.nan))
    assert not list(tmp_path.iterdir())
