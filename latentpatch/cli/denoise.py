"""``latentpatch denoise``: take the noise from a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, make_and_write

__all__ = ["run"]


class DenoiseMethodOptions(MethodOptions):
    """A method that takes noise away."""

    task = "denoise"


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(PictureOptions):
    """Options of the command; denoisers draw nothing and copy nothing, so number, seed and offsets are no options."""

    pictures: tuple[Path, ...] = cli.argument("PICTURE", "the noisy picture", 1)
    guide: Path | None = cli.option(
        Path, "IMAGE", "picture of the same size whose edges are kept, for the methods bilateral and guided"
    )
    n: int = 1
    seed: int = 0
    offsets: bool = False
    method: DenoiseMethodOptions = cli.group(DenoiseMethodOptions)


@cli.command(
    DenoiseOptions,
    "denoise night.jpg -o out                            # noise of unknown strength",
    "denoise night.jpg --sigma 20 -o out                 # in levels of 255",
    "denoise night.jpg --method bilateral --guide flash.jpg -o out",
)
def run(options: DenoiseOptions, context: cli.RunContext) -> dict[str, Any]:
    """Take the noise away and write the picture."""
    from ..io.channels import read_channels

    guide = None if options.guide is None else read_channels(options.guide)
    files = {} if options.guide is None else {"guide": options.guide}
    report = make_and_write(options, context, options.method, files=files, target=guide)
    if "sigma" in report["settings"]:
        how = "estimated" if getattr(options.method.settings(), "sigma", None) is None else "as set"
        context.say(f"noise: {report['settings']['sigma']:g} levels of 255, {how}")
    return report
