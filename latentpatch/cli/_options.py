"""Options that commands share, and what a command is; importing this module imports no torch."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..autoencoders.names import AUTOENCODERS, DEFAULT, parse_autoencoder
from ..errors import SettingError, printable, shorten
from ._parsing import OptionGroup, Parser, argument, choice, flag, group, integer, number, option, output_path, switch

if TYPE_CHECKING:
    import torch

    from ..runs.processes import Processes

__all__ = [
    "BARE",
    "PICTURES_HELP",
    "Command",
    "CommandOptions",
    "RegionOptions",
    "RunContext",
    "RunOptions",
    "SampleOptions",
    "SourceOptions",
    "argument",
    "choice",
    "command",
    "count_option",
    "flag",
    "group",
    "image_size",
    "integer",
    "number",
    "option",
    "output_option",
    "plural",
    "size_option",
]

#: Options of a run that commands without an autoencoder omit.
BARE = ("autoencoder", "device", "precision", "resume")

_PRECISIONS = ("float32", "bfloat16")

#: Options of fitting that a record decides, at most: more sources, or components, cost more.
_MAX_RECORDED_OFFSETS, _MAX_RECORDED_COMPONENTS = 4, 64

PICTURES_HELP = "a folder, pictures, or a text file that lists pictures"

#: Options of sources that a fitted model file settles.
_SETTLED_BY_FIT = (
    *("components", "size", "attributes", "mirrored", "offsets", "offset_cost", "residuals"),
    *("groups", "group_by"),
)

O = TypeVar("O", bound="CommandOptions")  # noqa: E741


def image_size(text: str) -> tuple[int, int]:
    """Return height and width of ``SIDE`` or ``HEIGHTxWIDTH``."""
    match = re.fullmatch(r"(\d{1,7})(?:x(\d{1,7}))?", text, re.ASCII)
    if match is None:
        text = f"must be pixels as SIDE or HEIGHTxWIDTH, of at most seven digits, got {shorten(text)}"
        raise argparse.ArgumentTypeError(text)
    return int(match[1]), int(match[2] or match[1])


def _device(text: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", text) is None:
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda or cuda:NUMBER, got {text!r}")
    return text


def _autoencoder(text: str) -> str:
    try:
        parse_autoencoder(text)
    except SettingError as error:
        raise argparse.ArgumentTypeError(f"must be {error.constraint}, got {text!r}") from error
    return text


# Images of one run, at most: seeds of their batches and names of their files are held in memory.
_MOST_IMAGES = 10_000_000


def output_option(metavar: str = "FOLDER", help: str = "where to write; replaces files of the same names") -> Any:
    """Declare ``--output``."""
    return option(output_path, metavar, help, "-o", required=True)


def count_option(default: int, help: str = "number of images") -> Any:
    """Declare an option with a number of images, from 1 to what one run may make."""
    return option(integer(1, _MOST_IMAGES), "N", help, default=default)


def size_option(default: tuple[int, int] | None = None) -> Any:
    """Declare ``--size``."""
    return option(image_size, "SIDE|HxW", "pixels to which pictures are cropped and resized (256)", default=default)


def plural(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True, kw_only=True)
class RunOptions(OptionGroup):
    """Options of how a command computes and reports."""

    title = "running"

    autoencoder: str | None = option(
        _autoencoder, "NAME[:PATH]", f"one of {', '.join(AUTOENCODERS)}; after a colon, its local weights ({DEFAULT})"
    )
    device: str = option(_device, None, "cpu, cuda or cuda:NUMBER; auto takes a GPU if there is one", default="auto")
    precision: str = choice(
        _PRECISIONS, "of decoding, and of encoding sources; bfloat16 is faster on some processors", "float32"
    )
    resume: bool = flag("keep finished images, and continue an interrupted run; torchrun implies it")
    json: bool = flag("print a report as JSON on standard output")
    quiet: bool = flag("print no progress and no closing line", "-q")


@dataclass(frozen=True, kw_only=True)
class SourceOptions(OptionGroup):
    """Sources of a model, and how it is fitted on them."""

    title = "sources"

    sources: tuple[Path, ...] = argument("SOURCES", f"{PICTURES_HELP}; or a fitted model file", "+")
    attributes: Path | None = option(Path, "CSV", "table of the sources' attributes, for --where")
    skip_bad: bool = flag("leave out files that cannot be used, and list them")
    size: tuple[int, int] | None = size_option()
    components: int | None = option(integer(1), "R", "number of principal components to search in (16)")
    mirrored: bool = flag("use every source mirrored, too; for few sources, if left and right do not matter")
    offsets: int | None = option(integer(0), "D", "use sources moved by up to D cells, too, if not registered (0)")
    offset_cost: float | None = option(number(0, 10), "COST", "penalty for a source moved by one cell (0.05)")
    residuals: bool | str | None = switch(
        "store the fine detail that the autoencoder loses, and add it to images, for 2.5 times the memory (yes with "
        "the embedded autoencoders)",
        former={"--details": "full", "--no-details": False},
    )
    groups: bool | None = switch(
        "count equal and nearly equal sources, such as re-saved files of one picture, as one (yes)"
    )
    group_by: str | None = option(
        str, "COLUMN", "attribute whose equal values count as one source, such as the person on several pictures"
    )

    precision: str | None = None  # of fitting: that of the run where it is on the command line

    @property
    def is_fitted(self) -> bool:
        """True if the source is a fitted model file."""
        return len(self.sources) == 1 and self.sources[0].suffix == ".safetensors"

    def as_recorded(self, record: Mapping[str, Any]) -> SourceOptions:
        """Return these options with those of fitting that a picture's record has, where none is on the command line.

        Anyone may have written the record: values out of range are left out.
        """
        fit = record.get("fit")
        changes: dict[str, Any] = {}
        if self.is_fitted or not isinstance(fit, dict):
            return self
        if not self.mirrored and self.offsets is None and fit.get("offsets") in range(1, _MAX_RECORDED_OFFSETS + 1):
            changes = {"offsets": int(fit["offsets"])}
            if type(cost := fit.get("offset_cost")) is float and 0 <= cost <= 10:
                changes["offset_cost"] = cost
        if self.offsets is None and fit.get("mirrored") is True:
            changes["mirrored"] = True
        for name in ("residuals", "groups"):
            if getattr(self, name) is None and isinstance(fit.get(name), bool):
                changes[name] = fit[name]
        if changes.get("residuals") and fit.get("chroma") != "half":  # as all records were before
            changes["residuals"] = "full"
        precision = fit.get("precision", _PRECISIONS[0])  # of the sources, which decoding may differ from
        if precision in _PRECISIONS and precision != (self.precision or _PRECISIONS[0]):
            changes["precision"] = precision
        count = record.get("components")
        if self.components is None and type(count) is int and 1 <= count <= _MAX_RECORDED_COMPONENTS:
            changes["components"] = count
        return replace(self, **changes)

    def check(self) -> None:
        """Refuse options of fitting for a model that is fitted."""
        if self.offset_cost is not None and not self.offsets:
            raise ValueError("--offset-cost needs --offsets")
        if self.group_by is not None and self.attributes is None and not self.is_fitted:
            raise ValueError("--group-by needs --attributes, the table with that column")
        settled = {name: getattr(self, name) for name in _SETTLED_BY_FIT} | {"mirrored": self.mirrored or None}
        for name, value in settled.items():
            if self.is_fitted and value is not None:
                text = f"{self.sources[0]} is fitted already; use it in the command that fits"
                raise ValueError(f"--{name.replace('_', '-')}: {text}")


@dataclass(frozen=True, kw_only=True)
class RegionOptions(OptionGroup):
    """A region of a picture."""

    mask: Path | None = option(
        Path,
        "IMAGE",
        "white in the region, cropped and resized as the picture",
        exclusive="region",
        required=True,
    )
    box: str | None = option(
        str, "LEFT,TOP,RIGHT,BOTTOM", "pixels of the cropped and resized picture", exclusive="region", required=True
    )


@dataclass(frozen=True)
class RunContext:
    """The circumstances of one run.

    Attributes:
        command: its name.
        options: its options.
        device: name of the device to compute on.
        processes: the processes that run the command together; the first reports for all.
        is_resumable: whether finished images outlive an interruption.
    """

    command: str
    options: RunOptions
    device: str
    processes: Processes
    is_resumable: bool

    @property
    def is_quiet(self) -> bool:
        """True if only errors are printed."""
        return self.options.quiet or self.processes.rank > 0

    @property
    def shows_progress(self) -> bool:
        """True if progress bars are shown."""
        return sys.stderr.isatty() and not self.is_quiet

    def say(self, text: str) -> None:
        """Print a line on standard error."""
        if not self.is_quiet:
            print(printable(text), file=sys.stderr)

    def choose_device(self, precision: str) -> torch.device:
        """Return the run's device, and say where a precision, which is chosen for its speed, is slow on it."""
        from ..runs.system import choose_device, slowness

        device = choose_device(self.device)
        if note := slowness(precision, device):
            self.say(f"note: {note}")
        return device

    @contextmanager
    def saying(self, kind: type[Warning]) -> Iterator[None]:
        """Print each warning of a kind within the block once, as a note."""
        said: set[str] = set()
        with warnings.catch_warnings():
            warnings.simplefilter("always", kind)
            show = warnings.showwarning

            def say(message: Warning | str, category: type[Warning], *details: Any) -> None:
                if not issubclass(category, kind):
                    show(message, category, *details)
                elif str(message) not in said:
                    said.add(str(message))
                    self.say(f"note: {message}")

            warnings.showwarning = say  # type: ignore[assignment]
            yield

    def progress(self, items: Any = None, *, name: str, **options: Any) -> Any:
        """Return a progress bar of images, over items or to be updated."""
        from ..runs.progress import progress

        return progress(name, items, shown=self.shows_progress, **options)


