"""``latentpatch align``: pictures registered to one another, as the sampler wants its sources."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..errors import FileError, ImageError
from ..io import atomic as files
from ..io import images
from ..registration.alignment import MIN_AGREEMENT, Alignment, estimate, from_landmarks, outside, read_landmarks, warp
from .arguments import add_report, number_from
from .common import check_apart, counted, parsed_size, say, shows_progress, write_json

__all__ = ["add_align"]

_CONVENTION = (
    "matrix takes a point (x, y) of the upright original to the aligned picture, "
    "in pixels from the upper left corner: the centre of the first pixel is (0.5, 0.5)"
)
_SETTINGS = ("rotation", "zoom", "focus", "closer", "min_agreement")
_KEPT = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpeg"}  # other formats become PNG


def add_align(commands: Any) -> None:
    parser = commands.add_parser("align", help="register similar pictures to one another", allow_abbrev=False)
    parser.add_argument("sources", nargs="+", help="a folder, pictures, or a text file that lists pictures")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="where to write; files of the same names are replaced"
    )
    parser.add_argument("--size", default="256", metavar="SIDE|HxW", help="pixels of the aligned pictures (256)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out files that cannot be used or registered, and list them"
    )
    known = parser.add_mutually_exclusive_group()
    known.add_argument(
        "--landmarks", metavar="CSV", help="register these points instead: columns file, A_x, A_y, B_x, B_y, …"
    )
    known.add_argument("--to", metavar="FOLDER", help="register to these pictures, which are registered already")
    group = parser.add_argument_group("what is looked for")
    group.add_argument(
        "--rotation",
        type=number_from(0, 180),
        metavar="DEGREES",
        help="how far pictures are rotated against their mean (15)",
    )
    group.add_argument(
        "--zoom", type=number_from(1, 4), metavar="FACTOR", help="how much larger or smaller they are than it (1.3)"
    )
    group.add_argument(
        "--focus", type=_focus, metavar="X,Y", help="the place that counts most, in shares of the picture (0.5,0.5)"
    )
    group.add_argument(
        "--min-agreement",
        type=number_from(-1, 1),
        metavar="SHARE",
        help=f"with the mean of the others, below which a picture is not registered ({MIN_AGREEMENT})",
    )
    group = parser.add_argument_group("the frame")
    group.add_argument(
        "--closer", type=number_from(0.25, 4), metavar="FACTOR", help="enlarge the aligned pictures about the focus (1)"
    )
    group.add_argument(
        "--crop", action="store_true", help="go closer until no picture ends in view; otherwise edges are mirrored"
    )
    parser.add_argument(
        "--mean", metavar="IMAGE", help="write the mean of the aligned pictures: sharp where they agree"
    )
    add_report(parser, _align)


def _align(options: argparse.Namespace) -> dict[str, Any]:
    size = parsed_size(options.size)
    _check(options)
    sources = [Path(source) for source in options.sources]
    paths = images.list_images(*sources)
    targets = _targets(paths, Path(options.output))
    check_apart(sources, options.output)
    with files.staged(options.output) as staging:
        readable, skipped = _readable(options, paths)
        found = _estimated(options, readable, size)
        registered, unregistered = _told_apart(options, readable, found)
        skipped += unregistered
        mean = torch.zeros(3, *size, dtype=torch.float64)
        rows = []
        for i in tqdm(registered, desc="warping", unit="img", disable=not shows_progress(options), leave=False):
            picture, matrix = images.read_image(readable[i]), found.matrices[i]
            aligned = warp(picture, matrix, size)
            mean += aligned.double() / len(registered)
            file = targets[readable[i]]
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            images.write_image(staging / file, aligned)
            height, width = picture.shape[1:]
            rows.append(
                {
                    "file": file,
                    "source": readable[i].name,
                    "size": [height, width],
                    "matrix": matrix.tolist(),
                    "outside": round(outside(matrix, (height, width), size), 4),
                }
                | ({} if options.landmarks else {"agreement": round(float(found.agreement[i]), 4)})
            )
        report = _facts(options, size, found.zoom) | {"images": rows, "skipped": skipped}
        write_json(staging / "alignment.json", report)
        _warn_of_others(options, {row["file"] for row in rows})
    if options.mean is not None:
        images.write_image(options.mean, mean)
    _summarise(options, rows, report)
    return report


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before minutes are spent."""
    looked_for = [name for name in ("rotation", "zoom", "focus", "min_agreement") if getattr(options, name) is not None]
    if options.landmarks and looked_for:
        raise ValueError(f"--{looked_for[0].replace('_', '-')}: nothing is looked for where --landmarks are given")
    if options.to and (options.crop or options.closer is not None):
        raise ValueError(f"--{'crop' if options.crop else 'closer'}: the frame is that of the pictures in --to")
    if options.mean is not None and Path(options.mean).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--mean {options.mean}: a name ending in .png, .jpg, .jpeg or .webp is expected")
    if options.mean is not None and Path(options.mean).resolve().is_relative_to(Path(options.output).resolve()):
        raise ValueError(f"--mean {options.mean} lies within --output: it would become a source")


