"""The samplers: against plain loops, and what must not change their result."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses
from helpers.slow_raster import interpolate, slow_raster
from torch import Tensor

from latentpatch import SAMPLERS, RandomPatchesSettings, RasterSettings
from latentpatch.methods.base import Context
from latentpatch.methods.latent.raster import raster, raster_steps
from latentpatch.methods.latent.search.keys import KEY_NORM, resize_keys, to_keys
from latentpatch.methods.latent.search.schedule import scale_sizes
from latentpatch.ops.noise import noise_from_seeds

pytestmark = pytest.mark.usefixtures("cpu_search")


def random_keys(count: int, grid: tuple[int, int], depth: int = 3, seed: int = 0, spread: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-spread, spread + 1, (count, *grid, depth), generator=generator).to(torch.int16)


def sample(keys: Tensor, seeds: range, settings: RasterSettings, reference: Tensor | None = None) -> Tensor:
    steps = raster_steps(tuple(keys.shape[1:3]), settings, reference is not None)
    return raster(keys, noise_from_seeds(seeds, steps), settings, reference)


# --- against plain loops -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "patch", "stride", "neighbours", "scales", "start", "guided"),
    [
        ((16, 16), 6, None, 3, 5, None, False),
        ((16, 16), 6, 2, 3, 1, None, False),
        ((16, 16), 6, None, 3, 1, None, True),
        ((9, 9), 4, None, 2, 3, None, False),
        ((9, 9), 5, None, 2, 4, 6, False),  # stride 2 does not divide the patch
        ((9, 9), 5, 3, 9, 2, 6, True),
        ((8, 8), 4, 3, 1, 2, 5, False),  # the first patch cuts a block
        ((7, 12), 3, None, 4, 3, None, False),
        ((12, 7), 3, 2, 4, 3, 5, True),
        ((6, 6), 6, 6, 2, 1, None, False),
        ((6, 6), 1, None, 3, 2, None, False),
    ],
)
def test_equals_plain_loops(grid, patch, stride, neighbours, scales, start, guided):
    keys = random_keys(9, grid, seed=patch)
    reference = random_keys(1, grid, seed=99) if guided else None
    settings = RasterSettings(patch, stride, neighbours, scales, start)
    seeds = range(2)
    fast = sample(keys, seeds, settings, reference)
    uniforms = noise_from_seeds(seeds, raster_steps(grid, settings, guided)).tolist()
    for i in seeds:
        slow = slow_raster(
            keys.tolist(),
            uniforms[i],
            patch,
            neighbours,
            scales,
            stride,
            start,
            reference[0].tolist() if guided else None,
        )
        assert fast[i].tolist() == slow


def test_equals_plain_loops_with_ties():
    """Few distinct values and repeated sources: many equal distances, decided for the lower source."""
    keys = random_keys(4, (8, 8), depth=1, spread=1).repeat(3, 1, 1, 1)
    settings = RasterSettings(3, None, 4, 2, 5)
    uniforms = noise_from_seeds(range(3), raster_steps((8, 8), settings))
    fast = raster(keys, uniforms, settings)
    for i in range(3):
        assert fast[i].tolist() == slow_raster(keys.tolist(), uniforms[i].tolist(), 3, 4, 2, None, 5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((16, 16), (10, 10)),
        ((10, 10), (12, 12)),
        ((5, 8), (13, 3)),
        ((1, 4), (3, 2)),
        ((8, 8), (5, 6)),
        ((7, 7), (7, 7)),
    ],
)
def test_resizing_is_exact_bilinear_interpolation(old, new):
    keys = random_keys(3, old, spread=2000)
    resized = resize_keys(keys, new)
    assert resized.dtype == torch.int16
    assert resized.tolist() == [interpolate(grid, *new) for grid in keys.tolist()]
    smooth = torch.nn.functional.interpolate(
        keys.permute(0, 3, 1, 2).double(), new, mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    assert (resized - smooth).abs().max() <= 0.5 + 1e-9


def test_extreme_keys_stay_exact():
    """Opposite keys of the largest norm give the largest distances; sums must not overflow or round."""
    keys = torch.zeros(4, 16, 16, 2, dtype=torch.int16)
    keys[0, ..., 0], keys[1, ..., 0], keys[2, ..., 1], keys[3, ..., 1] = KEY_NORM, -KEY_NORM, KEY_NORM, -KEY_NORM + 1
    settings = RasterSettings(12, 2, 4, 1)
    uniforms = noise_from_seeds(range(2), raster_steps((16, 16), settings))
    assert raster(keys, uniforms, settings)[1].tolist() == slow_raster(keys.tolist(), uniforms[1].tolist(), 12, 4, 1, 2)


def test_extreme_keys_stay_exact_when_interpolated():
    """Interpolation may lengthen keys by rounding; distances must not be rounded for it."""
    keys = torch.full((4, 8, 8, 768), 73, dtype=torch.int16)
    keys[:, ::2, ::2] = 74
    keys[1::2] *= -1
    keys[2:, :, :, ::2] *= -1
    settings = RasterSettings(6, 3, 4, 2, 6)
    uniforms = noise_from_seeds(range(1), raster_steps((8, 8), settings))
    assert raster(keys, uniforms, settings)[0].tolist() == slow_raster(
        keys.tolist(), uniforms[0].tolist(), 6, 4, 2, 3, 6
    )


# --- inpainting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [1, 3])
@pytest.mark.parametrize("box", [(3, 8, 5, 11), (0, 12, 0, 7), (0, 12, 0, 12), (10, 12, 1, 2)])
def test_inpainting_equals_plain_loops(scales, box):
    """The finest index map; the coarser ones show in it, because each scale starts from the one before."""
    keys = random_keys(7, (12, 12))
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    settings = RasterSettings(5, None, 3, scales)
    uniforms = noise_from_seeds(range(2), raster_steps((12, 12), settings, True, mask))
    fast = raster(keys, uniforms, settings, keys[6:], mask)
    for i in range(2):
        slow = slow_raster(
            keys.tolist(), uniforms[i].tolist(), 5, 3, scales, None, None, keys[6].tolist(), mask.tolist()
        )
        assert fast[i].tolist() == slow


def test_mask_limits_what_is_written():
    keys = random_keys(8, (12, 12))
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[3:8, 5:11] = True
    for scales in (1, 3):
        settings = RasterSettings(4, None, 2, scales)
        noise = noise_from_seeds(range(3), raster_steps((12, 12), settings, True, mask))
        index = raster(keys, noise, settings, keys[:1], mask)
        assert (index[:, ~mask] == -1).all()
        assert ((index[:, mask] >= 0) & (index[:, mask] < 8)).all()


def test_filling_finds_the_picture_it_was_cut_from():
    keys = random_keys(8, (12, 12))
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[2:9, 4:10] = True
    settings = RasterSettings(4, None, 1)
    holed = torch.where(mask[None, :, :, None], torch.zeros_like(keys[5:6]), keys[5:6])
    noise = noise_from_seeds([0], raster_steps((12, 12), settings, True, mask))
    assert (raster(keys, noise, settings, holed, mask)[0][mask] == 5).all()


def test_what_lies_under_the_mask_does_not_matter():
    keys = random_keys(8, (12, 12))
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:7, :7] = True
    for scales in (1, 3):
        settings = RasterSettings(3, None, 2, scales)
        noise = noise_from_seeds(range(4), raster_steps((12, 12), settings, True, mask))
        other = torch.where(mask[None, :, :, None], random_keys(1, (12, 12), seed=7), keys[:1])
        first, second = (raster(keys, noise, settings, given, mask) for given in (keys[:1], other))
        assert torch.equal(first, second)
        assert len({tuple(row.flatten().tolist()) for row in first}) == 4, "fillings of different seeds differ"


def test_everything_masked_is_drawn_from_all_sources():
    keys = random_keys(6, (8, 8))
    mask = torch.ones(8, 8, dtype=torch.bool)
    settings = RasterSettings(3, None, 1)
    noise = noise_from_seeds(range(60), raster_steps((8, 8), settings, True, mask))
    index = raster(keys, noise, settings, keys[:1], mask)
    assert set(index[:, 0, 0].tolist()) == set(range(6))


# --- invariances ---------------------------------------------------------------------------------------


def test_image_does_not_depend_on_its_batch():
    keys = random_keys(40, (16, 16), depth=16, spread=300)
    settings = RasterSettings()
    noise = noise_from_seeds(range(7), raster_steps((16, 16), settings))
    whole = raster(keys, noise, settings)
    for i in range(7):
        assert torch.equal(raster(keys, noise[i : i + 1], settings)[0], whole[i])
    order = torch.tensor([6, 2, 2, 0])
    assert torch.equal(raster(keys, noise[order], settings), whole[order])
    for memory in (0, 4 * 3 * 40 * 32):
        assert torch.equal(raster(keys, noise, settings, memory=memory), whole)


def test_result_does_not_depend_on_threads_or_precision():
    keys = random_keys(60, (16, 16), depth=16, spread=300)
    settings = RasterSettings()
    noise = noise_from_seeds(range(5), raster_steps((16, 16), settings))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(raster(keys, noise, settings))
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.bfloat16):
        results.append(raster(keys, noise, settings))
    precision = torch.get_float32_matmul_precision()
    try:
        for name in ("high", "medium"):
            torch.set_float32_matmul_precision(name)
            results.append(raster(keys, noise, settings))
    finally:
        torch.set_float32_matmul_precision(precision)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: agreement of CPU and CUDA index maps was not tested")
@pytest.mark.parametrize("guided", [False, True])
def test_devices_agree(guided):
    keys = random_keys(300, (16, 16), depth=16, spread=300)
    settings = RasterSettings(scales=3)
    reference = random_keys(1, (16, 16), depth=16, spread=300, seed=5) if guided else None
    noise = noise_from_seeds(range(20), raster_steps((16, 16), settings, guided))
    on_gpu = raster(keys.cuda(), noise.cuda(), settings, None if reference is None else reference.cuda())
    assert torch.equal(on_gpu.cpu(), raster(keys, noise, settings, reference))


def test_sources_beyond_the_nearest_are_never_used():
    """With k = 1 and a reference that is a source, the result is that source."""
    keys = random_keys(20, (16, 16))
    index = sample(keys, range(3), RasterSettings(neighbors=1), keys[7:8])
    assert (index == 7).all()


def test_first_patch_comes_from_every_source():
    keys = random_keys(10, (8, 8))
    index = sample(keys, range(300), RasterSettings(3, neighbors=1, scales=1))
    counts = index[:, 0, 0].bincount(minlength=10)
    assert counts.min() > 10
    assert counts.max() < 60


# --- noise, keys, schedule -----------------------------------------------------------------------------


def test_noise_depends_on_the_seed_alone():
    noise = noise_from_seeds([3, 2**40, 3 + 2**32], 50)
    assert torch.equal(noise[0], noise_from_seeds([3], 50)[0])
    assert not torch.equal(noise[0], noise[2])
    assert noise.min() >= 0
    assert noise.max() < 1
    with refuses("seed"):
        noise_from_seeds([-1], 5)


def test_noise_of_one_is_taken_as_just_below():
    keys = random_keys(5, (8, 8))
    settings = RasterSettings(3, neighbors=5, scales=1)
    steps = raster_steps((8, 8), settings)
    assert torch.equal(
        raster(keys, torch.ones(1, steps), settings), raster(keys, torch.full((1, steps), 0.999), settings)
    )


def test_keys_never_exceed_their_norm():
    vectors = torch.randn(2, 16, 50, 1) * 10 ** torch.arange(-2.0, 5.0, 0.14)[None, None, :50, None]
    keys = to_keys(vectors, torch.tensor(0.1)).double()
    assert keys.norm(dim=1).max() <= KEY_NORM
    small = vectors.norm(dim=1, keepdim=True).expand_as(vectors) < 200
    assert (keys * 0.1 - vectors)[small].abs().max() <= 0.05 + 1e-6


def test_sizes_of_the_paper():
    assert scale_sizes((16, 16), 5) == [(s, s) for s in (10, 12, 13, 15, 16)]
    assert scale_sizes((32, 16), 5) == [(20, 10), (23, 12), (26, 13), (29, 15), (32, 16)]
    assert scale_sizes((16, 16), 1) == [(16, 16)]
    assert scale_sizes((16, 24), 2, 8) == [(8, 12), (16, 24)]
    assert [RasterSettings(patch_size=p).step for p in (1, 2, 3, 4, 5, 6, 7, 8, 10)] == [1, 1, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"patch_size": 0}, ValueError, "patch_size"),
        ({"patch_size": 2.5}, TypeError, "patch_size"),
        ({"neighbours": True}, TypeError, "neighbors"),
        ({"patch_size": 6, "stride": 7}, ValueError, "stride"),
        ({"scales": -1}, ValueError, "scales"),
    ],
)
def test_settings_are_checked(changes, error, name):
    with refuses(name, error):
        RasterSettings(**changes)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (RasterSettings(neighbors=11), "neighbors"),
        (RasterSettings(patch_size=11), "patch_size"),
        (RasterSettings(start_size=17), "start_size"),
    ],
)
def test_settings_that_do_not_fit_the_bank(settings, name):
    with refuses(name):
        raster(random_keys(10, (16, 16)), torch.rand(1, 230), settings)


def test_misshapen_input_is_refused():
    keys = random_keys(10, (16, 16))
    steps = raster_steps((16, 16))
    with refuses("noise"):
        raster(keys, torch.rand(1, 5))
    guided = raster_steps((16, 16), None, True)
    with refuses("reference"):
        raster(keys, torch.rand(2, guided), None, keys[:3])
    with refuses("reference"):
        raster(keys, torch.rand(2, steps), None, None, torch.ones(16, 16, dtype=torch.bool))
    with refuses("mask"):
        raster(keys, torch.rand(2, guided), None, keys[:1], torch.ones(8, 8, dtype=torch.bool))


def test_no_images_give_no_maps():
    keys = random_keys(10, (16, 16))
    assert raster(keys, torch.rand(0, raster_steps((16, 16)))).shape == (0, 16, 16)


# --- baselines -----------------------------------------------------------------------------------------


def test_random_cells_are_uniform():
    keys = random_keys(4, (8, 8))
    index = SAMPLERS["random-cells"](keys, noise_from_seeds(range(200), 64))
    share = index.flatten().bincount(minlength=4) / index.numel()
    assert (share - 0.25).abs().max() < 0.02


def test_random_patches_are_whole():
    keys = random_keys(50, (16, 20))
    settings = RandomPatchesSettings(patch_size=6)
    steps = SAMPLERS["random-patches"].noise_dim(settings, Context((16, 20), 3))
    assert steps == 3 * 4
    index = SAMPLERS["random-patches"](keys, noise_from_seeds(range(3), steps), settings)
    assert index.shape == (3, 16, 20)
    for top in range(0, 16, 6):
        for left in range(0, 20, 6):
            block = index[:, top : top + 6, left : left + 6].flatten(1)
            assert (block == block[:, :1]).all()
    assert index.unique().numel() > 10
