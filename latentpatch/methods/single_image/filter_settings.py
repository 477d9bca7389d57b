"""Settings of the filters; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting

__all__ = [
    "BilateralSettings",
    "BoxSettings",
    "GaussianSettings",
    "GuidedSettings",
    "MedianSettings",
    "RollingGuidanceSettings",
]


@dataclass(frozen=True)
class _Square(Settings):
    radius: int = setting(2, "of the square about each pixel, in pixels", minimum=1, limit=64, metavar="PIXELS")


@dataclass(frozen=True)
class _Gaussian(Settings):
    spread: float = setting(
        1.5, "standard deviation of the window, in pixels", minimum=0.01, maximum=64, symbol="sigma_s", metavar="PIXELS"
    )


@dataclass(frozen=True)
class GaussianSettings(_Gaussian):
    """Settings of the Gaussian filter."""


@dataclass(frozen=True)
class BoxSettings(_Square):
    """Settings of the box filter."""


@dataclass(frozen=True)
class MedianSettings(_Square):
    """Settings of the median filter."""


@dataclass(frozen=True)
class BilateralSettings(_Gaussian):
    """Settings of the bilateral and, with a guide, the cross-bilateral filter."""

    tolerance: float = setting(
        50.0, "standard deviation of colors that count as alike, in levels of 255", minimum=0.01,
        maximum=255, symbol="sigma_r", metavar="LEVELS",
    )  # fmt: skip


@dataclass(frozen=True)
class GuidedSettings(_Square):
    """Settings of the guided filter."""

    tolerance: float = setting(
        20.0, "contrast below which nothing is an edge, in levels of 255; its square is epsilon", minimum=0.01,
        maximum=255, metavar="LEVELS",
    )  # fmt: skip


@dataclass(frozen=True)
class RollingGuidanceSettings(BilateralSettings):
    """Settings of rolling guidance."""

    passes: int = setting(4, "filterings by the result of the one before", minimum=1, limit=32, metavar="N")
