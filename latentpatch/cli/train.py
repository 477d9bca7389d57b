"""``latentpatch train``: train networks on one picture or a few."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..settings import Setting, declared
from ..training.methods import TRAININGS
from . import _options as cli
from ._parsing import OptionGroup, Parser
from ._samplers import add_settings, option_flag, settings_of, settings_rows

__all__ = ["run"]

_LONGEST_SIDE = 250  # pixels, of pictures without --size; that of SinGAN


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptionGroup):
    """The method to train, and changed settings of its training."""

    method: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def add_to(cls, parser: Parser, omit: Collection[str] = ()) -> None:
        rows = settings_rows({name: each.summary for name, each in TRAININGS.items()})
        section = parser.add_argument_group("method", "\n".join(rows))
        section.add_argument("method", metavar="METHOD", choices=tuple(TRAININGS), help=", ".join(TRAININGS))
        settings: dict[str, dict[str, Setting]] = {}
        for name, training in TRAININGS.items():
            for key, each in declared(training.settings).items():
                settings.setdefault(key, {})[name] = each
        add_settings(parser, settings, list(TRAININGS))

    @classmethod
    def read(cls, parsed: argparse.Namespace) -> TrainingOptions:
        return replace(super().read(parsed), changes=settings_of(parsed))

    def check(self) -> None:
        kind = TRAININGS[self.method].settings
        for name in self.changes:
            if name not in declared(kind):
                owners = [each for each, training in TRAININGS.items() if name in declared(training.settings)]
                raise ValueError(f"{option_flag(name)} belongs to {' and '.join(owners)}, not to {self.method}")
        kind(**self.changes)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(cli.CommandOptions):
    training: TrainingOptions = cli.group(TrainingOptions)
    pictures: tuple[Path, ...] = cli.argument("PICTURES", cli.PICTURES_HELP, "+")
    output: Path = cli.output_option("MODEL.safetensors", "the model file; MODEL.training/ has checkpoints and losses")
    size: tuple[int, int] | None = cli.option(
        cli.image_size, "SIDE|HxW", "pixels to which pictures are cropped and resized (the first's, at most 250)"
    )
    side: tuple[Path, ...] = cli.option(
        Path, "PICTURES", "for fewgan, pictures whose layout is learned, and none of their patches (drawn landscapes)",
        nargs="+", default=(),
    )  # fmt: skip
    seed: int = cli.option(cli.integer(0), "SEED", "seed of weights and noise", default=0)
    checkpoint_seconds: float = cli.option(
        cli.number(0, 86400), "SECONDS", "least time between checkpoints", default=60.0
    )
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("autoencoder", "precision", "resume"))
    precision: str = cli.choice(
        ("float32", "bfloat16"), "of the training; bfloat16 takes half the time on some processors", "float32"
    )

    def check(self) -> None:
        super().check()
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output must be a name ending in .safetensors, got {self.output}")
        if self.side and not TRAININGS[self.training.method].accepts_side:
            names = [name for name, each in TRAININGS.items() if each.accepts_side]
            raise ValueError(f"--side belongs to {' and '.join(names)}, not to {self.training.method}")


@cli.command(
    TrainOptions,
    "train singan beach.jpg -o beach.safetensors",
    "generate beach.safetensors -n 16 -o out",
    "train fewgan LANDSCAPES --side PHOTOGRAPHS --size 96x128 -o few.safetensors",
    "train hp-vae-gan LANDSCAPES --size 128 --steps 5000 -o landscapes.safetensors",
    is_resumable=True,
)
def run(options: TrainOptions, context: cli.RunContext) -> dict[str, Any]:
    """Train the model and write it."""
    from ..io.images import list_images, read_image
    from ..training.methods import train_model

    paths, side = list_images(*options.pictures), list_images(*options.side) if options.side else []
    size = options.size
    if size is None:
        height, width = read_image(paths[0]).shape[1:]
        factor = min(1.0, _LONGEST_SIDE / max(height, width))
        size = (round(height * factor), round(width * factor))
    inputs: dict[str, Any] = {"side": [read_image(path, size) for path in side]} if side else {}
    method, folder = options.training.method, options.output.with_suffix(".training")
    model = train_model(
        method,
        [read_image(path, size) for path in paths],
        folder,
        TRAININGS[method].settings(**options.training.changes),
        seed=options.seed,
        device=context.choose_device(options.precision),
        precision=options.precision,
        checkpoint_seconds=options.checkpoint_seconds,
        show_progress=context.shows_progress,
        say=context.say,
        **inputs,
    )
    model.save(options.output)
    context.say(f"{options.output}: {method} of {cli.plural(len(paths), 'picture')}; losses in {folder}/losses.png")
    return {"method": method, "size": list(size), "scales": [list(each) for each in model.sizes], **model.trained}
