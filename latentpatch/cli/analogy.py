"""``latentpatch analogy``: make a picture with the structure of one, from patches of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, TargetOptions, make_and_write

__all__ = ["run"]


class AnalogyMethodOptions(MethodOptions):
    """A method that makes analogies."""

    task = "analogy"


@dataclass(frozen=True, kw_only=True)
class AnalogyOptions(PictureOptions, TargetOptions):
    target: Path = cli.argument("STRUCTURE", "the picture that gives the layout")
    pictures: tuple[Path, ...] = cli.argument(
        "PATCHES", "the picture that gives everything else; several give patches together; or a trained model", "+"
    )
    n: int = cli.count_option(1)
    method: AnalogyMethodOptions = cli.group(AnalogyMethodOptions)


@cli.command(
    AnalogyOptions,
    "analogy pyramids.jpg cobbles.jpg -o out",
    "analogy pyramids.jpg cobbles.jpg --coarsest 48 -o out    # more of the structure",
)
def run(options: AnalogyOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the pictures and write them."""
    return make_and_write(options, context, options.method)
