"""Congealing: register pictures of one kind of object by similarity transforms, without supervision.

Each picture moves to where it agrees best with the mean of all others, and the mean sharpens as they agree
(Learned-Miller, "Data driven image models through continuous joint alignment", PAMI 2006). First an exhaustive search
tries every shift, angle and zoom of a range, by correlation in the Fourier domain, under a window that narrows about
the focus, so that the result depends on no start. Then damped Gauss-Newton steps (Lucas and Kanade, IJCAI 1981)
refine it.

Pictures are compared by the features of :mod:`.features`, which also defines placements and frame units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .features import (
    STRIDE,
    GreyPictures,
    Level,
    PictureBatch,
    cell_centres,
    frame_features,
    linear_parts,
    mean_of_others,
    norms,
    unit_features,
)

__all__ = ["Congealing", "Limits", "agreement_in_place", "congeal", "recentre"]

_MAX_LEARNERS = 64  # pictures that make the mean: enough for a sharp one
_PITCH = 0.12  # log zoom, and radians, from one hypothesis of the exhaustive search to the next
_WINDOWS = (1.0, 0.7, 0.5, 0.35)  # frame units; standard deviation of the search's window, stage by stage
_ROUNDS_PER_STAGE = 3
_STEPS_PER_LEVEL = 6  # Gauss-Newton steps
_MAX_STEP = 0.1  # placement units
_DIFFERENCE = 0.02  # placement units, of numerical derivatives


_COARSE = Level(half=1.0, cells=64, blur=2.5, window=_WINDOWS[-1])
_FINE = (Level(half=0.9, cells=64, blur=2.0, window=0.6), Level(half=0.7, cells=72, blur=1.5, window=0.45))
# The surroundings of the focus move a picture; the focus itself judges it, because strangers agree least there.
_JUDGED = Level(half=0.5, cells=64, blur=1.5, window=0.25)

_SIDE = _COARSE.cells // STRIDE  # features along the side of the coarse level
_MARGIN = _SIDE // 4  # features; largest shift of the search to either side, half a frame unit
_PERIOD = 2 * (_SIDE + _MARGIN)  # features; period of the Fourier transform, at least picture and mean together


class Congealing(NamedTuple):
    """A registration.

    Attributes:
        placements: ``(N, 4)`` float64: log zoom, angle in radians, shift x and y.
        agreement: ``(N,)`` float64, correlation of each picture with the mean of the others, at most 1.
    """

    placements: Tensor
    agreement: Tensor


class Limits(NamedTuple):
    """Largest differences of placements from their mean, either way."""

    angle: float  # radians
    log_zoom: float
    shift: float = 0.5  # frame units

    def clamped(self, placements: Tensor) -> Tensor:
        """Return the nearest placements ``(N, 4)`` within the limits."""
        most = torch.tensor([self.log_zoom, self.angle, self.shift, self.shift], dtype=placements.dtype)
        return placements.clamp(-most, most)


def congeal(
    pictures: GreyPictures,
    *,
    limits: Limits,
    wider: Limits | None = None,
    focus: tuple[float, float] = (0.0, 0.0),
    min_agreement: float,
    reference: GreyPictures | None = None,
) -> Congealing:
    """Register pictures to one another, or to a registered set. Equal arguments give equal results.

    Args:
        pictures: at least 2, or 1 with a reference.
        limits: of the search, and of the result.
        wider: limits for pictures that do not register within the first ones; for all where fewer than half do.
        focus: the point of the frame that counts most, frame units.
        min_agreement: agreement from which a picture counts as registered.
        reference: pictures in register.

    Returns:
        Without a reference, placements are 0 on average over the registered pictures, but for the limits.
    """
    congealer = _Congealer(limits, focus)
    result = _congeal(congealer, pictures, min_agreement, reference)
    is_registered = result.agreement >= min_agreement
    if wider is None or bool(is_registered.all()):
        return result
    congealer = _Congealer(wider, focus)
    if reference is None and int(is_registered.sum()) < max(2, len(is_registered) / 2):
        return _better(result, _congeal(congealer, pictures, min_agreement, None), min_agreement)
    if reference is None:
        means = congealer.means(pictures.at(is_registered.nonzero()[:, 0]), result.placements[is_registered])
    else:
        means = congealer.means(reference, torch.zeros(len(reference.grey), 4))
    result = _register_others(congealer, pictures, means, is_registered, result)
    return result if reference is not None else _centred(congealer, result, min_agreement)


def agreement_in_place(pictures: GreyPictures, focus: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Return the agreement ``(N,)`` float64 of pictures with one another, or with 64 among them, as they are."""
    congealer, learners = _Congealer(Limits(0, 0), focus), _evenly(len(pictures.grey))
    agreement = torch.zeros(len(pictures.grey), dtype=torch.float64)
    agreement[learners] = congealer.in_place(pictures.at(learners))
    is_learner = torch.zeros(len(agreement), dtype=torch.bool).index_fill_(0, learners, True)
    means = congealer.means(pictures.at(learners), torch.zeros(len(learners), 4, dtype=torch.float64))
    for others in (~is_learner).nonzero()[:, 0].split(_MAX_LEARNERS):
        agreement[others] = congealer.judged(PictureBatch.of(pictures.at(others)), torch.zeros(len(others), 4), means)
    return agreement


