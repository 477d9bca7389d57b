"""The command that exports: ``export``."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import add_network, add_report, add_sampler, add_sources, positive
from .common import chosen_settings, counted, say, sources_model

__all__ = ["add_export"]

_FORMATS = ("onnx", "pt2", "aoti")  # latentpatch.export imports much


def add_export(commands: Any) -> None:
    parser = commands.add_parser("export", help="graphs that run without this package", allow_abbrev=False)
    add_sources(parser)
    parser.add_argument("--format", choices=_FORMATS, default="onnx", help="aoti needs a C++ compiler (onnx)")
    parser.add_argument("--graphs", metavar="NAME,NAME,…", help="those that are wanted (all)")
    parser.add_argument("--where", metavar="PREDICATE", help="sources to export; no others are in the files")
    parser.add_argument(
        "--external-data",
        type=positive,
        default=1024,
        metavar="MB",
        help="from how much on weights and sources go in a file beside an ONNX file (1024)",
    )
    add_sampler(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where to write")
    add_network(parser)
    add_report(parser, _export)
    parser.set_defaults(precision="float32")  # the only one exported


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from ..export.formats import export

    model = sources_model(options)
    report = export(
        model,
        options.output,
        options.format,
        settings=chosen_settings(options, model),
        where=options.where,
        only=tuple(options.graphs.split(",")) if options.graphs else None,
        external_from=options.external_data << 20,
    )
    say(
        options,
        f"{options.output}: {counted(len(report['graphs']), 'graph')} of {counted(len(report['sources']), 'source')}",
    )
    return report
