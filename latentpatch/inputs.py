"""Images, masks, sizes and seeds as callers pass them: read, checked, and moved to a device.

What users have besides tensors and files, arrays of NumPy and pictures of Pillow, enters through :func:`as_picture`
and :func:`as_mask`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .autoencoders.base import Autoencoder
from .errors import SettingError, SettingTypeError
from .io.channels import with_channels
from .io.images import MOST_SIDE, read_image, read_mask
from .io.opening import Array, array_picture
from .ops.compositing import cell_mask
from .ops.pyramid import resize
from .runs.system import check_memory
from .validation import check_dense, check_integer, plain

__all__ = [
    "FilePicture",
    "Mask",
    "Picture",
    "as_mask",
    "as_picture",
    "as_pictures",
    "cells_of_mask",
    "check_range",
    "image_batch",
    "image_seeds",
    "scene_inputs",
    "size_pair",
]

#: An image that is read as files are: cropped and resized where a size is needed.
FilePicture: TypeAlias = str | Path | Image.Image
#: An image: a tensor ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1] or uint8; a file; a picture of Pillow, or an array
#: ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` of uint8, read as files are; or such an array of numbers in [0, 1].
Picture: TypeAlias = Tensor | FilePicture | Array
#: Selected pixels: ``(H, W)`` bool, as a tensor or an array; or a picture that is bright there.
Mask: TypeAlias = Tensor | FilePicture | Array


_MOST_IMAGES = 2**31 - 1  # images of a call


def as_picture(picture: Picture, name: str) -> Tensor | FilePicture:
    """Return an image as a floating-point tensor, channels first, or as what :func:`read_image` reads.

    Args:
        picture: see :data:`Picture`; an array of four axes is a batch.
        name: of the argument, for errors.

    Raises:
        SettingTypeError: for anything else.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype.kind not in "biuf":
            raise SettingTypeError(name, str(picture.dtype), "an array of numbers")
        if picture.ndim > 2 and picture.shape[-1] > 4 >= picture.shape[-3]:
            picture = np.moveaxis(picture, -3, -1)
        if picture.ndim < 4 and picture.dtype in (np.uint8, np.uint16, np.bool_):
            return array_picture(picture, name)
        channels_last = torch.from_numpy(np.ascontiguousarray(picture if picture.ndim > 2 else picture[..., None]))
        picture = channels_last.movedim(-1, -3)
    if isinstance(picture, Tensor):
        check_dense(name, picture)
        if picture.dtype == torch.uint8:
            return picture.float() / 255
        return picture.float() if picture.dtype == torch.float64 else picture
    if not isinstance(picture, (str, Path, Image.Image)):
        wanted = "a picture: a file, a tensor, an array of NumPy or a picture of Pillow"
        raise SettingTypeError(name, type(picture).__name__, wanted)
    return picture


def as_pictures(pictures: Picture | Iterable[Picture], name: str) -> list[Tensor | FilePicture]:
    """Return one image or several by :func:`as_picture`; an array of four axes has several."""
    is_one = isinstance(pictures, (Tensor, str, Path, Image.Image)) or getattr(pictures, "ndim", 4) < 4
    several: Any = [pictures] if is_one or not isinstance(pictures, Iterable) else pictures
    return [as_picture(each, name) for each in several]


