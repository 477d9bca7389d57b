"""Arrange several pictures on one sheet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import SettingError
from ..validation import check_integer

__all__ = ["contact_sheet"]


def contact_sheet(images: Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Arrange pictures side by side on white, row by row.

    Args:
        images: ``(N, 3, H, W)`` floating point in [0, 1], or uint8, N at least 1.
        columns: pictures a row; by default ``ceil(sqrt(N))``, for a sheet about as wide as high in pictures.
        padding: white pixels between pictures and around all.

    Returns:
        ``(3, H', W')``, of the dtype and device of ``images``.

    Raises:
        SettingError: where an argument is out of range.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise SettingError("images", tuple(images.shape), "of shape (N, 3, H, W), N at least 1")
    columns = math.ceil(math.sqrt(len(images))) if columns is None else check_integer("columns", columns, 1)
    check_integer("padding", padding, 0)
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[2] + padding, images.shape[3] + padding
    white = 255 if images.dtype == torch.uint8 else 1
    sheet = images.new_full((3, rows * height + padding, columns * width + padding), white)
    for number, image in enumerate(images):
        top, left = padding + number // columns * height, padding + number % columns * width
        sheet[:, top : top + images.shape[2], left : left + images.shape[3]] = image
    return sheet
