"""``latentpatch edit``: make an edited picture coherent; with ``--donor``, copy a region in latent space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions
from ._regions import PictureRegionOptions, make_region

__all__ = ["run"]


class EditMethodOptions(MethodOptions):
    """A method that makes edits coherent."""

    task = "edit"


@dataclass(frozen=True, kw_only=True)
class PictureEditOptions(PictureRegionOptions):
    method: EditMethodOptions = cli.group(EditMethodOptions)


@cli.command(
    PictureEditOptions,
    "edit moved.png --mask changed.png -o out                         # from the picture itself",
    "edit moved.png --mask changed.png --from original.png -o out     # from the picture before the edit",
)
def edit_picture(options: PictureEditOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the edit coherent and write the pictures."""
    return make_region(options, context, options.method)


@dataclass(frozen=True, kw_only=True)
class EditOptions(cli.CommandOptions):
    image: Path = cli.argument("IMAGE", "the picture to edit")
    output: Path = cli.output_option()
    donor: Path = cli.option(Path, "IMAGE", "the picture to copy from", required=True)
    region: cli.RegionOptions = cli.group(cli.RegionOptions)
    composite: bool = cli.flag("keep the picture's own pixels outside of the region")
    size: tuple[int, int] | None = cli.size_option()
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))


@cli.command(
    EditOptions,
    "edit face.jpg --donor other.jpg --box 64,128,192,224 --composite -o edited    # pixels",
    bare=edit_picture,
    marker="--donor",
)
def run(options: EditOptions, context: cli.RunContext) -> dict[str, Any]:
    """Copy the region and write the image."""
    from ..io import atomic, images
    from ._load import open_autoencoder, pixel_size, read_region
    from ._output import run_facts
    from ._registration import note_pair
    from ._writers import RunWriter

    region, composite = options.region, options.composite
    with atomic.staged(options.output) as staging:
        model = open_autoencoder(context)
        size = pixel_size(options.size, model.autoencoder)
        picture, donor = images.read_image(options.image, size), images.read_image(options.donor, size)
        note_pair(model, (options.image, options.donor), (picture, donor), context)
        files = {"image": options.image, "donor": options.donor, "mask": region.mask}
        facts = run_facts(model, context, {"box": region.box, "composite": composite}, files)
        with RunWriter(staging, options.output, model, context, facts, [picture, donor]) as writer:
            writer.add(model.edit(picture, donor, read_region(region, size), composite=composite))
            return writer.close()
