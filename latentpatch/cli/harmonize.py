"""``latentpatch harmonize``: give a pasted thing the look of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions
from ._regions import PictureRegionOptions, make_region

__all__ = ["run"]


class HarmonizeMethodOptions(MethodOptions):
    """A method that harmonizes."""

    task = "harmonize"


@dataclass(frozen=True, kw_only=True)
class HarmonizeOptions(PictureRegionOptions):
    method: HarmonizeMethodOptions = cli.group(HarmonizeMethodOptions)


@cli.command(
    HarmonizeOptions,
    "harmonize painting-with-ship.png --mask ship.png -o out",
    "harmonize painting-with-ship.png --mask ship.png --fidelity 0.5 --palette 1 -o out    # more of the painting",
)
def run(options: HarmonizeOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the pictures and write them."""
    return make_region(options, context, options.method)
