"""Pictures, masks, settings, attributes and labels as people have them, at every entry of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import refuses
from PIL import Image
from torch import Tensor

import latentpatch
from latentpatch import LatentPatch
from latentpatch.datasets import Recombine, RecombinedSamples, fit_labelled
from latentpatch.errors import AttributesWarning
from latentpatch.methods.latent.presets import PRESETS
from latentpatch.methods.single_image.presets import PICTURE_PRESETS

PAPER = PRESETS["paper"].changed(neighbors=1)
SIDE = 64


@pytest.fixture(scope="module")
def levels() -> np.ndarray:
    """Eight pictures ``(8, 64, 64, 3)`` uint8."""
    return np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def images(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels).movedim(-1, 1).float() / 255


@pytest.fixture(scope="module")
def model(images: Tensor) -> LatentPatch:
    return LatentPatch("pixels:4", settings=PAPER).fit(images)


#: A picture of levels ``(H, W, 3)`` as users have it.
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda a: a,
    "array, channels first": lambda a: np.moveaxis(a, -1, 0),
    "array of numbers": lambda a: a / 255,
    "array of float32": lambda a: (a / 255).astype(np.float32),
    "uint8 tensor": lambda a: torch.from_numpy(a).movedim(-1, 0),
    "Pillow": Image.fromarray,
    "Pillow with alpha": lambda a: Image.fromarray(a).convert("RGBA"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_takes_pictures_of_every_kind(
    kind: str, levels: np.ndarray, images: Tensor, model: LatentPatch, tmp_path: Path
) -> None:
    pictures = [KINDS[kind](each) for each in levels]
    one, other = pictures[:2]
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[16:40, 16:40] = True
    for found, expected in (
        (LatentPatch("pixels:4").fit(pictures, size=SIDE).bank.latents, model.bank.latents),
        (LatentPatch.open(pictures, autoencoder="pixels:4", size=SIDE).bank.latents, model.bank.latents),
        (model.generate(2, reference=one).images, model.generate(2, reference=images[0]).images),
        (model.inpaint(one, mask).images, model.inpaint(images[0], mask).images),
        (model.edit(one, other, mask).images, model.edit(images[0], images[1], mask).images),
        (model.reconstruct(one), model.reconstruct(images[0])),
        (model.soft(one).images, model.soft(images[0]).images),
        (latentpatch.explain(model, one).index, latentpatch.explain(model, images[0]).index),
    ):
        assert torch.allclose(found.float(), expected.float(), atol=1e-6)
    if kind != "Pillow with alpha":
        found, expected = (latentpatch.texture(each, SIDE, method="quilting").images for each in (one, images[0]))
        assert torch.allclose(found, expected, atol=1e-6)
        found, expected = (
            latentpatch.denoise(picture, guide=guide, method="guided").images
            for picture, guide in ((one, other), (images[0], images[1]))
        )
        assert torch.allclose(found, expected, atol=1e-6)


def test_batches_of_arrays(levels: np.ndarray, model: LatentPatch) -> None:
    for batch in (levels, levels / 255, list(levels), torch.from_numpy(levels).movedim(-1, 1)):
        assert LatentPatch("pixels:4").fit(batch, size=SIDE).bank.digest() == model.bank.digest()
    added = LatentPatch("pixels:4").fit(levels[:6], size=SIDE)
    added.add([Image.fromarray(each) for each in levels[6:]], ids=["a", "b"])
    assert len(added.bank) == 8


def test_arrays_and_files_stand_side_by_side(levels: np.ndarray, model: LatentPatch, tmp_path: Path) -> None:
    Image.fromarray(levels[0]).save(tmp_path / "0.png")
    sources = [
        tmp_path / "0.png",
        *levels[1:4],
        *(torch.from_numpy(a / 255).movedim(-1, 0).float() for a in levels[4:]),
    ]
    mixed = LatentPatch("pixels:4").fit(sources, size=SIDE)
    assert mixed.bank.digest() == model.bank.digest()
    small = Image.new("RGB", (8, 8))
    fitted = LatentPatch("pixels:4").fit([*levels, small], size=SIDE, skip_bad=True)
    assert len(fitted.bank) == 8
    assert "source 8: 8x8 pixels" in fitted.skipped[0][1]


@pytest.mark.parametrize("value", [3, None, b"bytes", {"a": 1}, [3]])
def test_other_things_are_refused_by_their_argument(value: Any, images: Tensor, model: LatentPatch) -> None:
    mask = torch.ones(SIDE, SIDE, dtype=torch.bool)
    if value is not None and not isinstance(value, dict):
        with refuses("sources", TypeError):
            LatentPatch("pixels:4").fit(value if value != [3] else [3, 4])
    if not isinstance(value, list) and value is not None:
        with refuses("reference", TypeError):
            model.generate(1, reference=value)
        with refuses("image", TypeError):
            model.edit(value, images[0], mask)
        with refuses("donor", TypeError):
            model.edit(images[0], value, mask)
    with refuses("picture", TypeError):
        latentpatch.explain(model, value)
    if not isinstance(value, dict):
        with refuses("pictures", TypeError):
            latentpatch.reshuffle(value)


def test_masks_of_every_kind(images: Tensor, model: LatentPatch, tmp_path: Path) -> None:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[16:40, 16:40] = True
    bright = mask.numpy().astype(np.uint8) * 255
    Image.fromarray(bright).save(tmp_path / "mask.png")
    expected = [
        each.images
        for each in (model.inpaint(images[0], mask), model.edit(images[0], images[1], mask),
                     latentpatch.inpaint(images[0], mask))
    ]  # fmt: skip
    for other in (mask.numpy(), bright, bright // 255, Image.fromarray(bright), tmp_path / "mask.png"):
        found = (
            model.inpaint(images[0], other),
            model.edit(images[0], images[1], other),
            latentpatch.inpaint(images[0], other),
        )
        for one, two in zip(found, expected, strict=True):
            assert torch.equal(one.images, two)


def test_settings_are_given_by_the_name_of_a_preset(images: Tensor, model: LatentPatch) -> None:
    for name in PRESETS:
        assert LatentPatch("pixels:4", settings=name).settings == PRESETS[name]
        assert LatentPatch.open(images, autoencoder="pixels:4", settings=name).settings == PRESETS[name]
    assert model.generate(1, settings="paper").sampler == "raster"
    assert torch.equal(
        model.generate(1, settings="balanced").images, model.generate(1, settings=PRESETS["balanced"]).images
    )
    assert model.inpaint(images[0], torch.ones(SIDE, SIDE, dtype=torch.bool), settings="paper").sampler == "raster"
    assert latentpatch.reshuffle(images[0], settings="small-pieces").settings.patch_size == 3
    for call in (
        lambda: model.generate(1, settings="nope"),
        lambda: LatentPatch("pixels:4", settings="nope"),
        lambda: latentpatch.reshuffle(images[0], settings="nope"),
        lambda: setattr(LatentPatch("pixels:4"), "settings", "nope"),
    ):
        with refuses("settings") as caught:
            call()
        assert "small-pieces" in str(caught.value) or "faithful" in str(caught.value)
    for value in ({"max_share": 0.2}, 3):
        with refuses("settings", TypeError):
            model.generate(1, settings=value)
        with refuses("settings", TypeError):
            LatentPatch("pixels:4", settings=value)


def test_attributes_are_numbers_and_their_ids_too(images: Tensor) -> None:
    def fitted(attributes: Any, **options: Any) -> LatentPatch:
        return LatentPatch("pixels:4", settings=PAPER).fit(images, attributes=attributes, **options)

    rows = {
        i: {"age": 20 + i, "height": np.float32(0.1), "weight": torch.tensor(0.1), "known": True, "none": None,
            "missing": float("nan")}
        for i in range(8)
    }  # fmt: skip
    model = fitted(rows)
    assert model.bank.attributes[1] == {
        "age": "21", "height": "0.1", "weight": "0.1", "known": "True", "none": "", "missing": ""
    }  # fmt: skip
    for where in ("age>24", "age>24 and height=0.1", "known=True and age>24"):
        assert set(model.generate(1, where=where).shares()[0]) <= {"5", "6", "7"}
    assert fitted({i: {"who": i // 2} for i in range(8)}, group_by="who").bank.num_groups == 4
    with refuses("attributes") as caught:
        fitted({"zero": {"age": 20}})
    assert caught.value.value == "zero"
    with pytest.warns(AttributesWarning, match="1 of 2 rows of attributes name no source, such as 'zero'"):
        fitted({"zero": {"age": 20}, 1: {"age": 21}})
    for wrong in ({"0": 20}, [{"age": 20}] * 8, 3):
        with refuses("attributes", TypeError):
            fitted(wrong)
    model.remove(3)
    assert "3" not in model.bank.ids
    with refuses("where", TypeError):
        model.generate(1, where=["age>20"])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, -1], ("-1", "1")),
        (torch.tensor([1.0, -1.0]), ("-1.0", "1.0")),
        (np.array([10, 9]), ("9", "10")),
        ([0.5, -2], ("-2", "0.5")),
        (["1e2", "20"], ("20", "1e2")),
        (["woman", "man"], ("man", "woman")),
        ([True, False], ("False", "True")),
    ],
)
def test_labels_come_in_order(labels: Any, classes: tuple[str, ...], images: Tensor) -> None:
    four = [each for _ in range(4) for each in labels]
    model = fit_labelled(images, four, "pixels:4", settings=PAPER)
    assert RecombinedSamples(model, length=2).classes == classes
    recombine = Recombine(model, probability=1)
    for label in labels:
        assert recombine(images[0], label).shape == images[0].shape


def test_class_numbers_stand_for_labels_that_are_text(images: Tensor) -> None:
    model = fit_labelled(images, ["woman", "man"] * 4, "pixels:4", settings=PAPER)
    recombine = Recombine(model, probability=1, batch_size=1)
    for label, name in ((0, "man"), (torch.tensor(1), "woman")):
        torch.manual_seed(0)
        by_number = recombine(images[0], label)
        torch.manual_seed(0)
        assert torch.equal(by_number, recombine(images[0], name))
    numbers = Recombine(fit_labelled(images, [3, 5] * 4, "pixels:4", settings=PAPER))
    for transform, label in ((recombine, 2), (recombine, "child"), (numbers, 0)):
        with refuses("label"):
            transform(images[0], label)
    assert numbers(images[0], 3.0).shape == images[0].shape


def test_a_replaced_sample_of_bytes_is_no_black_one(images: Tensor) -> None:
    recombine = Recombine(fit_labelled(images, [0, 1] * 4, "pixels:4", settings=PAPER), probability=1)
    assert float(recombine((images[0] * 255).byte(), 0).mean()) > 0.2


def test_sizes_and_seeds_as_people_have_them(levels: np.ndarray, images: Tensor, model: LatentPatch) -> None:
    pictures = [Image.fromarray(each) for each in levels]
    for size in (np.int64(32), [32, 32], torch.Size([32, 32]), np.array([32, 32]), torch.tensor(32)):
        assert LatentPatch("pixels:4").fit(pictures, size=size).image_size == (32, 32)
    for size in (32.0, "32", (1, 2, 3), 0, True):
        with refuses("size"):
            LatentPatch("pixels:4").fit(pictures, size=size)
    assert latentpatch.texture(images[0], np.array([32, 48]), method="quilting").images.shape[2:] == (32, 48)
    with refuses("seed", TypeError):
        model.generate(seeds=[1.5])


def test_pictures_of_double_precision_are_those_of_single(images: Tensor) -> None:
    """Defect P7: what torch.rand makes under a default of float64 is a picture, too."""
    settings = PICTURE_PRESETS["small-pieces"].changed(steps=2)
    single, double = (latentpatch.reshuffle(each, settings=settings).images for each in (images[0], images[0].double()))
    assert torch.equal(single, double)
