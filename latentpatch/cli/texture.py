"""``latentpatch texture``: make textures of any size from exemplars."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ops.symmetry import SYMMETRIES
from . import _options as cli
from ._pictures import MethodOptions, PictureOptions, make_and_write

__all__ = ["run"]


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 2,1, got {text!r}") from None


class TextureMethodOptions(MethodOptions):
    """A method that makes textures."""

    task = "texture"


@dataclass(frozen=True, kw_only=True)
class TextureOptions(PictureOptions):
    pictures: tuple[Path, ...] = cli.argument("PICTURE", "the exemplar; several give patches together", "+")
    size: tuple[int, int] = cli.option(cli.image_size, "SIDE|HxW", "pixels of the textures", required=True)
    n: int = cli.count_option(1, "number of textures")
    weights: tuple[float, ...] | None = cli.option(
        _weights, "WEIGHT,...", "shares of the textures that the exemplars have, with several"
    )
    map: Path | None = cli.option(
        Path, "IMAGE", "which exemplar is where: black is the first and white the last; or as many greys as exemplars",
    )  # fmt: skip
    symmetric: str | None = cli.choice(SYMMETRIES, "; ".join(f"{name}: {text}" for name, text in SYMMETRIES.items()))
    method: TextureMethodOptions = cli.group(TextureMethodOptions)


@cli.command(
    TextureOptions,
    "texture wood.jpg --size 512x512 -o out",
    "texture wood.jpg bark.jpg --size 512 --tileable -n 4 -o tiles",
    "texture wood.jpg --size 300 --method texture-optimization -o out",
    "texture wood.jpg bark.jpg --size 512 --weights 2,1 -o mixed",
    "texture wood.jpg bark.jpg --size 512 --map fade.png --method patch-diffusion -o fading",
    "texture wood.jpg --size 512 --symmetric p4m -o ornament",
)
def run(options: TextureOptions, context: cli.RunContext) -> dict[str, Any]:
    """Make the textures and write them."""
    from ..scene_tasks import exemplar_shares

    shares = exemplar_shares(len(options.pictures), options.size, options.weights, options.map)
    facts = {name: getattr(options, name) for name in ("weights", "symmetric") if getattr(options, name) is not None}
    return make_and_write(
        options, context, options.method, options.size, files={} if options.map is None else {"map": options.map},
        facts=facts, shares=shares, symmetric=options.symmetric,
    )  # fmt: skip
