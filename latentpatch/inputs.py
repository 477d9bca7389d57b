"""Images, masks, sizes and seeds as callers pass them: read, checked, and moved to a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .autoencoders.base import Autoencoder
from .errors import SettingError, SettingTypeError
from .io.images import read_image
from .ops.compositing import cell_mask
from .validation import check_integer, plain

__all__ = ["Picture", "cells_of_mask", "check_range", "image_batch", "image_seeds", "size_pair"]

#: An image: a tensor ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1], or a file.
Picture = Tensor | str | Path


def check_range(name: str, pictures: Tensor) -> None:
    """Refuse images that are not floating-point numbers in [0, 1].

    Raises:
        SettingTypeError, SettingError: otherwise.
    """
    if not pictures.is_floating_point():
        raise SettingTypeError(name, pictures.dtype, "a floating-point tensor")
    least, most = (float(value) for value in pictures.detach().aminmax())
    if not (least >= 0 and most <= 1):  # so that NaN fails too
        raise SettingError(name, (least, most), "of values from 0 to 1")


def image_batch(picture: Picture, name: str, count: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return images as a batch ``(1 or count, 3, H, W)`` float32 on a device.

    Args:
        picture: a file, which is cropped and resized, or a tensor.
        name: of the argument, for errors.
        count: how many images there are to be, or one for all.
        size: height and width in pixels.
        device: of the result.

    Raises:
        SettingError: for a tensor of another shape or type.
        ImageError: for a file that cannot be used.
    """
    if not isinstance(picture, Tensor):
        picture = read_image(picture, size)
    batch = picture if picture.ndim == 4 else picture[None]
    if batch.shape[1:] != (3, *size) or len(batch) not in (1, count) or not batch.is_floating_point():
        first = "1" if count == 1 else f"1 or {count}"
        raise SettingError(
            name, _described(picture), f"floating-point numbers of shape ({first}, 3, {size[0]}, {size[1]})"
        )
    check_range(name, batch)
    return batch.to(device, torch.float32)


def cells_of_mask(mask: Tensor, size: tuple[int, int], autoencoder: Autoencoder, least: float) -> Tensor:
    """Return the latent cells ``(h, w)`` bool that a mask of pixels covers.

    Args:
        mask: ``(H, W)`` bool.
        size: height and width that the mask is to have.
        autoencoder: of the latents; the result is on its device.
        least: share of a cell's pixels from which on the cell counts; 0 for a single pixel.

    Raises:
        SettingError: for a mask of another shape or type, or one that covers no cell.
    """
    if mask.dtype != torch.bool or tuple(mask.shape) != size:
        raise SettingError("mask", _described(mask), f"bool of shape {size}")
    cells = cell_mask(mask.to(autoencoder.device), autoencoder.grid(*size), least)
    if not bool(cells.any()):
        raise SettingError("mask", int(mask.sum()), "True for pixels of at least one cell of the latent grid")
    return cells


def size_pair(size: int | tuple[int, int] | None, default: int) -> tuple[int, int]:
    """Return height and width of a size in pixels, or of its one side."""
    if size is None:
        return default, default
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def image_seeds(n: int, seed: int, seeds: Sequence[int] | None) -> Sequence[int]:
    """Return the seed of each image: ``seeds``, or n of them counted up from ``seed``."""
    if seeds is not None:
        if seed != 0 or n not in (1, len(seeds)):
            raise SettingError("seeds", list(seeds), "there alone, without n or seed")
        return seeds if isinstance(seeds, range) else [plain(each) for each in seeds]
    first = check_integer("seed", seed, 0)
    return range(first, first + check_integer("n", n, 1))


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
