"""``latentpatch evaluate``: measure quality and novelty of samplers against held-out pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError
from ..io.listing import resolved
from . import _options as cli
from ._identity import EvaluateIdentityOptions

if TYPE_CHECKING:
    from ..evaluation.experiments import Row
    from ..evaluation.protocol import Evaluation
    from ..model import LatentPatch

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(cli.CommandOptions):
    output: Path = cli.output_option()
    held_out: Path = cli.option(
        Path,
        "HOLDOUT",
        "pictures like the sources, but none of them: a folder or list; or their features, .npy or .safetensors",
        required=True,
    )
    originals: tuple[Path, ...] = cli.option(
        Path,
        "SOURCE",
        "the sources' pictures, if SOURCES is a fitted model (decoded sources)",
        nargs="+",
        default=(),
    )
    row: tuple[str, ...] = cli.option(
        str,
        "'[NAME:] SAMPLER KEY=VALUE ...'",
        "a sampler to evaluate; may be repeated (all samplers with their default settings)",
        action="append",
        default=(),
    )
    table: tuple[Path, ...] = cli.option(
        Path, "FILE.json", "a file of rows; may be repeated", action="append", default=()
    )
    samples: int = cli.count_option(160, "images in a set")
    seeds: int = cli.count_option(3, "number of sets")
    pairs: int = cli.count_option(700, "random pairs, whose mean distance is the diversity")
    features: str = cli.option(
        str, "NAME", "latents, inception, lpips, MODULE:CALLABLE or FILE.py[:CALLABLE], which is run", default="latents"
    )
    perceptual: str | None = cli.option(str, "NAME", "the same for distances of pairs, such as lpips (as --features)")
    directions: int | None = cli.option(
        cli.integer(0), "D", "leading directions of the Fréchet distance; 0 for all (64 if pictures are few)"
    )
    resamples: int = cli.option(cli.integer(0), "N", "resamples of the bootstrap; 0 for no intervals", default=200)
    identity: EvaluateIdentityOptions = cli.group(EvaluateIdentityOptions)
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))

    def check(self) -> None:
        super().check()
        if self.originals and not self.sources.is_fitted:
            raise ValueError("--originals: only a fitted model needs them; SOURCES are pictures")
        if self.held_out.is_dir() and resolved(self.output).is_relative_to(resolved(self.held_out)):
            raise ValueError(
                f"--output {self.output} lies within {self.held_out}: its sheets would be held-out pictures"
            )


@cli.command(
    EvaluateOptions,
    "evaluate PICTURES --held-out OTHERS -o figures",
    'evaluate PICTURES --held-out OTHERS --row "raster scales=3" --row "resynthesis donors=4" -o figures',
    is_resumable=True,
)
def run(options: EvaluateOptions, context: cli.RunContext) -> dict[str, Any]:
    """Evaluate samplers and write tables and figures."""
    from ..evaluation.features import find_extractor
    from ..evaluation.protocol import Evaluation, Protocol
    from ..evaluation.report import markdown
    from ..io.atomic import write_bytes
    from ..io.listing import list_images
    from ._load import open_model

    protocol = Protocol(options.samples, options.seeds, options.pairs, options.directions, options.resamples)
    tables = _tables(options)
    is_features = options.held_out.suffix in (".npy", ".safetensors")
    held_out = options.held_out if is_features else list_images(options.held_out)
    find_features, find_perceptual = find_extractor(options.features), find_extractor(options.perceptual or "latents")
    identity = options.identity.find()
    model = open_model(options.sources, context, options.output)
    features = find_features(model.autoencoder)
    perceptual = None if options.perceptual is None else find_perceptual(model.autoencoder)
    originals = _originals(options, model)
    evaluation = Evaluation(
        model,
        held_out,
        options.output,
        features,
        perceptual,
        sources=originals,
        protocol=protocol,
        identity=identity,
        identity_below=options.identity.identity_below,
    )
    evaluation.check([row for rows in tables.values() for row in rows])
    done = {heading: [_entry(context, evaluation, row) for row in rows] for heading, rows in tables.items()}
    recoveries = evaluation.memorization()
    people = evaluation.identity_reference()
    extractors = (features, perceptual, identity)
    notes = [extractor.note for extractor in extractors if extractor is not None and extractor.note]
    write_bytes(options.output / "evaluation.md", markdown(done, recoveries, notes, people).encode())
    report = {
        "conditions": evaluation.conditions,
        "tables": {heading: list(entries) for heading, entries in done.items()},
        "memorisation": recoveries,
        **({} if people is None else {"identity": people}),
        "frontier": _frontier(options.output, context, evaluation),
    }
    context.say(f"{cli.plural(sum(map(len, done.values())), 'row')} in {options.output / 'evaluation.md'}")
    return report


def _tables(options: EvaluateOptions) -> dict[str, list[Row]]:
    """Return the rows to evaluate by the heading of their table."""
    from ..evaluation.experiments import parse_row, read_tables, standard_rows
    from ..evaluation.protocol import with_copier

    tables: dict[str, list[Row]] = {}
    for path in options.table:
        for heading, rows in read_tables(path).items():
            tables.setdefault(heading, []).extend(rows)
    if options.row or not tables:
        tables["Rows"] = [parse_row(text) for text in options.row] or standard_rows()
    return {heading: with_copier(rows) for heading, rows in tables.items()}


def _originals(options: EvaluateOptions, model: LatentPatch) -> list[Path] | None:
    """Return the sources' files in the bank's order; None where a fitted model is all there is."""
    from ..io.listing import list_images
    from ._load import files_of

    if not options.sources.is_fitted:
        skipped = {path for path, _ in model.skipped}
        return [path for path in list_images(*options.sources.sources) if path not in skipped]
    return files_of(model.bank.sources, "--originals", options.originals) if options.originals else None


def _entry(context: cli.RunContext, evaluation: Evaluation, row: Row) -> dict[str, Any]:
    """Return the figures of a row, of an earlier run where there are any."""
    from ..evaluation.report import summary

    found = evaluation.find(row)
    if found is None:
        with context.progress(name=row.name) as bar:
            found = evaluation.run(row, bar.update)
        context.say(summary(found))
    return found


def _frontier(output: Path, context: cli.RunContext, evaluation: Evaluation) -> str | None:
    """Plot quality against novelty; return the file's name, None where there is nothing to plot or no matplotlib."""
    from ..evaluation.report import frontier

    entries = [each for each in evaluation.entries() if each["conditions"] == evaluation.conditions and "row" in each]
    try:
        return "frontier.png" if frontier(entries, output / "frontier.png") else None
    except MissingDependencyError as error:
        context.say(f"frontier.png was not drawn: {error}")
        return None
