"""What commands share: models from their options, what they print and write."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders.registry import DEFAULT
from ..bank.attributes import read_attributes
from ..bank.augmentation import Variants
from ..bank.predicate import parse_predicate
from ..bank.sharded import ShardedBank
from ..io import atomic as files
from ..io import images
from ..methods.base import Context
from ..methods.latent.presets import PRESETS
from ..model import LatentPatch
from ..registry import SAMPLERS
from ..settings import declared

__all__ = [
    "bare_model",
    "check_apart",
    "chosen_settings",
    "counted",
    "files_by_id",
    "parsed_size",
    "placed",
    "say",
    "shows_progress",
    "skipped_files",
    "source_files",
    "sources_model",
    "wanted_mask",
    "wanted_size",
    "write_json",
]

_SETTINGS = (
    "patch_size",
    "stride",
    "neighbors",
    "scales",
    "start_size",
    "sweeps",
    "max_share",
    "start_candidates",
    "allow_start_as_donor",
    "donors",
    "symmetric",
    "switch_cost",
    "reuse_cost",
    "best_of",
    "strength",
)


def bare_model(options: argparse.Namespace) -> LatentPatch:
    """The autoencoder on its device, without sources."""
    model = LatentPatch(options.autoencoder or DEFAULT)
    return placed(model, options)


def sources_model(options: argparse.Namespace, scratch: Path | None = None) -> LatentPatch:
    """The sources named on the command line, fitted or loaded."""
    sources = [Path(source) for source in options.sources]
    sharded = getattr(options, "shard_bank", False)
    if len(sources) == 1 and sources[0].suffix == ".safetensors":
        for name in ("components", "size", "attributes", "mirrored", "offsets", "offset_cost", "details"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')}: {sources[0]} is fitted already; give it to the command that fits"
                )
        model = LatentPatch.load(sources[0], options.autoencoder)
        if sharded:
            model.bank = ShardedBank(model.bank, options.processes)
        return placed(model, options)
    if sharded:
        raise ValueError("--shard-bank: a fitted model file is expected; fit the sources first")
    # What can be wrong without having encoded anything is found first: encoding may take minutes.
    paths = images.list_images(*sources)
    check_apart(sources, options.output)
    known = None if options.attributes is None else read_attributes(options.attributes)
    if getattr(options, "where", None) is not None:
        parse_predicate(options.where)
    variants = _variants(options)
    model = LatentPatch(options.autoencoder or DEFAULT, 16 if options.components is None else options.components)
    placed(model, options)
    _check_settings(options, model, len(paths))
    model.fit(
        paths,
        attributes=known,
        size=wanted_size(options, model),
        skip_bad=options.skip_bad,
        **variants.record(),
        details=options.details,
        progress=shows_progress(options),
        scratch=scratch,
        processes=options.processes,
    )
    for _, reason in model.skipped:
        say(options, f"skipped: {reason}")
    if options.attributes is not None and not any(model.bank.attributes):
        raise ValueError(f"--attributes {options.attributes}: names none of the sources, such as {model.bank.ids[0]!r}")
    return model


def _variants(options: argparse.Namespace) -> Variants:
    if options.offset_cost is not None and not options.offsets:
        raise ValueError(f"--offset-cost {options.offset_cost}: goes with --offsets")
    given = {name: getattr(options, name) for name in ("mirrored", "offsets", "offset_cost")}
    return Variants(**{name: value for name, value in given.items() if value is not None})


def source_files(options: argparse.Namespace) -> dict[str, Path]:
    """The files of the sources by id; none for a fitted model, which does not hold pictures."""
    sources = [Path(source) for source in options.sources]
    if sources[0].suffix == ".safetensors":
        return {}
    return files_by_id(sources)


def files_by_id(sources: Sequence[str | Path]) -> dict[str, Path]:
    """Pictures of folders, lists and files, by the id that each would have as a source."""
    paths = images.list_images(*sources)
    return dict(zip(images.identifiers(paths), paths, strict=True))


def check_apart(sources: Sequence[Path], output: str) -> None:
    """Refuse to write pictures where the next run would find them as sources.

    Raises:
        ValueError: where ``output`` lies within one of the sources that are folders.
    """
    inside = [source for source in sources if source.is_dir() and _contains(source, Path(output))]
    if inside:
        raise ValueError(f"--output {output} lies within the sources {inside[0]}: its pictures would become sources")


def _contains(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve()) and path.resolve() != folder.resolve()


def _check_settings(options: argparse.Namespace, model: LatentPatch, count: int) -> None:
    """Refuse settings that do not go together with the grid or the number of sources."""
    if not hasattr(options, "neighbors"):
        return
    settings = chosen_settings(options, model)
    has_reference = getattr(options, "reference", None) is not None or options.command == "inpaint"
    context = Context(model.autoencoder.grid(*wanted_size(options, model)), count, has_reference)
    SAMPLERS.of(settings).validate(settings, context)


def placed(model: LatentPatch, options: argparse.Namespace) -> LatentPatch:
    device = options.device
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ValueError(f"--device {device!r}: auto, cpu, cuda or cuda:NUMBER is expected")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: not usable here: {str(error).splitlines()[0]}") from error
    model.precision = options.precision
    return model


def chosen_settings(options: argparse.Namespace, model: LatentPatch) -> Any:
    """The settings of the preset or sampler asked for, else the model's, with those given on the command line."""
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    preset = getattr(options, "preset", None)
    base = model.with_settings(_sampler(options)) if preset is None else PRESETS[preset]
    foreign = sorted(set(given) - set(declared(type(base))))
    if foreign:
        raise ValueError(f"--{foreign[0].replace('_', '-')}: not a setting of the sampler {SAMPLERS.name_of(base)!r}")
    return base.changed(**given)


def _sampler(options: argparse.Namespace) -> str | None:
    """The sampler asked for; only generating has a choice."""
    return getattr(options, "sampler", "raster")


def wanted_size(options: argparse.Namespace, model: LatentPatch) -> tuple[int, int]:
    if options.size is None:
        side = model.autoencoder.spec.image_size
        return side, side
    size = parsed_size(options.size)
    model.autoencoder.grid(*size)
    return size


def parsed_size(text: str) -> tuple[int, int]:
    """``SIDE`` or ``HEIGHTxWIDTH`` as (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise ValueError(f"--size {text!r}: pixels are expected, as SIDE or HEIGHTxWIDTH")
    size = int(match[1]), int(match[2] or match[1])
    if size[0] * size[1] > images.MAX_PIXELS:
        raise ValueError(f"--size {text}: at most {images.MAX_PIXELS} pixels are expected")
    return size


def wanted_mask(options: argparse.Namespace, size: tuple[int, int]) -> Tensor:
    return images.parse_box(options.box, size) if options.box else images.read_mask(options.mask, size)


def write_json(path: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, sort_keys=True, ensure_ascii=False) + "\n"
    files.write_bytes(path, text.encode(errors="backslashreplace"))  # file names need not be UTF-8


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def skipped_files(model: LatentPatch) -> list[dict[str, str]]:
    return [{"file": str(path), "reason": reason} for path, reason in model.skipped]


def say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr)


def shows_progress(options: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not options.quiet
