"""``latentpatch align``: register similar pictures to one another, as samplers need their sources."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import FileError, ImageError
from ..io.listing import resolved
from . import _options as cli

if TYPE_CHECKING:
    from torch import Tensor

    from ..registration.alignment import Alignment

__all__ = ["run"]

_CONVENTION = (
    "matrix takes a point (x, y) of the upright original to the aligned picture, "
    "in pixels from the upper left corner: the centre of the first pixel is (0.5, 0.5)"
)
_SETTINGS = ("rotation", "zoom", "shift", "focus", "closer", "min_agreement")
_SUFFIXES_KEPT = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpeg"}  # other formats become PNG
_MEAN_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_UNMENTIONED_OUTSIDE = 0.08  # part of a picture's pixels that may lie beyond its edges without a note
_MAX_NAMED = 10  # pictures in an error message


def _focus(text: str) -> tuple[float, float]:
    read = cli.number(0, 1)
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"must be X,Y, each from 0 to 1, got {text!r}")
    return read(parts[0]), read(parts[1])


@dataclass(frozen=True, kw_only=True)
class AlignOptions(cli.CommandOptions):
    sources: tuple[Path, ...] = cli.argument("PICTURES", cli.PICTURES_HELP, "+")
    output: Path = cli.output_option()
    skip_bad: bool = cli.flag("leave out files that cannot be used or registered, and list them")
    mean: Path | None = cli.option(Path, "IMAGE", "write the mean of the aligned pictures: sharp where they agree")
    landmarks: Path | None = cli.option(
        Path, "CSV", "register these points instead: columns file, A_x, A_y, B_x, B_y, ...", exclusive="target"
    )
    to: Path | None = cli.option(Path, "FOLDER", "register to these pictures, already registered", exclusive="target")
    rotation: float | None = cli.option(
        cli.number(0, 180),
        "DEGREES",
        "largest rotation against the mean picture (15, or 30 where that is too little)",
        section="search",
    )
    zoom: float | None = cli.option(
        cli.number(1, 4),
        "FACTOR",
        "largest ratio of a subject's size to the mean's (1.3, or 2 where that is too little); 1 with --rotation 0 "
        "means shifts only",
        section="search",
    )
    shift: float | None = cli.option(
        cli.number(0, 0.25), "SHARE", "largest shift, as a share of the shorter side (0.25)", section="search"
    )
    focus: tuple[float, float] | None = cli.option(
        _focus, "X,Y", "the place that counts most, in shares of width and height (0.5,0.5)", section="search"
    )
    min_agreement: float | None = cli.option(
        cli.number(-1, 1), "SHARE", "least agreement with the mean of the others (0.43)", section="search"
    )
    size: tuple[int, int] = cli.size_option((256, 256))
    closer: float | None = cli.option(
        cli.number(0.25, 4),
        "FACTOR",
        "enlarge about the focus (1 to 1.2, so that little lies beyond the edges)",
        section="frame",
    )
    crop: bool = cli.flag("go closer until no picture ends in view; edges go on smoothly otherwise", section="frame")
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=cli.BARE)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the registration on the command line, by name."""
        return {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}

    def check(self) -> None:
        searched = [name for name in self.settings if name != "closer"]
        if self.landmarks and searched:
            raise ValueError(f"--{searched[0].replace('_', '-')}: --landmarks need no search")
        if self.to and (self.crop or self.closer is not None):
            raise ValueError(f"--{'crop' if self.crop else 'closer'}: the pictures in --to have the frame")
        if self.mean is not None and self.mean.suffix.lower() not in _MEAN_SUFFIXES:
            raise ValueError(f"--mean must be a name ending in {', '.join(_MEAN_SUFFIXES)}, got {self.mean}")
        if self.mean is not None and resolved(self.mean).is_relative_to(resolved(self.output)):
            raise ValueError(f"--mean {self.mean} lies within --output: it would become a source")


