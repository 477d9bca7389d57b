"""Register similar pictures to one another, so that one position shows the same detail in all of them.

A transform is a similarity (rotation, zoom, shift): a ``(2, 3)`` matrix that takes a point (x, y) of the original to
the aligned picture, both in pixels from the upper left corner: the centre of the first pixel is (0.5, 0.5).
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

from ..errors import FileError, SettingError
from ..io.listing import normalized
from ..runs.defaults import plain_torch
from ..validation import check_number
from .congealing import Limits, agreement_in_place, congeal, recentre
from .features import GreyPictures, linear_parts
from .transforms import invert, outside, transform_points

__all__ = ["MIN_AGREEMENT", "MOST_OUTSIDE", "Alignment", "estimate", "from_landmarks", "read_landmarks"]

#: Agreement with the mean of the others from which a picture counts as registered. In trials, pictures that must not
#: agree reached 0.41 at most (portraits upside down among upright ones), and all portraits but one exceeded 0.43.
MIN_AGREEMENT = 0.43

#: Share of an aligned picture that may lie beyond the edges of the original: more is no registration but a flight.
MOST_OUTSIDE = 0.2

_LIMITS = 15.0, 1.3  # degrees and factor of the first search
_WIDER_LIMITS = 30.0, 2.0  # of the search for pictures that do not register within the first
_MODERATE = 1.2  # largest factor by which the moderate frame is closer
_EDGE = 0.06  # share outside that the moderate frame leaves to at most a tenth of the pictures
_SIDE = 128  # pixels of the frame's shorter side in comparisons
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
_DECIMALS = 6  # matrices are rounded, so that a file holds them exactly


class Alignment(NamedTuple):
    """Registered pictures.

    Attributes:
        matrices: ``(N, 2, 3)`` float64, original to aligned.
        agreement: ``(N,)`` float64, correlation of the edges of each aligned picture with the mean of the others, at
            most 1; NaN with landmarks.
        outside: ``(N,)`` float64, share of each aligned picture beyond the edges of the original.
        registered: ``(N,)`` bool, whether a picture agrees enough and at most :data:`MOST_OUTSIDE` of it lies outside;
            other pictures' matrices mean nothing.
        zoom: enlargement of the frame relative to the average central crop.
        in_place: median agreement of the pictures as they were; NaN with landmarks or a reference.
        is_kept: whether the pictures were in register, and stay where they were.
    """

    matrices: Tensor
    agreement: Tensor
    outside: Tensor
    registered: Tensor
    zoom: float
    in_place: float = float("nan")
    is_kept: bool = False

    @property
    def improves(self) -> bool:
        """False if the pictures were not in register and agree no better now."""
        return self.is_kept or not float(self.agreement.median()) <= self.in_place


@plain_torch()
def estimate(
    pictures: Iterable[Tensor],
    size: tuple[int, int],
    *,
    rotation: float | None = None,
    zoom: float | None = None,
    shift: float = 0.25,
    focus: tuple[float, float] = (0.5, 0.5),
    crop: bool = False,
    closer: float | None = None,
    min_agreement: float = MIN_AGREEMENT,
    reference: Iterable[Tensor] | None = None,
) -> Alignment:
    """Estimate transforms that register pictures to one another, from the pictures alone.

    The frame is that of the central crops, averaged over the registered pictures.

    Args:
        pictures: each ``(3, h, w)`` in [0, 1], at least 2, or 1 with a reference; read once, one at a time.
        size: ``(height, width)`` of the aligned pictures.
        rotation, zoom: largest differences of a picture from the mean, in degrees and as a factor. By default 15 and
            1.3, but 30 and 2 for pictures that do not register within these.
        shift: largest shift against the mean, as a share of the shorter side; 0.25 at most.
        focus: the point ``(x, y)`` that matters most, in shares of the width and height.
        crop: enlarge until no registered picture ends within the frame.
        closer: enlarge by this factor, about the focus; by default 1 to 1.2, so that little lies outside.
        min_agreement: agreement with the mean of the others from which a picture counts as registered.
        reference: pictures in register, whose frame is kept.

    Raises:
        SettingError: where arguments are out of range, or there are too few pictures.
    """
    _check(size, rotation, zoom, shift, focus, closer)
    grey, sizes = _grey_pictures(pictures, size)
    if len(sizes) < (minimum := 2 if reference is None else 1):
        raise SettingError("pictures", len(sizes), f"at least {minimum} to be registered")
    reference_grey = None
    if reference is not None:
        reference_grey, reference_sizes = _grey_pictures(reference, size)
        if not reference_sizes:
            raise SettingError("reference", 0, "at least 1 picture")
        if crop or closer not in (1, None):
            name, value = ("crop", crop) if crop else ("closer", closer)
            raise SettingError(name, value, "absent with a reference, whose frame is kept")
    focus_point = _in_frame(focus, size)
    first, wider = (
        Limits(math.radians(rotation if rotation is not None else angle), math.log(zoom or factor), 2 * shift)
        for angle, factor in (_LIMITS, _WIDER_LIMITS)
    )
    placements, agreement = congeal(
        grey,
        limits=first,
        wider=None if wider == first else wider,
        focus=focus_point,
        min_agreement=min_agreement,
        reference=reference_grey,
    )
    registered = agreement >= min_agreement
    if reference_grey is not None:
        return _alignment(placements, agreement, registered, _Frame(sizes, size, focus_point, 1.0, False))
    before = agreement_in_place(grey, focus_point)
    were_registered, in_place = before >= min_agreement, float(before.median())
    is_kept = in_place >= max(min_agreement, float(agreement.median())) and were_registered.sum() >= registered.sum()
    if is_kept:
        placements, agreement, registered = torch.zeros_like(placements), before, were_registered
        closer = 1.0 if closer is None else closer
    found = _alignment(placements, agreement, registered, _Frame(sizes, size, focus_point, closer, crop))
    return found._replace(in_place=in_place, is_kept=bool(is_kept))


@plain_torch()
def from_landmarks(
    landmarks: Tensor,
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    *,
    crop: bool = False,
    closer: float | None = None,
) -> Alignment:
    """Compute the transforms that register landmarks by least squares: generalised Procrustes analysis.

    Gower, "Generalized Procrustes analysis", Psychometrika 1975, with similarities, by the mean shape.

    Args:
        landmarks: ``(N, P, 2)`` points (x, y) of each picture in pixels, P at least 2.
        sizes: ``(height, width)`` of each picture.
        size: ``(height, width)`` of the aligned pictures.
        crop, closer: as for :func:`estimate`, about the mean of the landmarks.

    Raises:
        SettingError: where arguments are out of range, or the points of a picture coincide.
    """
    _check(size, None, None, 0.0, (0.5, 0.5), closer)
    if landmarks.ndim != 3 or landmarks.shape[1] < 2 or landmarks.shape[2] != 2 or len(landmarks) != len(sizes):
        raise SettingError("landmarks", tuple(landmarks.shape), f"of shape ({len(sizes)}, P, 2), P at least 2")
    if not len(sizes):
        raise SettingError("sizes", sizes, "those of at least 1 picture")
    frames = torch.stack([_crop_matrix(picture, size) for picture in sizes])
    points = _to_frame(transform_points(landmarks.double(), frames), size)
    shapes = torch.view_as_complex(points.contiguous())
    centres = shapes.mean(1, keepdim=True)
    shapes = shapes - centres
    if not bool(torch.isfinite(points).all()) or bool((shapes.abs().amax(1) < 1e-6).any()):
        raise SettingError("landmarks", "points that are not", "finite and different within a picture")
    mean = shapes[0]
    for _ in range(100):
        similarity = (shapes * mean.conj()).sum(1, keepdim=True) / mean.abs().square().sum()
        aligned = shapes / similarity
        mean = aligned.mean(0)
        mean = mean * shapes[0].abs().square().mean().sqrt() / mean.abs().square().mean().sqrt()
    linear = torch.cat([similarity.abs().log(), similarity.angle()], 1)
    placements = recentre(torch.cat([linear, torch.view_as_real(centres)[:, 0]], 1))
    registered = torch.ones(len(sizes), dtype=torch.bool)
    in_frame = torch.linalg.solve(linear_parts(placements)[:, None], (points - placements[:, None, 2:])[..., None])
    x, y = in_frame[..., 0].mean((0, 1)).tolist()
    agreement = torch.full((len(sizes),), float("nan"), dtype=torch.float64)
    return _alignment(placements, agreement, registered, _Frame(sizes, size, (x, y), closer, crop))


def read_landmarks(path: str | Path) -> dict[str, Tensor]:
    """Read landmarks of pictures by file name, or the end of a path.

    Args:
        path: a CSV file with a header: ``file``, then ``NAME_x`` and ``NAME_y`` of each point, in pixels.

    Returns:
        ``(P, 2)`` float64 points (x, y) of each picture.

    Raises:
        FileError: where the file cannot be read, or is malformed.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(path, f"not a readable CSV file: {error}") from error
    header = rows[0] if rows else []
    names = [name[:-2] for name in header[1::2]]
    if header != ["file", *(f"{name}_{axis}" for name in names for axis in "xy")] or len(names) < 2:
        raise FileError(path, "must begin with a header file,A_x,A_y,B_x,B_y,… of at least two points")
    landmarks: dict[str, Tensor] = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            values = [float(cell) for cell in row[1:]]
        except ValueError as error:
            raise FileError(path, f"row {number}: {error}; coordinates must be numbers") from error
        if len(row) != len(header) or not all(map(math.isfinite, values)):
            raise FileError(path, f"row {number}: must have {len(header)} cells with finite numbers")
        name = normalized(row[0].replace("\\", "/").removeprefix("./"))
        if name in landmarks:
            raise FileError(path, f"row {number}: {row[0]!r} occurs twice")
        landmarks[name] = torch.tensor(values, dtype=torch.float64).reshape(-1, 2)
    return landmarks