def as_mask(mask: Mask, size: tuple[int, int] | None = None) -> Tensor:
    """Return selected pixels as a tensor ``(H, W)``.

    Args:
        mask: see :data:`Mask`; an array of numbers 0 and 1, or a picture or array that is bright where it selects.
        size: height and width that pictures are cropped and resized to.
    """
    if isinstance(mask, np.ndarray):
        is_bright = mask.dtype == np.uint8 and mask.size and mask.max() > 1
        mask = read_mask(mask, size, name="mask") if is_bright else torch.from_numpy(np.ascontiguousarray(mask != 0))
    return mask if isinstance(mask, Tensor) else read_mask(mask, size)


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
        picture: see :data:`Picture`; what is no tensor or array of numbers in [0, 1] is cropped and resized.
        name: of the argument, for errors.
        count: how many images there are to be, or one for all.
        size: height and width in pixels.
        device: of the result.

    Raises:
        SettingError: for a tensor of another shape or type.
        ImageError: for a file that cannot be used.
    """
    picture = as_picture(picture, name)
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


def cells_of_mask(mask: Mask, size: tuple[int, int], autoencoder: Autoencoder, least: float) -> Tensor:
    """Return the latent cells ``(h, w)`` bool that a mask of pixels covers.

    Args:
        mask: ``(H, W)`` bool, see :data:`Mask`.
        size: height and width that the mask is to have.
        autoencoder: of the latents; the result is on its device.
        least: share of a cell's pixels from which on the cell counts; 0 for a single pixel.

    Raises:
        SettingError: for a mask of another shape or type, or one that covers no cell.
    """
    mask = as_mask(mask, size)
    if mask.dtype != torch.bool or tuple(mask.shape) != size:
        raise SettingError("mask", _described(mask), f"bool of shape {size}")
    cells = cell_mask(mask.to(autoencoder.device), autoencoder.grid(*size), least)
    if not bool(cells.any()):
        raise SettingError("mask", int(mask.sum()), "True for pixels of at least one cell of the latent grid")
    return cells


def size_pair(size: int | tuple[int, int] | None, default: int) -> tuple[int, int]:
    """Return height and width of a size in pixels, or of its one side.

    Raises:
        SettingError: where it is no positive integer or two.
    """
    if size is None:
        return default, default
    size = plain(size)
    sides: list[Any] = list(size) if isinstance(size, Iterable) else [size]
    if len(sides) not in (1, 2):
        raise SettingError("size", size, "height and width, or one side, in pixels")
    height, width = (check_integer("size", side, 1, MOST_SIDE) for side in (sides if len(sides) == 2 else sides * 2))
    return height, width


def image_seeds(n: int, seed: int, seeds: Sequence[int] | None) -> Sequence[int]:
    """Return the seed of each image: ``seeds``, or n of them counted up from ``seed``."""
    if seeds is not None:
        if not isinstance(seeds, Iterable) or isinstance(seeds, (str, bytes)):
            raise SettingTypeError("seeds", seeds, "integers")
        seeds = seeds if isinstance(seeds, range) else list(seeds)
        if seed != 0 or n not in (1, len(seeds)):
            raise SettingError("seeds", list(seeds), "there alone, without n or seed")
        return seeds if isinstance(seeds, range) else [check_integer("seed", each, 0) for each in seeds]
    first = check_integer("seed", seed, 0)
    return range(first, first + check_integer("n", n, 1, _MOST_IMAGES))


def scene_inputs(
    pictures: Sequence[Tensor], size: tuple[int, int], structure: Tensor | None
) -> tuple[list[Tensor], Tensor | None]:
    """Return pictures of a scene at the scale of the results, and the structure in the size of the results.

    Args:
        pictures: ``(C, H, W)``; those whose shorter side is longer than that of the results are reduced.
        size: height and width of the results.
        structure: ``(C, H, W)``, cropped about its center to the aspect ratio of the results; or None.

    Raises:
        SettingError: for a single picture, or a size that is not positive.
    """
    if len(pictures) < 2:
        raise SettingError("pictures", len(pictures), "at least two; the task reshuffle makes pictures from one")
    size_pair(size, 0)
    scaled = []
    for picture in pictures:
        factor = min(1.0, min(size) / min(picture.shape[1:]))
        height, width = (max(1, round(side * factor)) for side in picture.shape[1:])
        scaled.append(resize(picture[None], (height, width))[0])
    if structure is not None:
        check_memory("size", size, structure.element_size() * len(structure) * size[0] * size[1])
        structure = with_channels(structure, len(pictures[0]))
        factor = min(structure.shape[1] / size[0], structure.shape[2] / size[1])
        height, width = (max(1, round(side * factor)) for side in size)
        top, left = (structure.shape[1] - height) // 2, (structure.shape[2] - width) // 2
        structure = resize(structure[None, :, top : top + height, left : left + width], size)[0]
    return scaled, structure


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
