"""Commands that make a region of one picture anew, from patches of the picture itself or of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, TargetOptions, make_and_write

__all__ = ["PictureRegionOptions", "make_region"]


@dataclass(frozen=True, kw_only=True)
class _OwnRegionOptions(cli.RegionOptions):
    """A region of a picture that is neither cropped nor resized."""

    mask: Path | None = cli.option(
        Path, "IMAGE", "white in the region, of the picture's size", exclusive="region", required=True
    )
    box: str | None = cli.option(
        str, "LEFT,TOP,RIGHT,BOTTOM", "pixels of the picture", exclusive="region", required=True
    )


@dataclass(frozen=True, kw_only=True)
class PictureRegionOptions(PictureOptions, TargetOptions):
    """Options of these commands but for the method, which subclasses have."""

    target: Path = cli.argument("PICTURE", "the picture")
    pictures: tuple[Path, ...] = cli.option(
        Path, "SOURCES",
        f"{cli.PICTURES_HELP}, to take patches from; by default the picture itself; or a trained model",
        "--from", nargs="+", default=(),
    )  # fmt: skip
    n: int = cli.count_option(1)
    region: _OwnRegionOptions = cli.group(_OwnRegionOptions)


def make_region(options: PictureRegionOptions, context: cli.RunContext, method: MethodOptions) -> dict[str, Any]:
    """Make the pictures of a task of a region and write them."""
    from ..io.channels import read_channels
    from ..io.images import parse_box, read_mask
    from ..io.listing import list_images
    from ..methods.trained.base import is_trained

    region = options.region
    if region.mask is None:
        height, width = read_channels(options.target).shape[1:]
        mask, files = parse_box(str(region.box), (height, width)), {}
    else:
        mask, files = read_mask(region.mask), {"mask": region.mask}
    pictures = options.pictures or (options.target,)
    if options.pictures and not is_trained(pictures[0]):
        pictures = tuple(list_images(*pictures))
    options = replace(options, pictures=pictures)
    return make_and_write(options, context, method, files=files, facts={"box": region.box}, mask=mask)
