"""``latentpatch explain``: find the sources of a picture, where and how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _options as cli

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(cli.CommandOptions):
    image: Path = cli.argument("IMAGE", "the picture; images of generate hold a record of how they were made")
    output: Path = cli.output_option()
    reference: Path | None = cli.option(Path, "IMAGE", "the reference, if the picture was made with one")
    sources: cli.SourceOptions = cli.group(cli.SourceOptions)
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))


@cli.command(ExplainOptions, "explain out/0003.png PICTURES -o why    # then open why/explanation.html")
def run(options: ExplainOptions, context: cli.RunContext) -> dict[str, Any]:
    """Explain a picture and write the explanation as picture, page and JSON."""
    from ..io import atomic, images
    from ..provenance.explanation import explain
    from ._load import open_model, skipped_files, source_files
    from ._output import write_json

    images.read_image(options.image)  # refused before sources are encoded, which may take minutes
    sources = options.sources.as_recorded(images.read_record(options.image))
    if sources != options.sources:
        context.say(f"the sources are fitted as the record in {options.image.name} says")
    with atomic.staged(options.output) as staging:
        model = open_model(sources, context, options.output)
        reference = None if options.reference is None else images.read_image(options.reference, model.image_size)
        found = explain(model, options.image, originals=source_files(options.sources), reference=reference)
        report = {"command": "explain", **found.record(), "skipped": skipped_files(model)}
        images.write_image(staging / "explanation.png", found.sheet())
        atomic.write_bytes(staging / "explanation.html", found.page().encode())
        write_json(staging / "explanation.json", report)
    shares = found.group_shares()
    largest = "".join(f", the largest {name} with {share:.0%}" for name, share in list(shares.items())[:1])
    local = found.local_share()
    of_detail = "" if local is None else f", and the largest share of its detail is {local:.0%}"
    context.say(f"{options.output}/explanation.html: {cli.plural(len(shares), 'source')}{largest}{of_detail}")
    context.say(found.note)
    return report
