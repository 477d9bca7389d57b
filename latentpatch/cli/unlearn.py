"""The command that forgets: ``unlearn``."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..autoencoders.weights import sha256_of
from ..bank.format import ModelFile
from ..errors import FileError, UnlearningError
from ..io import atomic as files
from ..model import LatentPatch
from ..provenance.unlearning import Check, check_removable, unlearned, verify_unlearning
from ..registry import settings_record
from .arguments import add_network, add_report, add_sampler, natural, positive
from .common import chosen_settings, counted, files_by_id, placed, say, write_json

__all__ = ["add_unlearn"]


def add_unlearn(commands: Any) -> None:
    parser = commands.add_parser(
        "unlearn", help="remove sources from a model file, with a proof that nothing is left", allow_abbrev=False
    )
    parser.add_argument("model", help="a fitted model file")
    parser.add_argument("--id", action="append", required=True, dest="ids", help="source to remove; may come again")
    parser.add_argument("-o", "--output", required=True, metavar="NEW.safetensors", help="the model without them")
    parser.add_argument("--report", required=True, metavar="REPORT.json", help="the proof; as text beside it, .txt")
    parser.add_argument(
        "--pictures", nargs="+", metavar="SOURCE", help="the sources' pictures, to encode those that remain again"
    )
    parser.add_argument("--seeds", type=positive, default=256, help="pictures made with both models (256)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the first (0)")
    add_sampler(parser)
    add_network(parser)
    add_report(parser, _unlearn)
    parser.set_defaults(precision="float32")


def _unlearn(options: argparse.Namespace) -> dict[str, Any]:
    path, new, note = Path(options.model), Path(options.output), Path(options.report)
    _check_paths(path, new, note)
    stored = ModelFile.read(path, whole=True)
    stored.verify(path)
    before = placed(LatentPatch.load(path, options.autoencoder), options)
    settings = chosen_settings(options, before)
    check_removable(before, options.ids, settings)
    pictures = _remaining_pictures(options, before)
    with files.staged(note.parent) as notes, files.staged(new.parent) as staging:
        unlearned(path, options.ids, options.autoencoder).save(staging / new.name)
        ModelFile.read(staging / new.name, whole=True).verify(staging / new.name)
        after = placed(LatentPatch.load(staging / new.name, options.autoencoder), options)
        seeds = range(options.seed, options.seed + options.seeds)
        checks = verify_unlearning(before, after, staging / new.name, options.ids, seeds, pictures, settings)
        failed = [check.name for check in checks if not check.passed]
        if failed:
            raise UnlearningError(f"{path}: not proved, nothing was written: {'; '.join(failed)}")
        report: dict[str, Any] = {
            "command": "unlearn",
            "verdict": "pass",
            "removed": options.ids,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "before": _facts(path, path, before),
            "after": _facts(new, staging / new.name, after),
            "autoencoder": before.identity(),
            "settings": settings_record(settings),
            "components": before.components,
            "checks": [check.record() for check in checks],
            "versions": {
                "latentpatch": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
        }
        write_json(notes / note.name, report)
        text = _statement(report, checks)
        files.write_bytes(notes / f"{note.stem}.txt", text.encode(errors="backslashreplace"))
    say(options, text.rstrip())
    return report


def _check_paths(path: Path, new: Path, note: Path) -> None:
    if new.suffix != ".safetensors":
        raise ValueError(f"--output {new}: a name ending in .safetensors is expected")
    if note.suffix != ".json":
        raise ValueError(f"--report {note}: a name ending in .json is expected")
    if new.resolve() == path.resolve() or (new.exists() and path.exists() and new.samefile(path)):
        raise ValueError(f"--output {new}: is the model itself; another file is expected, so that both can be compared")


def _remaining_pictures(options: argparse.Namespace, model: LatentPatch) -> list[Path]:
    """Files of the sources that stay, in the bank's order."""
    if not options.pictures:
        return []
    by_id = files_by_id(options.pictures)
    kept = [name for name in model.bank.sources if name not in set(options.ids)]
    missing = [name for name in kept if name not in by_id]
    if missing:
        raise FileError(f"--pictures: {len(missing)} sources have no picture among them, such as {missing[0]!r}")
    return [by_id[name] for name in kept]


def _facts(name: Path, path: Path, model: LatentPatch) -> dict[str, Any]:
    return {
        "file": name.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "sources": len(model.bank.sources),
        "sources_sha256": model.bank.computed_digest(),
    }


def _statement(report: dict[str, Any], checks: Sequence[Check]) -> str:
    """The report for people."""
    before, after, run = report["before"], report["after"], report["checks"][-1]
    lines = [
        f"{counted(len(report['removed']), 'source')} removed, and nothing of it left: {', '.join(report['removed'])}",
        f"before: {before['file']}, {counted(before['sources'], 'source')}, SHA-256 {before['sha256']}",
        f"after:  {after['file']}, {counted(after['sources'], 'source')}, SHA-256 {after['sha256']}",
        *(f"passed: {check.name}" for check in checks),
        f"        ({run['pictures_before']} of {run['seeds']} pictures had one before, {run['pictures_after']} after)",
        f"{report['date']}, latentpatch {__version__}, torch {torch.__version__}, {platform.machine()}",
    ]
    if not run["pictures_before"]:
        lines.insert(-1, "        that none had one before shows little: --seeds takes more")
    return "\n".join(lines) + "\n"
