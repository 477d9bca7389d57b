"""``latentpatch interpolate``: make pictures between inverted ones."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError
from . import _options as cli
from ._identity import IdentityOptions
from ._inversion import GENERATOR_HELP, generator_name, write_animation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..methods.inversion import Generator, StoredInversion

__all__ = ["run"]


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between, got {text!r}") from error


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(cli.CommandOptions):
    latents: tuple[Path, ...] = cli.argument("LATENTS", "a file that latentpatch invert wrote, or several", "+")
    output: Path = cli.output_option()
    n: int = cli.count_option(16)
    by: str = cli.choice(
        ("line", "grid", "random"),
        "weights: from each input to the next, between three or four corners, or random",
        "line",
    )
    weights: tuple[tuple[float, ...], ...] = cli.option(
        _weights,
        "W,W,...",
        "weights of one image, which add up to 1; may be repeated, in place of -n",
        action="append",
        default=(),
    )
    inputs: tuple[str, ...] = cli.option(str, "ID", "inputs by name, in this order (all)", nargs="+", default=())
    seed: int = cli.option(cli.integer(0), "SEED", "seed of the first image's random weights", default=0)
    generator: str | None = cli.option(generator_name, "NAME[:PATH]", f"{GENERATOR_HELP} (that of the latents)")
    animation: str = cli.choice(("gif", "apng", "mp4", "none"), "file of all images in order, there and back", "gif")
    originals: tuple[Path, ...] = cli.option(
        Path, "PICTURE", "the inputs' own pictures, for identities (the generator's)", nargs="+", default=()
    )
    strangers: tuple[Path, ...] = cli.option(
        Path, "PICTURE", "pictures of others, to compare identities with", nargs="+", default=()
    )
    held_out: tuple[Path, ...] = cli.option(
        Path, "PICTURE", "real pictures, for Fréchet distances beside the generator's own", nargs="+", default=()
    )
    features: str = cli.option(str, "NAME", "features of the Fréchet distance, as of evaluate", default="latents")
    identity: IdentityOptions = cli.group(IdentityOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("autoencoder", "precision", "resume"))

    def check(self) -> None:
        super().check()
        if (self.originals or self.strangers) and self.identity.identity is None:
            raise ValueError("--originals and --strangers need --identity")


@cli.command(
    InterpolateOptions,
    "interpolate found/latents.safetensors -n 16 -o between",
    "interpolate found/latents.safetensors --by random -n 64 --animation none -o many",
    "interpolate found/latents.safetensors --weights 0.5,0.5 --weights 0.2,0.8 -o two",
)
def run(options: InterpolateOptions, context: cli.RunContext) -> dict[str, Any]:
    """Interpolate, and write the images with the weights of their inputs."""
    import torch

    from .. import __version__
    from ..autoencoders.weights import without_downloads
    from ..generators import load_generator
    from ..io import atomic, images
    from ..methods.inversion import interpolate, weights_of
    from ..methods.memory import check_count
    from ..runs.system import choose_device
    from ._output import SHEET_IMAGES, file_facts, write_json

    descriptor = options.identity.find()
    stored = _read(options)
    if len(stored.ids) < 2:
        raise ValueError(f"{options.latents[0]}: one picture only; two or more are needed to interpolate")
    name, size = options.generator or stored.generator["name"], stored.image_size
    check_count(len(options.weights) or options.n, size[0] * size[1])
    if options.weights:
        if any(len(row) != len(stored.ids) for row in options.weights):
            raise ValueError(f"--weights: {len(stored.ids)} numbers are needed, for {', '.join(stored.ids)}")
        weights = torch.tensor(options.weights)
    else:
        weights = weights_of(options.by, len(stored.ids), options.n, options.seed)
    with atomic.staged(options.output) as staging:
        with nullcontext() if options.generator else without_downloads():  # a file alone has nothing fetched
            generator = load_generator(name, size=size).to(choose_device(context.device))
        stored.check(generator, options.latents[0])
        pictures = interpolate(generator, stored.styles, stored.noise, weights, seed=stored.seed)
        record = {
            "command": "interpolate",
            "version": __version__,
            "generator": generator.identity(),
            "latents": [file_facts(path) for path in options.latents],
            "noise_seed": stored.seed,
        }
        rows = []
        for i, (picture, row) in enumerate(zip(pictures, weights, strict=True)):
            shares = {each: round(float(w), 6) for each, w in zip(stored.ids, row, strict=True) if w}
            file = f"{i:04d}.png"
            images.write_image(staging / file, picture, images.record_metadata({**record, "weights": shares}))
            rows.append({"file": file, "weights": shares})
        sheet = images.contact_sheet(pictures[:SHEET_IMAGES])
        images.write_image(staging / "grid.png", sheet)
        report: dict[str, Any] = {**record, "images": rows}
        if options.animation != "none" and len(pictures) > 1:
            report["animation"] = write_animation(staging, options.animation, pictures, context)
        if descriptor is not None:
            report["identity"] = _identities(options, descriptor, generator, stored, pictures, weights)
        if options.held_out:
            report["frechet"] = _frechet(options, generator, pictures)
        write_json(staging / "interpolate.json", report)
    context.say(f"{cli.plural(len(rows), 'picture')} in {options.output}, between {', '.join(stored.ids[:6])}")
    return report


def _read(options: InterpolateOptions) -> StoredInversion:
    """Return the inputs of all files, those that are named in their order."""
    from dataclasses import replace

    import torch

    from ..methods.inversion import StoredInversion

    files = [StoredInversion.read(path) for path in options.latents]
    first = files[0]
    for path, each in zip(options.latents, files, strict=True):
        same = each.generator["sha256"] == first.generator["sha256"] and each.seed == first.seed
        if not same or each.styles.shape[1:] != first.styles.shape[1:] or len(each.noise) != len(first.noise):
            raise FileError(path, f"of another generator, seed or number of noise maps than {options.latents[0]}")
    ids = [name for each in files for name in each.ids]
    missing = [name for name in options.inputs if name not in ids]
    if missing:
        raise ValueError(f"--inputs: no {missing[0]!r} among {', '.join(ids[:12])}")
    chosen = torch.tensor([ids.index(name) for name in options.inputs or ids])
    styles = torch.cat([each.styles for each in files])[chosen]
    noise = tuple(torch.cat(maps)[chosen] for maps in zip(*(each.noise for each in files), strict=True))
    return replace(first, ids=tuple(ids[i] for i in chosen.tolist()), styles=styles, noise=noise)


def _pictures(paths: Sequence[Path], size: Sequence[int]) -> Tensor:
    import torch

    from ..io.images import list_images, read_image

    return torch.stack([read_image(path, (size[0], size[1])) for path in list_images(*paths)])


def _identities(
    options: InterpolateOptions,
    descriptor: Any,
    generator: Generator,
    stored: StoredInversion,
    pictures: Tensor,
    weights: Tensor,
) -> dict[str, Any]:
    import torch

    from ..evaluation.inversion import between_identities
    from ..methods.inversion import interpolate
    from ._load import files_of

    size = pictures.shape[2:]
    if options.originals:
        ends = _pictures(files_of(stored.ids, "--originals", options.originals), size)
    else:
        ends = interpolate(generator, stored.styles, stored.noise, torch.eye(len(stored.ids)), seed=stored.seed)
    strangers = _pictures(options.strangers, size) if options.strangers else None
    return between_identities(descriptor, pictures, ends, weights, strangers)


def _frechet(options: InterpolateOptions, generator: Generator, pictures: Tensor) -> dict[str, Any]:
    from ..autoencoders.registry import DEFAULT, load_autoencoder
    from ..evaluation.features import find_extractor
    from ..evaluation.inversion import frechet_beside_samples
    from ..ops.pyramid import resize

    features = find_extractor(options.features)(load_autoencoder(DEFAULT))
    side = load_autoencoder(DEFAULT).spec.image_size
    samples = generator.sample(range(len(pictures))).cpu()
    sets = [resize(each, (side, side), "bilinear") for each in (pictures, samples)]
    return frechet_beside_samples(features, sets[0], sets[1], _pictures(options.held_out, (side, side)))
