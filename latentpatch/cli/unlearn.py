"""``latentpatch unlearn``: remove sources from a model file, with a proof that nothing is left."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..io.listing import resolved
from ..registry import settings_record
from . import _options as cli
from ._samplers import SamplerOptions

if TYPE_CHECKING:
    from ..model import LatentPatch
    from ..provenance.unlearning import Check

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class UnlearnOptions(cli.CommandOptions):
    model: Path = cli.argument("MODEL", "a fitted model file")
    ids: tuple[str, ...] = cli.option(
        str, "ID", "source to remove; may be repeated", "--id", action="append", required=True
    )
    output: Path = cli.output_option("NEW.safetensors", "the model without the sources")
    report: Path = cli.option(Path, "REPORT.json", "the proof; as text beside it, .txt", required=True)
    pictures: tuple[Path, ...] = cli.option(
        Path, "SOURCE", "the sources' pictures, to encode again those that remain", nargs="+", default=()
    )
    keep_similar: bool = cli.flag("remove them though a source remains that is nearly the same")
    seeds: int = cli.count_option(256, "images made with both models")
    seed: int = cli.option(cli.integer(0), "SEED", "seed of the first image", default=0)
    sampler: SamplerOptions = cli.group(SamplerOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("precision", "resume"))

    def check(self) -> None:
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output must be a name ending in .safetensors, got {self.output}")
        if self.report.suffix != ".json":
            raise ValueError(f"--report must be a name ending in .json, got {self.report}")
        text = self.report.with_suffix(".txt")
        if text.exists() and not self.report.exists():
            raise ValueError(f"--report {self.report} would replace {text}, which is no earlier report's text")
        old, new = self.model, self.output
        if resolved(new) == resolved(old) or (new.exists() and old.exists() and new.samefile(old)):
            raise ValueError(f"--output {new} is the model itself: name another file, so that both can be compared")
        self.sampler.checked_name(is_fitted=True)


@cli.command(UnlearnOptions, "unlearn people.safetensors --id anna --id bert -o rest.safetensors --report proof.json")
def run(options: UnlearnOptions, context: cli.RunContext) -> dict[str, Any]:
    """Remove sources, prove it, and write model and proof, or nothing."""
    import torch

    from ..bank.format import ModelFile
    from ..errors import UnlearningError
    from ..io import atomic
    from ..provenance.unlearning import check_removable, refuse_similar, unlearned, verify_unlearning
    from ._load import files_of, load_model
    from ._output import write_json

    path, new, note = options.model, options.output, options.report
    ModelFile.read(path, whole=True).verify(path)
    before = load_model(path, context)
    settings = options.sampler.settings_for(before)
    similar = check_removable(before, options.ids, settings, keep_similar=True)
    if not options.keep_similar:
        refuse_similar(similar, "--keep-similar")
    remaining = [name for name in before.bank.sources if name not in options.ids]
    pictures = files_of(remaining, "--pictures", options.pictures) if options.pictures else []
    with atomic.staged(note.parent) as notes, atomic.staged(new.parent) as staging:
        written = staging / new.name
        unlearned(path, options.ids, options.run.autoencoder, keep_similar=True).save(written)
        ModelFile.read(written, whole=True).verify(written)
        after = load_model(written, context)
        seeds = range(options.seed, options.seed + options.seeds)
        checks = verify_unlearning(before, after, written, options.ids, seeds, pictures, settings)
        failed = [check.name for check in checks if not check.passed]
        if failed:
            raise UnlearningError(f"{path}: not proved, nothing was written: {'; '.join(failed)}")
        report: dict[str, Any] = {
            "command": "unlearn",
            "verdict": "pass",
            "removed": list(options.ids),
            "nearest_remaining": [each.record() for each in similar],
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "before": _facts(path.name, path, before),
            "after": _facts(new.name, written, after),
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
        atomic.write_bytes(notes / f"{note.stem}.txt", text.encode(errors="backslashreplace"))
    context.say(text.rstrip())
    return report


def _facts(name: str, path: Path, model: LatentPatch) -> dict[str, Any]:
    from ..autoencoders.weights import sha256_of

    return {
        "file": name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "sources": len(model.bank.sources),
        "sources_sha256": model.bank.computed_digest(),
    }


def _similar_line(row: dict[str, Any]) -> str:
    """Return a line on the remaining sources that are most like a removed one."""
    if row["group"]:
        return f"{row['id']}: counts as one source with {', '.join(row['group'])}, which remain"
    at = "" if row["relative"] is None else f", at {row['relative']:.2f} of the distance to the next ones"
    return f"{row['id']}: the nearest remaining source is {row['nearest']}{at}"


def _statement(report: dict[str, Any], checks: Sequence[Check]) -> str:
    """Return the report as text."""
    before, after, run = report["before"], report["after"], report["checks"][-1]
    removed = cli.plural(len(report["removed"]), "source")
    lines = [
        f"{removed} removed, and nothing of it left: {', '.join(report['removed'])}",
        f"before: {before['file']}, {cli.plural(before['sources'], 'source')}, SHA-256 {before['sha256']}",
        f"after:  {after['file']}, {cli.plural(after['sources'], 'source')}, SHA-256 {after['sha256']}",
        *map(_similar_line, report["nearest_remaining"]),
        *(f"passed: {check.name}" for check in checks),
        f"        ({run['pictures_before']} of {run['seeds']} pictures had one before, {run['pictures_after']} after)",
        f"{report['date']}, latentpatch {__version__}, torch {report['versions']['torch']}, {platform.machine()}",
    ]
    if not run["pictures_before"]:
        lines.insert(-1, "        that none had one before shows little: --seeds takes more")
    return "\n".join(lines) + "\n"
