"""Promises of every registered sampler (:class:`latentpatch.methods.base.Sampler`)."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from helpers.errors import refuses
from helpers.random_keys import some_keys
from torch import Tensor

from latentpatch import SAMPLERS, Context, SettingError
from latentpatch.methods.base import Sampler
from latentpatch.methods.latent.search.prepared import PreparedSources
from latentpatch.ops.noise import noise_from_seeds
from latentpatch.registry import FLAGS, settings_from_record, settings_record
from latentpatch.settings import declared
from latentpatch.validation import check_noise

GRID = (12, 10)
NUM_SOURCES = 9


@pytest.fixture(params=list(SAMPLERS))
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return SAMPLERS[request.param]


@pytest.fixture(scope="module")
def sources() -> PreparedSources:
    return PreparedSources(some_keys(NUM_SOURCES, GRID, 4, 300, seed=0))


def context_of(has_reference: bool = False, mask: Tensor | None = None) -> Context:
    return Context(GRID, NUM_SOURCES, has_reference, mask)


def uniforms(sampler: Sampler, num_images: int, context: Context | None = None) -> Tensor:
    settings = sampler.resolve(sampler.Settings(), context or context_of())
    return noise_from_seeds(range(num_images), sampler.noise_dim(settings, context or context_of()))


def test_names_and_settings_lead_back(sampler: Sampler) -> None:
    settings = sampler.Settings()
    assert SAMPLERS.of(settings) is sampler is SAMPLERS.named(sampler.name)
    record = json.loads(json.dumps(settings_record(settings)))
    assert record["sampler"] == sampler.name
    assert settings_from_record(record) == settings
    hash(settings)
    for field in fields(settings):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(settings, field.name, None)


def test_the_registry_knows_the_flags(sampler: Sampler) -> None:
    for flag in FLAGS:
        assert (sampler.name in SAMPLERS.having(flag)) == getattr(sampler, flag), flag


def test_every_setting_is_declared(sampler: Sampler) -> None:
    kind = sampler.Settings
    assert list(declared(kind)) == [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name, setting in declared(kind).items():
        assert setting.help
        assert not setting.help.endswith(".")
        assert setting.types, name
        setting.check(setting.default)


def test_every_setting_refuses_other_types_and_what_is_out_of_range(sampler: Sampler) -> None:
    for name, setting in declared(sampler.Settings).items():
        for wrong in ("text", b"", {}, object()):
            with refuses(name, TypeError):
                sampler.Settings(**{name: wrong})
        numbers = [float("nan"), float("inf"), -float("inf"), -1, -1.0, True]
        numbers += [] if setting.maximum is None else [setting.maximum + 1]
        for wrong in numbers:
            if setting.types == (bool,) and isinstance(wrong, bool):
                continue
            with refuses(name):
                sampler.Settings(**{name: wrong})


def test_index_maps_have_shape_and_range(sampler: Sampler, sources: PreparedSources) -> None:
    index = sampler(sources, uniforms(sampler, 3))
    assert index.shape == (3, *GRID)
    assert index.dtype == torch.int64
    assert int(index.min()) >= 0
    assert int(index.max()) < NUM_SOURCES


def test_no_noise_gives_no_maps(sampler: Sampler, sources: PreparedSources) -> None:
    assert sampler(sources, uniforms(sampler, 3)[:0]).shape == (0, *GRID)


def test_an_image_is_the_same_alone_and_in_any_batch(sampler: Sampler, sources: PreparedSources) -> None:
    noise = uniforms(sampler, 4)
    together = sampler(sources, noise)
    for i in (0, 3):
        assert torch.equal(sampler(sources, noise[i : i + 1])[0], together[i])
    assert torch.equal(sampler(sources.keys, noise.flip(0)), together.flip(0))


def test_threads_change_nothing(sampler: Sampler, sources: PreparedSources) -> None:
    noise, before = uniforms(sampler, 3), torch.get_num_threads()
    maps = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            maps.append(sampler(sources, noise))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


def test_bad_noise_is_refused(sampler: Sampler, sources: PreparedSources) -> None:
    noise = uniforms(sampler, 2)
    for wrong in (noise[:, :-1], torch.cat([noise, noise[:, :1]], 1), noise[0], noise[None]):
        with refuses("noise"):
            sampler(sources, wrong)
    for dtype in (torch.bfloat16, torch.float16, torch.int64):
        with refuses("noise", TypeError):
            sampler(sources, noise.to(dtype))
    check_noise(noise.double(), noise.shape[1])
    assert torch.equal(sampler(sources, noise.double()), sampler(sources, noise))


def test_a_reference_is_taken_exactly_as_flagged(sampler: Sampler, sources: PreparedSources) -> None:
    reference = sources.keys[:1]
    if not sampler.accepts_reference:
        with refuses("reference"):
            sampler(sources, uniforms(sampler, 1), reference=reference)
        return
    noise = uniforms(sampler, 2, context_of(has_reference=True))
    index = sampler(sources, noise, reference=reference)
    assert torch.equal(index, sampler(sources, noise, reference=reference.expand(2, -1, -1, -1)))
    for wrong in (reference[:, 1:], reference[..., :-1], reference.expand(3, -1, -1, -1)):
        with refuses("reference"):
            sampler(sources, noise, reference=wrong)


def test_a_mask_is_taken_exactly_as_flagged(sampler: Sampler, sources: PreparedSources) -> None:
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[3:8, 2:6] = True
    if not sampler.accepts_mask:
        with refuses("mask"):
            sampler(sources, uniforms(sampler, 1), reference=sources.keys[:1], mask=mask)
        return
    context = context_of(True, mask)
    noise = uniforms(sampler, 2, context)
    settings = sampler.resolve(sampler.Settings(), context)
    index = sampler(sources, noise, settings, reference=sources.keys[:1], mask=mask)
    assert torch.equal(index >= 0, mask.expand(2, -1, -1))
    with refuses("reference"):
        sampler(sources, noise, settings, mask=mask)
    for wrong in (mask[1:], torch.zeros_like(mask)[:, :4]):
        with refuses("mask"):
            sampler(sources, noise, settings, reference=sources.keys[:1], mask=wrong)


def test_resolving_fills_in_and_keeps(sampler: Sampler) -> None:
    for has_reference in {False, sampler.accepts_reference}:
        context = context_of(has_reference)
        settings = sampler.resolve(sampler.Settings(), context)
        sampler.validate(settings, context)
        assert type(settings) is sampler.Settings
        assert sampler.resolve(settings, context) == settings
        assert sampler.work(settings, context) >= 0


def test_a_grid_too_small_is_refused(sampler: Sampler) -> None:
    settings = sampler.Settings()
    if "patch_size" not in declared(sampler.Settings) or sampler.name == "random-patches":
        sampler.noise_dim(settings, Context((1, 1), NUM_SOURCES))
        return
    with refuses("patch_size"):
        sampler.noise_dim(settings, Context((1, 1), NUM_SOURCES))


def test_it_is_exported_exactly_as_flagged(sampler: Sampler, sources: PreparedSources) -> None:
    for has_reference in (False, True):
        settings = sampler.resolve(sampler.Settings(), context_of(has_reference))
        if not sampler.is_exportable:
            with pytest.raises(SettingError):
                sampler.traceable(sources, settings, has_reference)
            continue
        noise = uniforms(sampler, 2, context_of(has_reference))
        inputs = (noise, sources.keys[:2]) if has_reference else (noise,)
        expected = sampler(sources, noise, settings, reference=sources.keys[:2] if has_reference else None)
        assert torch.equal(sampler.traceable(sources, settings, has_reference)(*inputs), expected)
