"""The commands that make pictures: ``generate``, ``inpaint``, ``edit``, ``reconstruct``."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import FileError, ImageError
from ..io import atomic as files
from ..io import images
from ..ops.blending import DECODINGS
from .arguments import add_common, add_mask, add_resume, add_sampler, add_sampling, add_settings, add_size, add_sources
from .book import SHEET, Book, facts_of, opened_book, portable, staged
from .common import (
    bare_model,
    chosen_settings,
    counted,
    say,
    shows_progress,
    sources_model,
    wanted_mask,
    wanted_size,
    write_json,
)

__all__ = ["add_edit", "add_generate", "add_inpaint", "add_reconstruct"]


def add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="make new images from sources", allow_abbrev=False)
    add_sources(parser)
    add_sampling(parser)
    parser.add_argument(
        "--reference", metavar="IMAGE", help="picture the new ones are to resemble, cropped and resized as sources are"
    )
    add_sampler(parser)
    parser.add_argument(
        "--decoding",
        choices=DECODINGS,
        help="decode the sources' full latents, as they are (gather), without steps where sources meet (blend), or "
        "also with what the autoencoder loses of the sources (detail); or the reduced ones (unproject, the paper's "
        "way). By default detail, or without details blend, but gather for the paper's samplers",
    )
    parser.add_argument(
        "--shard-bank", action="store_true", help="with torchrun: each process searches its share of a model file"
    )
    add_resume(parser)
    add_common(parser, _generate)


def _generate(options: argparse.Namespace) -> dict[str, Any]:
    with staged(options) as staging:
        model = sources_model(options)
        settings = chosen_settings(options, model)
        options.decoding = options.decoding or model.default_decoding(settings)
        reference = None if options.reference is None else images.read_image(options.reference, model.image_size)
        with opened_book(staging, "generate", model, options, settings) as book:
            for seeds, part in book.batches(options.n, options.seed):
                book.take(
                    model.generate(
                        seeds=seeds,
                        settings=settings,
                        reference=reference,
                        where=options.where,
                        decoding=options.decoding,
                        part=part,
                    )
                )
            return book.close()


def add_inpaint(commands: Any) -> None:
    parser = commands.add_parser("inpaint", help="fill a region of a picture, in several ways", allow_abbrev=False)
    add_sources(parser)
    parser.add_argument("--image", required=True, help="the picture")
    add_mask(parser)
    add_sampling(parser)
    add_settings(parser)
    parser.add_argument(
        "--reconstructed", action="store_true", help="show the decoder's own pixels outside the mask, not the picture's"
    )
    add_resume(parser)
    add_common(parser, _inpaint)


def _inpaint(options: argparse.Namespace) -> dict[str, Any]:
    with staged(options) as staging:
        model = sources_model(options)
        settings = chosen_settings(options, model)
        picture = images.read_image(options.image, model.image_size)
        mask = wanted_mask(options, model.image_size)
        before = [picture, torch.where(mask, 0.5, picture)]
        with opened_book(staging, "inpaint", model, options, settings, before) as book:
            for seeds, _ in book.batches(options.n, options.seed):
                book.take(
                    model.inpaint(
                        picture,
                        mask,
                        seeds=seeds,
                        settings=settings,
                        where=options.where,
                        composite=not options.reconstructed,
                    )
                )
            return book.close()


def add_edit(commands: Any) -> None:
    parser = commands.add_parser(
        "edit", help="copy a region of one picture into another, in latent space", allow_abbrev=False
    )
    parser.add_argument("image", help="the picture to edit")
    parser.add_argument("--donor", required=True, metavar="IMAGE", help="the picture to copy from")
    add_mask(parser)
    parser.add_argument("--composite", action="store_true", help="keep the picture's own pixels outside the region")
    add_size(parser)
    add_common(parser, _edit)


def _edit(options: argparse.Namespace) -> dict[str, Any]:
    with files.staged(options.output) as staging:
        model = bare_model(options)
        size = wanted_size(options, model)
        picture, donor = images.read_image(options.image, size), images.read_image(options.donor, size)
        book = Book(staging, "edit", model, options, before=[picture, donor])
        book.take(model.edit(picture, donor, wanted_mask(options, size), composite=options.composite))
        return book.close()


def add_reconstruct(commands: Any) -> None:
    parser = commands.add_parser("reconstruct", help="pictures through the autoencoder and back", allow_abbrev=False)
    parser.add_argument("images", nargs="+", help="a folder, pictures, or a text file that lists pictures")
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used")
    add_size(parser)
    add_common(parser, _reconstruct)


def _reconstruct(options: argparse.Namespace) -> dict[str, Any]:
    with files.staged(options.output) as staging:
        model = bare_model(options)
        size = wanted_size(options, model)
        paths = images.list_images(*options.images)
        facts = facts_of("reconstruct", model, options)
        metadata = {"latentpatch": json.dumps(portable(facts), sort_keys=True)}
        rows: list[dict[str, Any]] = []
        skipped: list[dict[str, str]] = []
        sheet: list[Tensor] = []
        names = images.identifiers(paths)
        bar = tqdm(paths, desc="reconstruct", unit="img", disable=not shows_progress(options), leave=False)
        for path, name in zip(bar, names, strict=True):
            try:
                picture = images.read_image(path, size)
            except ImageError as error:
                if not options.skip_bad:
                    raise
                skipped.append({"file": str(path), "reason": str(error)})
                say(options, f"skipped: {error}")
                continue
            result = model.reconstruct(picture)[0].cpu()
            file = f"{len(rows):04d}.png"
            images.write_image(staging / file, result, metadata)
            psnr = -10 * torch.log10((result - picture).square().mean().clamp(min=1e-10))
            rows.append({"file": file, "id": name, "psnr": round(float(psnr), 3)})
            if len(sheet) < SHEET:
                sheet += [picture, result]
        if not rows:
            raise FileError(f"none of the {len(paths)} pictures could be used; the first: {skipped[0]['reason']}")
        images.write_image(staging / "grid.png", images.contact_sheet(torch.stack(sheet)))
        report = {**facts, "images": rows, "skipped": skipped}
        write_json(staging / "reconstruct.json", report)
    mean = sum(float(row["psnr"]) for row in rows) / len(rows)
    say(options, f"{counted(len(rows), 'reconstruction')} in {options.output}, mean PSNR {mean:.2f} dB")
    return report
