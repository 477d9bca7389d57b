"""The command that compares samplers: ``evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import MissingDependencyError
from ..evaluation.experiments import Row, parse_row, read_tables, standard_rows
from ..evaluation.features import BUILT_IN, find_extractor
from ..evaluation.protocol import Evaluation, Protocol, with_copier
from ..evaluation.report import frontier, markdown, summary
from ..io import atomic as files
from ..io import images
from ..model import LatentPatch
from .arguments import add_common, add_sources, natural, positive
from .common import counted, files_by_id, say, shows_progress, sources_model

__all__ = ["add_evaluate"]


def add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate", help="how good and how new the pictures of samplers are, against held-out ones", allow_abbrev=False
    )
    add_sources(parser)
    parser.add_argument(
        "--held-out",
        required=True,
        metavar="HOLDOUT",
        help="pictures of the sources' kind that are none: a folder or list; or their features, .npy or .safetensors",
    )
    parser.add_argument(
        "--originals",
        nargs="+",
        metavar="SOURCE",
        help="the sources' pictures, where SOURCES is a fitted model (otherwise decoded sources stand for them)",
    )
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="'[NAME:] SAMPLER KEY=VALUE …'",
        help="what to evaluate, as often as wanted (all samplers at their defaults)",
    )
    parser.add_argument("--table", action="append", default=[], metavar="FILE.json", help="rows from a file")
    parser.add_argument("--samples", type=positive, default=160, help="pictures in a set (160)")
    parser.add_argument("--seeds", type=positive, default=3, help="sets (3)")
    parser.add_argument(
        "--pairs", type=positive, default=700, help="random pairs whose distance is the diversity (700)"
    )
    parser.add_argument(
        "--features",
        default="latents",
        metavar="NAME",
        help=f"{', '.join(BUILT_IN)}, MODULE:CALLABLE or FILE.py[:CALLABLE], which is run (latents)",
    )
    parser.add_argument(
        "--perceptual", metavar="NAME", help="the same for distances of pairs, as lpips (what --features names)"
    )
    parser.add_argument(
        "--directions",
        type=natural,
        metavar="D",
        help="leading directions the Fréchet distance is reduced to; 0 for none (64 where pictures are too few)",
    )
    parser.add_argument("--resamples", type=natural, default=200, help="of the bootstrap; 0 for no intervals (200)")
    add_common(parser, _evaluate)


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    options.resume = True  # rows that are made stay: the same command goes on
    if options.originals is not None and Path(options.sources[0]).suffix != ".safetensors":
        raise ValueError("--originals: only a fitted model needs them; SOURCES are pictures")
    protocol = Protocol(options.samples, options.seeds, options.pairs, options.directions, options.resamples)
    tables = _tables(options)
    held_out = _held_out(options)
    find_features, find_perceptual = find_extractor(options.features), find_extractor(options.perceptual or "latents")
    model = sources_model(options)  # may take minutes, so what can be wrong is looked at before
    features = find_features(model.autoencoder)
    perceptual = None if options.perceptual is None else find_perceptual(model.autoencoder)
    evaluation = Evaluation(
        model, held_out, options.output, features, perceptual, sources=_originals(options, model), protocol=protocol
    )
    evaluation.check([row for rows in tables.values() for row in rows])
    done = {heading: [_entry(options, evaluation, row) for row in rows] for heading, rows in tables.items()}
    recoveries = evaluation.memorization()
    output = Path(options.output)
    notes = [extractor.note for extractor in (features, perceptual) if extractor is not None and extractor.note]
    files.write_bytes(output / "evaluation.md", markdown(done, recoveries, notes).encode())
    report = {
        "conditions": evaluation.conditions,
        "tables": {heading: list(entries) for heading, entries in done.items()},
        "memorisation": recoveries,
        "frontier": _frontier(options, evaluation, output),
    }
    say(options, f"{counted(sum(map(len, done.values())), 'row')} in {output / 'evaluation.md'}")
    return report


def _tables(options: argparse.Namespace) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for path in options.table:
        for heading, rows in read_tables(path).items():
            tables.setdefault(heading, []).extend(rows)
    if options.row or not tables:
        tables["Rows"] = [parse_row(text) for text in options.row] or standard_rows()
    return {heading: with_copier(rows) for heading, rows in tables.items()}


def _held_out(options: argparse.Namespace) -> list[Path] | Path:
    path = Path(options.held_out)
    if path.suffix in (".npy", ".safetensors"):
        return path
    if path.is_dir() and Path(options.output).resolve().is_relative_to(path.resolve()):
        raise ValueError(f"--output {options.output} lies within {path}: its sheets would be held-out pictures")
    return images.list_images(path)


def _originals(options: argparse.Namespace, model: LatentPatch) -> list[Path] | None:
    """The sources' files in the bank's order; None where a fitted model is all there is."""
    fitted = Path(options.sources[0]).suffix == ".safetensors"
    if options.originals is None and fitted:
        return None
    if not fitted:
        skipped = {path for path, _ in model.skipped}
        return [path for path in images.list_images(*options.sources) if path not in skipped]
    named = files_by_id(options.originals)
    missing = [name for name in model.bank.sources if name not in named]
    if missing:
        raise ValueError(f"--originals: {options.sources[0]} has a source {missing[0]!r}, which is not among them")
    return [named[name] for name in model.bank.sources]


def _entry(options: argparse.Namespace, evaluation: Evaluation, row: Row) -> dict[str, Any]:
    found = evaluation.find(row)
    if found is None:
        with tqdm(desc=row.name, unit="img", disable=not shows_progress(options), leave=False) as bar:
            found = evaluation.run(row, bar.update)
        say(options, summary(found))
    return found


def _frontier(options: argparse.Namespace, evaluation: Evaluation, output: Path) -> str | None:
    entries = [each for each in evaluation.entries() if each["conditions"] == evaluation.conditions and "row" in each]
    try:
        return "frontier.png" if frontier(entries, output / "frontier.png") else None
    except MissingDependencyError as error:
        say(options, f"frontier.png was not drawn: {error}")
        return None