def _targets(paths: Sequence[Path], output: Path) -> dict[Path, str]:
    """What each picture's file is to be called, below the output folder."""
    targets = {
        path: name + _KEPT.get(path.suffix.lower(), ".png")
        for path, name in zip(paths, images.identifiers(paths), strict=True)
    }
    originals = {path.resolve() for path in paths}
    for file in targets.values():
        if (output / file).resolve() in originals:
            raise ValueError(f"--output {output}: {file} would replace an original; another folder is expected")
    return targets


def _readable(options: argparse.Namespace, paths: Sequence[Path]) -> tuple[list[Path], list[dict[str, str]]]:
    """The pictures that can be read, and have landmarks where these are given; what was left out, and why."""
    landmarks = None if options.landmarks is None else read_landmarks(options.landmarks)
    readable, skipped = [], []
    for path in tqdm(paths, desc="reading", unit="img", disable=not shows_progress(options), leave=False):
        try:
            images.read_image(path)
            if landmarks is not None and path.name not in landmarks:
                raise ImageError(f"{path}: has no landmarks in {options.landmarks}")
        except ImageError as error:
            if not options.skip_bad:
                raise
            skipped.append({"file": str(path), "reason": str(error)})
            say(options, f"skipped: {error}")
        else:
            readable.append(path)
    least = 1 if options.to or options.landmarks else 2
    if len(readable) < least:
        raise FileError(f"{counted(len(readable), 'usable picture')}: at least {least} are expected")
    return readable, skipped


def _estimated(options: argparse.Namespace, paths: Sequence[Path], size: tuple[int, int]) -> Alignment:
    given = {name: getattr(options, name) for name in _SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    if options.landmarks is not None:
        landmarks = read_landmarks(options.landmarks)
        sizes = [(picture.shape[1], picture.shape[2]) for picture in _pictures(options, paths)]
        points = torch.stack([landmarks[path.name] for path in paths])
        return from_landmarks(points, sizes, size, crop=options.crop, **given)
    reference = None
    if options.to is not None:
        reference = (images.read_image(path, size) for path in images.list_images(options.to))
    return estimate(_pictures(options, paths), size, crop=options.crop, reference=reference, **given)


def _pictures(options: argparse.Namespace, paths: Sequence[Path]) -> Iterator[Tensor]:
    for path in tqdm(paths, desc="comparing", unit="img", disable=not shows_progress(options), leave=False):
        yield images.read_image(path)


def _told_apart(
    options: argparse.Namespace, paths: Sequence[Path], found: Alignment
) -> tuple[list[int], list[dict[str, str]]]:
    """Positions of the registered pictures, and the others with the reason."""
    unregistered = [
        {"file": str(paths[i]), "reason": f"agrees by {found.agreement[i]:.2f} with the others"}
        for i in (~found.registered).nonzero()[:, 0].tolist()
    ]
    named = "; ".join(f"{entry['file']} {entry['reason']}" for entry in unregistered[:10])
    if len(unregistered) > 10:
        named += f"; and {len(unregistered) - 10} more"
    if unregistered and not options.skip_bad:
        raise FileError(
            f"{len(unregistered)} of {len(paths)} cannot be registered (--skip-bad leaves out such pictures): {named}"
        )
    if len(unregistered) == len(paths):
        raise FileError(f"none of {len(paths)} pictures can be registered: {named}")
    for entry in unregistered:
        say(options, f"skipped: {entry['file']}: {entry['reason']}")
    return found.registered.nonzero()[:, 0].tolist(), unregistered


def _facts(options: argparse.Namespace, size: tuple[int, int], zoom: float) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in _SETTINGS}
    return {
        "command": "align",
        "version": __version__,
        "size": list(size),
        "method": "landmarks" if options.landmarks else "reference" if options.to else "congealing",
        "settings": {name: value for name, value in settings.items() if value is not None} | {"crop": options.crop},
        "closer": round(zoom, 6),
        "convention": _CONVENTION,
    }


def _warn_of_others(options: argparse.Namespace, written: set[str]) -> None:
    output = Path(options.output)
    others = [
        path
        for path in output.rglob("*")
        if path.suffix.lower() in images.SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(output).parts)
        and path.relative_to(output).as_posix() not in written
    ]
    if others:
        say(options, f"pictures of an earlier run that stay in {options.output}: {len(others)}")


def _summarise(options: argparse.Namespace, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    text = f"{counted(len(rows), 'aligned picture')} in {options.output}"
    if not options.landmarks:
        text += f", agreement {min(row['agreement'] for row in rows):.2f} or more"
    mirrored = sum(row["outside"] > 0.02 for row in rows)
    if mirrored:
        text += f"; {mirrored} mirrored at the edges in more than 2 % of their pixels (--crop avoids it)"
    if report["closer"] > 2:
        text += f"; cropped {report['closer']:.1f} times closer, because of pictures whose subject is near an edge"
    say(options, text)


def _focus(text: str) -> tuple[float, float]:
    share = number_from(0, 1)
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r}: X,Y is expected, each from 0 to 1")
    return share(parts[0]), share(parts[1])
