"""Models and inputs from options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from ..autoencoders.registry import DEFAULT, Autoencoder, load_autoencoder
from ..bank.attributes import read_attributes
from ..bank.predicate import parse_predicate
from ..bank.sharded import ShardedBank
from ..errors import SettingError
from ..fitting import warn_of_disagreement
from ..io import images
from ..io.listing import left_out, normalized, resolved
from ..methods.base import Context
from ..methods.latent.presets import FEW_SOURCES, PRESETS
from ..model import LatentPatch
from ..registry import SAMPLERS
from ..settings import Settings
from ._options import RegionOptions, RunContext, SourceOptions, plural
from ._registration import said_warnings
from ._samplers import SamplerOptions

__all__ = [
    "check_output_apart",
    "check_pixels",
    "files_of",
    "load_model",
    "note_few",
    "open_autoencoder",
    "open_model",
    "pixel_size",
    "read_region",
    "said_left_out",
    "skipped_files",
    "source_files",
]

_MAX_GROUPS = 8  # groups that are printed, and other members of each
_MAX_MEMBERS = 6
_MOST_OF_A_PICTURE = 0.5  # share of one source from which on it is always said


def open_autoencoder(context: RunContext) -> LatentPatch:
    """Return a model without sources on the run's device."""
    precision = context.options.precision
    model = LatentPatch(context.options.autoencoder or DEFAULT).to(context.choose_device(precision))
    model.precision = precision
    return model


def load_model(path: Path, context: RunContext) -> LatentPatch:
    """Return a fitted model on the run's device."""
    options = context.options
    device = context.choose_device(options.precision)
    return LatentPatch.open(path, autoencoder=options.autoencoder, device=device, precision=options.precision)


def open_model(
    options: SourceOptions,
    context: RunContext,
    output: Path,
    where: str | None = None,
    sampler: SamplerOptions | None = None,
    has_reference: bool = False,
    is_sharded: bool = False,
    scratch: Path | None = None,
) -> LatentPatch:
    """Return the model that the sources stand for, loaded or fitted.

    Encoding may take minutes: everything that can be wrong without it is refused first.

    Args:
        options: the sources.
        context: of the run.
        output: where the command writes, which must be outside of the sources.
        where: predicate whose syntax is checked.
        sampler: settings to check against the grid and the number of sources.
        has_reference: whether the sampler gets a reference.
        is_sharded: whether each process keeps its part of a model file's sources.
        scratch: see :meth:`LatentPatch.fit`.
    """
    if options.is_fitted:
        model = load_model(options.sources[0], context)
        with ThreadPoolExecutor(1) as pool, said_warnings(context):
            pool.submit(model.bank.digest)  # kept: every record of a command has it
            warn_of_disagreement(model.bank)
        if is_sharded:
            model.bank = ShardedBank(model.bank, context.processes)
        return model
    paths = images.list_images(*options.sources)
    passed_over = said_left_out(options.sources, context)
    check_output_apart(output, options.sources)
    attributes = None if options.attributes is None else read_attributes(options.attributes)
    if where is not None:
        parse_predicate(where)
    autoencoder = load_autoencoder(context.options.autoencoder or DEFAULT)
    size = pixel_size(options.size, autoencoder)
    if sampler is not None:
        settings = sampler.settings()
        SAMPLERS.of(settings).validate(settings, Context(autoencoder.grid(*size), len(paths), has_reference))
    precision = options.precision or context.options.precision
    device = context.choose_device(precision)
    with said_warnings(context):
        model = LatentPatch.open(
            paths,
            autoencoder=autoencoder,
            components=options.components,
            device=device,
            precision=precision,
            processes=context.processes,
            attributes=attributes,
            size=size,
            skip_bad=options.skip_bad,
            mirrored=options.mirrored,
            offsets=options.offsets,
            offset_cost=options.offset_cost,
            residuals=options.residuals,
            groups=options.groups,
            group_by=options.group_by,
            progress=context.shows_progress,
            scratch=scratch,
        )
    model.precision = context.options.precision
    for _, reason in model.skipped:
        context.say(f"skipped: {reason}")
    model.skipped += [(Path(each["file"]), each["reason"]) for each in passed_over]
    for line in _group_lines(model):
        context.say(line)
    if attributes is not None:
        names = set(map(normalized, model.bank.sources))
        rows = {name for name in map(normalized, attributes) if name not in names}
        bare = names.difference(map(normalized, attributes))
        for missing, what, other in ((rows, "row", "source"), (bare, "source", "row")):
            if missing:
                reason = f"{plural(len(missing), what)} without a {other}, such as {min(missing)!r}"
                context.say(f"--attributes {options.attributes}: {reason}")
                model.skipped.append((Path(str(options.attributes)), reason))
    return model


