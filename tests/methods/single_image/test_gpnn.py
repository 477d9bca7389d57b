"""GPNN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import PICTURE_PRESETS, GPNNSettings
from latentpatch.methods.picture import PictureResult, PictureStep
from latentpatch.methods.single_image.gpnn import GPNN
from latentpatch.ops.patch_nearest import least_distances, levels, nearest_vectors
from latentpatch.ops.patches import extract_patches
from latentpatch.ops.patchmatch import BACKENDS
from latentpatch.runs.defaults import plain_torch

SMALL = GPNNSettings(patch_size=5, coarsest=10, iterations=4)


@plain_torch()
def discs(height: int = 40, width: int = 52, contrast: float = 1.0) -> Tensor:
    """Return a picture of a dark ground, a bright sky and four colored discs, at levels of 8 bits."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([0.3 + 0.4 * rows / height, 0.5 - 0.2 * rows / height, 0.6 - 0.3 * columns / width])
    image += 0.03 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
    for i, (y, x, radius) in enumerate([(10, 12, 6), (28, 20, 8), (14, 40, 7), (33, 44, 5)]):
        color = torch.tensor([(0.9, 0.1, 0.1), (0.1, 0.9, 0.2), (0.1, 0.2, 0.9), (0.9, 0.9, 0.1)][i])
        image[:, (rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = color[:, None]
    return (((image.clamp(0, 1) - 0.5) * contrast + 0.5) * 255).round() / 255


def flat(image: Tensor) -> Tensor:
    return extract_patches(levels(image)[None], 5)[0].flatten(0, 1)


def incoherence(result: Tensor, source: Tensor) -> float:
    """Return the RMS distance from patches of a result to their nearest in the source, in levels."""
    return float((nearest_vectors(flat(result), flat(source)).scores.mean() / 75).sqrt())


def incompleteness(result: Tensor, source: Tensor) -> float:
    """Return the RMS distance from patches of the source to their nearest in a result, in levels."""
    return float((least_distances(flat(result), flat(source)).mean() / 75).sqrt())


@pytest.mark.parametrize("search", ["exact", "patchmatch", None])
def test_results_are_new_and_made_of_the_picture(search: str | None) -> None:
    source = discs()
    result = GPNN()([source], (40, 52), [0, 1], replace(SMALL, search=search))
    assert result.images.shape == (2, 3, 40, 52)
    assert result.losses is None
    noise = torch.rand(3, 40, 52, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for image in result.images:
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        assert incoherence(image, source) < 15 < 0.3 * incoherence(noise, source)
        assert (image - source).abs().mean() > 0.02
    assert (result.images[0] - result.images[1]).abs().mean() > 0.02


def test_offsets_say_where_pixels_come_from() -> None:
    source = discs()
    result = GPNN()([source], (44, 48), [0], SMALL)
    assert result.offsets is not None
    number, row, column = result.offsets[0].unbind(-1)
    assert result.offsets.shape == (1, 44, 48, 3)
    assert int(number.abs().max()) == 0
    assert int(row.min()) >= 0
    assert int(row.max()) < 40
    assert int(column.max()) < 52
    copied = source[:, row, column]
    error = (copied - result.images[0]).abs().mean()
    assert error < 0.04
    assert error < 0.3 * (source.mean((1, 2), keepdim=True) - result.images[0]).abs().mean()


@pytest.mark.parametrize("search", ["patchmatch", None])
def test_a_seed_gives_the_same_alone_in_a_batch_and_with_any_threads(
    search: str | None, pretend_threads: Callable[[int], None]
) -> None:
    source, settings = discs(), replace(SMALL, search=search, iterations=2)
    together = GPNN()([source], (40, 52), [3, 4, 5], settings)
    pretend_threads(3)  # of PatchMatch; exact search has exact sums
    alone = GPNN()([source], (40, 52), [4], settings)
    assert torch.equal(together.images[1], alone.images[0])
    assert together.offsets is not None
    assert alone.offsets is not None
    assert torch.equal(together.offsets[1], alone.offsets[0])


@pytest.mark.parametrize("contrast", [1.0, 0.4])
@pytest.mark.parametrize("search", ["exact", "patchmatch"])
def test_alpha_keeps_everything_in(search: str, contrast: float) -> None:
    source = discs(contrast=contrast)
    lost = []
    for alpha in (0.01, 1.0, 1000.0):
        settings = replace(SMALL, alpha=alpha, search=search)
        images = GPNN()([source], (40, 52), [0, 1], settings).images
        lost.append(sum(incompleteness(image, source) for image in images) / contrast)
    assert lost[0] < 0.75 * lost[2]  # whatever the contrast: alpha is relative to it
    assert lost[0] < lost[1]


def test_several_pictures_of_any_sizes_give_patches() -> None:
    one, other = discs(), discs(36, 30).flip(0)
    result = GPNN()([one, other], (40, 40), [0, 1], SMALL)
    assert result.offsets is not None
    shares = torch.bincount(result.offsets[..., 0].flatten(), minlength=2) / result.offsets[..., 0].numel()
    assert shares.min() > 0.05
    inside = result.offsets[result.offsets[..., 0] == 1]
    assert int(inside[:, 1].max()) < 36
    assert int(inside[:, 2].max()) < 30


def test_retargeting_keeps_the_order_of_things() -> None:
    source = discs()
    wide = GPNN()([source], (40, 80), [0], SMALL, task="retarget")
    assert wide.offsets is not None
    columns = wide.offsets[0, :, :, 2].double()
    assert (columns[:, 60:].mean() - columns[:, :20].mean()) > 20
    assert incoherence(wide.images[0], source) < 12
    same = GPNN()([source], (40, 52), [0], SMALL, task="retarget")
    assert (same.images[0] - source).abs().mean() < 0.02


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_may_have_other_channels(channels: int) -> None:
    source = torch.cat([discs(), discs().mean(0, keepdim=True).round()])[-channels:].contiguous()
    assert GPNN()([source], (30, 30), [0], SMALL).images.shape == (1, channels, 30, 30)


@pytest.fixture(scope="module")
def of_presets() -> dict[str, PictureResult]:
    """One picture of each preset of this method."""
    presets = {name: settings for name, settings in PICTURE_PRESETS.items() if isinstance(settings, GPNNSettings)}
    return {name: GPNN()([discs()], (40, 52), [0], settings) for name, settings in presets.items()}


def test_presets_run(of_presets: dict[str, PictureResult]) -> None:
    assert of_presets
    for result in of_presets.values():
        assert incoherence(result.images[0], discs()) < 12


def test_the_original_copies_in_place(of_presets: dict[str, PictureResult]) -> None:
    rows, columns = torch.arange(40)[:, None], torch.arange(52)[None]
    shares = {}
    for name in ("gpnn-original", "gpnn-efficient"):
        offsets = of_presets[name].offsets
        assert offsets is not None
        near = ((offsets[0, ..., 1] - rows).abs() <= 2) & ((offsets[0, ..., 2] - columns).abs() <= 2)
        shares[name] = float(near.float().mean())
    assert shares["gpnn-original"] > 0.5 > shares["gpnn-efficient"]


def test_steps_are_told() -> None:
    steps: list[PictureStep] = []
    GPNN()([discs()], (40, 52), [0, 1], SMALL, observe=steps.append)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    assert steps[0].images.shape[2] < steps[-1].images.shape[2] == 40


def test_extreme_shapes_are_made() -> None:
    assert GPNN()([discs()], (6, 300), [0], SMALL).images.shape == (1, 3, 6, 300)
    assert GPNN()([discs(40, 7)], (40, 7), [0], SMALL).images.shape == (1, 3, 40, 7)
    constant = torch.full((3, 20, 20), 0.4)
    assert (GPNN()([constant], (20, 20), [0], SMALL).images - 0.4).abs().max() < 0.01


def test_bad_input_is_refused() -> None:
    gpnn, source = GPNN(), discs()
    with refuses("size"):
        gpnn([source], (4, 40), [0], SMALL)
    with refuses("size"):
        gpnn([source[:, :4]], (40, 40), [0], SMALL)
    with refuses("pictures"):
        gpnn([source.index_fill(1, torch.tensor([3]), torch.nan)], (40, 40), [0], SMALL)
    with refuses("pictures"):
        gpnn([source, source[:1]], (40, 40), [0], SMALL)
    with refuses("pictures"):
        gpnn([], (40, 40), [0], SMALL)
    with refuses("pictures"):
        gpnn([source.mul(255).byte()], (40, 40), [0], SMALL)
    with refuses("seeds"):
        gpnn([source], (40, 40), [-1], SMALL)
    with refuses("task"):
        gpnn([source], (40, 40), [0], SMALL, task="denoise")
    with refuses("alpha"):
        GPNNSettings(alpha=0.0)
    with refuses("coarsest"):
        GPNNSettings(coarsest=6)
    with refuses("search"):
        GPNNSettings(search="quick")


def test_backends_are_of_equal_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    import latentpatch.ops.patchmatch as patchmatch

    source, found = discs(30, 40), {}
    for backend in BACKENDS:
        monkeypatch.setattr(patchmatch, "has_numba", lambda backend=backend: backend == "numba")
        images = GPNN()([source], (30, 40), [0, 1], replace(SMALL, search="patchmatch", iterations=1)).images
        found[backend] = sum(incoherence(image, source) for image in images) / 2
    assert found["torch"] < 1.3 * found["numba"] + 1
