"""Pictures get any size, bright pixels are selected, and written pictures read back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.errors import refuses, refuses_file
from helpers.picture_files import SEEDS, encode, levels, noise
from PIL import Image

from latentpatch.errors import SettingTypeError
from latentpatch.io.images import encode_png, parse_box, read_image, read_mask, read_metadata, to_pil, write_image

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
    ("text", "constraint"),
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
def test_wrong_boxes_are_refused(text: str, constraint: str) -> None:
    with refuses("box") as caught:
        parse_box(text, (5, 6))
    assert caught.value.value == text
    assert constraint in caught.value.constraint


# --- Writing -----------------------------------------------------------------------------------


def test_rounding_to_eight_bits() -> None:
    values = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1 / 255, 254.4 / 255, 254.6 / 255, 1.0, 1.5, -0.5])
    image = to_pil(values.expand(3, 1, 9))
    assert image.mode == "RGB"
    assert image.size == (9, 1)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 1, 254, 255, 255, 255, 0]


def test_what_is_no_image_is_refused() -> None:
    with refuses("image", SettingTypeError):
        to_pil(torch.zeros(3, 4, 4, dtype=torch.uint8))
    for shape in ((4, 4), (1, 4, 4), (1, 3, 4, 4), (3, 0, 4)):
        with refuses("image") as caught:
            to_pil(torch.zeros(shape))
        assert caught.value.value == shape
    with refuses("image"):
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
        with refuses("path"):
            write_image(tmp_path / name, image)
    with refuses("metadata"):
        write_image(tmp_path / "a.jpg", image, {"seed": "1"})
    for key in ("", "x" * 80, "日", "a\0b"):
        with refuses("metadata") as caught:
            write_image(tmp_path / "a.png", image, {key: "1"})
        assert caught.value.value == key
    assert not list(tmp_path.iterdir())


def test_sides_that_a_format_cannot_hold(tmp_path: Path) -> None:
    with refuses_file("a.jpg", "cannot be written"):
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
    with refuses_file(path, "No space left on device"):
        write_image(path, torch.ones(3, 16, 16))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
