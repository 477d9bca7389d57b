"""Registering similar pictures to one another, so that the same place shows the same thing in all of them.

A transform is a similarity (rotation, zoom, shift): a ``(2, 3)`` matrix that takes a point (x, y) of the original to
the aligned picture, both in pixels from the upper left corner, so that the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FileError
from .congealing import GreyPictures, centred, congeal, linear_parts

__all__ = [
    "MIN_AGREEMENT",
    "Alignment",
    "estimate",
    "from_landmarks",
    "inverse",
    "outside",
    "read_landmarks",
    "transformed",
    "warp",
]

#: Agreement with the mean of the others at which a picture counts as registered. Of what was tried, what must not
#: agree came to 0.41 at most (portraits upside down among upright ones), and all portraits but one to more than this.
MIN_AGREEMENT = 0.43

_SIDE = 128  # pixels of the frame's shorter side, as compared
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_DECIMALS = 6  # of matrices, so that they are the same in a file


class Alignment(NamedTuple):
    """Registered pictures.

    Attributes:
        matrices: ``(N, 2, 3)`` float64, original to aligned.
        agreement: ``(N,)`` float64, correlation of each aligned picture's edges with the mean of the others', at most
            1; NaN where landmarks were given.
        registered: ``(N,)`` bool, which of them agree enough; the matrices of others mean nothing.
        zoom: how much closer the frame is than the average central crop.
    """

    matrices: Tensor
    agreement: Tensor
    registered: Tensor
    zoom: float


def estimate(
    pictures: Iterable[Tensor],
    size: tuple[int, int],
    *,
    rotation: float = 15.0,
    zoom: float = 1.3,
    focus: tuple[float, float] = (0.5, 0.5),
    crop: bool = False,
    closer: float = 1.0,
    min_agreement: float = MIN_AGREEMENT,
    reference: Iterable[Tensor] | None = None,
) -> Alignment:
    """Transforms that register pictures to one another, found from the pictures alone (:mod:`.congealing`).

    The frame is that of the pictures' central crops, on average over those that could be registered.

    Args:
        pictures: each ``(3, h, w)`` in [0, 1], at least 2, or 1 with a reference; read once, one at a time.
        size: ``(height, width)`` of the aligned pictures.
        rotation, zoom: degrees and factor up to which pictures differ from their mean; a little more is found too.
        focus: the place ``(x, y)`` that is to be registered above all, in shares of the width and height.
        crop: go closer until no registered picture ends within the frame.
        closer: go closer by this factor, about the focus.
        min_agreement: with the mean of the others, at which a picture counts as registered.
        reference: pictures that are registered already, whose frame is taken as it is.

    Raises:
        ValueError: where arguments are out of range, or there are too few pictures.
    """
    _check(size, rotation, zoom, focus, closer)
    grey, sizes = _grey(pictures, size)
    known = None
    if reference is not None:
        known, _ = _grey(reference, size)
        if crop or closer != 1:
            raise ValueError("crop and closer: the frame is the reference's")
    least = 1 if known is not None else 2
    if len(sizes) < least or (known is not None and not len(known.grey)):
        raise ValueError(f"{len(sizes)} pictures to register: at least {least} are expected")
    at = _in_frame(focus, size)
    found = congeal(
        grey,
        angle=math.radians(rotation),
        log_zoom=math.log(zoom),
        focus=at,
        least=min_agreement,
        reference=known,
    )
    placements, registered = found.placements, found.agreement >= min_agreement
    if known is None:
        placements, closer = _closer(placements, registered, sizes, size, at, closer, crop)
    return Alignment(_matrices(placements, sizes, size), found.agreement, registered, closer)


def from_landmarks(
    landmarks: Tensor,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    *,
    crop: bool = False,
    closer: float = 1.0,
) -> Alignment:
    """Transforms that register landmarks in the sense of least squares: generalised Procrustes analysis.

    Gower, "Generalized Procrustes analysis", Psychometrika 1975, with similarities, by the mean shape.

    Args:
        landmarks: ``(N, P, 2)`` points (x, y) of each picture in pixels, P at least 2.
        sizes: ``(height, width)`` of each picture.
        size: ``(height, width)`` of the aligned pictures.
        crop, closer: as for :func:`estimate`, about the landmarks' mean.

    Raises:
        ValueError: where arguments are out of range, or the points of a picture coincide.
    """
    _check(size, 0.0, 1.0, (0.5, 0.5), closer)
    if landmarks.ndim != 3 or landmarks.shape[1] < 2 or landmarks.shape[2] != 2 or len(landmarks) != len(sizes):
        raise ValueError(f"landmarks of shape {tuple(landmarks.shape)}: {(len(sizes), 'at least 2', 2)} is expected")
    if not len(sizes):
        raise ValueError("0 pictures to register: at least 1 is expected")
    frames = torch.stack([_crop_matrix(picture, size) for picture in sizes])
    points = _to_frame(transformed(landmarks.double(), frames), size)
    shapes = torch.view_as_complex(points.contiguous())
    centres = shapes.mean(1, keepdim=True)
    shapes = shapes - centres
    if not bool(torch.isfinite(points).all()) or bool((shapes.abs().amax(1) < 1e-6).any()):
        raise ValueError("landmarks: points are not finite, or those of a picture coincide")
    mean = shapes[0]
    for _ in range(100):
        similarity = (shapes * mean.conj()).sum(1, keepdim=True) / mean.abs().square().sum()
        aligned = shapes / similarity
        mean = aligned.mean(0)
        mean = mean * shapes[0].abs().square().mean().sqrt() / mean.abs().square().mean().sqrt()
    linear = torch.cat([similarity.abs().log(), similarity.angle()], 1)
    placements = centred(torch.cat([linear, torch.view_as_real(centres)[:, 0]], 1))
    everything = torch.ones(len(sizes), dtype=torch.bool)
    back = torch.linalg.solve(linear_parts(placements)[:, None], (points - placements[:, None, 2:])[..., None])
    focus = back[..., 0].mean((0, 1))
    placements, closer = _closer(placements, everything, sizes, size, (float(focus[0]), float(focus[1])), closer, crop)
    unknown = torch.full((len(sizes),), float("nan"), dtype=torch.float64)
    return Alignment(_matrices(placements, sizes, size), unknown, everything, closer)


def read_landmarks(path: str | Path) -> dict[str, Tensor]:
    """Landmarks of pictures by file name.

    Args:
        path: a CSV file with a header: ``file``, then ``NAME_x`` and ``NAME_y`` of each point, in pixels.

    Returns:
        ``(P, 2)`` float64 points (x, y) of each.

    Raises:
        FileError: where it cannot be read or is not that.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: not a readable CSV file: {error}") from error
    header = rows[0] if rows else []
    names = [name[:-2] for name in header[1::2]]
    if header != ["file", *(f"{name}_{axis}" for name in names for axis in "xy")] or len(names) < 2:
        raise FileError(f"{path}: a header file,A_x,A_y,B_x,B_y,… with at least two points is expected")
    found: dict[str, Tensor] = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            values = [float(cell) for cell in row[1:]]
        except ValueError as error:
            raise FileError(f"{path}, row {number}: {error}; numbers are expected") from error
        if len(row) != len(header) or not all(map(math.isfinite, values)):
            raise FileError(f"{path}, row {number}: {len(header)} cells with finite numbers are expected")
        if row[0] in found:
            raise FileError(f"{path}, row {number}: {row[0]!r} comes twice")
        found[row[0]] = torch.tensor(values, dtype=torch.float64).reshape(-1, 2)
    return found


