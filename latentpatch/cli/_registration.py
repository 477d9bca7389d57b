"""Notes of commands about pictures that are not in register, and ``--align``, which registers them first."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoders.registry import DEFAULT, load_autoencoder
from ..errors import AttributesWarning, RegistrationWarning
from ..model import LatentPatch
from ..ops.compositing import fill_smoothly
from ..registration.agreement import disagreement_of_pair, disagreement_of_picture
from . import align
from ._options import RunContext, SourceOptions

__all__ = ["align_sources", "note_pair", "note_picture", "said_warnings"]


@contextmanager
def said_warnings(context: RunContext) -> Iterator[None]:
    """Say what the package warns of about registration within the block as the run's own notes."""
    with context.saying(RegistrationWarning):
        warnings.simplefilter("ignore", AttributesWarning)  # the command counts more
        yield


def note_picture(
    model: LatentPatch, path: Path, picture: Tensor, context: RunContext, mask: Tensor | None = None
) -> None:
    """Say so where a picture ``(3, H, W)``, but for a masked part, is out of register with a model's sources."""
    batch = picture[None] if mask is None else fill_smoothly(picture[None], mask)
    found = disagreement_of_picture(model.bank, model.bank.keys_of(model.latents_of(batch), model.pca), str(path))
    if found is not None:
        context.say(f"note: {found}: latentpatch align {path} --to SOURCES -o FOLDER registers it to them")


def note_pair(model: LatentPatch, paths: Sequence[Path], pictures: Sequence[Tensor], context: RunContext) -> None:
    """Say so where two pictures ``(3, H, W)`` are out of register with one another."""
    with torch.no_grad():
        latents = model.autoencoder.encode(torch.stack(list(pictures)).to(model.autoencoder.device))
    found = disagreement_of_pair(latents, [str(path) for path in paths])
    if found is not None:
        context.say(f"note: {found}: latentpatch align PICTURES -o FOLDER registers pictures of one kind")


def align_sources(options: SourceOptions, output: Path, context: RunContext) -> SourceOptions:
    """Register sources as the command ``align`` does by default, and return them as they then are.

    The aligned pictures stay in a folder beside the output, not in it, where they would count as images.
    """
    folder = output.with_name(f"{output.name}-aligned")
    size = options.size
    if size is None:
        side = load_autoencoder(context.options.autoencoder or DEFAULT).spec.image_size
        size = side, side
    align.run.run(
        align.AlignOptions(
            sources=options.sources, output=folder, skip_bad=options.skip_bad, size=size, run=context.options
        ),
        context,
    )
    return replace(options, sources=(folder,))
