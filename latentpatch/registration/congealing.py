"""Unsupervised registration of pictures of one kind of thing by similarity transforms: congealing.

Each picture is moved to where it agrees best with the mean of all others, and the mean sharpens as they agree
(Learned-Miller, "Data driven image models through continuous joint alignment", PAMI 2006). First every shift, angle
and zoom of a range is tried, by correlation in the Fourier domain, under a window that narrows about the focus, so
that there is no start to depend on; then damped Gauss-Newton steps (Lucas and Kanade, IJCAI 1981) find the rest.

What is compared are blurred structure tensors (Bigün and Granlund, ICCV 1987) of gradients divided by their local
energy: where edges are and along what, whatever their contrast, sign and colour.

A placement is four numbers that take the frame to the picture: log zoom, angle, shift x, shift y. Both have their
origin at their centre, and the unit is half the frame's shorter side; at (0, 0, 0, 0) the frame is the central crop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Congealing", "GreyPictures", "centred", "congeal", "linear_parts"]

_LEARNERS = 64  # pictures the mean is learned from, at most: enough for a sharp one
_PITCH = 0.12  # of log zoom and angle in the exhaustive search
_WINDOWS = (1.0, 0.7, 0.5, 0.35)  # standard deviations of the search's window, stage by stage
_ROUNDS = 3  # of each stage
_STEPS = 6  # Gauss-Newton steps of each fine level
_LONGEST_STEP = 0.1
_DIFFERENCE = 0.02  # for derivatives
_FLAT = 0.02  # gradients of grey in [0, 1] a cell; those below count for little
_ENERGY = 6.0  # blur of the local energy, in cells
_CANVAS = 2.0  # half the side of the square that holds a picture
_STRIDE = 2  # cells between the places where features are kept


class _Level(NamedTuple):
    """A square of the frame, and how it is looked at."""

    half: float  # of its side
    cells: int  # along its side
    blur: float  # of the features, in cells
    window: float  # standard deviation of the window, in frame units


_COARSE = _Level(half=1.0, cells=64, blur=2.5, window=_WINDOWS[-1])
_FINE = (_Level(half=0.9, cells=64, blur=2.0, window=0.6), _Level(half=0.7, cells=72, blur=1.5, window=0.45))
# Pictures are moved by what surrounds the focus and judged by what is at it: there, strangers agree least.
_JUDGED = _Level(half=0.5, cells=64, blur=1.5, window=0.25)

_SIDE = _COARSE.cells // _STRIDE  # of the coarse features
_MARGIN = _SIDE // 4  # of the shifts that are searched, to either side: half a frame unit
_PERIOD = 2 * (_SIDE + _MARGIN)  # of the Fourier transform: no less than picture and mean together


class GreyPictures(NamedTuple):
    """Pictures as they are compared.

    Attributes:
        grey: ``(N, C, C)`` uint8; the frame of the central crop is C / 2 wide, in the middle.
        reach: ``(N, 2)`` float32, half the width and height of each picture.
    """

    grey: Tensor
    reach: Tensor

    def at(self, chosen: Tensor) -> GreyPictures:
        """Some of them."""
        return GreyPictures(self.grey[chosen], self.reach[chosen])


class _Pictures(NamedTuple):
    """Pictures of one batch, ready to be sampled."""

    sharp: Tensor  # (N, 1, C, C) float32 in [0, 1]
    halved: Tensor  # (N, 1, C / 2, C / 2)
    reach: Tensor

    @classmethod
    def of(cls, pictures: GreyPictures) -> _Pictures:
        sharp = pictures.grey[:, None].float() / 255
        return cls(sharp, F.avg_pool2d(sharp, 2), pictures.reach)


class Congealing(NamedTuple):
    """What was found.

    Attributes:
        placements: ``(N, 4)`` float64: log zoom, angle in radians, shift x and y.
        agreement: ``(N,)`` float64, correlation of each picture with the mean of the others, at most 1.
    """

    placements: Tensor
    agreement: Tensor


def congeal(
    pictures: GreyPictures,
    *,
    angle: float,
    log_zoom: float,
    focus: tuple[float, float] = (0.0, 0.0),
    least: float,
    reference: GreyPictures | None = None,
) -> Congealing:
    """Register pictures to one another, or to a registered set. Equal arguments give equal results.

    Args:
        pictures: at least 2, or 1 with a reference.
        angle, log_zoom: how far the exhaustive search goes, either way.
        focus: the place of the frame that counts most.
        least: agreement at which a picture counts as registered.
        reference: pictures that are registered already.

    Returns:
        Without a reference, placements are 0 on average over the registered pictures.
    """
    search = _Search(list(_grid(log_zoom, angle)), focus)
    if reference is not None:
        return search.register(pictures, search.means(reference, torch.zeros(len(reference.grey), 4)))
    count = len(pictures.grey)
    learners = torch.linspace(0, count - 1, min(count, _LEARNERS), dtype=torch.float64).round().long()
    placements, agreement = search.congeal(pictures.at(learners))
    members = learners[agreement >= least]
    found = Congealing(torch.zeros(count, 4, dtype=torch.float64), torch.full((count,), -1.0, dtype=torch.float64))
    found.placements[learners], found.agreement[learners] = placements, agreement
    if 2 <= len(members) < count:
        means = search.means(pictures.at(members), found.placements[members])
        others = torch.ones(count, dtype=torch.bool).index_fill_(0, members, False).nonzero()[:, 0]
        placements, agreement = search.register(pictures.at(others), means)
        better = agreement > found.agreement[others]
        found.placements[others[better]], found.agreement[others[better]] = placements[better], agreement[better]
    registered = found.agreement >= least
    if bool(registered.any()):
        return Congealing(centred(found.placements, registered), found.agreement)
    return found


def linear_parts(placements: Tensor) -> Tensor:
    """``(N, 4)`` -> ``(N, 2, 2)``, the matrices of zoom and rotation."""
    zoom, angle = placements[:, 0].exp(), placements[:, 1]
    x, y = zoom * angle.cos(), zoom * angle.sin()
    return torch.stack([torch.stack([x, -y], 1), torch.stack([y, x], 1)], 1)


def centred(placements: Tensor, members: Tensor | None = None) -> Tensor:
    """The same registration in the frame in which log zooms, angles and shifts are 0 on average.

    Args:
        placements: ``(N, 4)``.
        members: ``(N,)`` bool, those whose average counts; by default all.
    """
    counted = placements if members is None else placements[members]
    moved = placements.clone()
    moved[:, :2] -= counted[:, :2].mean(0)
    shift = -torch.linalg.solve(linear_parts(counted).mean(0), counted[:, 2:].mean(0))
    moved[:, 2:] += linear_parts(placements) @ shift
    return moved


class _Means(NamedTuple):
    """A mean of features at each level, and what is subtracted from features first."""

    features: list[Tensor]  # (1, 3, h, h), unit length under the level's window
    biases: list[Tensor]  # (1, 3, 1, 1)


class _Search(NamedTuple):
    hypotheses: list[tuple[float, float]]  # log zoom and angle
    focus: tuple[float, float]

    def congeal(self, pictures: GreyPictures) -> Congealing:
        """Placements that are 0 on average."""
        batch, placements = _Pictures.of(pictures), torch.zeros(len(pictures.grey), 4, dtype=torch.float64)
        bias = self._bias(_COARSE, batch, placements)
        spectra = list(self._spectra(batch, bias))  # which stay as they are while the mean changes
        for width in _WINDOWS:
            window = self._window(_COARSE._replace(window=width))
            for _ in range(_ROUNDS):
                features = _unit(self._features(_COARSE, batch, placements, bias), window)
                placements = centred(_place(spectra, _mean_of_others(features), window))
        for level in _FINE:
            bias, window = self._bias(level, batch, placements), self._window(level)
            descent = _Descent(self, level, batch, placements, bias)
            for _ in range(_STEPS):
                features = _unit(self._features(level, batch, descent.placements, bias), window)
                descent.step(_mean_of_others(features))
                descent.placements = centred(descent.placements)
            placements = descent.placements
        bias = self._bias(_JUDGED, batch, placements)
        features = _unit(self._features(_JUDGED, batch, placements, bias), self._window(_JUDGED))
        return Congealing(placements, (features * _mean_of_others(features)).sum((1, 2, 3)).double())

    def means(self, pictures: GreyPictures, placements: Tensor) -> _Means:
        """What registered pictures look like on average."""
        batch, features, biases = _Pictures.of(pictures), [], []
        for level in (_COARSE, *_FINE, _JUDGED):
            bias = self._bias(level, batch, placements)
            unit = _unit(self._features(level, batch, placements, bias), self._window(level))
            mean = unit.sum(0, keepdim=True)
            features.append(mean / _norm(mean))
            biases.append(bias)
        return _Means(features, biases)

    def register(self, pictures: GreyPictures, means: _Means) -> Congealing:
        """Placements of pictures by themselves, relative to a mean that stays."""
        parts = torch.arange(len(pictures.grey)).split(_LEARNERS)  # bounds what memory holds
        found = [self._register(_Pictures.of(pictures.at(part)), means) for part in parts]
        return Congealing(*(torch.cat(pieces) for pieces in zip(*found, strict=True)))

    def _register(self, pictures: _Pictures, means: _Means) -> Congealing:
        spectra = self._spectra(pictures, means.biases[0])
        placements = _place(spectra, means.features[0], self._window(_COARSE))
        for level, mean, bias in zip(_FINE, means.features[1:-1], means.biases[1:-1], strict=True):
            descent = _Descent(self, level, pictures, placements, bias)
            for _ in range(_STEPS):
                descent.step(mean)
            placements = descent.placements
        features = _unit(self._features(_JUDGED, pictures, placements, means.biases[-1]), self._window(_JUDGED))
        return Congealing(placements, (features * means.features[-1]).sum((1, 2, 3)).double())

    def _bias(self, level: _Level, pictures: _Pictures, placements: Tensor) -> Tensor:
        features = self._features(level, pictures, placements, torch.zeros(()))
        return features.mean((0, 2, 3), keepdim=True)

    def _features(self, level: _Level, pictures: _Pictures, placements: Tensor, bias: Tensor) -> Tensor:
        """``(N, 3, h, h)`` features less their bias; 0 beyond the pictures."""
        centre = (0.0, 0.0) if level is _COARSE else self.focus
        return _features(pictures, placements, centre, level.half, level.cells, level.blur, bias)

    def _window(self, level: _Level) -> Tensor:
        """``(1, 1, h, h)``, 1 at the focus."""
        side = level.cells // _STRIDE
        centre = self.focus if level.half == _COARSE.half else (0.0, 0.0)
        at = _cells(side, level.half)
        x, y = (torch.exp(-(at - c).square() / (2 * level.window**2)) for c in centre)
        return (y[:, None] * x)[None, None]

    def _spectra(self, pictures: _Pictures, bias: Tensor) -> Iterator[_Spectrum]:
        """Features of whole pictures in the Fourier domain, under every hypothesis."""
        half = _COARSE.half * (1 + 2 * _MARGIN / _SIDE)
        for zoom, angle in self.hypotheses:
            placements = torch.tensor([[zoom, angle, 0, 0]], dtype=torch.float64).expand(len(pictures.reach), 4)
            cells = (_SIDE + 2 * _MARGIN) * _STRIDE
            features = _features(pictures, placements, (0.0, 0.0), half, cells, _COARSE.blur, bias)
            yield _Spectrum(placements, _fft(features), _fft(features.square().sum(1)))


class _Spectrum(NamedTuple):
    placements: Tensor  # (N, 4), all alike
    features: Tensor
    energy: Tensor


def _place(spectra: Iterable[_Spectrum], mean: Tensor, window: Tensor) -> Tensor:
    """The placements, of all hypotheses and shifts, at which pictures agree best with a mean: ``(N, 4)``."""
    span = 2 * _MARGIN + 1  # of shifts
    mean = mean * window
    mean_spectrum, window_spectrum = _fft(mean).conj(), _fft(window.square()[:, 0]).conj()
    best = found = torch.zeros(0)
    for spectrum in spectra:
        product = _ifft((spectrum.features * mean_spectrum).sum(1))[:, :span, :span]
        energy = _ifft(spectrum.energy * window_spectrum)[:, :span, :span].clamp(min=0)
        # The floor keeps places with nearly nothing in them from agreeing by chance.
        score, place = (product / (energy + 0.05 * energy.amax((1, 2), keepdim=True)).sqrt()).flatten(1).max(1)
        shift = (torch.stack([place % span, place // span], 1).double() - _MARGIN) * (2 * _COARSE.half / _SIDE)
        placements = spectrum.placements.clone()
        placements[:, 2:] = (linear_parts(placements) @ shift[..., None])[..., 0]
        if not len(found):
            best, found = score, placements
        better = score > best
        best, found = torch.where(better, score, best), torch.where(better[:, None], placements, found)
    return found


class _Descent:
    """Damped Gauss-Newton steps (Levenberg-Marquardt) of each picture towards a mean."""

    def __init__(self, search: _Search, level: _Level, pictures: _Pictures, placements: Tensor, bias: Tensor) -> None:
        self.search, self.level, self.pictures, self.bias = search, level, pictures, bias
        self.placements = placements
        self.damping = torch.full((len(placements),), 1e-2)
        self.window = search._window(level)

    def step(self, mean: Tensor) -> None:
        """Move each picture where that makes it agree better with a mean ``(N or 1, 3, h, h)``."""
        mean = mean / _norm(mean)
        features = self._at(self.placements).flatten(1)
        slopes = torch.stack([self._slope(k) for k in range(4)], 1)
        normal = slopes @ slopes.mT
        normal = normal + torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * self.damping[:, None] + 1e-9)
        wanted = (slopes @ (mean.flatten(1) - features)[..., None])[..., 0]
        change = torch.linalg.solve(normal, wanted).clamp(-_LONGEST_STEP, _LONGEST_STEP).double()
        moved = _moved(self.placements, change, self.search.focus)
        before, after = (features * mean.flatten(1)).sum(1), (self._at(moved) * mean).sum((1, 2, 3))
        better = after > before
        self.placements = torch.where(better[:, None], moved, self.placements)
        self.damping = torch.where(better, self.damping / 4, self.damping * 8).clamp(1e-3, 1e3)

    def _at(self, placements: Tensor) -> Tensor:
        return _unit(self.search._features(self.level, self.pictures, placements, self.bias), self.window)

    def _slope(self, parameter: int) -> Tensor:
        """Derivative of the features by a parameter, ``(N, F)``."""
        change = torch.zeros_like(self.placements)
        change[:, parameter] = _DIFFERENCE
        ahead, behind = (self._at(_moved(self.placements, c, self.search.focus)) for c in (change, -change))
        return ((ahead - behind) / (2 * _DIFFERENCE)).flatten(1)


def _moved(placements: Tensor, change: Tensor, focus: tuple[float, float]) -> Tensor:
    """Placements zoomed and rotated further about the focus, then shifted."""
    centre = torch.tensor(focus, dtype=torch.float64)
    there = linear_parts(placements) @ centre + placements[:, 2:]
    moved = placements + change
    moved[:, 2:] = there + change[:, 2:] - linear_parts(moved) @ centre
    return moved


# --- features ------------------------------------------------------------------------------------------


def _features(
    pictures: _Pictures,
    placements: Tensor,
    centre: tuple[float, float],
    half: float,
    cells: int,
    blur: float,
    bias: Tensor,
) -> Tensor:
    grey, inside = _sampled(pictures, placements, centre, half, cells)
    features = _structure(grey, inside, blur) - bias
    return features * F.avg_pool2d(inside, _STRIDE)


def _sampled(
    pictures: _Pictures, placements: Tensor, centre: tuple[float, float], half: float, cells: int
) -> tuple[Tensor, Tensor]:
    """A square of the frame, ``(N, 1, cells, cells)`` grey in [0, 1], and where it is inside the pictures, 0 or 1."""
    placements = placements.float()
    at = _cells(cells, half)
    frame = torch.stack([(at + centre[0]).expand(cells, cells), (at + centre[1])[:, None].expand(cells, cells)], 2)
    there = frame.reshape(1, -1, 2) @ linear_parts(placements).mT + placements[:, None, 2:]
    there = there.reshape(-1, cells, cells, 2)
    pitch = 2 * _CANVAS / pictures.sharp.shape[-1]  # of the pixels
    canvas = pictures.halved if 2 * half / cells > 1.5 * pitch else pictures.sharp
    grey = F.grid_sample(canvas, there / _CANVAS, align_corners=False, padding_mode="border")
    margin = 3 * _CANVAS / canvas.shape[-1]  # a pixel and a half, where gradients are of the border
    inside = (there.abs() <= pictures.reach[:, None, None] - margin).all(3)
    return grey, inside[:, None].float()


def _structure(grey: Tensor, inside: Tensor, blur: float) -> Tensor:
    """``(N, 3, h, h)``: strength of edges, and strength times cosine and sine of twice their angle."""
    grey = _blurred(grey, 0.8)
    x = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1, 0, 0)) * inside
    y = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1)) * inside
    squared = x.square() + y.square()
    strength = squared.sqrt() / (_blurred(squared, _ENERGY).sqrt() + _FLAT)
    squared = squared + 1e-12
    tensor = torch.cat([torch.ones_like(x), (x.square() - y.square()) / squared, 2 * x * y / squared], 1)
    return _blurred(strength * tensor, blur, _STRIDE)


def _blurred(values: Tensor, width: float, stride: int = 1) -> Tensor:
    """Gaussian blur of ``(N, C, H, W)``, every ``stride``-th value kept."""
    radius = math.ceil(2.5 * width)
    kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * width**2))
    kernel = kernel / kernel.sum()
    flat = values.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None], stride=(1, stride))
    flat = F.conv2d(
        F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None], stride=(stride, 1)
    )
    return flat.reshape(*values.shape[:2], *flat.shape[2:])


def _unit(features: Tensor, window: Tensor) -> Tensor:
    windowed = features * window
    return windowed / _norm(windowed)


def _norm(features: Tensor) -> Tensor:
    return features.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-9)


def _mean_of_others(features: Tensor) -> Tensor:
    others = features.sum(0, keepdim=True) - features
    return others / _norm(others)


def _cells(count: int, half: float) -> Tensor:
    """Centres of cells from -half to half."""
    return ((torch.arange(count) + 0.5) / count * 2 - 1) * half


def _fft(values: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfft2(values, s=(_PERIOD, _PERIOD))
    return spectrum


def _ifft(spectrum: Tensor) -> Tensor:
    values: Tensor = torch.fft.irfft2(spectrum, s=(_PERIOD, _PERIOD))
    return values


def _grid(log_zoom: float, angle: float) -> Iterator[tuple[float, float]]:
    for zoom in _steps(log_zoom):
        for turn in _steps(angle):
            yield zoom, turn


def _steps(reach: float) -> list[float]:
    """Values some :data:`_PITCH` apart, from -reach to reach, 0 among them."""
    count = math.ceil(reach / _PITCH - 1e-9)
    return [reach * k / count for k in range(-count, count + 1)] if count else [0.0]