# --- transforms ----------------------------------------------------------------------------------------


def transformed(points: Tensor, matrices: Tensor) -> Tensor:
    """Points ``(..., P, 2)`` under matrices ``(..., 2, 3)``."""
    return points @ matrices[..., :2].mT + matrices[..., None, :, 2]


def inverse(matrices: Tensor) -> Tensor:
    """The matrices that go the other way, ``(..., 2, 3)``."""
    linear = torch.linalg.inv(matrices[..., :2])
    return torch.cat([linear, -linear @ matrices[..., 2:]], -1)


def warp(picture: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture under a similarity: shrunk with antialiasing where that is needed, then bicubic.

    Beyond the picture's edges its mirror image is seen.

    Args:
        picture: ``(3, h, w)`` floating point.
        matrix: ``(2, 3)``, original to aligned.
        size: ``(height, width)`` of the result.

    Returns:
        ``(3, H, W)`` of the picture's type, clamped to [0, 1].
    """
    height, width = picture.shape[1:]
    shrink = min(1.0, float(matrix[:, :2].double().det().abs().sqrt()))
    small = max(1, round(height * shrink)), max(1, round(width * shrink))
    source = picture[None].float()
    if small != (height, width):
        source = F.interpolate(source, small, mode="bicubic", antialias=True)
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    aligned = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1)
    there = transformed(aligned, inverse(matrix.double()))
    there = there / torch.tensor([width, height]) * 2 - 1
    result = F.grid_sample(source, there[None].float(), "bicubic", "reflection", align_corners=False)
    return result[0].clamp(0, 1).to(picture.dtype)


def outside(matrix: Tensor, picture: tuple[int, int], size: tuple[int, int]) -> float:
    """Share of the pixels of an aligned picture that lie beyond the original's edges.

    Args:
        matrix: ``(2, 3)``, original to aligned.
        picture, size: ``(height, width)`` of the original and the aligned picture.
    """
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    there = transformed(torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1), inverse(matrix.double()))
    beyond = (there < 0) | (there > torch.tensor([picture[1], picture[0]]))
    return float(beyond.any(-1).double().mean())


# --- the frame -----------------------------------------------------------------------------------------


def _check(size: tuple[int, int], rotation: float, zoom: float, focus: tuple[float, float], closer: float) -> None:
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"size: (height, width) in pixels is expected, got {size!r}")
    if not 0 <= rotation <= 180:
        raise ValueError(f"rotation {rotation}: degrees from 0 to 180 are expected")
    if not 1 <= zoom <= 4:
        raise ValueError(f"zoom {zoom}: a factor from 1 to 4 is expected")
    if not all(0 <= share <= 1 for share in focus):
        raise ValueError(f"focus {focus}: x and y from 0 to 1, shares of the width and height, are expected")
    if not 0.25 <= closer <= 4:
        raise ValueError(f"closer {closer}: a factor from 0.25 to 4 is expected")


def _crop_matrix(picture: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The transform of the central crop that fills the size."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    x, y = (size[1] - scale * picture[1]) / 2, (size[0] - scale * picture[0]) / 2
    return torch.tensor([[scale, 0, x], [0, scale, y]], dtype=torch.float64)


def _to_frame(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels to frame units: the origin is the centre, the shorter side from -1 to 1."""
    return (points - torch.tensor([size[1], size[0]], dtype=torch.float64) / 2) / (min(size) / 2)


def _in_frame(share: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    x, y = _to_frame(torch.tensor([share[0] * size[1], share[1] * size[0]], dtype=torch.float64), size).tolist()
    return x, y


def _matrices(placements: Tensor, sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Placements as transforms of the pictures' pixels, ``(N, 2, 3)``."""
    middle = torch.tensor([size[1], size[0]], dtype=torch.float64) / 2
    linear = linear_parts(placements)
    there = middle + placements[:, 2:] * (min(size) / 2) - linear @ middle
    to_crop = torch.cat([linear, there[..., None]], 2)
    back = inverse(torch.stack([_crop_matrix(picture, size) for picture in sizes]))
    shift = back[..., :2] @ to_crop[..., 2:] + back[..., 2:]
    return inverse(torch.cat([back[..., :2] @ linear, shift], 2)).round(decimals=_DECIMALS)


def _closer(
    placements: Tensor,
    registered: Tensor,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    focus: tuple[float, float],
    closer: float,
    crop: bool,
) -> tuple[Tensor, float]:
    """Placements in a frame closer to the focus, and how much closer."""
    centre = torch.tensor(focus, dtype=torch.float64)
    there = linear_parts(placements) @ centre + placements[:, 2:]
    if crop and bool(registered.any()):
        half = torch.tensor([size[1], size[0]], dtype=torch.float64) / min(size)
        corners = torch.tensor([[-1, -1], [1, -1], [-1, 1], [1, 1]]).double() * half - centre
        arms = (linear_parts(placements)[:, None] @ corners[..., None])[..., 0]  # (N, 4, 2), from the focus
        reach = torch.stack([_reach(picture, size) for picture in sizes])
        room = torch.where(arms > 0, reach[:, None] - there[:, None], reach[:, None] + there[:, None])
        closer = max(closer, float((arms.abs() / room.clamp(min=1e-6))[registered].max()))
    moved = placements.clone()
    moved[:, 0] -= math.log(closer)
    moved[:, 2:] = there - linear_parts(moved) @ centre
    return moved, closer


def _reach(picture: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Half the width and height of a picture in frame units."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    return torch.tensor([picture[1], picture[0]], dtype=torch.float64) * scale / min(size)


def _grey(pictures: Iterable[Tensor], size: tuple[int, int]) -> tuple[GreyPictures, list[tuple[int, int]]]:
    """Pictures as they are compared, and their heights and widths."""
    grey, reach, sizes = [], [], []
    for picture in pictures:
        height, width = picture.shape[1:]
        scale = max(size[0] / height, size[1] / width) * _SIDE / min(size)
        small = max(1, round(height * scale)), max(1, round(width * scale))
        luma = (picture.float() * torch.tensor(_LUMA)[:, None, None]).sum(0)
        luma = F.interpolate(luma[None, None], small, mode="bilinear", antialias=True)[0, 0]
        grey.append(_on_canvas(luma.clamp(0, 1).mul(255).round().to(torch.uint8)))
        reach.append(_reach((height, width), size).float())
        sizes.append((height, width))
    empty = torch.zeros(0, 2 * _SIDE, 2 * _SIDE, dtype=torch.uint8), torch.zeros(0, 2)
    return GreyPictures(torch.stack(grey), torch.stack(reach).clamp(max=2)) if grey else GreyPictures(*empty), sizes


def _on_canvas(picture: Tensor) -> Tensor:
    """The middle of a picture in the middle of a square, whose edges repeat the picture's."""
    side = 2 * _SIDE
    height, width = picture.shape
    rows = (torch.arange(side) - (side - height) // 2).clamp(0, height - 1)
    columns = (torch.arange(side) - (side - width) // 2).clamp(0, width - 1)
    return picture[rows[:, None], columns]
