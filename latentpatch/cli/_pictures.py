"""Options of commands that make pictures from pictures, and what these commands write."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..methods.single_image.presets import PICTURE_PRESET_HELP, presets_of, task_settings
from ..methods.trained.settings import TRAINED_TASKS, TrainedSettings
from ..registry import PICTURE_METHODS
from ..settings import Settings, declared
from . import _options as cli
from ._parsing import OptionGroup, Parser
from ._samplers import add_settings, option_flag, settings_of, settings_rows
from ._trace import Trace

if TYPE_CHECKING:
    from ..results import PictureGeneration

__all__ = ["MethodOptions", "PictureOptions", "TargetOptions", "make_and_write"]

M = TypeVar("M", bound="MethodOptions")


@dataclass(frozen=True, kw_only=True)
class MethodOptions(OptionGroup):
    """A method on pictures, or a preset of one, and changed settings of it; subclasses are of one task.

    Attributes:
        task: of :data:`latentpatch.registry.TASKS`.
        preset: name of a preset.
        method: name of a method.
        changes: settings on the command line, by their present names.
    """

    task: ClassVar[str]

    preset: str | None = None
    method: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    start_scale: int | None = None

    @classmethod
    def add_to(cls, parser: Parser, omit: Collection[str] = ()) -> None:
        names, presets = PICTURE_METHODS.having(cls.task), presets_of(cls.task)
        lines = [f"methods ({names[0]} by default):", *settings_rows({n: PICTURE_METHODS.summary(n) for n in names})]
        if presets:
            lines += ["presets:", *settings_rows({name: PICTURE_PRESET_HELP[name] for name in presets})]
        section = parser.add_argument_group("how pictures are made", "\n".join(lines))
        choice = section.add_mutually_exclusive_group()
        choice.add_argument("--method", choices=names, help="a method with its default settings")
        if presets:
            choice.add_argument("--preset", choices=tuple(presets), help="a method with settings that go together")
        if cls.task in TRAINED_TASKS:
            each = declared(TrainedSettings)["start_scale"]
            choice.add_argument(
                "--start-scale", type=cli.integer(0), metavar=each.metavar, default=argparse.SUPPRESS,
                help=f"{each.help} ({each.default_help})",
            )  # fmt: skip
        add_settings(parser, PICTURE_METHODS.settings(), names)

    @classmethod
    def read(cls: type[M], parsed: argparse.Namespace) -> M:
        return replace(super().read(parsed), changes=settings_of(parsed))

    def check(self) -> None:
        if self.start_scale is None:
            self.settings()

    def trained_settings(self) -> TrainedSettings:
        """Return the settings in force for a trained model.

        Raises:
            ValueError: for a method or a setting of a method.
        """
        if self.method or self.preset or self.changes:
            names = [name for name in ("method", "preset") if getattr(self, name)] + list(self.changes)
            raise ValueError(f"{option_flag(names[0])} is not for a trained model, which has its own method")
        return TrainedSettings(self.start_scale)

    def settings(self) -> Settings:
        """Return the settings in force.

        Raises:
            ValueError: for a setting of another method, and values that do not go together.
        """
        if self.start_scale is not None:
            raise ValueError("--start-scale needs a trained model in place of the pictures")
        base = task_settings(self.task, self.method, self.preset)
        for name in self.changes:
            if name not in declared(type(base)):
                owners = [m for m in PICTURE_METHODS.settings()[name] if m in PICTURE_METHODS.having(self.task)]
                text = f"{option_flag(name)} belongs to {' and '.join(owners)}: add --method {'|'.join(owners)}"
                raise ValueError(text)
        return base.changed(**self.changes)


@dataclass(frozen=True, kw_only=True)
class PictureOptions(cli.CommandOptions):
    """Options of all commands that make pictures from pictures."""

    pictures: tuple[Path, ...] = cli.argument(
        "PICTURE", "the picture; several give patches together; or a trained model", "+"
    )
    output: Path = cli.output_option()
    n: int = cli.count_option(4)
    seed: int = cli.option(
        cli.integer(0), "SEED", "seed of the first image; the next image has the next seed", default=0
    )
    offsets: bool = cli.flag("write offsets.safetensors, too: the origin of every pixel as numbers")
    trace: bool = cli.flag("write trace.gif, too: the steps that made the first image")
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=cli.BARE)


@dataclass(frozen=True, kw_only=True)
class TargetOptions(OptionGroup):
    """The picture that results are near to; a last base class, so that its argument comes first."""

    target: Path


def make_and_write(
    options: PictureOptions,
    context: cli.RunContext,
    method: MethodOptions,
    size: tuple[int, int] | None = None,
    *,
    files: Mapping[str, Path] = MappingProxyType({}),
    facts: Mapping[str, Any] = MappingProxyType({}),
    **inputs: Any,
) -> dict[str, Any]:
    """Make the pictures of a command, write them with their sheets and record, and return the record.

    Args:
        options, context, method, size: of the command.
        files: of further inputs by name, for the record.
        facts: further ones for the record.
        inputs: further arguments of :func:`~latentpatch.picture_tasks.make_pictures`.
    """
    from .. import __version__
    from ..io import atomic
    from ..io.layouts import PictureFolder
    from ..picture_tasks import make_pictures, picture_tensors
    from ..runs.interruption import checkpoint
    from ..trained_tasks import opened
    from ._output import SHEET_IMAGES, file_facts

    task, model = method.task, opened(options.pictures)
    settings = method.settings() if model is None else method.trained_settings()
    with atomic.staged(options.output) as staging:
        PictureFolder(staging).check(options.output, "grid.png", "provenance.png", f"{context.command}.json")
        shown = [] if model else picture_tensors(options.pictures)
        tensors: Any = model or shown
        if isinstance(options, TargetOptions):
            inputs["target"] = picture_tensors(options.target)[0]
            files, shown = {**files, "target": options.target}, [inputs["target"], *shown]
        seeds = range(options.seed, options.seed + options.n)
        trace = Trace(options.n)
        with context.progress(name=task, total=None, unit="step") as bar:

            def observe(step: Any) -> None:
                checkpoint()
                if options.trace:
                    trace(step)
                bar.total = step.total
                bar.set_postfix_str(step.name, refresh=False)
                bar.update(step.done - bar.n)

            result = make_pictures(task, tensors, size, seeds, settings=settings, observe=observe, **inputs)
        if "mask" in inputs:
            shown = [inputs["target"], inputs["target"].masked_fill(inputs["mask"], 0.5)]
        record = {
            **facts,
            "command": context.command,
            "version": __version__,
            "sources": [
                {**file_facts(path), "size": list(each)}
                for path, each in zip(options.pictures, result.sizes, strict=True)
            ],
            **{name: file_facts(path) for name, path in files.items()},
            "size": [int(side) for side in result.images.shape[2:]],
            **result.settings_record(),
        }
        if options.trace:
            trace.write(staging / "trace.gif", result.images)
            record["trace"] = "trace.gif"
        report = _write(staging, record, result, shown, options.offsets)
    older = [
        path for path in options.output.glob("[0-9]*.png") if path.stem.isdecimal() and int(path.stem) >= options.n
    ]
    if older:
        context.say(f"pictures of an earlier run that stay in {options.output}: {len(older)}")
    if len(result) > SHEET_IMAGES:
        context.say(f"grid.png shows the first {SHEET_IMAGES} of {len(result)} pictures")
    context.say(f"{cli.plural(len(result), 'picture')} in {options.output}{_copying_text(report['images'])}")
    return report


def _write(
    staging: Path, facts: dict[str, Any], result: PictureGeneration, sources: Any, has_offsets: bool
) -> dict[str, Any]:
    """Write the pictures of a result, their sheets and their record to a folder."""
    import torch

    from ..io.atomic import write_tensors
    from ..io.channels import on_white, write_channels
    from ..io.images import contact_sheet, record_metadata, write_image
    from ._output import SHEET_IMAGES, write_json

    rows = []
    for i, each in enumerate(result.records()):
        file = f"{i:04d}.png"
        write_channels(staging / file, result.images[i], record_metadata({**facts, "seed": each["seed"]}))
        rows.append({"file": file, **each})
    sheet = on_white(result.images[:SHEET_IMAGES])
    same = [each for each in sources if each.shape == result.images.shape[1:]]
    if same:
        sheet = torch.cat([on_white(torch.stack(same)), sheet])
    write_image(staging / "grid.png", contact_sheet(sheet))
    sheets, maps = ["grid.png"], result.provenance()
    if maps is not None:
        write_image(staging / "provenance.png", contact_sheet(maps[:SHEET_IMAGES]))
        sheets.append("provenance.png")
    report = {**facts, "images": rows, "sheets": sheets}
    if has_offsets and result.offsets is not None:
        write_tensors(staging / "offsets.safetensors", {"offsets": result.offsets.to(torch.int32)})
        report["offsets"] = "offsets.safetensors"
    write_json(staging / f"{facts['command']}.json", report)
    return report


def _copying_text(rows: list[dict[str, Any]]) -> str:
    """Return the mean copying figures, and those of several sources, in words."""
    texts = []
    for name, words in (("in_place", "in place"), ("contiguity", "contiguity"), ("largest_share", "largest piece")):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            texts.append(f"{words} {sum(values) / len(values):.0%}")
    text = f"; copied: {', '.join(texts)}" if texts else ""
    counts = [row["num_sources"] for row in rows if "num_sources" in row]
    if counts:
        largest = sum(max(row["shares"]) for row in rows) / len(rows)
        text += f"; sources a picture: {sum(counts) / len(counts):.1f}, the largest with {largest:.0%}"
    return text
