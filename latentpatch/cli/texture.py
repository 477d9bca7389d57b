"""``latentpatch texture``: make textures of any size from exemplars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, make_and_write

__all__ = ["run"]


class TextureMethodOptions(MethodOptions):
    """A method that makes textures."""

    task = "texture"


@dataclass(frozen=True, kw_only=True)
class TextureOptions(PictureOptions):
    pictures: tuple[Path, ...] = cli.argument("PICTURE", "the exemplar; several give patches together", "+")
    size: tuple[int, int] = cli.option(cli.image_size, "SIDE|HxW", "pixels of the textures", required=True)
    n: int = cli.option(cli.integer(1), "N", "number of textures", default=1)
    method: TextureMethodOptions = cli.group(TextureMethodOptions)


@cli.command(
    TextureOptions,
    "texture wood.jpg --size 512x512 -o out",
    "texture wood.jpg bark.jpg --size 512 --tileable -n 4 -o tiles",
    "texture wood.jpg --size 300 --method texture-optimization -o out",
)
def run(options: TextureOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the textures and write them."""
    return make_and_write(options, context, options.method, options.size)
