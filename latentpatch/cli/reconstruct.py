"""``latentpatch reconstruct``: encode and decode pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, ImageError
from . import _options as cli

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions(cli.CommandOptions):
    images: tuple[Path, ...] = cli.argument("PICTURES", cli.PICTURES_HELP, "+")
    output: Path = cli.output_option()
    skip_bad: bool = cli.flag("leave out files that cannot be used, and list them")
    size: tuple[int, int] | None = cli.size_option()
    run: cli.RunOptions = cli.group(cli.RunOptions, omit=("resume",))


@cli.command(ReconstructOptions, "reconstruct PICTURES --autoencoder taef2 -o out")
def run(options: ReconstructOptions, context: cli.RunContext) -> dict[str, Any]:
    """Reconstruct pictures, and write them with their PSNR."""
    import torch

    from ..evaluation.metrics import psnr
    from ..io import atomic, images
    from ._load import open_autoencoder, pixel_size
    from ._output import SHEET_IMAGES, portable, run_facts, write_json

    with atomic.staged(options.output) as staging:
        model = open_autoencoder(context)
        size = pixel_size(options.size, model.autoencoder)
        paths = images.list_images(*options.images)
        facts = run_facts(model, context)
        metadata = images.record_metadata(portable(facts))
        rows: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        sheet: list[Tensor] = []
        for path, name in zip(context.progress(paths, name="reconstruct"), images.identifiers(paths), strict=True):
            try:
                picture = images.read_image(path, size)
            except ImageError as error:
                if not options.skip_bad:
                    raise
                skipped.append({"file": str(path), "reason": str(error)})
                context.say(f"skipped: {error}")
                continue
            result = model.reconstruct(picture)[0].cpu()
            file = f"{len(rows):04d}.png"
            images.write_image(staging / file, result, metadata)
            rows.append({"file": file, "id": name, "psnr": round(float(psnr(result[None], picture[None])), 3)})
            if len(sheet) < SHEET_IMAGES:
                sheet += [picture, result]
        if not rows:
            raise FileError(f"none of the {len(paths)} pictures could be used; the first: {skipped[0]['reason']}")
        images.write_image(staging / "grid.png", images.contact_sheet(torch.stack(sheet)))
        report = {**facts, "images": rows, "skipped": skipped}
        write_json(staging / "reconstruct.json", report)
    mean = sum(float(row["psnr"]) for row in rows) / len(rows)
    context.say(f"{cli.plural(len(rows), 'reconstruction')} in {options.output}, mean PSNR {mean:.2f} dB")
    return report
