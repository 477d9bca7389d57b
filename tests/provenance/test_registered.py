"""Comparison after registration: changed copies are found, strangers are not, placements are right."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import refuses
from helpers.paths import PORTRAITS
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from latentpatch.io.images import read_image
from latentpatch.io.listing import list_images
from latentpatch.provenance.placement import correlation_at, places, sample, thumbnails
from latentpatch.provenance.registered import Registered, RegisteredSources

SIZE = 128
COPIES = [3, 17, 30, 41]


@pytest.fixture(scope="module")
def portraits() -> Tensor:
    """Forty-eight portraits, ``(48, 3, 128, 128)``."""
    return torch.stack([read_image(path, (SIZE, SIZE)) for path in sorted(PORTRAITS.glob("*.jpg"))[:48]])


@pytest.fixture(scope="module")
def sources(portraits: Tensor) -> RegisteredSources:
    return RegisteredSources(portraits.split(20))


def tensor(picture: Image.Image) -> Tensor:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return read_image(buffer.getvalue())


def cropped(picture: Image.Image, share: float) -> Image.Image:
    edge = round(share * SIZE)
    return picture.crop((edge, edge, SIZE - edge, SIZE - edge)).resize(picture.size, Image.Resampling.BICUBIC)


def padded(picture: Image.Image) -> Image.Image:
    edge = round(0.1 * SIZE)
    return ImageOps.expand(picture.resize((SIZE - 2 * edge, SIZE - 2 * edge)), edge, (128, 128, 128))


def moved_hue(picture: Image.Image) -> Image.Image:
    hue, *rest = picture.convert("HSV").split()
    return Image.merge("HSV", (hue.point([(level + 14) % 256 for level in range(256)]), *rest)).convert("RGB")


CHANGES = {
    "none": lambda picture: picture,
    "mirrored": ImageOps.mirror,
    "cropped": lambda picture: cropped(picture, 0.05),
    "cropped more": lambda picture: cropped(picture, 0.12),
    "rotated": lambda picture: picture.rotate(5, Image.Resampling.BICUBIC),
    "rotated back": lambda picture: picture.rotate(-10, Image.Resampling.BICUBIC),
    "mirrored and cropped": lambda picture: cropped(ImageOps.mirror(picture), 0.05),
    "shifted": lambda picture: picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, -8, 0, 1, 4)),
    "padded": padded,
    "stretched": lambda picture: ImageOps.fit(picture.resize((150, SIZE)), (SIZE, SIZE)),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(1.5)),
    "other hue": moved_hue,
    "darker": lambda picture: picture.point(lambda level: int(0.5 * level + 20)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(portraits: Tensor, sources: RegisteredSources, change: str) -> None:
    originals = [ImageOps.fit(Image.open(sorted(PORTRAITS.glob("*.jpg"))[i]), (SIZE, SIZE)) for i in COPIES]
    found = sources.compare(torch.stack([tensor(CHANGES[change](each.convert("RGB"))) for each in originals]))
    assert found.source[:, 0].tolist() == COPIES
    assert float(found.relative.max()) < 0.45
    assert found.mirrored[:, 0].tolist() == [change.startswith("mirrored")] * len(COPIES)
    if change == "cropped more":
        assert 0.5 < float(found.overlap[:, 0].min()) <= float(found.overlap[:, 0].max()) < 0.7


def test_noise_does_not_hide_a_copy(portraits: Tensor, sources: RegisteredSources) -> None:
    noise = torch.randn(portraits[COPIES].shape, generator=torch.Generator().manual_seed(0))
    found = sources.compare((portraits[COPIES] + 0.08 * noise).clamp(0, 1))
    assert found.source[:, 0].tolist() == COPIES
    assert float(found.relative.max()) < 0.45


def test_strangers_are_no_copies(sources: RegisteredSources) -> None:
    found = sources.compare_sources(torch.arange(48)[::3])
    assert float(found.relative.min()) > 0.6
    assert not (found.source == torch.arange(48)[::3, None]).any()
    assert found.source.shape == (16, 8)
    assert bool((found.distance.diff(dim=1) >= 0).all())


def test_held_out_portraits_are_no_copies(shared: Path) -> None:
    folder = shared / "portraits"
    sources = RegisteredSources(
        read_image(path, (SIZE, SIZE))[None] for path in list_images(folder / "source.txt")[::5]
    )
    held_out = torch.stack([read_image(path, (SIZE, SIZE)) for path in list_images(folder / "holdout.txt")[::5]])
    assert float(sources.compare(held_out).relative.min()) > 0.6


@pytest.mark.usefixtures("float32")
def test_placements_are_those_that_were_made(portraits: Tensor, sources: RegisteredSources) -> None:
    """An image is sampled at a known map; the map from its source to it is the inverse of that."""
    angle, zoom, shift = math.radians(4), 0.93, torch.tensor([0.06, -0.04])
    linear = zoom * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    placed = torch.cat([linear, shift[:, None]], 1).expand(len(COPIES), -1, -1)
    copies = sample(portraits[COPIES], places(placed, (SIZE, SIZE))[0]).view(-1, 3, SIZE, SIZE)
    found = sources.compare(copies)
    inverse = torch.linalg.inv(linear)
    expected = torch.cat([inverse, -(inverse @ shift)[:, None]], 1).double()
    assert found.source[:, 0].tolist() == COPIES
    torch.testing.assert_close(found.placement[:, 0], expected.expand(len(COPIES), -1, -1), atol=0.02, rtol=0)


def test_a_picture_is_compared_alike_alone_and_in_a_batch(portraits: Tensor, sources: RegisteredSources) -> None:
    pictures = portraits[:18].flip(3)[:, :, 6:-6, 6:-6]
    pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear")
    together = sources.compare(pictures)
    for i in (0, 15, 17):
        alone = sources.compare(pictures[i : i + 1])
        assert int(alone.source[0, 0]) == int(together.source[i, 0])
        assert float(alone.relative[0]) == pytest.approx(float(together.relative[i]), abs=1e-3)


def test_sources_of_a_group_are_no_neighbors_of_each_other(portraits: Tensor) -> None:
    """Nine equal sources leave nothing to compare a copy with, unless they count as one."""
    repeated, groups = portraits[:10].repeat_interleave(9, 0), torch.arange(10).repeat_interleave(9)
    copy = F.interpolate(portraits[3:4, :, 6:-6, 6:-6], (SIZE, SIZE), mode="bilinear")
    assert float(RegisteredSources([repeated]).compare(copy).relative) > 0.6
    grouped = RegisteredSources([repeated], groups)
    found = grouped.compare(copy)
    assert float(found.relative) < 0.3
    assert int(found.source[0, 0]) // 9 == 3
    assert len({int(b) // 9 for b in found.source[0]}) == found.source.shape[1] == 8
    assert 3 not in {int(b) // 9 for b in grouped.compare_sources(torch.tensor([30])).source[0]}


@pytest.mark.parametrize("size", [(96, 160), (160, 96)])
def test_pictures_need_not_be_square(portraits: Tensor, size: tuple[int, int]) -> None:
    wide = F.interpolate(portraits[:12], size, mode="bilinear")
    moved = F.interpolate(wide[5:6].flip(3)[:, :, 5:-5, 8:-8], size, mode="bilinear")
    found = RegisteredSources([wide]).compare(moved)
    assert int(found.source[0, 0]) == 5
    assert bool(found.mirrored[0, 0])
    assert float(found.relative) < 0.3


def test_flat_pictures_have_finite_figures(portraits: Tensor) -> None:
    flat = torch.full((2, 3, SIZE, SIZE), 0.5)
    found = RegisteredSources([torch.cat([portraits[:6], flat[:1]])]).compare(flat)
    assert bool(found.distance.isfinite().all())
    assert float(found.relative.min()) > 0.9


def test_few_sources_are_enough(portraits: Tensor) -> None:
    found = RegisteredSources([portraits[:2]]).compare(portraits[1:3])
    assert found.source.shape == (2, 2)
    assert int(found.source[0, 0]) == 1
    assert float(found.relative[0]) < 0.1 < float(found.relative[1])


def test_records_name_the_source_and_the_placement(portraits: Tensor, sources: RegisteredSources) -> None:
    found = Registered.concatenate([sources.compare(portraits[:1]), sources.compare(portraits[7:9].flip(3))])
    rows = found.records([f"s{i}" for i in range(48)])
    assert [row["registered_to"] for row in rows] == ["s0", "s7", "s8"]
    assert [row["registered_mirrored"] for row in rows] == [False, True, True]
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(torch.tensor(rows[0]["placement"]), expected, atol=0.01, rtol=0)


@pytest.mark.usefixtures("float32")
def test_correlation_is_one_for_equal_pictures(portraits: Tensor) -> None:
    small = thumbnails(portraits[:3])
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, -1, -1)
    correlation, overlap = correlation_at(small, small, still)
    assert correlation.tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert float(overlap.min()) > 0.9
    apart, _ = correlation_at(small.roll(1, 0), small, still)
    assert float(apart.max()) < 0.9


def test_unusable_sources_and_pictures_are_refused(portraits: Tensor, sources: RegisteredSources) -> None:
    with refuses("images"):
        RegisteredSources([portraits[:1]])
    with refuses("images"):
        RegisteredSources([])
    with refuses("images"):
        RegisteredSources([portraits[:3]], torch.zeros(3, dtype=torch.int64))
    with refuses("groups"):
        RegisteredSources([portraits[:2]]).compare_sources(torch.tensor([0]))
    with refuses("groups"):
        RegisteredSources([portraits[:3]], torch.arange(4))
    with refuses("images"):
        sources.compare(torch.rand(1, 3, 128, 160))
