"""``latentpatch stylize``: paint a picture in the style of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, TargetOptions, make_and_write

__all__ = ["run"]


class StylizeMethodOptions(MethodOptions):
    """A method that paints in a style."""

    task = "stylize"


@dataclass(frozen=True, kw_only=True)
class StylizeOptions(PictureOptions, TargetOptions):
    target: Path = cli.argument("CONTENT", "the picture to paint")
    pictures: tuple[Path, ...] = cli.argument(
        "STYLE", "the picture that gives colors and patches; several give them together", "+"
    )
    n: int = cli.count_option(1)
    method: StylizeMethodOptions = cli.group(StylizeMethodOptions)


@cli.command(
    StylizeOptions,
    "stylize photo.jpg painting.jpg -o out",
    "stylize photo.jpg painting.jpg --strength 0.8 -o out    # more of the painting",
)
def run(options: StylizeOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the pictures and write them."""
    return make_and_write(options, context, options.method)
