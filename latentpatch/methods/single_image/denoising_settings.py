"""Settings of the denoisers; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import SettingError
from ...settings import Settings, setting

__all__ = ["NLMeansSettings", "NLPCASettings"]


def _sigma() -> Any:
    return setting(
        None,
        "standard deviation of the noise, in levels of 255",
        minimum=0,
        maximum=255,
        symbol="sigma",
        default_help="estimated from the picture",
        metavar="LEVELS",
    )


def _window() -> Any:
    return setting(
        21, "side of the window whose patches are compared, in pixels; odd", minimum=3, limit=129, metavar="PIXELS"
    )


def _check_odd(settings: Settings, *names: str) -> None:
    for name in names:
        if getattr(settings, name) % 2 == 0:
            raise SettingError(name, getattr(settings, name), "odd")


@dataclass(frozen=True)
class NLMeansSettings(Settings):
    """Settings of NL-means (Buades, Coll & Morel, CVPR 2005)."""

    sigma: float | None = _sigma()
    patch_size: int = setting(3, "side of the patches, in pixels; odd", minimum=1, limit=33, metavar="PIXELS")
    window: int = _window()
    bandwidth: float = setting(
        0.9, "how unlike patches may be that still count, relative to the noise", above=0, maximum=100, symbol="h"
    )

    def check_together(self) -> None:
        _check_odd(self, "patch_size", "window")


@dataclass(frozen=True)
class NLPCASettings(Settings):
    """Settings of NL-PCA (Zhang, Dong, Zhang & Shi, Pattern Recognition 2010)."""

    sigma: float | None = _sigma()
    patch_size: int = setting(5, "side of the patches, in pixels", minimum=2, limit=17, metavar="PIXELS")
    window: int = _window()
    neighbors: int = setting(50, "patches in a group", minimum=2, limit=1024, symbol="k", metavar="N")
    stride: int = setting(3, "pixels from a group's patch to the next one's", minimum=1, limit=16, metavar="PIXELS")
    passes: int = setting(
        2, "1, or 2 to group and weigh once more by the result of the first pass", minimum=1, maximum=2
    )

    def check_together(self) -> None:
        _check_odd(self, "window")
        if self.stride > self.patch_size:
            raise SettingError("stride", self.stride, f"at most patch_size, {self.patch_size}")
        most = (self.window // 2 + 1) ** 2
        if self.neighbors > most:
            raise SettingError("neighbors", self.neighbors, f"at most {most}, those of a window at a corner")
