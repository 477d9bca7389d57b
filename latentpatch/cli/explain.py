"""The command that says where a picture comes from: ``explain``."""

from __future__ import annotations

import argparse
from typing import Any

from ..io import atomic as files
from ..io import images
from ..provenance.explanation import explain
from .arguments import add_common, add_sources
from .common import counted, say, skipped_files, source_files, sources_model, write_json

__all__ = ["add_explain"]


def add_explain(commands: Any) -> None:
    parser = commands.add_parser(
        "explain", help="which sources a picture is from, where and how much", allow_abbrev=False
    )
    parser.add_argument("image", help="the picture; what generate wrote says itself how it was made")
    add_sources(parser)
    parser.add_argument("--reference", metavar="IMAGE", help="the reference the picture was made with, where it was")
    add_common(parser, _explain)


def _explain(options: argparse.Namespace) -> dict[str, Any]:
    images.read_image(options.image)  # before sources are encoded, which may take minutes
    with files.staged(options.output) as staging:
        model = sources_model(options)
        reference = None if options.reference is None else images.read_image(options.reference, model.image_size)
        found = explain(model, options.image, originals=source_files(options), reference=reference)
        report = {"command": "explain", **found.record(), "skipped": skipped_files(model)}
        images.write_image(staging / "explanation.png", found.sheet())
        files.write_bytes(staging / "explanation.html", found.page().encode())
        write_json(staging / "explanation.json", report)
    largest = found.sources[0] if found.sources else None
    say(
        options,
        f"{options.output}/explanation.html: {counted(len(found.sources), 'source')}"
        + (f", the largest {largest.id} with {largest.share:.0%}" if largest else ""),
    )
    say(options, found.note)
    return report
