"""Cases of the golden tests and the functions that compute them, for ``make_golden.py`` and ``test_golden.py`` alike.

Index maps are computed from the integer keys of model files, so their digests hold on every processor. Three things are
floating point and hold exactly only on the processor that :func:`processor` describes: maps of the sampler diffusion
(pinned on models of the autoencoder ``pixels``), pictures, and whatever a network encoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentpatch import PRESETS, SAMPLERS, Context, LatentPatch
from latentpatch.__main__ import run
from latentpatch.registry import settings_from_record

FIXTURES = Path(__file__).resolve().parent / "fixtures"
SEEDS = range(3)
NUM_THREADS = 1

# --- The only places that depend on the package's inside: adapt them where modules or contracts change. ---------------


def write_program(model: LatentPatch, folder: Path, settings: Any, graphs: tuple[str, ...]) -> dict[str, Any]:
    """Export graphs of a model as programs of ``torch.export`` and return the facts."""
    from latentpatch.export import export

    facts: dict[str, Any] = export(model, folder, "pt2", settings=settings, only=graphs)
    return facts


def search(
    model: LatentPatch,
    settings: Any,
    *,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
    where: Callable[[Any], bool] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return the index maps of a sampler that is called with the keys of a model: ``(len(SEEDS), h, w)`` int64.

    Args:
        model: fitted.
        settings: of a sampler.
        reference: ``(1, h, w, r)`` int16 keys.
        mask: ``(h, w)`` bool, True for cells that are sampled.
        where: predicate on attributes.
        backend: ``torch`` or ``numba``; None for the default.
    """
    sampler, bank = SAMPLERS.of(settings), model.bank
    candidates = None if where is None else bank.select(where)
    num_sources = (len(bank) if candidates is None else len(candidates)) // bank.variants.count
    context = Context(bank.grid, num_sources, reference is not None, mask)
    # At the scales of a reference, as these digests were made: inpaint() has others.
    chosen = sampler.resolve(settings, replace(context, mask=None))
    uniforms = noise(sampler.noise_dim(chosen, context))
    target = "latentpatch.methods.latent.search.numba_backend.installed"
    with contextlib.nullcontext() if backend is None else mock.patch(target, return_value=backend == "numba"):
        return bank.sample(sampler, uniforms, chosen, candidates, reference, mask)


# --- Helpers that use the public interface alone ----------------------------------------------------------------------


def sampler_name(settings: Any) -> str:
    """Return the name of the sampler that settings are of."""
    return SAMPLERS.name_of(settings)


#: Presets at the time of the fixtures, when ``few`` had four donors and no bands.
_OLDEST = ("faithful", "balanced", "diverse", "few", "paper")  # presets that digests were kept of
_PRESETS = {**PRESETS, "few": PRESETS["few"].changed(donors=4, bands=1, max_share=0.375)}


def settings_of(record: str | dict[str, Any]) -> Any:
    """Return the settings of a preset's name, or of a record in the names of the time of the fixtures."""
    if isinstance(record, str):
        return _PRESETS[record]
    return settings_from_record(record)


