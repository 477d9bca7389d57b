"""Encoding of sources: images to the latents and residuals that a bank stores."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoders.base import Autoencoder
from ..errors import FileError, ImageError, SettingError, SettingTypeError
from ..inputs import FilePicture, Picture, as_picture, as_pictures, check_range, size_pair
from ..io.images import read_levels
from ..io.listing import identifiers, list_images
from ..io.mmap import Rows
from ..runs.ahead import map_ahead
from ..runs.processes import ALONE, Processes
from ..runs.progress import progress as progress_bar
from ..runs.threads import map_in_threads
from .augmentation import Variants
from .checks import check_ids
from .common import Common, encode_common, have_one_ground, mask_depth
from .residuals import ALL_COLORS, can_have_residuals, depth_of, encode_residuals

__all__ = ["EncodedSources", "Sources", "encode_sources"]

#: Images ``(B, 3, H, W)`` in [0, 1], or a folder, files, a text file that lists files, or images of any kind.
Sources = Picture | Sequence[Picture]

_BATCH = 16  # images read and encoded together


@dataclass(frozen=True)
class EncodedSources:
    """Sources as a bank stores them, on the autoencoder's device or in a file.

    Attributes:
        latents: ``(B, h, w, L)`` float16, or ``(B, h, w, q)`` int16 code indices.
        residuals: ``(B, h, w, d)`` int8; None where there are none.
        ids: of the images, without augmented copies.
        skipped: files that were left out, with the reason.
        common: facts by which sources may have something in common; no masks where grounds differ.
    """

    latents: Tensor
    residuals: Tensor | None
    ids: list[str]
    skipped: list[tuple[Path, str]]
    common: Common


def encode_sources(
    autoencoder: Autoencoder,
    sources: Sources,
    *,
    ids: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    variants: Variants | None = None,
    residuals: bool | str = False,
    dtype: torch.dtype = torch.float32,
    skip_bad: bool = False,
    progress: bool = False,
    scratch: str | Path | None = None,
    processes: Processes = ALONE,
) -> EncodedSources:
    """Encode sources batch by batch, in a type ``dtype``.

    Other arguments and errors are those of :meth:`~latentpatch.LatentPatch.fit`.
    """
    variants = variants or Variants()
    names, shape, pictures = _open(autoencoder, sources, ids, size)
    variants.check_ids(names)
    grid = autoencoder.grid(*shape)
    if variants.offsets >= min(grid):
        raise SettingError("offsets", variants.offsets, f"less than {min(grid)} (cells of the shorter side)")
    side, has_codes = autoencoder.spec.downsampling, autoencoder.codebook is not None
    depth = autoencoder.fold**2 if has_codes else autoencoder.spec.latent_channels
    kind, device = torch.int16 if has_codes else torch.float16, autoencoder.device
    has_residuals = bool(residuals) and can_have_residuals(side) and not autoencoder.lossless
    has_all_colors = residuals == ALL_COLORS if has_residuals else None
    part = processes.share(len(names))
    count = part.stop - part.start
    kept: list[str] = []
    facts: list[Common] = []
    masks: Rows | None = None
    has_ground = True
    skipped: list[tuple[Path, str]] = []
    with (
        Rows(count * variants.count, (*grid, depth), kind, device, scratch) as rows,
        Rows(
            count * variants.count,
            (0, 0, 0) if has_all_colors is None else (*grid, depth_of(side, has_all_colors)),
            torch.int8,
            device,
            scratch,
        ) as residual_rows,
        progress_bar("encoding", total=count, shown=progress) as bar,
        ExitStack() as stack,
    ):
        readable = stack.enter_context(
            closing(_read(names[part], pictures[part], shape, skipped if skip_bad else None))
        )
        # A network's chunk goes through all steps in one thread while its numbers are in a core's cache.
        at_once = autoencoder.chunk_size if device.type == "cpu" else _BATCH

        def encode(some: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Common]:
            stacked = torch.stack([_in_range(each) for each in some])
            return *_encode(autoencoder, stacked, variants, has_all_colors, dtype), _common(
                stacked.to(device), side, variants, has_ground
            )

        while batch := list(islice(readable, _BATCH)):
            images = [picture for _, picture in batch]
            chunks = [images[first : first + at_once] for first in range(0, len(images), at_once)]
            encoded = map_in_threads(encode, chunks) if device.type == "cpu" else list(map(encode, chunks))
            latents, all_missing, all_found = zip(*encoded, strict=True)
            rows.append(torch.cat(latents))
            missing = torch.cat(all_missing) if has_residuals else None
            found = Common(*(torch.cat(each) for each in zip(*all_found, strict=True)))
            facts.append(found._replace(masks=found.masks[:0]))
            has_ground = has_ground and have_one_ground(torch.cat([each.grounds for each in facts]))
            if has_ground and mask_depth(side):  # most sources have none: room is made when the first ones do
                if masks is None:
                    shape_of_masks = (*grid, mask_depth(side))
                    masks = stack.enter_context(
                        Rows(count * variants.count, shape_of_masks, torch.uint8, device, scratch)
                    )
                masks.append(found.masks)
            if missing is not None:
                residual_rows.append(missing)
            kept += [name for name, _ in batch]
            bar.update(len(batch))
        stored = processes.concatenate(rows.tensor(), scratch)
        stored_residuals = processes.concatenate(residual_rows.tensor(), scratch) if has_residuals else None
        stored_masks = torch.zeros(0, *grid, mask_depth(side), dtype=torch.uint8, device=device)
        if mask_depth(side) and all(processes.gather_objects(has_ground)):
            stored_masks = processes.concatenate(stored_masks if masks is None else masks.tensor(), scratch)
    kept = [name for each in processes.gather_objects(kept) for name in each]
    skipped = [file for each in processes.gather_objects(skipped) for file in each]
    if not kept:
        raise FileError(f"none of the {len(names)} sources could be used; the first: {skipped[0][1]}")
    grey, grounds = (
        torch.cat([each for part in processes.gather_objects(found) for each in part])
        for found in ([each.grey for each in facts], [each.grounds for each in facts])
    )
    return EncodedSources(stored, stored_residuals, kept, skipped, Common(grey, grounds, stored_masks))


def _open(
    autoencoder: Autoencoder, sources: Sources, ids: Sequence[str] | None, size: int | tuple[int, int] | None
) -> tuple[list[str], tuple[int, int], Tensor | list[Tensor | FilePicture]]:
    """Return the ids of sources, height and width of the images, and the images or their files."""
    pictures: Tensor | list[Tensor | FilePicture]
    if not isinstance(sources, (str, Path, Tensor)):
        sources = as_pictures(sources, "sources")
        tensors = [each for each in sources if isinstance(each, Tensor)]
        if tensors and len(tensors) == len(sources) and len({each.shape for each in tensors}) == 1:
            sources = torch.stack(tensors)
    if isinstance(sources, Tensor):
        sources = as_picture(sources, "sources")
        assert isinstance(sources, Tensor)
        if sources.ndim != 4 or not len(sources):
            raise SettingError("sources", tuple(sources.shape), "of shape (B, 3, H, W) with B at least 1")
        check_range("sources", sources)
        if size is not None and size_pair(size, 0) != tuple(sources.shape[2:]):
            raise SettingError("size", size, f"that of the images, {tuple(sources.shape[2:])}")
        names = [str(i) for i in range(len(sources))]
        pictures, shape = sources, (sources.shape[2], sources.shape[3])
    else:
        several = [sources] if isinstance(sources, (str, Path)) else sources
        files = [each for each in several if isinstance(each, (str, Path))]
        shape = size_pair(size, autoencoder.spec.image_size)
        if len(files) == len(several):
            paths = list_images(*files)
            pictures, names = list(paths), identifiers(paths)
        else:
            pictures, names = list(several), [str(i) for i in range(len(several))]
    if ids is None:
        return names, shape, pictures
    if isinstance(ids, str):
        raise SettingTypeError("ids", ids, "a sequence of names")
    check_ids(ids, len(names))
    return list(ids), shape, pictures


def _read(
    names: Sequence[str],
    pictures: Tensor | list[Tensor | FilePicture],
    size: tuple[int, int],
    skipped: list[tuple[Path, str]] | None,
) -> Generator[tuple[str, Tensor], None, None]:
    """Yield ids and images ``(3, H, W)``, uint8 of files, which are read ahead.

    Files that cannot be used go to ``skipped``, or raise where that is None.
    """
    if isinstance(pictures, Tensor):
        yield from zip(names, pictures, strict=True)
        return

    def read(named: tuple[str, Tensor | FilePicture]) -> Tensor | ImageError:
        name, picture = named
        if isinstance(picture, Tensor):
            if tuple(picture.shape) != (3, *size):
                raise SettingError("sources", tuple(picture.shape), f"of shape {(3, *size)} where they are tensors")
            return picture
        try:
            levels = read_levels(picture, size, name=None if isinstance(picture, (str, Path)) else f"source {name}")
        except ImageError as error:
            return error
        return torch.from_numpy(levels).permute(2, 0, 1)

    # One thread: files are decoded one at a time in any case, and warnings of one must not meet the filters of another.
    images = map_ahead(read, zip(names, pictures, strict=True), 1, _BATCH)
    with closing(images):
        for name, image in zip(names, images, strict=True):
            if not isinstance(image, ImageError):
                yield name, image
            elif skipped is None:
                raise image
            else:
                skipped.append((Path(image.path or name), str(image)))


def _in_range(image: Tensor) -> Tensor:
    """Return an image in [0, 1], of an image or of levels."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


