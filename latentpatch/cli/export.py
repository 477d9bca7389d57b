"""``latentpatch export``: write graphs that run without this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._samplers import SamplerOptions

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions(cli.CommandOptions):
    output: Path = cli.output_option()
    format: str = cli.choice(("onnx", "pt2", "aoti"), "aoti needs a C++ compiler", "onnx")
    graphs: str | None = cli.option(str, "NAME,NAME,...", "graphs to write (all)")
    where: str | None = cli.option(str, "PREDICATE", "sources to export; no others are in the files")
    external_data: int = cli.option(
        cli.integer(1), "MB", "write weights and sources from this size on to a file beside an ONNX file", default=1024
    )
    sampler: SamplerOptions = cli.group(SamplerOptions)
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("precision", "resume"))

    def check(self) -> None:
        super().check()
        self.sampler.checked_name(self.sources.is_fitted)


@cli.command(ExportOptions, "export PICTURES -o graphs", "export PICTURES --format pt2 --graphs generate -o graphs")
def run(options: ExportOptions, context: cli.RunContext) -> dict[str, Any]:
    """Export a model."""
    from ..export.formats import export
    from ._load import open_model

    model = open_model(options.sources, context, options.output, options.where, options.sampler)
    report = export(
        model,
        options.output,
        options.format,
        settings=options.sampler.settings_for(model, options.where),
        where=options.where,
        only=tuple(options.graphs.split(",")) if options.graphs else None,
        external_from=options.external_data << 20,
    )
    graphs, sources = cli.plural(len(report["graphs"]), "graph"), cli.plural(len(report["sources"]), "source")
    context.say(f"{options.output}: {graphs} of {sources}")
    return report