@cli.command(
    AlignOptions,
    "align PICTURES -o aligned --mean mean.png    # mean.png is sharp where the pictures agree",
    "align PICTURES -o aligned --rotation 0 --zoom 1 --skip-bad    # shifts only",
    "align NEW -o more --to aligned               # into the frame of registered pictures",
)
def run(options: AlignOptions, context: cli.RunContext) -> dict[str, Any]:
    """Register pictures and write them."""
    import torch

    from ..io import atomic, images
    from ..registration.transforms import warp
    from ._load import check_output_apart, check_pixels, said_left_out
    from ._output import write_json

    size = options.size
    check_pixels(size)
    paths = images.list_images(*options.sources)
    targets = _target_names(paths, options.output)
    check_output_apart(options.output, options.sources)
    with atomic.staged(options.output) as staging:
        readable, skipped = _readable(options, context, paths)
        found = _estimate(options, context, readable)
        registered, unregistered = _split_by_registration(options, context, readable, found)
        mean = torch.zeros(3, *size, dtype=torch.float64)
        rows = []
        for i in context.progress(registered, name="warping"):
            picture, matrix = images.read_image(readable[i]), found.matrices[i]
            aligned = warp(picture, matrix, size)
            mean += aligned.double() / len(registered)
            file = targets[readable[i]]
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            images.write_image(staging / file, aligned)
            height, width = picture.shape[1:]
            row = {
                "file": file,
                "source": readable[i].name,
                "size": [height, width],
                "matrix": matrix.tolist(),
                "outside": round(float(found.outside[i]), 4),
            }
            rows.append(row | ({} if options.landmarks else {"agreement": round(float(found.agreement[i]), 4)}))
        report = {
            "command": "align",
            "version": __version__,
            "size": list(size),
            "method": "landmarks" if options.landmarks else "reference" if options.to else "congealing",
            "settings": options.settings | {"crop": options.crop},
            "closer": round(found.zoom, 6),
            "convention": _CONVENTION,
            "images": rows,
            "skipped": skipped + unregistered + said_left_out(options.sources, context),
        }
        write_json(staging / "alignment.json", report)
        if found.is_kept:
            context.say("the pictures are in register already, and stay where they are")
        _mention_older(options.output, {row["file"] for row in rows}, context)
    if options.mean is not None:
        images.write_image(options.mean, mean)
    _summarize(options, context, report)
    return report


def _target_names(paths: Sequence[Path], output: Path) -> dict[Path, str]:
    """Return the name of each picture's file, below the output folder."""
    from ..io.listing import identifiers

    names = identifiers(paths)
    ends = [_SUFFIXES_KEPT.get(path.suffix.lower(), ".png") for path in paths]
    # A name that has its suffix keeps it, or changes it where no other picture has that name then.
    short = [name.removesuffix(path.suffix) + end for path, name, end in zip(paths, names, ends, strict=True)]
    if len({name.lower() for name in short}) < len(short):
        short = [name + end for name, end in zip(names, ends, strict=True)]
    targets = dict(zip(paths, short, strict=True))
    originals = {resolved(path) for path in paths}
    for file in targets.values():
        if not resolved(output / file).is_relative_to(resolved(output)):
            raise ValueError(f"--output {output}: {file} would lie outside of it")
        if resolved(output / file) in originals:
            raise ValueError(f"--output {output}: {file} would replace an original: name another folder")
    return targets


def _readable(
    options: AlignOptions, context: cli.RunContext, paths: Sequence[Path]
) -> tuple[list[Path], list[dict[str, str]]]:
    """Return pictures that can be read, and have landmarks where these are needed; the others with the reason."""
    from ..io.images import read_image
    from ..io.listing import find_named
    from ..registration.alignment import read_landmarks

    landmarks = None if options.landmarks is None else read_landmarks(options.landmarks)
    readable: list[Path] = []
    skipped, seen = [], set()
    for path in context.progress(paths, name="reading"):
        try:
            read_image(path)
            own = None if landmarks is None else find_named(path, landmarks)
            if landmarks is not None and own is None:
                raise ImageError(path, f"has no landmarks in {options.landmarks}")
            if landmarks is not None and id(own) in seen:
                raise FileError(f"{options.landmarks}: a row is of {path} and another: it must have more of the path")
            seen.add(id(own) if landmarks is not None else None)
        except ImageError as error:
            if not options.skip_bad:
                raise
            skipped.append({"file": str(path), "reason": str(error)})
            context.say(f"skipped: {error}")
        else:
            readable.append(path)
    least = 1 if options.to or options.landmarks else 2
    if len(readable) < least:
        raise FileError(f"{cli.plural(len(readable), 'usable picture')}: at least {least} are needed")
    return readable, skipped


