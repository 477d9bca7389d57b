"""``latentpatch invert``: find the inputs of a generator that give pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError
from . import _options as cli
from ._identity import IdentityOptions
from ._inversion import GENERATOR_HELP, InversionOptions, generator_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..methods.inversion import Generator

__all__ = ["run"]

LATENTS_FILE = "latents.safetensors"

_DETECTOR = "detector"  # the callable in a user's file


@dataclass(frozen=True, kw_only=True)
class InvertOptions(cli.CommandOptions):
    pictures: tuple[Path, ...] = cli.argument("PICTURES", cli.PICTURES_HELP, "+")
    output: Path = cli.output_option()
    generator: str = cli.option(generator_name, "NAME[:PATH]", GENERATOR_HELP, required=True)
    size: tuple[int, int] | None = cli.option(
        cli.image_size,
        "SIDE|HxW",
        "pixels to which pictures are cropped and resized (those of the generator, degraded)",
    )
    degrade: tuple[str, ...] = cli.option(
        str,
        "NAME[:VALUE]",
        "what the pictures went through: downsample:FACTOR, blur:SIGMA, grey, mask:IMAGE, jpeg:QUALITY; may be "
        "repeated, in order (downsampling, if pictures are smaller)",
        action="append",
        default=(),
    )
    perceptual: str | None = cli.option(
        str, "NAME", "differentiable features whose difference counts, too: MODULE:CALLABLE or FILE.py, which is run"
    )
    detector: str | None = cli.option(
        str,
        "NAME",
        "function of pictures to a list of the faces on each, which is to be one: MODULE:CALLABLE or FILE.py",
    )
    unaligned: bool = cli.flag("go on with pictures that are not aligned as the generator's own")
    seed: int = cli.option(cli.integer(0), "SEED", "seed of noise maps and random starts", default=0)
    trace: bool = cli.flag("write trace.gif, too: the first picture at some of the steps")
    method: InversionOptions = cli.group(InversionOptions)
    identity: IdentityOptions = cli.group(IdentityOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("autoencoder", "precision", "resume"))


@cli.command(
    InvertOptions,
    "invert one.jpg two.jpg --generator stylegan2:ffhq.pt -o found",
    "invert small.png --generator mobile-stylegan:@256 --size 32 --steps 500 -o larger    # super-resolution",
)
def run(options: InvertOptions, context: cli.RunContext) -> dict[str, Any]:
    """Invert pictures, and write latents, the generator's pictures and errors."""
    import torch

    from .. import __version__
    from ..evaluation.features import import_extractor
    from ..evaluation.inversion import same_identities
    from ..evaluation.metrics import psnr
    from ..generators import load_generator
    from ..io import atomic, images
    from ..io.layouts import PictureFolder
    from ..methods.inversion import StoredInversion, estimate_seconds, invert
    from ..methods.inversion.degradations import parse_degradation
    from ..ops.pyramid import resize
    from ._output import SHEET_IMAGES, file_facts, write_json
    from ._trace import Trace

    settings = options.method.settings()
    chain = [parse_degradation(text) for text in options.degrade]
    perceptual = (
        import_extractor(options.perceptual, "perceptual", "features", "a file") if options.perceptual else None
    )
    detector = import_extractor(options.detector, "detector", _DETECTOR, "a file") if options.detector else None
    descriptor = options.identity.find()
    with atomic.staged(options.output) as staging:
        PictureFolder(staging).check(options.output, "grid.png", LATENTS_FILE, "invert.json")
        paths = images.list_images(*options.pictures)
        names = images.identifiers(paths)
        generator = load_generator(options.generator, size=options.size).to(context.choose_device(settings.precision))
        blank = torch.zeros(1, 3, *generator.spec.image_size)
        for each in chain:
            blank = each(blank)
        targets = _targets(paths, options.size or (blank.shape[2], blank.shape[3]))
        if detector is not None:
            _check_faces(detector.function, targets, paths)
        if not options.unaligned and not chain:  # degraded pictures differ from the generator's own anyway
            _check_alignment(generator, targets, paths)
        inputs: dict[str, Any] = {
            "degrade": chain or None, "perceptual": None if perceptual is None else perceptual.function,
        }  # fmt: skip
        seconds = estimate_seconds(generator, targets, settings, **inputs)
        context.say(f"{settings.steps} steps of {cli.plural(len(paths), 'picture')}: about {_duration(seconds)}")
        trace = Trace(len(paths))
        with context.progress(name="invert", total=settings.steps, unit="step") as bar:

            def observe(step: Any) -> None:
                if options.trace:
                    trace(step)
                bar.set_postfix_str(step.name, refresh=False)
                bar.update(step.done - bar.n)

            found = invert(generator, targets, settings, seed=options.seed, observe=observe, **inputs)
        record: dict[str, Any] = {
            "command": "invert",
            "version": __version__,
            "generator": generator.identity(),
            "size": list(targets.shape[2:]),
            "degrade": [each.name for each in chain],
            "settings": settings.record(),
            "seed": options.seed,
            "steps": found.steps,
        }
        shown = resize(targets, found.images.shape[2:], "bilinear")
        rows: list[dict[str, Any]] = [
            {
                "file": f"{i:04d}.png",
                "id": name,
                "source": file_facts(path),
                "loss": float(found.loss[i]),
                "mse": float(found.error[i]),
                "psnr": round(float(psnr(found.images[i][None], shown[i][None])), 3),
            }
            for i, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
        if descriptor is not None:
            for row, distance in zip(rows, same_identities(descriptor, found.images, shown), strict=True):
                row["identity"] = distance
        for row, picture in zip(rows, found.images, strict=True):
            facts = {**record, "id": row["id"], "source": row["source"]}
            images.write_image(staging / row["file"], picture, images.record_metadata(facts))
        sheet = torch.stack([shown, found.images], 1).flatten(0, 1)[:SHEET_IMAGES]
        images.write_image(staging / "grid.png", images.contact_sheet(sheet, columns=min(8, len(sheet))))
        stored = StoredInversion(
            tuple(names), found.styles, found.noise, found.seed, generator.identity(), {**record, "images": rows}
        )
        stored.write(staging / LATENTS_FILE)
        if options.trace:
            trace.write(staging / "trace.gif", found.images)
        report = {**record, "images": rows, "latents": LATENTS_FILE, "seconds_estimated": round(seconds, 1)}
        write_json(staging / "invert.json", report)
    if found.is_interrupted:
        context.say(f"interrupted after {found.steps} of {settings.steps} steps: the best so far is written")
    mean = sum(row["psnr"] for row in rows) / len(rows)
    context.say(f"{cli.plural(len(rows), 'picture')} in {options.output}, mean PSNR {mean:.2f} dB")
    return report


def _targets(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Return pictures cropped and resized to one size.

    Raises:
        ImageError: for a picture that cannot be used.
        FileError: for one that is smaller.
    """
    import torch

    from ..io.images import read_image

    pictures = []
    for path in paths:
        height, width = read_image(path).shape[1:]
        if height < size[0] or width < size[1]:
            side = min(height, width)
            reason = (
                f"{height}x{width} pixels, fewer than {size[0]}x{size[1]}; --size {side} takes it as a small picture"
            )
            raise FileError(path, reason)
        pictures.append(read_image(path, size))
    return torch.stack(pictures)


def _check_faces(detector: Any, targets: Tensor, paths: Sequence[Path]) -> None:
    """Refuse pictures on which a detector finds no face, or several."""
    for path, faces in zip(paths, detector(targets), strict=True):
        if len(faces) != 1:
            raise FileError(path, f"{len(faces)} faces on it where one is needed: crop it to one face")


def _check_alignment(generator: Generator, targets: Tensor, paths: Sequence[Path]) -> None:
    """Refuse pictures that lie elsewhere than the generator's own."""
    from ..generators import disagreement_with_generator

    found = disagreement_with_generator(generator, targets, [str(path) for path in paths])
    if found:
        raise FileError(
            found[0].names[0],
            f"not aligned as the pictures that {generator.spec.name} makes ({cli.plural(len(found), 'picture')} of "
            f"{len(paths)}): latentpatch align registers pictures; --unaligned goes on as they are",
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