def said_left_out(sources: Sequence[Path], context: RunContext) -> list[dict[str, str]]:
    """Say how many files of folders are no sources, and return them with the reasons, for a report."""
    found = left_out(*(source for source in sources if source.is_dir()))
    if found:
        reasons = Counter(reason for _, reason in found).most_common()
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons)
        context.say(f"left out of {', '.join(map(str, sources))}: {counts}")
    return [{"file": str(path), "reason": reason} for path, reason in found]


def note_few(
    model: LatentPatch, sampler: SamplerOptions, settings: Settings, where: str | None, context: RunContext
) -> None:
    """Say before images are made that there are few sources, and what one may give; the latter if it is most, too."""
    method, inputs = SAMPLERS.of(settings), model.context(model.bank.candidates(where))
    method.validate(settings, inputs)  # refuse first
    share = getattr(method.resolve(settings, inputs), "max_share", None)
    if (inputs.num_sources >= FEW_SOURCES or sampler.is_named) and (share or 0) <= _MOST_OF_A_PICTURE:
        return
    preset = ", preset few" if settings == PRESETS["few"] else ""
    gives = (
        ""
        if share is None
        else f": one may give up to {share:.0%} of a picture, and some pictures may resemble one of them"
    )
    context.say(f"{plural(inputs.num_sources, 'source')}{preset}{gives}")


def _group_lines(model: LatentPatch) -> list[str]:
    """Return lines that name the sources that count as one; none where each counts."""
    groups = model.bank.shared_groups
    if not groups:
        return []
    lines = []
    for name, (_, *others) in list(groups.items())[:_MAX_GROUPS]:
        more = f" and {len(others) - _MAX_MEMBERS} more" if len(others) > _MAX_MEMBERS else ""
        lines.append(f"  {name}: with {', '.join(others[:_MAX_MEMBERS])}{more}")
    if len(groups) > _MAX_GROUPS:
        lines.append(f"  and {len(groups) - _MAX_GROUPS} more groups, which inspect names in a fitted model")
    total, rule = plural(len(model.bank.sources), "source"), model.bank.grouping
    reasons = ["show the same picture (or say --no-groups)"] if rule.groups else []
    reasons += [] if rule.group_by is None else [f"have the same {rule.group_by}"]
    return [f"{total} count as {model.bank.num_groups}, because these {' or '.join(reasons)}:", *lines]


def source_files(options: SourceOptions) -> dict[str, Path]:
    """Return the files of the sources by id; none for a fitted model, which holds no pictures."""
    return {} if options.is_fitted else _files_by_id(options.sources)


def _files_by_id(sources: Sequence[Path]) -> dict[str, Path]:
    """Return pictures of folders, lists and files, by the id that each has as a source."""
    paths = images.list_images(*sources)
    return dict(zip(images.identifiers(paths), paths, strict=True))


def files_of(names: Sequence[str], option: str, sources: Sequence[Path]) -> list[Path]:
    """Return the pictures of sources by name, in order.

    Raises:
        ValueError: naming the option, where a source has no picture.
    """
    by_id = _files_by_id(sources)
    missing = [name for name in names if name not in by_id]
    if missing:
        raise ValueError(f"{option}: {len(missing)} of the sources have no picture there, such as {missing[0]!r}")
    return [by_id[name] for name in names]


def check_output_apart(output: Path, sources: Sequence[Path]) -> None:
    """Refuse to write pictures where the next run would find them as sources.

    Raises:
        ValueError: where ``output`` lies within one of the sources that are folders.
    """
    place = resolved(output)
    for source in sources:
        if source.is_dir() and place.is_relative_to(resolved(source)) and place != resolved(source):
            raise ValueError(f"--output {output} lies within the sources {source}: its pictures would become sources")


def pixel_size(size: tuple[int, int] | None, autoencoder: Autoencoder) -> tuple[int, int]:
    """Return height and width in pixels, the autoencoder's own where none is set.

    Raises:
        SettingError: for too many pixels, and sides that are no multiples of the autoencoder's cells.
    """
    if size is None:
        return autoencoder.spec.image_size, autoencoder.spec.image_size
    check_pixels(size)
    autoencoder.grid(*size)
    return size


def check_pixels(size: tuple[int, int]) -> None:
    """Refuse a size of more pixels than pictures may have.

    Raises:
        SettingError: naming ``size``.
    """
    if size[0] * size[1] > images.MAX_PIXELS:
        raise SettingError("size", "x".join(map(str, size)), f"at most {images.MAX_PIXELS} pixels")


def read_region(options: RegionOptions, size: tuple[int, int]) -> Tensor:
    """Return a region as a mask ``(H, W)`` bool."""
    if options.box is not None:
        return images.parse_box(options.box, size)
    assert options.mask is not None  # the parser wants one of them
    return images.read_mask(options.mask, size)


def skipped_files(model: LatentPatch) -> list[dict[str, Any]]:
    """Return the files that fitting left out and the reasons, for a report."""
    return [{"file": str(path), "reason": reason} for path, reason in model.skipped]
