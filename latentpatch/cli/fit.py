"""``latentpatch fit``: encode sources once and keep them in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class FitOptions(cli.CommandOptions):
    output: Path = cli.output_option("MODEL.safetensors", "the model file to write")
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))

    def check(self) -> None:
        super().check()
        if self.output.suffix != ".safetensors":  # by which the other commands know a model file
            raise ValueError(f"--output must be a name ending in .safetensors, got {self.output}")


@cli.command(
    FitOptions,
    "fit PICTURES --attributes people.csv -o people.safetensors",
    'generate people.safetensors --where "gender=female" -o out',
)
def run(options: FitOptions, context: cli.RunContext) -> dict[str, Any]:
    """Fit a model and write it."""
    from ..bank.format import ModelFile
    from ..io.atomic import staged
    from ._load import open_model, skipped_files
    from ._output import describe_model

    with staged(options.output.parent) as staging:
        path = staging / options.output.name
        model = open_model(options.sources, context, options.output, scratch=staging)
        model.save(path)
        report = describe_model(ModelFile.read(path)) | {"skipped": skipped_files(model)}
    total, groups = len(model.bank.sources), model.bank.num_groups
    counting = f", which count as {groups}" if groups < total else ""
    context.say(f"{options.output}: {cli.plural(total, 'source')}{counting}")
    return report
