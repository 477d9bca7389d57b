"""``latentpatch archive``: make the model archive that TorchServe serves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from . import _options as cli

__all__ = ["run"]


_SERVER = "configuration of TorchServe"


@dataclass(frozen=True, kw_only=True)
class ArchiveSourceOptions(cli.SourceOptions):
    """Sources, which have a default and a second name."""

    sources: tuple[Path, ...] = cli.argument(
        "SOURCES", f"{cli.PICTURES_HELP}; or a fitted model file (examples/portraits)", "*"
    )
    named_sources: tuple[Path, ...] = cli.option(
        Path, "SOURCE", "another way to name sources", "--sources", nargs="+", default=()
    )

    @property
    def merged(self) -> cli.SourceOptions:
        """Sources of both names."""
        return replace(self, sources=(*self.sources, *self.named_sources), named_sources=())


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions(cli.CommandOptions):
    output: Path = cli.option(
        Path, "NAME.mar", "the archive to write", "-o", default=Path("model_store/latentpatch.mar")
    )
    graphs: Path | None = cli.option(Path, "FOLDER", "serve the graph generate of what export wrote, not a model")
    trained: tuple[str, ...] = cli.option(
        str, "NAME=FILE", "trained models that tasks on pictures may name", nargs="+", default=()
    )
    workers: int | None = cli.option(cli.integer(1), "N", "processes, each with the model", section=_SERVER)
    batch_size: int | None = cli.option(cli.integer(1), "N", "requests handled together, at most", section=_SERVER)
    max_batch_delay: int | None = cli.option(cli.integer(0), "MS", "time to wait for a full batch", section=_SERVER)
    config: Path | None = cli.option(
        Path, "YAML", "the whole configuration (handlers/model-config.yaml)", section=_SERVER
    )
    handler: Path | None = cli.option(
        Path, "FILE", "entry point of the archive (handlers/latentpatch_handler.py)", section=_SERVER
    )
    sources: ArchiveSourceOptions = cli.group(ArchiveSourceOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("precision", "resume"))

    def check(self) -> None:
        sources = self.sources.merged
        if self.graphs is None:
            sources.check()
            return
        if sources.sources:
            raise ValueError(f"--graphs {self.graphs} holds its sources: leave out {sources.sources[0]}")
        settled = {name: getattr(self.sources, name) for name in ("attributes", "components", "size")}
        if self.trained:
            raise ValueError(f"--trained {self.trained[0]}: a graph does no tasks: leave it out with --graphs")
        for name, value in (settled | {"autoencoder": self.run.autoencoder}).items():
            if value is not None:
                raise ValueError(f"--{name}: the export settled it: leave it out with --graphs")


@cli.command(
    ArchiveOptions,
    "archive PICTURES --workers 4 -o model_store/faces.mar",
    "archive --graphs graphs -o model_store/faces.mar    # what export wrote",
)
def run(options: ArchiveOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make an archive of a model or a graph."""
    from ..autoencoders.weights import sha256_of

    try:
        from ..serving.archive import PORTRAITS, build_archive, build_graph_archive, check_archive
        from ..serving.exported import read_facts
        from ..serving.trained_models import name_and_file
    except ImportError as error:  # the other commands do without the packages that serving needs
        raise MissingDependencyError(str(error.name), "serve", "archive") from error
    from ._load import open_model, skipped_files

    path, sources = options.output, options.sources.merged
    settings = {
        "minWorkers": options.workers,
        "maxWorkers": options.workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": options.max_batch_delay,
    }
    changed = {key: value for key, value in settings.items() if value is not None}
    trained = dict(map(name_and_file, options.trained))
    parts: dict[str, Any] = {
        "handler": options.handler, "config": options.config, "settings": changed, "trained": trained
    }  # fmt: skip
    if options.graphs is None and not sources.sources:
        if not PORTRAITS.is_dir():  # an installed package
            raise ValueError("SOURCES: name a folder of pictures; examples/portraits are only in the repository")
        sources = replace(sources, sources=(PORTRAITS,))
    check_archive(path, **parts)
    if options.graphs is not None:
        build_graph_archive(options.graphs, path, **parts)
        facts = read_facts(options.graphs)
        contents = {"sources": len(facts["sources"]), "graph": facts["format"], "skipped": []}
        contents |= {name: facts[name] for name in ("autoencoder", "sources_sha256")}
    else:
        model = open_model(sources, context, path)
        build_archive(model, path, **parts)
        contents = {"sources": len(model.bank.sources), "skipped": skipped_files(model)}
        contents |= {"autoencoder": model.identity(), "sources_sha256": model.bank.digest()}
    report: dict[str, Any] = {"sha256": sha256_of(path), "bytes": path.stat().st_size, **contents}
    context.say(f"{path}: {cli.plural(report['sources'], 'source')}, {report['bytes'] / 1e6:.0f} MB")
    return report