# --- The frame -----------------------------------------------------------------------------------------


def _check(
    size: tuple[int, int],
    rotation: float | None,
    zoom: float | None,
    shift: float,
    focus: tuple[float, float],
    closer: float | None,
) -> None:
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise SettingError("size", size, "(height, width) in pixels")
    for name, value, least, most in (("rotation", rotation, 0, 180), ("zoom", zoom, 1, 4), ("closer", closer, 0.25, 4)):
        if value is not None:
            check_number(name, value, least, most)
    check_number("shift", shift, 0, 0.25)
    for share in focus:
        check_number("focus", share, 0, 1)


def _crop_matrix(picture: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the transform of the central crop that fills the size."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    x, y = (size[1] - scale * picture[1]) / 2, (size[0] - scale * picture[0]) / 2
    return torch.tensor([[scale, 0, x], [0, scale, y]], dtype=torch.float64)


def _to_frame(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert pixels to frame units: the origin is the centre, the shorter side goes from -1 to 1."""
    return (points - torch.tensor([size[1], size[0]], dtype=torch.float64) / 2) / (min(size) / 2)


def _in_frame(share: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    x, y = _to_frame(torch.tensor([share[0] * size[1], share[1] * size[0]], dtype=torch.float64), size).tolist()
    return x, y


def _matrices(placements: Tensor, sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Convert placements to transforms of pixels, ``(N, 2, 3)``."""
    middle = torch.tensor([size[1], size[0]], dtype=torch.float64) / 2
    linear = linear_parts(placements)
    offsets = middle + placements[:, 2:] * (min(size) / 2) - linear @ middle
    from_crop = invert(torch.stack([_crop_matrix(picture, size) for picture in sizes]))
    shift = from_crop[..., :2] @ offsets[..., None] + from_crop[..., 2:]
    return invert(torch.cat([from_crop[..., :2] @ linear, shift], 2)).round(decimals=_DECIMALS)


class _Frame(NamedTuple):
    """The part of the registered pictures that is shown.

    Attributes:
        sizes: ``(height, width)`` of each picture.
        size: ``(height, width)`` of the aligned pictures.
        focus: point that stays where it is, frame units.
        closer: enlargement; None for a moderate one.
        crop: whether no registered picture may end in view.
    """

    sizes: Sequence[tuple[int, int]]
    size: tuple[int, int]
    focus: tuple[float, float]
    closer: float | None
    crop: bool

    def enlarged(self, placements: Tensor, registered: Tensor) -> tuple[Tensor, float]:
        """Return the placements in this frame and its enlargement."""
        closer = self.closer
        if closer is None:
            closer = 1.0 if self.crop else self._moderate(placements, registered)
        if self.crop and bool(registered.any()):
            closer = max(closer, self._closest(placements, registered))
        return self.at(placements, closer), closer

    def at(self, placements: Tensor, closer: float) -> Tensor:
        """Enlarge about the focus."""
        centre = torch.tensor(self.focus, dtype=torch.float64)
        moved = placements.clone()
        moved[:, 0] -= math.log(closer)
        moved[:, 2:] = linear_parts(placements) @ centre + placements[:, 2:] - linear_parts(moved) @ centre
        return moved

    def outside(self, placements: Tensor, chosen: Tensor) -> Tensor:
        """Return the share of each chosen picture that lies beyond its edges: ``(N,)``, 0 for the others."""
        shares = torch.zeros(len(placements), dtype=torch.float64)
        for i, matrix in zip(chosen.tolist(), _matrices(placements, self.sizes, self.size)[chosen], strict=True):
            shares[i] = outside(matrix, self.sizes[i], self.size)
        return shares

    def _moderate(self, placements: Tensor, registered: Tensor) -> float:
        """Return the least enlargement that leaves little outside of nine tenths of the pictures, within limits."""
        chosen = registered.nonzero()[:, 0]
        chosen = chosen[:: max(1, len(chosen) // 64)]
        for closer in torch.linspace(1, _MODERATE, 5, dtype=torch.float64).tolist():
            shares = self.outside(self.at(placements, closer), chosen)[chosen]
            if not len(chosen) or float(shares.quantile(0.9)) <= _EDGE:
                break
        return float(round(closer, 2))

    def _closest(self, placements: Tensor, registered: Tensor) -> float:
        """Return the enlargement at which no registered picture ends in view."""
        centre = torch.tensor(self.focus, dtype=torch.float64)
        focus_points = linear_parts(placements) @ centre + placements[:, 2:]
        half = torch.tensor([self.size[1], self.size[0]], dtype=torch.float64) / min(self.size)
        corners = torch.tensor([[-1, -1], [1, -1], [-1, 1], [1, 1]]).double() * half - centre
        arms = (linear_parts(placements)[:, None] @ corners[..., None])[..., 0]  # (N, 4, 2), focus to corners
        reach = torch.stack([_reach(picture, self.size) for picture in self.sizes])[:, None]
        room = torch.where(arms > 0, reach - focus_points[:, None], reach + focus_points[:, None])
        return float((arms.abs() / room.clamp(min=1e-6))[registered].max())


def _alignment(placements: Tensor, agreement: Tensor, registered: Tensor, frame: _Frame) -> Alignment:
    """Return the alignment in a frame, without pictures of which too much lies outside."""
    everywhere = torch.arange(len(placements))
    plain = frame._replace(crop=False)
    while True:
        shares = frame.outside(plain.enlarged(placements, registered)[0], everywhere)
        within = registered & (shares <= MOST_OUTSIDE)
        if bool((within == registered).all()):
            break
        registered = within
    moved, closer = frame.enlarged(placements, registered)
    if frame.crop:
        shares = torch.where(registered, frame.outside(moved, everywhere), shares)
    matrices = _matrices(moved, frame.sizes, frame.size)
    return Alignment(matrices, agreement, shares, registered, closer)


def _reach(picture: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return half the width and height of a picture in frame units."""
    scale = max(size[0] / picture[0], size[1] / picture[1])
    return torch.tensor([picture[1], picture[0]], dtype=torch.float64) * scale / min(size)


def _grey_pictures(pictures: Iterable[Tensor], size: tuple[int, int]) -> tuple[GreyPictures, list[tuple[int, int]]]:
    """Convert pictures to grey for comparison; return them with their heights and widths."""
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
    """Put a picture into the middle of a square and repeat its edges."""
    side = 2 * _SIDE
    height, width = picture.shape
    rows = (torch.arange(side) - (side - height) // 2).clamp(0, height - 1)
    columns = (torch.arange(side) - (side - width) // 2).clamp(0, width - 1)
    return picture[rows[:, None], columns]
