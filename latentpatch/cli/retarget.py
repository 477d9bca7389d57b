"""``latentpatch retarget``: make one picture in another size, its things undistorted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, make_and_write

__all__ = ["run"]


class RetargetMethodOptions(MethodOptions):
    """A method that retargets."""

    task = "retarget"


@dataclass(frozen=True, kw_only=True)
class RetargetOptions(PictureOptions):
    size: tuple[int, int] = cli.option(cli.image_size, "SIDE|HxW", "pixels of the images", required=True)
    n: int = cli.count_option(1)
    method: RetargetMethodOptions = cli.group(RetargetMethodOptions)


@cli.command(RetargetOptions, "retarget beach.jpg --size 160x400 -o wide")
def run(options: RetargetOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the pictures and write them."""
    return make_and_write(options, context, options.method, options.size)
