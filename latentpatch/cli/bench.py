"""``latentpatch bench``: measure the speed of this machine at every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _options as cli
from ._samplers import RasterOptions

__all__ = ["run"]


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(cli.integer(1), text.split(",")))


@dataclass(frozen=True, kw_only=True)
class BenchOptions(cli.CommandOptions):
    sizes: tuple[int, ...] = cli.option(
        _sizes, "B,B,...", "numbers of sources to search (16,64,1000,10000)", default=(16, 64, 1000, 10000)
    )
    n: int = cli.count_option(16, "number of images made together")
    components: int = cli.option(cli.integer(1), "R", "number of principal components to search in", default=16)
    sampler: RasterOptions = cli.group(RasterOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))

    def check(self) -> None:
        self.sampler.settings()


@cli.command(BenchOptions, "bench --sizes 16,500 --autoencoder taef2")
def run(options: BenchOptions, context: cli.RunContext) -> dict[str, Any]:
    """Measure, and print a table where no JSON report is asked for."""
    from ..runs.benchmark import bench, table
    from ._load import open_autoencoder

    settings: Any = options.sampler.settings()
    precision = context.options.precision
    autoencoder = open_autoencoder(context).autoencoder
    report = bench(
        autoencoder, options.sizes, n=options.n, components=options.components, settings=settings, precision=precision
    )
    if not context.options.json:
        print(table(report))
    return report
