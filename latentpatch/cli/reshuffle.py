"""``latentpatch reshuffle``: make new pictures from one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, make_and_write

__all__ = ["run"]


class ReshuffleMethodOptions(MethodOptions):
    """A method that reshuffles."""

    task = "reshuffle"


@dataclass(frozen=True, kw_only=True)
class ReshuffleOptions(PictureOptions):
    size: tuple[int, int] | None = cli.option(cli.image_size, "SIDE|HxW", "pixels of the images (those of the picture)")
    method: ReshuffleMethodOptions = cli.group(ReshuffleMethodOptions)


@cli.command(
    ReshuffleOptions,
    "reshuffle beach.jpg -n 4 -o out",
    "reshuffle one.jpg another.jpg -n 4 -o out    # from the patches of both",
)
def run(options: ReshuffleOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the pictures and write them."""
    return make_and_write(options, context, options.method, options.size)
