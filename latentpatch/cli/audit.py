"""``latentpatch audit``: look for copies of sources among pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import FileError
from . import _options as cli
from ._identity import AuditIdentityOptions, audit_identities

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import LatentPatch
    from ..provenance.copying import Copying

__all__ = ["COPIES_FOUND", "run"]

#: Exit status where copies were found: neither that of an error (1) nor of unusable arguments (2).
COPIES_FOUND = 3

_BATCH_IMAGES = 16
_SHEET_PAIRS = 12
_MAX_FAILURES_SHOWN = 10
_MIN_SAME_CELLS = 0.5  # part of the cells of a recorded map that the picture's own map confirms
_RECORDS = ("generation.json", "inpaint.json", "edit.json")
_SHEETS = ("grid.png", "provenance.png")


@dataclass(frozen=True, kw_only=True)
class AuditOptions(cli.CommandOptions):
    output: Path = cli.output_option()
    held_out: Path | None = cli.option(Path, "PICTURES", "pictures like the sources, none of them, to compare with")
    max_mean_share: float = cli.option(
        cli.number(0, 1), "SHARE", "share of a picture's largest source, on average", default=0.5, section="limits"
    )
    max_share: float = cli.option(
        cli.number(0, 1), "SHARE", "share of the largest source of any picture", default=0.9, section="limits"
    )
    min_relative: float = cli.option(
        cli.number(0, 1),
        "RATIO",
        "distance to the nearest source over that to the next nearest, of any picture",
        default=0.6,
        section="limits",
    )
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    pictures: Path = cli.argument("PICTURES", f"the pictures: {cli.PICTURES_HELP}")
    identity: AuditIdentityOptions = cli.group(AuditIdentityOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))


@cli.command(
    AuditOptions,
    "audit PICTURES out -o audit",
    "audit people.safetensors out --held-out OTHERS -o audit",
    exit_status=lambda report: 0 if report["verdict"] == "pass" else COPIES_FOUND,
)
def run(options: AuditOptions, context: cli.RunContext) -> dict[str, Any]:
    """Audit pictures, and write the report with a sheet of the closest pairs."""
    from ..io import atomic, images
    from ..provenance.audit import CopyLimits, audit_report
    from ..provenance.copying import copying_of_sources
    from ._load import open_model, skipped_files, source_files
    from ._output import write_json

    limits = CopyLimits(options.max_mean_share, options.max_share, options.min_relative)
    paths = _list_pictures(options.pictures)
    held_out = None if options.held_out is None else _list_pictures(options.held_out)
    descriptor = options.identity.find()
    with atomic.staged(options.output) as staging:
        model = open_model(options.sources, context, options.output)
        figures = _measure(model, paths, context, "pictures")
        index, is_recorded = _recorded_maps(options.pictures, paths, model)
        # Otherwise the record is of another picture.
        is_confirmed = (index == figures.index).flatten(1).float().mean(1) >= _MIN_SAME_CELLS
        figures = figures.with_index(index, is_recorded & is_confirmed)
        reference = copying_of_sources(model) if held_out is None else _measure(model, held_out, context, "held out")
        is_unique = len({path.name for path in paths}) == len(paths)
        names = [path.name if is_unique else str(path) for path in paths]
        report: dict[str, Any] = {
            "command": "audit",
            "version": __version__,
            "autoencoder": model.identity(),
            "sources": len(model.bank.sources),
            "groups": model.bank.num_groups,
            "sources_sha256": model.bank.digest(),
            "pictures": len(paths),
            "reference_is": "the sources, each without itself" if held_out is None else "held-out pictures",
            **audit_report(figures, names, reference, limits),
            "skipped": skipped_files(model),
        }
        if held_out is not None:
            beyond = limits.failures(reference, [str(path) for path in held_out])
            report["held_out_failures"] = [failure for failure in beyond if failure["file"] is not None]
        rows = figures.records(model.bank.sources)
        report["images"] = [{"file": name, **row} for name, row in zip(names, rows, strict=True)]
        closest = figures.relative.argsort()[:_SHEET_PAIRS].tolist()
        report["pairs"] = [{"file": names[i], "nearest": rows[i]["nearest"]} for i in closest]
        if descriptor is not None:
            originals, limit = source_files(options.sources), options.identity.identity_limit
            report["identity"], beyond, sheet = audit_identities(
                model, descriptor, paths, names, held_out, originals, limit, context
            )
            report["failures"] += beyond
            report["verdict"] = "fail" if report["failures"] else "pass"
            images.write_image(staging / "identities.png", sheet)
        images.write_image(staging / "pairs.png", _pairs_sheet(model, paths, figures, closest, options.sources))
        write_json(staging / "audit.json", report)
    _summarize(options, context, report)
    return report


def _list_pictures(path: Path) -> list[Path]:
    """Return the pictures of a folder, list or file, without the sheets that commands write beside theirs."""
    from ..io.listing import list_images

    paths = list_images(path)
    if path.is_dir() and any((path / name).exists() for name in _RECORDS):
        paths = [each for each in paths if each.name not in _SHEETS]
    if not paths:
        raise FileError(path, "holds no pictures but sheets")
    return paths


def _measure(model: LatentPatch, paths: Sequence[Path], context: cli.RunContext, name: str) -> Copying:
    """Return how near pictures are to sources."""
    import torch

    from ..io.images import read_image
    from ..provenance.audit import concatenate
    from ..provenance.copying import copying

    parts = []
    with context.progress(name=name, total=len(paths)) as bar:
        for first in range(0, len(paths), _BATCH_IMAGES):
            batch = [read_image(path, model.image_size) for path in paths[first : first + _BATCH_IMAGES]]
            parts.append(copying(model, torch.stack(batch)))
            bar.update(len(batch))
    return concatenate(parts)


def _recorded_maps(folder: Path, paths: Sequence[Path], model: LatentPatch) -> tuple[Tensor, Tensor]:
    """Return the source maps ``(N, h, w)`` that generate recorded, and which pictures have one: ``(N,)`` bool."""
    import torch

    index = torch.full((len(paths), *model.bank.grid), -1, dtype=torch.int64)
    is_recorded = torch.zeros(len(paths), dtype=torch.bool)
    note = folder / "generation.json"
    if not folder.is_dir() or not note.exists():
        return index, is_recorded
    try:
        record = json.loads(note.read_text(encoding="utf-8", errors="replace"))
        if record["sources_sha256"] == model.bank.digest():
            maps = {str(row["file"]): torch.tensor(row["index"]) for row in record["images"]}
            for i, path in enumerate(paths):
                if path.parent == folder and path.name in maps:
                    if maps[path.name].shape != model.bank.grid:
                        raise ValueError(f"a map of shape {tuple(maps[path.name].shape)}")
                    index[i], is_recorded[i] = maps[path.name], True
        if int(index.max()) >= len(model.bank) or int(index.min()) < -1:
            raise ValueError(f"positions beyond the {len(model.bank)} sources")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise FileError(note, f"not a record that generate wrote: {error}") from error
    return model.bank.groups_of(index), is_recorded


def _pairs_sheet(
    model: LatentPatch, paths: Sequence[Path], figures: Copying, closest: Sequence[int], sources: cli.SourceOptions
) -> Tensor:
    """Return a sheet of pictures, each left of its nearest source, the closest pairs first."""
    import torch

    from ..io.images import contact_sheet, read_image
    from ..provenance.explanation import source_pictures
    from ._load import source_files

    pictures = [read_image(paths[i], model.image_size) for i in closest]
    positions = (figures.nearest[closest] * model.bank.variants.count).tolist()
    nearest = source_pictures(model, positions, source_files(sources))
    both = [each for pair in zip(pictures, nearest, strict=True) for each in pair]
    return contact_sheet(torch.stack(both), columns=2 * min(3, len(closest)))


def _summarize(options: AuditOptions, context: cli.RunContext, report: dict[str, Any]) -> None:
    failures = report["failures"]
    share, relative = report["figures"]["largest_share"], report["figures"]["relative"]
    context.say(
        f"{report['verdict']}: {cli.plural(report['pictures'], 'picture')}; largest share {share['mean']:.0%} on "
        f"average, {share['most']:.0%} at most; nearest source at {relative['least']:.2f} of the next ones at least"
    )
    for failure in failures[:_MAX_FAILURES_SHOWN]:
        figure = failure["figure"].replace("_", " ")
        context.say(
            f"  {failure['file'] or 'on average'}: {figure} {failure['value']:.2f}, limit {failure['limit']:.2f}"
        )
    if len(failures) > _MAX_FAILURES_SHOWN:
        context.say(f"  and {len(failures) - _MAX_FAILURES_SHOWN} more: {options.output}/audit.json")
    if report.get("held_out_failures"):
        context.say(f"  held-out pictures that look like copies themselves: {len(report['held_out_failures'])}")
