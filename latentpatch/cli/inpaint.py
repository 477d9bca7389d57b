"""``latentpatch inpaint``: fill a region of a picture, in several ways; with ``--image``, from registered sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions
from ._regions import PictureRegionOptions, make_region
from ._samplers import MaskSamplerOptions

__all__ = ["run"]


class InpaintMethodOptions(MethodOptions):
    """A method that fills holes."""

    task = "inpaint"


@dataclass(frozen=True, kw_only=True)
class PictureInpaintOptions(PictureRegionOptions):
    n: int = cli.count_option(4)
    method: InpaintMethodOptions = cli.group(InpaintMethodOptions)


@cli.command(
    PictureInpaintOptions,
    "inpaint beach.jpg --mask hole.png -o out                         # from the picture itself",
    "inpaint beach.jpg --box 64,128,192,224 --from dunes.jpg -o out   # from another",
)
def inpaint_picture(options: PictureInpaintOptions, context: cli.RunContext) -> dict[str, Any]:
    """Fill the region from the picture itself, or from others, and write the images."""
    return make_region(options, context, options.method)


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(cli.SampleOptions):
    image: Path = cli.option(Path, "IMAGE", "the picture", required=True)
    region: cli.RegionOptions = cli.group(cli.RegionOptions)
    reconstructed: bool = cli.flag("show the decoder's pixels outside of the region, too, not the picture's own")
    sampler: MaskSamplerOptions = cli.group(MaskSamplerOptions)
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions)

    def check(self) -> None:
        super().check()
        self.sampler.checked_name(self.sources.is_fitted)


@cli.command(
    InpaintOptions,
    "inpaint PICTURES --image face.jpg --mask hole.png -n 8 -o filled",
    "inpaint PICTURES --image face.jpg --box 64,128,192,224 -o filled    # pixels",
    is_parallel=True,
    bare=inpaint_picture,
    marker="--image",
)
def run(options: InpaintOptions, context: cli.RunContext) -> dict[str, Any]:
    """Fill the region and write the images."""
    import torch

    from ..io.images import read_image
    from ._load import open_model, read_region
    from ._output import run_facts
    from ._registration import note_picture
    from ._writers import sample_writer, staging_folder

    where, region = options.where, options.region
    with staging_folder(options.output, context) as staging:
        model = open_model(options.sources, context, options.output, where, options.sampler, has_reference=True)
        settings = options.sampler.settings(model.chosen_settings)
        picture, mask = read_image(options.image, model.image_size), read_region(region, model.image_size)
        note_picture(model, options.image, picture, context, mask)
        chosen = {"where": where, "box": region.box, "reconstructed": options.reconstructed}
        facts = run_facts(model, context, chosen, {"image": options.image, "mask": region.mask})
        inputs: dict[str, Any] = {"settings": settings, "where": where, "composite": not options.reconstructed}
        before = [picture, torch.where(mask, 0.5, picture)]
        with sample_writer(staging, options, model, context, facts, settings, before) as writer:
            for seeds, _ in writer.batches(options):
                writer.add(model.inpaint(picture, mask, seeds=seeds, **inputs))
            return writer.close()