def _estimate(options: AlignOptions, context: cli.RunContext, paths: Sequence[Path]) -> Alignment:
    """Return the registration of pictures."""
    import torch

    from ..io.images import list_images, read_image
    from ..io.listing import find_named
    from ..registration.alignment import estimate, from_landmarks, read_landmarks

    def pictures() -> Iterator[Tensor]:
        return map(read_image, context.progress(paths, name="comparing"))

    if options.landmarks is not None:
        landmarks = read_landmarks(options.landmarks)
        sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures()]
        points = torch.stack([found for path in paths if (found := find_named(path, landmarks)) is not None])
        return from_landmarks(points, sizes, options.size, crop=options.crop, closer=options.closer)
    reference = None
    if options.to is not None:
        reference = (read_image(path, options.size) for path in list_images(options.to))
    return estimate(pictures(), options.size, crop=options.crop, reference=reference, **options.settings)


def _split_by_registration(
    options: AlignOptions, context: cli.RunContext, paths: Sequence[Path], found: Alignment
) -> tuple[list[int], list[dict[str, str]]]:
    """Return the positions of the registered pictures, and the other pictures with the reason."""
    from ..registration.alignment import MIN_AGREEMENT

    if not found.improves:
        raise FileError(
            f"the {len(paths)} pictures would agree no better than they do ({found.agreement.median():.2f}, now "
            f"{found.in_place:.2f}): they cannot be registered by what they show"
        )
    least = MIN_AGREEMENT if options.min_agreement is None else options.min_agreement
    unregistered = []
    for i in (~found.registered).nonzero()[:, 0].tolist():
        reason = f"agreement {found.agreement[i]:.2f} with the others, at least {least:g} needed"
        if options.landmarks or found.agreement[i] >= least:
            reason = f"would lie {found.outside[i]:.0%} beyond its edges"
        unregistered.append({"file": str(paths[i]), "reason": reason})
    named = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in unregistered[:_MAX_NAMED])
    if len(unregistered) > _MAX_NAMED:
        named += f"; and {len(unregistered) - _MAX_NAMED} more"
    if unregistered and not options.skip_bad:
        raise FileError(
            f"{len(unregistered)} of {len(paths)} pictures cannot be registered: {named}. "
            f"Leave them out with --skip-bad{'' if options.landmarks else ', or align by points with --landmarks'}"
        )
    if len(unregistered) == len(paths):
        raise FileError(f"none of {len(paths)} pictures can be registered: {named}")
    for entry in unregistered:
        context.say(f"skipped: {entry['file']}: {entry['reason']}")
    return found.registered.nonzero()[:, 0].tolist(), unregistered


def _mention_older(output: Path, written: set[str], context: cli.RunContext) -> None:
    """Say how many pictures of earlier runs stay in the output folder: they would become sources."""
    from ..io.listing import SUFFIXES

    names = [path.relative_to(output) for path in output.rglob("*") if path.suffix.lower() in SUFFIXES]
    visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    older = [name for name in visible if name.as_posix() not in written]
    if older:
        context.say(f"pictures of an earlier run that stay in {output}: {len(older)}")


def _summarize(options: AlignOptions, context: cli.RunContext, report: dict[str, Any]) -> None:
    rows = report["images"]
    text = f"{cli.plural(len(rows), 'aligned picture')} in {options.output}"
    if not options.landmarks:
        text += f", agreement {min(row['agreement'] for row in rows):.2f} or more"
    beyond = sum(row["outside"] > _MAX_UNMENTIONED_OUTSIDE for row in rows)
    if beyond:
        text += f"; of {beyond}, more than 8 % lies beyond the edges (--crop avoids it)"
    if report["closer"] > 2:
        text += f"; cropped {report['closer']:.1f} times closer, because of pictures whose subject is near an edge"
    context.say(text)
