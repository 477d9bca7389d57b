"""``latentpatch inspect``: describe a picture, a model file or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError
from . import _options as cli

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class InspectOptions(cli.CommandOptions):
    path: Path = cli.argument("PATH", "a picture, a model file, or a folder or list of pictures")
    verify: bool = cli.flag("read all of a model file and compare its sources with their SHA-256")
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=cli.BARE)

    def check(self) -> None:
        if self.verify and self.path.suffix != ".safetensors":
            raise ValueError(f"--verify needs a model file ending in .safetensors, got {self.path}")


@cli.command(
    InspectOptions,
    "inspect out/0003.png    # seed, settings and sources that made it",
    "inspect people.safetensors",
    always_prints=True,
)
def run(options: InspectOptions, context: cli.RunContext) -> dict[str, Any]:
    """Describe a path."""
    from ..bank.format import ModelFile
    from ..io import images
    from ..methods.trained.base import is_trained, load_trained
    from ._output import describe_model

    path = options.path
    if is_trained(path):
        return load_trained(path).facts()
    if path.suffix == ".safetensors":
        stored = ModelFile.read(path, whole=options.verify)
        if options.verify:
            stored.verify(path)
        return describe_model(stored) | ({"verified": True} if options.verify else {})
    if path.is_file() and path.suffix.lower() in images.SUFFIXES:
        picture = images.read_image(path)
        return images.parse_record(images.read_metadata(path)) | {"size": list(picture.shape[1:])}
    paths, unusable = images.list_images(path), {}
    for file in context.progress(paths, name="reading"):
        try:
            images.read_image(file)
        except ImageError as error:
            unusable[str(file)] = str(error)
    return {"pictures": len(paths), "unusable": unusable}