def run_command(arguments: Sequence[str]) -> None:
    """Run ``python -m latentpatch`` in this process.

    Raises:
        AssertionError: where its exit status is not 0.
    """
    output, interrupts = io.StringIO(), signal.getsignal(signal.SIGINT)
    with (
        mock.patch.object(sys, "argv", ["latentpatch", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            status = run()
        except SystemExit as end:
            status = end.code
        finally:
            signal.signal(signal.SIGINT, interrupts)  # the end of a program does without
    assert status == 0, f"{' '.join(arguments)}: exit status {status}: {output.getvalue()}"


@lru_cache(maxsize=16)
def load(name: str) -> LatentPatch:
    """Load a model file of the fixtures."""
    return LatentPatch.load(FIXTURES / f"{name}.safetensors")


def noise(steps: int) -> Tensor:
    """Return the uniforms of :data:`SEEDS`: ``(len(SEEDS), steps)`` float32."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(steps, dtype=np.float32) for seed in SEEDS]))


def pattern(height: int, width: int) -> Tensor:
    """Return a picture ``(3, H, W)`` in [0, 1] that is made of integers alone."""
    values = torch.arange(3 * height * width).view(3, height, width)
    return ((values * 37 + values // 7) % 256) / 255


def read_png(path: Path) -> Tensor:
    """Read a PNG: ``(3, H, W)`` in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).float() / 255


def levels(images: Tensor) -> Tensor:
    """Round pictures in [0, 1] to uint8."""
    return (images.detach() * 255).round().clamp(0, 255).to(torch.uint8)


def digest(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes: int64 little endian for maps, uint8 for pictures."""
    array = values.detach().contiguous().numpy()
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


@lru_cache(maxsize=1)
def processor() -> dict[str, str]:
    """Return what decides the last bits of floating-point results.

    The probe is PyTorch's own convolutions and products, not the package's networks: a change of these must not pass
    for another processor.
    """

    def wave(*shape: int) -> Tensor:
        return ((torch.arange(int(np.prod(shape))) * 7919) % 257 - 128).view(shape) / 128

    threads = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    try:
        with torch.no_grad():
            x = wave(2, 64, 16, 16)
            for _ in range(3):
                x = torch.nn.functional.conv2d(x, wave(64, 64, 3, 3) / 24, padding=1).relu()
            product = torch.bmm(wave(2, 48, 96), wave(2, 96, 40))
            double = torch.einsum("rl,nlhw->nrhw", wave(8, 64).double(), x.double()).exp().log1p().float()
            probe = hashlib.sha256("".join(digest(part) for part in (x, product, double)).encode()).hexdigest()
    finally:
        torch.set_num_threads(threads)
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "probe": probe,
    }


def is_glad(attributes: Any) -> bool:
    """Return whether a source has the mood that subsets are made of."""
    return bool(attributes.get("mood") == "glad")


# --- Index maps -------------------------------------------------------------------------------------------------------


def _resynthesis(**values: Any) -> dict[str, Any]:
    return {"sampler": "resynthesis", **values}


def _raster(**values: Any) -> dict[str, Any]:
    return {"sampler": "raster", **values}


def _diffusion(**values: Any) -> dict[str, Any]:
    return {"sampler": "diffusion", **values}


#: Non-default settings of every sampler, as JSON files, pictures and model files held them: all fields in their order.
RECORDS: dict[str, dict[str, Any]] = {
    "resynthesis": _resynthesis(
        patch_size=4,
        stride=2,
        neighbours=2,
        sweeps=3,
        max_share=0.5,
        draws=3,
        keep_start=True,
        subset=6,
        symmetric=False,
        switch_cost=0.25,
        use_cost=0.01,
        best_of=2,
    ),
    "diffusion": _diffusion(
        levels=8,
        start_noise=4.0,
        end_noise=0.05,
        windows=[16, 9, 5, 3],
        strength=0.75,
        sweeps=1,
        max_share=0.4,
        patch_size=3,
        stride=2,
    ),
    "raster": _raster(patch_size=5, stride=2, neighbours=4, scales=3, start_size=9),
    "random-cells": {"sampler": "random-cells"},
    "random-patches": {"sampler": "random-patches", "patch_size": 5},
}

#: Settings by the name of their case; of the model ``plain``, without and with a reference.
SETTINGS: dict[str, str | dict[str, Any]] = {
    **{f"preset-{name}": name for name in _OLDEST},
    **{f"default-{name}": {"sampler": name} for name in RECORDS},
    **{f"record-{name}": record for name, record in RECORDS.items()},
    "costs": _resynthesis(switch_cost=1.5, use_cost=0.05),
    "switch-cost": _resynthesis(switch_cost=0.5),
    "use-cost": _resynthesis(use_cost=0.1, patch_size=3, stride=2, neighbours=3),
    "best-of": _resynthesis(best_of=3),
    "not-symmetric": _resynthesis(symmetric=False, neighbours=2),
    "share-of-sources": _resynthesis(subset=0.75, draws=1, max_share=0.6),
    "all-sources": _resynthesis(subset=1.0, keep_start=True, draws=4, neighbours=5),
    "even-patch": _resynthesis(patch_size=4, stride=1, sweeps=1),
    "raster-one-scale": _raster(patch_size=4, neighbours=1, scales=1),
    "raster-blocks-of-three": _raster(patch_size=4, stride=3, neighbours=3, scales=2),
    "diffusion-without-sweeps": _diffusion(levels=6, sweeps=0, windows=[16, 5]),
}

#: The same for models whose sources have variants, or other latents.
OTHER_SETTINGS: dict[str, str | dict[str, Any]] = {
    "balanced": "balanced",
    "few": "few",
    "costs": _resynthesis(patch_size=3, neighbours=2, switch_cost=0.5, use_cost=0.02, keep_start=True, max_share=0.6),
    "raster": _raster(patch_size=4, neighbours=2, scales=2),
    "diffusion": _diffusion(levels=6),
    "random-cells": {"sampler": "random-cells"},
}


def _is_guided(record: str | dict[str, Any]) -> bool:
    return isinstance(record, str) or not record["sampler"].startswith("random-")


def _mask(model: LatentPatch) -> Tensor:
    mask = torch.zeros(model.bank.grid, dtype=torch.bool)
    rows, columns = model.bank.grid
    mask[rows // 4 : rows // 4 + rows // 2, columns // 3 : columns // 3 + rows // 2] = True
    return mask


def search_cases() -> dict[str, dict[str, Any]]:
    """Return the cases of :func:`search`, with what each calls it with."""
    cases: dict[str, dict[str, Any]] = {}

    def add(model: str, name: str, record: str | dict[str, Any]) -> None:
        cases[f"{model}/{name}"] = {"model": model, "record": record}
        if _is_guided(record):
            cases[f"{model}/{name}/reference"] = {"model": model, "record": record, "reference": True}

    for name, record in SETTINGS.items():
        add("plain", name, record)
    for name in ("preset-balanced", "preset-few", "preset-paper", "default-diffusion", "default-random-patches"):
        cases[f"plain/{name}/where"] = {"model": "plain", "record": SETTINGS[name], "where": True}
    for name in ("preset-paper", "raster-blocks-of-three", "record-diffusion"):
        cases[f"plain/{name}/mask"] = {"model": "plain", "record": SETTINGS[name], "reference": True, "mask": True}
    cases["plain/preset-paper/mask/where"] = {**cases["plain/preset-paper/mask"], "where": True}
    for model in ("mirrored", "offsets", "embedded", "vq"):
        for name, record in OTHER_SETTINGS.items():
            if name == "few" and model != "mirrored":
                continue  # on a grid of 8x8 cells its four donors cannot fill a picture
            if model in ("embedded", "vq") and name in ("diffusion", "random-cells"):
                continue
            add(model, name, record)
    cases["mirrored/raster/mask"] = {
        "model": "mirrored",
        "record": OTHER_SETTINGS["raster"],
        "reference": True,
        "mask": True,
    }
    return cases


def is_exact_everywhere(case: dict[str, Any]) -> bool:
    """Return whether a case's arithmetic is in integers."""
    return isinstance(case["record"], str) or case["record"]["sampler"] != "diffusion"


def backends_of(case: dict[str, Any]) -> tuple[str | None, ...]:
    """Return the backends a case is searched with; None is the default one."""
    name = sampler_name(settings_of(case["record"]))
    return ("torch", "numba") if name in ("resynthesis", "raster") else (None,)


def found_index(case: dict[str, Any], backend: str | None = None) -> Tensor:
    """Return the index maps of a case of :func:`search_cases`."""
    model = load(case["model"])
    return search(
        model,
        settings_of(case["record"]),
        reference=model.bank.keys[:1] if case.get("reference") else None,
        mask=_mask(model) if case.get("mask") else None,
        where=is_glad if case.get("where") else None,
        backend=backend,
    )


def generate_cases() -> dict[str, Callable[[], Tensor]]:
    """Return index maps of the public methods, by name; those of the autoencoder ``pixels`` alone."""

    def generated(model: str, record: str | dict[str, Any] | None, **arguments: Any) -> Callable[[], Tensor]:
        settings = None if record is None else settings_of(record)
        return lambda: load(model).generate(seeds=SEEDS, settings=settings, **arguments).index

    def inpainted(record: dict[str, Any] | None, **arguments: Any) -> Tensor:
        model, picture, mask = load("plain"), read_png(FIXTURES / "reference.png"), torch.zeros(64, 64).bool()
        mask[20:44, 10:50] = True
        settings = None if record is None else settings_of(record)
        return model.inpaint(picture, mask, 3, settings=settings, **arguments).index

    def edited() -> Tensor:
        mask = torch.zeros(64, 64).bool()
        mask[30:, 10:50] = True
        model = load("plain")
        return model.edit(read_png(FIXTURES / "reference.png"), f"source:{model.bank.ids[3]}", mask).index

    reference = FIXTURES / "reference.png"
    cases = {f"generate/{name}": generated("plain", name) for name in _OLDEST}
    cases |= {f"generate/{name}/reference": generated("plain", name, reference=reference) for name in _OLDEST}
    cases |= {f"generate/{name}/where": generated("plain", name, where="mood=glad") for name in ("balanced", "paper")}
    cases |= {f"generate/file-settings/{name}": generated(name, None) for name in ("plain", "mirrored", "offsets")}
    cases["generate/tiny/pattern"] = generated("tiny", "balanced", reference=pattern(32, 32))
    cases["forward-search"] = lambda: load("plain").search(noise(load("plain").steps))
    cases["inpaint"] = lambda: inpainted(None)
    cases["inpaint/where"] = lambda: inpainted(None, where="not mood=glad", composite=False)
    cases["inpaint/settings"] = lambda: inpainted(_raster(patch_size=4, neighbours=2, scales=2))
    cases["edit"] = edited
    return cases


#: Exported graphs of the model ``tiny``, by the name of the sampler.
EXPORTED = {
    "resynthesis": _resynthesis(
        patch_size=4, stride=3, neighbours=2, draws=3, subset=4, max_share=0.6, keep_start=True
    ),
    "raster": _raster(patch_size=4, stride=2, neighbours=2, scales=2),
}


def exported_indices(name: str, folder: Path) -> dict[str, Tensor]:
    """Export the graphs ``generate`` and ``reference``, run them and return their index maps."""
    facts = write_program(load("tiny"), folder, settings_of(EXPORTED[name]), ("generate", "reference"))
    found = {}
    for graph in ("generate", "reference"):
        steps = facts["graphs"][graph]["inputs"]["noise"]["shape"][1]
        inputs = [noise(steps)]
        if graph == "reference":
            inputs.insert(0, torch.stack([pattern(32, 32).roll(seed, 2) for seed in SEEDS]))
        with torch.no_grad():
            found[graph] = torch.export.load(folder / f"{graph}.pt2").module()(*inputs)[1]
    return found


# --- Pictures ---------------------------------------------------------------------------------------------------------


def picture_cases() -> dict[str, Callable[[], Tensor]]:
    """Return pictures ``(N, 3, H, W)`` in [0, 1], by name."""
    decodings = {
        "plain": ("gather", "blend", "unproject"),
        "mirrored": ("blend",),
        "embedded": ("gather", "blend", "detail", "unproject"),
        "vq": ("gather", "detail", "unproject"),
    }

    def decoded(model: str, decoding: str) -> Callable[[], Tensor]:
        return lambda: load(model).generate(2, seed=5, decoding=decoding).images

    def box(size: int) -> Tensor:
        mask = torch.zeros(size, size).bool()
        mask[size // 4 : size // 2 + 3, size // 5 : 3 * size // 4] = True
        return mask

    def inpainted(name: str, composite: bool) -> Callable[[], Tensor]:
        return lambda: (
            load(name)
            .inpaint(
                _picture(name),
                box(len(_picture(name)[0])),
                seed=1,
                settings=settings_of(_raster(patch_size=4, neighbours=2, scales=2)),
                composite=composite,
            )
            .images
        )

    def edited(name: str, composite: bool) -> Callable[[], Tensor]:
        return lambda: (
            load(name)
            .edit(_picture(name), f"source:{load(name).bank.ids[2]}", box(len(_picture(name)[0])), composite=composite)
            .images
        )

    cases = {
        f"{model}/{decoding}": decoded(model, decoding) for model, kinds in decodings.items() for decoding in kinds
    }
    for model in ("plain", "embedded"):
        cases |= {f"{model}/inpaint/{kind}": inpainted(model, kind == "composite") for kind in ("composite", "whole")}
        cases |= {f"{model}/edit/{kind}": edited(model, kind == "composite") for kind in ("composite", "whole")}
    for model in ("embedded", "vq"):
        cases[f"{model}/reconstruct"] = lambda model=model: load(model).reconstruct(_picture(model))
        cases[f"{model}/source"] = lambda model=model: load(model).source_picture(1)[None]
    cases["embedded/forward"] = lambda: load("embedded")(noise(load("embedded").steps)[:1])
    cases["plain/provenance"] = lambda: load("plain").generate(1, seed=5).provenance()
    return cases


def _picture(name: str) -> Tensor:
    return read_png(FIXTURES / ("reference.png" if name == "plain" else "reference128.png"))


def picture_file(name: str) -> Path:
    """Return where the first picture of a case is stored."""
    return FIXTURES / "pictures" / f"{name.replace('/', '-')}.png"


#: Arguments of :meth:`LatentPatch.soft`, by name.
SOFT: dict[str, dict[str, Any]] = {
    "default": {},
    "sharp": {"temperature": 0.02, "patch_size": 3},
    "nearest": {"neighbours": 2, "temperature": 0.5},
    "hard": {"hard": True},
}


def soft_weights(name: str) -> Tensor:
    """Return the soft weights of a pattern in the model ``tiny``: ``(1, B, h, w)``."""
    return load("tiny").soft(pattern(32, 32), **SOFT[name]).weights.detach()


# --- Commands ---------------------------------------------------------------------------------------------------------

#: Arguments of ``python -m latentpatch``, under the names of the time of the fixtures, without their output folder;
#: ``@NAME`` is a fixture. The folder of the same name in the fixtures holds what each wrote.
COMMANDS: dict[str, list[str]] = {
    "resynthesis": [
        *("generate", "@plain.safetensors", "-n", "2", "--seed", "7", "--sampler", "resynthesis"),
        *("--patch-size", "4", "--draws", "3", "--keep-start", "--subset", "6", "--use-cost", "0.02"),
        *("--switch-cost", "0.1", "--neighbours", "2", "--sweeps", "3", "--max-share", "0.4", "--no-symmetric"),
    ],
    "balanced": ["generate", "@plain.safetensors", "-n", "1", "--seed", "3"],
    "paper": ["generate", "@plain.safetensors", "-n", "1", "--preset", "paper", "--neighbours", "2"],
    "reference": [
        *("generate", "@plain.safetensors", "-n", "1", "--reference", "@reference.png", "--preset", "few"),
        *("--donors", "4", "--bands", "1", "--max-share", "0.375"),
        *("--where", "mood=glad"),
    ],
    "mirrored": ["generate", "@mirrored.safetensors", "-n", "1", "--seed", "2"],
    "inpaint": ["inpaint", "@plain.safetensors", "--image", "@reference.png", "--box", "10,20,50,44", "-n", "1"],
    "edit": [
        *("edit", "@reference.png", "--donor", "@faces64/face03.png", "--box", "10,30,50,64", "--composite"),
        *("--autoencoder", "pixels:4", "--size", "64"),
    ],
}


def arguments_of(name: str, output: Path) -> list[str]:
    """Return all arguments of a command of :data:`COMMANDS`."""
    given = [str(FIXTURES / part[1:]) if part.startswith("@") else part for part in COMMANDS[name]]
    return [*given, "--device", "cpu", "-q", "-o", str(output)]


def report_of(folder: Path) -> dict[str, Any]:
    """Read the report that a command wrote."""
    (path,) = folder.glob("*.json")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def metadata_of(path: Path) -> dict[str, Any]:
    """Read what a PNG says of its making."""
    with Image.open(path) as image:
        image.load()
        facts: dict[str, Any] = json.loads(image.info["latentpatch"])
    return facts


# --- Fits -------------------------------------------------------------------------------------------------------------


def fitted(name: str) -> LatentPatch:
    """Fit the model of a file anew, from the pictures of the fixtures."""
    folder = FIXTURES / ("faces64" if name in ("plain", "mirrored") else "faces128")
    paths = sorted(folder.glob("*.png"))
    if name == "plain":
        moods = {path.stem: {"mood": "glad" if i % 3 else "calm"} for i, path in enumerate(paths)}
        return LatentPatch("pixels:4", 8).fit(paths, attributes=moods, size=64)
    if name == "mirrored":
        settings = settings_of(_resynthesis(draws=3, keep_start=True, subset=3, use_cost=0.01, neighbours=2))
        return LatentPatch("pixels:4", 8, settings).fit(paths[:8], size=64, mirrored=True)
    if name == "embedded":
        return LatentPatch("embedded", 8).fit(paths, size=128, details=True)
    return LatentPatch("embedded-vq", 8).fit(paths, size=128, details=True)
