"""The command that looks for copies: ``audit``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..errors import FileError
from ..io import atomic as files
from ..io import images
from ..model import LatentPatch
from ..provenance.audit import CopyLimits, audit_report, concatenate
from ..provenance.copying import Copying, copying, copying_of_sources
from ..provenance.explanation import source_pictures
from .arguments import add_common, add_sources
from .common import counted, say, shows_progress, skipped_files, source_files, sources_model, write_json

__all__ = ["add_audit"]

#: Exit status where copies were found: not that of an error (1), nor of unusable arguments (2).
FAILED = 3

_BATCH = 16
_PAIRS = 12  # on the sheet
_RECORDS = ("generation.json", "inpaint.json", "edit.json")
_SHEETS = ("grid.png", "provenance.png")


def add_audit(commands: Any) -> None:
    parser = commands.add_parser(
        "audit", help="are pictures copies of sources? (exit status 3 where some are)", allow_abbrev=False
    )
    add_sources(parser)
    parser.add_argument(
        "pictures", help="the pictures: a folder, such as generate writes, one picture, or a text file that lists some"
    )
    parser.add_argument(
        "--held-out", metavar="PICTURES", help="pictures like the sources that are none of them, to compare with"
    )
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-mean-share",
        type=float,
        default=CopyLimits.mean_share,
        help="share of the largest source, on average (0.5)",
    )
    group.add_argument("--max-share", type=float, default=CopyLimits.share, help="that of any picture (0.9)")
    group.add_argument(
        "--min-relative",
        type=float,
        default=CopyLimits.relative,
        help="distance to the nearest source beside that to the next nearest, of any picture (0.6)",
    )
    add_common(parser, _audit)


def _audit(options: argparse.Namespace) -> dict[str, Any]:
    limits = CopyLimits(options.max_mean_share, options.max_share, options.min_relative)
    paths = _pictures_in(Path(options.pictures))
    held_out = None if options.held_out is None else _pictures_in(Path(options.held_out))
    with files.staged(options.output) as staging:
        model = sources_model(options)
        figures = _figures(model, paths, options, "pictures")
        index, known = _recorded(Path(options.pictures), paths, model)
        agrees = (index == figures.index).flatten(1).float().mean(1) >= 0.5  # or the record is of another picture
        figures = figures.with_index(index, known & agrees)
        reference = copying_of_sources(model) if held_out is None else _figures(model, held_out, options, "held out")
        names = (
            [path.name for path in paths] if len({path.name for path in paths}) == len(paths) else [*map(str, paths)]
        )
        report: dict[str, Any] = {
            "command": "audit",
            "version": __version__,
            "autoencoder": model.identity(),
            "sources": len(model.bank.sources),
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
        closest = figures.relative.argsort()[:_PAIRS].tolist()
        report["pairs"] = [{"file": names[i], "nearest": rows[i]["nearest"]} for i in closest]
        images.write_image(staging / "pairs.png", _pairs(model, paths, figures, closest, options))
        write_json(staging / "audit.json", report)
    _summarise(options, report)
    options.status = 0 if report["verdict"] == "pass" else FAILED
    return report


def _pictures_in(path: Path) -> list[Path]:
    """The pictures that are meant: all of a folder, less the sheets our commands put beside theirs."""
    paths = images.list_images(path)
    if path.is_dir() and any((path / name).exists() for name in _RECORDS):
        paths = [each for each in paths if each.name not in _SHEETS]
    if not paths:
        raise FileError(f"{path}: holds no pictures but sheets")
    return paths


def _figures(model: LatentPatch, paths: Sequence[Path], options: argparse.Namespace, name: str) -> Copying:
    parts = []
    with tqdm(total=len(paths), desc=name, unit="img", disable=not shows_progress(options), leave=False) as bar:
        for first in range(0, len(paths), _BATCH):
            batch = [images.read_image(path, model.image_size) for path in paths[first : first + _BATCH]]
            parts.append(copying(model, torch.stack(batch)))
            bar.update(len(batch))
    return concatenate(parts)


def _recorded(folder: Path, paths: Sequence[Path], model: LatentPatch) -> tuple[Tensor, Tensor]:
    """Maps ``(N, h, w)`` of the sources that ``generate`` noted, and which pictures have one: ``(N,)`` bool."""
    index = torch.full((len(paths), *model.bank.grid), -1, dtype=torch.int64)
    known = torch.zeros(len(paths), dtype=torch.bool)
    note = folder / "generation.json"
    if not folder.is_dir() or not note.exists():
        return index, known
    try:
        record = json.loads(note.read_text(encoding="utf-8", errors="replace"))
        if record["sources_sha256"] == model.bank.digest():
            maps = {str(row["file"]): torch.tensor(row["index"]) for row in record["images"]}
            for i, path in enumerate(paths):
                if path.parent == folder and path.name in maps:
                    if maps[path.name].shape != model.bank.grid:
                        raise ValueError(f"a map of shape {tuple(maps[path.name].shape)}")
                    index[i], known[i] = maps[path.name], True
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise FileError(f"{note}: not a record that generate wrote: {error}") from error
    if int(index.max()) >= len(model.bank) or int(index.min()) < -1:
        raise FileError(f"{note}: not a record that generate wrote: positions beyond the {len(model.bank)} sources")
    return model.bank.variants.sources_of(index), known


def _pairs(
    model: LatentPatch, paths: Sequence[Path], figures: Copying, closest: Sequence[int], options: argparse.Namespace
) -> Tensor:
    """Pictures, each with its nearest source on the right, the closest pairs first."""
    pictures = [images.read_image(paths[i], model.image_size) for i in closest]
    sources = source_pictures(
        model, (figures.nearest[closest] * model.bank.variants.count).tolist(), source_files(options)
    )
    both = [each for pair in zip(pictures, sources, strict=True) for each in pair]
    return images.contact_sheet(torch.stack(both), columns=2 * min(3, len(closest)))


def _summarise(options: argparse.Namespace, report: dict[str, Any]) -> None:
    failures = report["failures"]
    share, relative = report["figures"]["largest_share"], report["figures"]["relative"]
    say(
        options,
        f"{report['verdict']}: {counted(report['pictures'], 'picture')}; largest share {share['mean']:.0%} on average, "
        f"{share['most']:.0%} at most; nearest source at {relative['least']:.2f} of the next ones at least",
    )
    for failure in failures[:10]:
        say(
            options,
            f"  {failure['file'] or 'on average'}: {failure['figure'].replace('_', ' ')} {failure['value']:.2f}, "
            f"limit {failure['limit']:.2f}",
        )
    if len(failures) > 10:
        say(options, f"  and {len(failures) - 10} more: {options.output}/audit.json")
    if report.get("held_out_failures"):
        say(options, f"  held-out pictures that look like copies themselves: {len(report['held_out_failures'])}")
