"""The commands about models: ``fit``, ``archive``, ``inspect``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..autoencoders.weights import sha256_of
from ..bank.format import ModelFile
from ..errors import ImageError, LatentPatchError
from ..io import atomic as files
from ..io import images
from ..registry import settings_record
from .arguments import add_common, add_network, add_report, add_sources, natural, positive
from .common import counted, say, shows_progress, skipped_files, sources_model

__all__ = ["add_archive", "add_fit", "add_inspect"]


def add_fit(commands: Any) -> None:
    parser = commands.add_parser("fit", help="encode sources once and keep them in one file", allow_abbrev=False)
    add_sources(parser)
    add_common(parser, _fit, output="MODEL.safetensors")


def _fit(options: argparse.Namespace) -> dict[str, Any]:
    path = Path(options.output)
    if path.suffix != ".safetensors":  # by which the other commands know a model file
        raise ValueError(f"--output {path}: a name ending in .safetensors is expected")
    with files.staged(path.parent) as staging:
        model = sources_model(options, scratch=staging)
        model.save(staging / path.name)
        report = _describe(ModelFile.read(staging / path.name)) | {"skipped": skipped_files(model)}
    say(options, f"{options.output}: {counted(len(model.bank.sources), 'source')}")
    return report


def add_archive(commands: Any) -> None:
    parser = commands.add_parser("archive", help="make the model archive that TorchServe serves", allow_abbrev=False)
    add_sources(parser, required=False)
    parser.add_argument("--sources", nargs="+", dest="named", metavar="SOURCE", help="another way to name them")
    parser.add_argument(
        "--graphs", metavar="FOLDER", help="what `export` wrote: its graph generate is served, in place of a model"
    )
    group = parser.add_argument_group("what TorchServe is told")
    group.add_argument("--workers", type=positive, help="processes, each with the model")
    group.add_argument("--batch-size", type=positive, help="requests handled together, at most")
    group.add_argument("--max-batch-delay", type=natural, metavar="MS", help="wait for a batch to fill")
    group.add_argument("--config", metavar="YAML", help="all of it (handlers/model-config.yaml)")
    group.add_argument("--handler", metavar="FILE", help="its entry point (handlers/latentpatch_handler.py)")
    parser.add_argument(
        "-o",
        "--output",
        default="model_store/latentpatch.mar",
        metavar="NAME.mar",
        help="where to write; NAME is the model's (model_store/latentpatch.mar)",
    )
    add_network(parser)
    add_report(parser, _archive)
    parser.set_defaults(precision="float32")  # of the decoder, which archiving does not use; the handler has its own


def _archive(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from ..serving.archive import PORTRAITS, build_archive, build_graph_archive, check_archive
        from ..serving.exported import read_facts
    except ImportError as error:  # the other commands do without what serving needs
        raise LatentPatchError(f"archive needs {error.name}: pip install 'latentpatch[serve]'") from error
    named = [*options.sources, *(options.named or ())]
    if options.graphs is not None:
        _check_graphs_alone(options, named)
    elif not named and not PORTRAITS.is_dir():  # an installed package
        raise ValueError("SOURCES: a folder of pictures is expected; examples/portraits are only in the repository")
    options.sources = named or [PORTRAITS]
    settings = {
        "minWorkers": options.workers,
        "maxWorkers": options.workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": options.max_batch_delay,
    }
    path = Path(options.output)
    parts = {
        "handler": options.handler,
        "config": options.config,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
    check_archive(path, **parts)
    if options.graphs is not None:
        build_graph_archive(options.graphs, path, **parts)
        facts = read_facts(options.graphs)
        known = {"sources": len(facts["sources"]), "graph": facts["format"], "skipped": []}
        known |= {name: facts[name] for name in ("autoencoder", "sources_sha256")}
    else:
        model = sources_model(options)
        build_archive(model, path, **parts)
        known = {"sources": len(model.bank.sources), "skipped": skipped_files(model)}
        known |= {"autoencoder": model.identity(), "sources_sha256": model.bank.digest()}
    report: dict[str, Any] = {"sha256": sha256_of(path), "bytes": path.stat().st_size, **known}
    say(options, f"{path}: {counted(report['sources'], 'source')}, {report['bytes'] / 1e6:.0f} MB")
    return report


def _check_graphs_alone(options: argparse.Namespace, sources: list[str]) -> None:
    """Refuse what would say again, or otherwise, what a graph was made from."""
    if sources:
        raise ValueError(f"--graphs {options.graphs}: the sources are in the graph; it goes without {sources[0]}")
    for name in ("attributes", "components", "size", "autoencoder"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name}: it was settled when the graph was exported; --graphs goes without it")


def add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", help="what a picture was made with, a model or a folder holds", allow_abbrev=False
    )
    parser.add_argument("path", help="a picture, a model file, or a folder or list of pictures")
    parser.add_argument(
        "--verify", action="store_true", help="read all of a model file and compare its sources with their SHA-256"
    )
    add_report(parser, _inspect)
    parser.set_defaults(json=True)  # it writes nothing else


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    path = Path(options.path)
    report: dict[str, Any]
    if options.verify and path.suffix != ".safetensors":
        raise ValueError(f"--verify: a model file ending in .safetensors is expected, got {path}")
    if path.suffix == ".safetensors":
        stored = ModelFile.read(path, whole=options.verify)
        if options.verify:
            stored.verify(path)
        report = _describe(stored) | ({"verified": True} if options.verify else {})
    elif path.is_file() and path.suffix.lower() in images.SUFFIXES:
        picture = images.read_image(path)
        report = _parsed(images.read_metadata(path)) | {"size": list(picture.shape[1:])}
    else:
        paths = images.list_images(path)
        bad = {}
        for file in tqdm(paths, desc="reading", unit="img", disable=not shows_progress(options), leave=False):
            try:
                images.read_image(file)
            except ImageError as error:
                bad[str(file)] = str(error)
        report = {"pictures": len(paths), "unusable": bad}
    return report


def _describe(stored: ModelFile) -> dict[str, Any]:
    bank, pca = stored.bank, stored.pca
    variance = float(pca.explained_variance.sum() / pca.total_variance.clamp(min=1e-30))
    return {
        "autoencoder": stored.autoencoder,
        "sources": len(bank.sources),
        "variants": bank.variants.record(),
        "details": bank.has_residuals,
        "sources_sha256": bank.digest(),
        "grid": list(bank.grid),
        "image_size": [side * stored.autoencoder["downsampling"] for side in bank.grid],
        "components": stored.components,
        "settings": settings_record(stored.settings),
        "explained_variance": round(variance, 4),
        "attributes": sorted({name for known in bank.attributes for name in known}),
        "ids": bank.sources,
    }


def _parsed(metadata: dict[str, str]) -> dict[str, Any]:
    """A picture's text chunks, ours taken apart; anyone may have written them."""
    try:
        return {**metadata, "latentpatch": json.loads(metadata["latentpatch"], parse_constant=str)}
    except (KeyError, ValueError, RecursionError):
        return dict(metadata)