class CommandOptions(OptionGroup):
    """All options of a command."""

    run: RunOptions


@dataclass(frozen=True, kw_only=True)
class SampleOptions(CommandOptions):
    """Options of commands that draw images from seeds."""

    output: Path = output_option()
    n: int = count_option(16)
    seed: int = option(integer(0), "SEED", "seed of the first image; the next image has the next seed", default=0)
    where: str | None = option(str, "PREDICATE", 'sources to use, such as "gender=female and birth_year>1960"')


@dataclass(frozen=True)
class Command(Generic[O]):
    """A command; :func:`command` makes it of the function that does the work and returns the report.

    Attributes:
        run: the function.
        options: the class of its options.
        examples: command lines for the help.
        is_parallel: whether torchrun may start it as several processes.
        is_resumable: whether an interrupted run always continues where it was.
        always_prints: whether the report is printed without ``--json``, too.
        exit_status: function of the report.
        bare: command of the same name for command lines without the option ``marker``.
        marker: option that only this command has.
    """

    run: Callable[[O, RunContext], dict[str, Any]]
    options: type[O]
    examples: tuple[str, ...]
    is_parallel: bool = False
    is_resumable: bool = False
    always_prints: bool = False
    exit_status: Callable[[dict[str, Any]], int] = lambda report: 0
    bare: Command[Any] | None = None
    marker: str = ""

    def chosen(self, words: list[str]) -> Command[Any]:
        """Return the command that a command line is of: this one, or its bare one."""
        is_marked = self.bare is None or any(word.partition("=")[0] == self.marker for word in words)
        return self if is_marked or self.bare is None else self.bare

    def parse(self, name: str, summary: str, words: list[str]) -> CommandOptions:
        """Return the options of a command line; exit where it asks for help or is refused."""
        chosen: Command[CommandOptions] = self.chosen(words)
        parser = chosen._parser(name, summary)
        if self.bare is not None and {"-h", "--help"} & {*words} and self.marker not in words:
            print(f"{parser.format_help()}\nwith {self.marker}:\n")
            parser = self._parser(name, summary)
        return chosen.options.read(parser.parse_args(words))

    def _parser(self, name: str, summary: str) -> Parser:
        examples = "\n".join(f"  latentpatch {each}" for each in self.examples)
        parser = Parser(
            prog=f"latentpatch {name}",
            usage="%(prog)s ... [options]",
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{examples}",
        )
        self.options.add_to(parser)
        return parser


def command(
    options: type[O], *examples: str, **declaration: Any
) -> Callable[[Callable[[O, RunContext], dict[str, Any]]], Command[O]]:
    """Make a function a :class:`Command`; a decorator."""
    return lambda run: Command(run, options, examples, **declaration)