def _evenly(count: int) -> Tensor:
    """Return the positions of the pictures that make the mean."""
    return torch.linspace(0, count - 1, min(count, _MAX_LEARNERS), dtype=torch.float64).round().long()


def _congeal(
    congealer: _Congealer, pictures: GreyPictures, min_agreement: float, reference: GreyPictures | None
) -> Congealing:
    """Register pictures within the limits of one search."""
    if reference is not None:
        return congealer.register(pictures, congealer.means(reference, torch.zeros(len(reference.grey), 4)))
    count = len(pictures.grey)
    learners = _evenly(count)
    result = Congealing(torch.zeros(count, 4, dtype=torch.float64), torch.full((count,), -1.0, dtype=torch.float64))
    result.placements[learners], result.agreement[learners] = congealer.congeal(pictures.at(learners))
    members = learners[result.agreement[learners] >= min_agreement]
    if 2 <= len(members) < count:
        means = congealer.means(pictures.at(members), result.placements[members])
        is_member = torch.zeros(count, dtype=torch.bool).index_fill_(0, members, True)
        result = _register_others(congealer, pictures, means, is_member, result)
    return _centred(congealer, result, min_agreement)


def _register_others(
    congealer: _Congealer, pictures: GreyPictures, means: _Means, is_member: Tensor, result: Congealing
) -> Congealing:
    """Register the pictures that are no members to means of those that are, where they then agree better."""
    others = (~is_member).nonzero()[:, 0]
    placements, agreement = congealer.register(pictures.at(others), means)
    better = agreement > result.agreement[others]
    result.placements[others[better]], result.agreement[others[better]] = placements[better], agreement[better]
    return result


def _centred(congealer: _Congealer, result: Congealing, min_agreement: float) -> Congealing:
    """Move the frame to the average of the registered pictures."""
    registered = result.agreement >= min_agreement
    if not bool(registered.any()):
        return result
    return Congealing(congealer.limits.clamped(recentre(result.placements, registered)), result.agreement)


def _better(first: Congealing, second: Congealing, min_agreement: float) -> Congealing:
    """Return the result that registers more pictures; the first of two that register as many."""
    counts = [int((each.agreement >= min_agreement).sum()) for each in (first, second)]
    return second if counts[1] > counts[0] else first


def recentre(placements: Tensor, members: Tensor | None = None) -> Tensor:
    """Move the frame so that log zooms, angles and shifts are 0 on average; registration stays.

    Args:
        placements: ``(N, 4)``.
        members: ``(N,)`` bool, the placements to average over; by default all.
    """
    averaged = placements if members is None else placements[members]
    moved = placements.clone()
    moved[:, :2] -= averaged[:, :2].mean(0)
    shift = -torch.linalg.solve(linear_parts(averaged).mean(0), averaged[:, 2:].mean(0))
    moved[:, 2:] += linear_parts(placements) @ shift
    return moved


class _Means(NamedTuple):
    """Means of registered pictures at every level."""

    features: list[Tensor]  # (1, 3, h, h) each, of length 1 under the window of the level
    biases: list[Tensor]  # (1, 3, 1, 1) each, subtracted from features beforehand