@torch.no_grad()
def _encode(
    autoencoder: Autoencoder, batch: Tensor, variants: Variants, has_all_colors: bool | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Return latents and residuals of all augmented copies of images, those of one image side by side.

    There are no residuals where ``has_all_colors`` is None.
    """
    flips = [batch, batch.flip(3)] if variants.mirrored else [batch]
    stored = [_encode_for_storage(autoencoder, each, dtype) for each in flips]
    latents = torch.stack([variants.moved(each) for each in stored], 1).flatten(0, 2)
    if has_all_colors is None:
        return latents, None
    missing = []
    for flipped, each in zip(flips, stored, strict=True):
        decoded = autoencoder.decode(autoencoder.dequantize(each.movedim(-1, 1)), dtype)
        missing.append(
            encode_residuals(flipped.to(decoded.device), decoded, autoencoder.spec.downsampling, has_all_colors)
        )
    return latents, torch.stack([variants.moved(each) for each in missing], 1).flatten(0, 2)


def _common(batch: Tensor, side: int, variants: Variants, has_masks: bool) -> Common:
    """Return the facts of images, and the masks of all their augmented copies, those of one image side by side."""
    found = encode_common(batch, side, has_masks)
    if not found.masks.numel():
        return found
    masks = [found.masks, encode_common(batch.flip(3), side).masks] if variants.mirrored else [found.masks]
    return found._replace(masks=torch.stack([variants.moved(each) for each in masks], 1).flatten(0, 2))


def _encode_for_storage(autoencoder: Autoencoder, batch: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float16 latents ``(N, h, w, L)`` or int16 codes ``(N, h, w, q)`` of images."""
    latents = autoencoder.encode(batch, dtype)
    if autoencoder.codebook is not None:
        return autoencoder.codes(latents).movedim(1, -1).short()
    stored = latents.movedim(1, -1).half()
    if not bool(torch.isfinite(stored).all()):
        raise ValueError(f"{autoencoder.spec.name} gave latents that are not finite in half precision")
    return stored
