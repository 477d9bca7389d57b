"""Facts and JSON reports of commands; :mod:`._writers` writes their pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .. import __version__
from ..autoencoders.weights import sha256_of
from ..bank.format import ModelFile
from ..errors import FileError
from ..io import atomic
from ..model import LatentPatch
from ..registry import settings_record
from ._options import RunContext

__all__ = ["IMAGES_FILE", "SHEET_IMAGES", "describe_model", "file_facts", "portable", "run_facts", "write_json"]

Facts = Mapping[str, Any]

#: Images on a contact sheet, at most: as many as a screen can show.
SHEET_IMAGES = 64
#: File with the records of many pictures, one a line, beside the report.
IMAGES_FILE = "images.jsonl"


def run_facts(
    model: LatentPatch, context: RunContext, options: Facts = MappingProxyType({}), files: Facts = MappingProxyType({})
) -> dict[str, Any]:
    """Return everything that, with a seed, determines a command's images.

    Args:
        options: further options of the command; None leaves one out.
        files: input files, of which name and SHA-256 are recorded.
    """
    facts: dict[str, Any] = {
        "command": context.command,
        "version": __version__,
        "autoencoder": model.identity(),
        "precision": context.options.precision,
    }
    if len(model.bank):
        facts |= {
            "sources": len(model.bank.sources),
            "sources_sha256": model.bank.digest(),
            "components": model.components,
            "fit": model.bank.fit_record(),
        }
    facts |= {name: value for name, value in options.items() if value is not None}
    return facts | {name: file_facts(path) for name, path in files.items() if path is not None}


def portable(facts: Facts) -> dict[str, Any]:
    """Return facts for the metadata of images, which travel: they name the weights, but not their folder."""
    public = ("name", "downsampling", "sha256", "license")
    return {**facts, "autoencoder": {key: facts["autoencoder"][key] for key in public}}


def file_facts(path: Path) -> dict[str, str]:
    """Return name and SHA-256 of an input file."""
    try:
        return {"file": path.name, "sha256": sha256_of(path)}
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error


def describe_model(stored: ModelFile) -> dict[str, Any]:
    """Return the contents of a model file, for a report."""
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
        "attributes": sorted({name for attributes in bank.attributes for name in attributes}),
        "ids": bank.sources,
        "grouping": bank.grouping.record(),
        "groups": bank.shared_groups,
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report; file names in it need not be UTF-8."""
    text = json.dumps(report, sort_keys=True, ensure_ascii=False) + "\n"
    atomic.write_bytes(path, text.encode(errors="backslashreplace"))
