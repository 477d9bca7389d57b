"""The command that measures: ``bench``."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import add_network, add_precision, add_report, add_settings, positive
from .common import bare_model, chosen_settings

__all__ = ["add_bench"]


def add_bench(commands: Any) -> None:
    parser = commands.add_parser("bench", help="how fast this machine is at every stage", allow_abbrev=False)
    parser.add_argument(
        "--sizes", type=_sizes, default=(16, 64, 1000, 10000), metavar="B,B,…", help="sources (16,64,1000,10000)"
    )
    parser.add_argument("-n", type=positive, default=16, help="images made together (16)")
    parser.add_argument("--components", type=int, metavar="R", help="principal components searched (16)")
    add_settings(parser)
    add_network(parser)
    add_precision(parser)
    add_report(parser, _bench)


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    from ..runs.benchmark import bench, table

    model = bare_model(options)
    report = bench(
        model.autoencoder,
        options.sizes,
        n=options.n,
        components=16 if options.components is None else options.components,
        settings=chosen_settings(options, model),
        precision=options.precision,
    )
    if not options.json:
        print(table(report))
    return report


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))
