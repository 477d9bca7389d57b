"""Groups of arguments that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..autoencoders.registry import AUTOENCODERS, DEFAULT
from ..bank.augmentation import DEFAULT_OFFSET_COST
from ..methods.latent.presets import DEFAULT_PRESET, PRESETS
from ..registry import SAMPLERS

__all__ = [
    "add_common",
    "add_mask",
    "add_network",
    "add_precision",
    "add_report",
    "add_resume",
    "add_sampler",
    "add_sampling",
    "add_settings",
    "add_size",
    "add_sources",
    "natural",
    "number_from",
    "positive",
]


_NOT_OF_RASTER = (
    "sweeps", "max_share", "start_candidates", "allow_start_as_donor", "donors", "symmetric", "switch_cost",
    "reuse_cost", "best_of", "strength",
)  # fmt: skip


def add_sources(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "sources",
        nargs="+" if required else "*",
        help="a folder, pictures, a text file that lists pictures, or a fitted model file"
        + ("" if required else " (examples/portraits)"),
    )
    parser.add_argument("--attributes", metavar="CSV", help="attributes of the sources, for --where")
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used, and list them")
    parser.add_argument("--components", type=int, metavar="R", help="principal components searched (16)")
    parser.add_argument(
        "--mirrored", action="store_const", const=True, help="let every source enter as its mirror image, too"
    )
    parser.add_argument(
        "--offsets", type=natural, metavar="D", help="and moved by up to D latent cells, if not registered (0)"
    )
    parser.add_argument(
        "--offset-cost", type=float, metavar="COST", help=f"of a source moved by a cell ({DEFAULT_OFFSET_COST:g})"
    )
    parser.add_argument(
        "--details",
        action=argparse.BooleanOptionalAction,
        help="whether what the autoencoder loses of the sources is kept, and put back into pictures, for four times "
        "the memory (with the embedded autoencoders)",
    )
    add_size(parser)


def add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", metavar="SIDE|HxW", help="pixels pictures are cropped and resized to (256)")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=positive, default=16, help="number of pictures (16)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the first picture; the next has the next (0)")
    parser.add_argument("--where", metavar="PREDICATE", help='sources to use, e.g. "gender=female and birth_year>1960"')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Settings of the raster sampler."""
    group = parser.add_argument_group("settings of the raster sampler")
    group.add_argument("--patch-size", type=int, help="side of the compared patches in latent cells, omega (6)")
    group.add_argument("--stride", type=int, help="side of the copied blocks, w (patch size / 3)")
    group.add_argument("--neighbors", "--neighbours", type=int, help="nearest sources drawn from, k (3)")
    _add_scales(group)
    parser.set_defaults(**dict.fromkeys(_NOT_OF_RASTER))


def add_sampler(parser: argparse.ArgumentParser) -> None:
    """A choice of samplers, and the settings of all of them."""
    group = parser.add_argument_group("how the pictures are put together")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--preset", choices=tuple(PRESETS), help=f"a sampler with settings that go together ({DEFAULT_PRESET})"
    )
    which.add_argument("--sampler", choices=tuple(SAMPLERS), help="the sampler, with its own defaults")
    group.add_argument("--patch-size", type=int, help="side of the compared patches in latent cells, omega")
    group.add_argument("--stride", type=int, help="side of the copied blocks, w")
    group.add_argument("--neighbors", "--neighbours", type=int, help="nearest sources drawn from, k")
    group = parser.add_argument_group("settings of resynthesis, and of the sweeps that end diffusion")
    group.add_argument("--sweeps", type=int, help="how often every block is visited (2)")
    group.add_argument("--max-share", type=float, help="share of a picture one source gives at most (0.3)")
    group.add_argument(
        "--start-candidates", "--draws", type=int, help="sources drawn to start with, the most unusual being taken (2)"
    )
    group.add_argument(
        "--allow-start-as-donor",
        "--keep-start",
        action=argparse.BooleanOptionalAction,
        help="whether the source that is started with may give patches, too (no)",
    )
    group.add_argument(
        "--donors",
        "--subset",
        type=_number_or_share,
        help="sources drawn for each picture that alone give patches: a number such as 4, or a share up to 1.0 (0.5)",
    )
    group.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        help="whether blocks on the left and on the right are compared and copied together, as pairs (yes)",
    )
    group.add_argument("--switch-cost", type=float, help="of a source that no neighbouring cell comes from (0)")
    group.add_argument("--reuse-cost", "--use-cost", type=float, help="of each cell that a source gave already (0)")
    group.add_argument("--best-of", type=int, help="pictures made for one, of which that of least energy is kept (1)")
    group = parser.add_argument_group("settings of diffusion")
    group.add_argument("--strength", type=float, help="with a reference, how much noise it gets, up to 1 (0.5)")
    _add_scales(parser.add_argument_group("settings of the raster sampler"))


def _number_or_share(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _add_scales(group: Any) -> None:
    group.add_argument("--scales", type=int, help="grid sizes, S (5; 1 with a reference, 3 to inpaint)")
    group.add_argument("--start-size", type=int, help="side of the coarsest grid (10 of 16)")


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep pictures as they are made, and go on where this command was interrupted; implied by torchrun",
    )


def add_mask(parser: argparse.ArgumentParser) -> None:
    region = parser.add_mutually_exclusive_group(required=True)
    region.add_argument(
        "--mask",
        metavar="IMAGE",
        help="picture that is white where the region is, cropped and resized as the picture is",
    )
    region.add_argument(
        "--box", metavar="LEFT,TOP,RIGHT,BOTTOM", help="the region, in pixels of the cropped and resized picture"
    )


def add_common(parser: argparse.ArgumentParser, run: Any, output: str = "FOLDER") -> None:
    parser.add_argument(
        "-o", "--output", required=True, metavar=output, help="where to write; files of the same names are replaced"
    )
    add_network(parser)
    add_precision(parser)
    add_report(parser, run)


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="arithmetic of the decoder; bfloat16 is faster where the processor has it",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--autoencoder",
        metavar="NAME[:PATH]",
        help=f"one of {', '.join(AUTOENCODERS)}, and after a colon its local weights ({DEFAULT})",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (a GPU where there is one)")


def add_report(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print a report as JSON on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no closing line")
    parser.set_defaults(run=run, status=0)  # what a command that succeeds ends with; it may set another


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: an integer of at least 1 is expected")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: an integer of at least 0 is expected")
    return int(text)


def number_from(least: float, most: float) -> Callable[[str], float]:
    """What reads a number in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: a number from {least} to {most} is expected")
        return value

    return read