class _Congealer(NamedTuple):
    """The search for placements."""

    limits: Limits
    focus: tuple[float, float]

    def congeal(self, pictures: GreyPictures) -> Congealing:
        """Register pictures to one another; placements are 0 on average."""
        batch, placements = PictureBatch.of(pictures), torch.zeros(len(pictures.grey), 4, dtype=torch.float64)
        bias = self._bias(_COARSE, batch, placements)
        spectra = list(self._spectra(batch, bias))  # independent of the mean, which changes
        for width in _WINDOWS:
            window = self._window(_COARSE._replace(window=width))
            for _ in range(_ROUNDS_PER_STAGE):
                features = unit_features(self._features(_COARSE, batch, placements, bias), window)
                best = _best_placements(spectra, mean_of_others(features), window, self.limits.shift)
                placements = self.limits.clamped(recentre(best))
        for level in _FINE:
            descent = _Descent(self, level, batch, placements, self._bias(level, batch, placements))
            for _ in range(_STEPS_PER_LEVEL):
                descent.step(mean_of_others(descent.features(descent.placements)))
                descent.placements = self.limits.clamped(recentre(descent.placements))
            placements = descent.placements
        features = self.windowed(_JUDGED, batch, placements, self._bias(_JUDGED, batch, placements))
        return Congealing(placements, (features * mean_of_others(features)).sum((1, 2, 3)).double())

    def means(self, pictures: GreyPictures, placements: Tensor) -> _Means:
        """Compute the means of registered pictures."""
        batch, features, biases = PictureBatch.of(pictures), [], []
        for level in (_COARSE, *_FINE, _JUDGED):
            bias = self._bias(level, batch, placements)
            mean = self.windowed(level, batch, placements, bias).sum(0, keepdim=True)
            features.append(mean / norms(mean))
            biases.append(bias)
        return _Means(features, biases)

    def register(self, pictures: GreyPictures, means: _Means) -> Congealing:
        """Register each picture to fixed means."""
        parts = torch.arange(len(pictures.grey)).split(_MAX_LEARNERS)  # bounds memory
        results = [self._register(PictureBatch.of(pictures.at(part)), means) for part in parts]
        return Congealing(*(torch.cat(pieces) for pieces in zip(*results, strict=True)))

    def _register(self, pictures: PictureBatch, means: _Means) -> Congealing:
        spectra = self._spectra(pictures, means.biases[0])
        placements = _best_placements(spectra, means.features[0], self._window(_COARSE), self.limits.shift)
        placements = self.limits.clamped(placements)
        for level, mean, bias in zip(_FINE, means.features[1:-1], means.biases[1:-1], strict=True):
            descent = _Descent(self, level, pictures, placements, bias)
            for _ in range(_STEPS_PER_LEVEL):
                descent.step(mean)
            placements = descent.placements
        return Congealing(placements, self.judged(pictures, placements, means))

    def judged(self, pictures: PictureBatch, placements: Tensor, means: _Means) -> Tensor:
        """Return the agreement ``(N,)`` float64 of pictures with means."""
        features = self.windowed(_JUDGED, pictures, placements, means.biases[-1])
        return (features * means.features[-1]).sum((1, 2, 3)).double()

    def in_place(self, pictures: GreyPictures) -> Tensor:
        """Return the agreement ``(N,)`` float64 of pictures with one another as they are."""
        batch, placements = PictureBatch.of(pictures), torch.zeros(len(pictures.grey), 4, dtype=torch.float64)
        features = self.windowed(_JUDGED, batch, placements, self._bias(_JUDGED, batch, placements))
        return (features * mean_of_others(features)).sum((1, 2, 3)).double()

    def _bias(self, level: Level, pictures: PictureBatch, placements: Tensor) -> Tensor:
        return self._features(level, pictures, placements, torch.zeros(())).mean((0, 2, 3), keepdim=True)

    def windowed(self, level: Level, pictures: PictureBatch, placements: Tensor, bias: Tensor) -> Tensor:
        """Compute the features of a level under its window, of length 1."""
        return unit_features(self._features(level, pictures, placements, bias), self._window(level))

    def _features(self, level: Level, pictures: PictureBatch, placements: Tensor, bias: Tensor) -> Tensor:
        """Compute the features of a level, about the focus at all levels but the coarse one."""
        centre = (0.0, 0.0) if level is _COARSE else self.focus
        return frame_features(pictures, placements, centre, level, bias)

    def _window(self, level: Level) -> Tensor:
        """Compute the window of a level: ``(1, 1, h, h)``, 1 at the focus."""
        side = level.cells // STRIDE
        centre = self.focus if level.half == _COARSE.half else (0.0, 0.0)
        at = cell_centres(side, level.half)
        x, y = (torch.exp(-(at - c).square() / (2 * level.window**2)) for c in centre)
        return (y[:, None] * x)[None, None]

    def _spectra(self, pictures: PictureBatch, bias: Tensor) -> Iterator[_Spectrum]:
        """Transform the features of whole pictures under every hypothesis to the Fourier domain."""
        half = _COARSE.half * (1 + 2 * _MARGIN / _SIDE)
        level = _COARSE._replace(half=half, cells=(_SIDE + 2 * _MARGIN) * STRIDE)
        for zoom, angle in product(_steps(self.limits.log_zoom), _steps(self.limits.angle)):
            placements = torch.tensor([[zoom, angle, 0, 0]], dtype=torch.float64).expand(len(pictures.reach), 4)
            features = frame_features(pictures, placements, (0.0, 0.0), level, bias)
            yield _Spectrum(placements, _fft(features), _fft(features.square().sum(1)))


