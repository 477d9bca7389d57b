"""``latentpatch enlarge``: enlarge a picture by a SinGAN that was trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class EnlargeOptions(cli.CommandOptions):
    picture: Path = cli.argument("PICTURE", "the picture, such as the one that the model was trained on")
    model: Path = cli.argument("MODEL", "a trained model of the method singan")
    output: Path = cli.output_option()
    factor: float = cli.option(cli.number(1.1, 16), "TIMES", "how many times as high and wide", default=4.0)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=cli.BARE)


@cli.command(
    EnlargeOptions,
    "train singan small.png --ratio 0.8 --reconstruction 100 --coarsest 18 -o small.safetensors",
    "enlarge small.png small.safetensors --factor 4 -o large",
)
def run(options: EnlargeOptions, context: cli.RunContext) -> dict[str, Any]:
    """Enlarge the picture and write it."""
    from ..errors import FileError
    from ..io.atomic import staged
    from ..io.images import read_image, record_metadata, write_image
    from ..methods.trained.base import load_trained
    from ..methods.trained.singan import SinGAN
    from ._output import file_facts, write_json

    model = load_trained(options.model)
    if not isinstance(model, SinGAN):
        raise FileError(options.model, f"must be a model of singan, got one of {model.method}")
    image = model.enlarge(read_image(options.picture), options.factor)
    inputs = {"picture": file_facts(options.picture), "model": file_facts(options.model)}
    report = {"command": context.command, **inputs, "factor": options.factor, "size": list(image.shape[1:])}
    with staged(options.output) as staging:
        write_image(staging / "0000.png", image, record_metadata(report))
        write_json(staging / "enlarge.json", report)
    context.say(f"1 picture of {image.shape[1]} x {image.shape[2]} pixels in {options.output}")
    return report