class _Spectrum(NamedTuple):
    """Pictures under one hypothesis, whose placements ``(N, 4)`` are all alike, in the Fourier domain."""

    placements: Tensor
    features: Tensor
    energy: Tensor


def _best_placements(spectra: Iterable[_Spectrum], mean: Tensor, window: Tensor, most: float) -> Tensor:
    """Return the placements ``(N, 4)``, of all hypotheses and of shifts up to ``most``, that agree best with a mean."""
    reach = min(_MARGIN, math.floor(most / (2 * _COARSE.half / _SIDE) + 1e-9))
    span, allowed = 2 * reach + 1, slice(_MARGIN - reach, _MARGIN + reach + 1)  # shifts along an axis
    mean = mean * window
    mean_spectrum, window_spectrum = _fft(mean).conj(), _fft(window.square()[:, 0]).conj()
    best = result = torch.zeros(0)
    for spectrum in spectra:
        match = _ifft((spectrum.features * mean_spectrum).sum(1))[:, allowed, allowed]
        energy = _ifft(spectrum.energy * window_spectrum)[:, allowed, allowed].clamp(min=0)
        # The floor keeps nearly empty places from agreeing by chance.
        score, place = (match / (energy + 0.05 * energy.amax((1, 2), keepdim=True)).sqrt()).flatten(1).max(1)
        shift = (torch.stack([place % span, place // span], 1).double() - reach) * (2 * _COARSE.half / _SIDE)
        placements = spectrum.placements.clone()
        placements[:, 2:] = (linear_parts(placements) @ shift[..., None])[..., 0]
        if not len(result):
            best, result = score, placements
        better = score > best
        best, result = torch.where(better, score, best), torch.where(better[:, None], placements, result)
    return result


class _Descent:
    """Damped Gauss-Newton steps (Levenberg-Marquardt) of each picture towards a mean."""

    def __init__(
        self, congealer: _Congealer, level: Level, pictures: PictureBatch, placements: Tensor, bias: Tensor
    ) -> None:
        self.congealer, self.level, self.pictures, self.bias = congealer, level, pictures, bias
        self.placements = placements
        self.damping = torch.full((len(placements),), 1e-2)

    def step(self, mean: Tensor) -> None:
        """Move each picture, if that improves its agreement with a mean ``(N or 1, 3, h, h)``."""
        mean = mean / norms(mean)
        features = self.features(self.placements).flatten(1)
        slopes = torch.stack([self._slope(k) for k in range(4)], 1)
        normal = slopes @ slopes.mT
        normal = normal + torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * self.damping[:, None] + 1e-9)
        right_side = (slopes @ (mean.flatten(1) - features)[..., None])[..., 0]
        change = torch.linalg.solve(normal, right_side).clamp(-_MAX_STEP, _MAX_STEP).double()
        moved = self.congealer.limits.clamped(_move(self.placements, change, self.congealer.focus))
        before, after = (features * mean.flatten(1)).sum(1), (self.features(moved) * mean).sum((1, 2, 3))
        better = after > before
        self.placements = torch.where(better[:, None], moved, self.placements)
        self.damping = torch.where(better, self.damping / 4, self.damping * 8).clamp(1e-3, 1e3)

    def features(self, placements: Tensor) -> Tensor:
        """Compute the features to be compared with the mean."""
        return self.congealer.windowed(self.level, self.pictures, placements, self.bias)

    def _slope(self, parameter: int) -> Tensor:
        """Differentiate the features by a parameter: ``(N, F)``."""
        change = torch.zeros_like(self.placements)
        change[:, parameter] = _DIFFERENCE
        ahead, behind = (self.features(_move(self.placements, c, self.congealer.focus)) for c in (change, -change))
        return ((ahead - behind) / (2 * _DIFFERENCE)).flatten(1)


def _move(placements: Tensor, change: Tensor, focus: tuple[float, float]) -> Tensor:
    """Zoom and rotate placements further about the focus, then shift them."""
    centre = torch.tensor(focus, dtype=torch.float64)
    focus_points = linear_parts(placements) @ centre + placements[:, 2:]
    moved = placements + change
    moved[:, 2:] = focus_points + change[:, 2:] - linear_parts(moved) @ centre
    return moved


def _fft(values: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfft2(values, s=(_PERIOD, _PERIOD))
    return spectrum


def _ifft(spectrum: Tensor) -> Tensor:
    values: Tensor = torch.fft.irfft2(spectrum, s=(_PERIOD, _PERIOD))
    return values


def _steps(reach: float) -> list[float]:
    """Return values from -reach to reach, 0 among them, at most :data:`_PITCH` apart."""
    count = math.ceil(reach / _PITCH - 1e-9)
    return [reach * k / count for k in range(-count, count + 1)] if count else [0.0]
