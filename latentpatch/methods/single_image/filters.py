"""Filters of pictures by OpenCV: Gaussian, box, median, bilateral, cross-bilateral, guided, rolling guidance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import MissingDependencyError
from .denoising import Denoiser, Progress
from .filter_settings import (
    BilateralSettings,
    BoxSettings,
    GaussianSettings,
    GuidedSettings,
    MedianSettings,
    RollingGuidanceSettings,
)

__all__ = ["Bilateral", "Box", "Gaussian", "Guided", "Median", "RollingGuidance"]

_LONGEST = 1 << 14  # pixels of a radius that OpenCV takes
_LONGEST_MEDIAN = 127  # the same, of its medians


class _Filter(Denoiser):
    """A filter by OpenCV, of arrays ``(H, W)`` or ``(H, W, 3)`` float32 in [0, 1]."""

    def clean(self, colors: Tensor, guide: Tensor | None, settings: Any, progress: Progress) -> Tensor:
        """Return filtered colors."""
        try:
            import cv2
            import cv2.ximgproc  # the contributed modules, which some builds lack
        except ImportError as error:
            raise MissingDependencyError(
                "opencv-contrib-python-headless", "filters", f"the filter {self.name}"
            ) from error
        picture, other = (_array(each) for each in (colors, colors if guide is None else guide))
        result = torch.from_numpy(np.ascontiguousarray(self.filter(cv2, picture, other, settings)))
        result = result.view(*colors.shape[1:], -1).permute(2, 0, 1).contiguous().to(colors)
        progress(1, 1, result)
        return result

    @abstractmethod
    def filter(self, cv2: Any, picture: Any, guide: Any, settings: Any) -> Any:
        """Return the filtered array; the guide is the picture itself where there is no other."""


def _array(colors: Tensor) -> Any:
    return np.ascontiguousarray(colors.permute(1, 2, 0).squeeze(2).cpu().numpy())


class Gaussian(_Filter):
    """Blurs with a Gaussian window."""

    name: ClassVar[str] = "gaussian"
    Settings: ClassVar[type[GaussianSettings]] = GaussianSettings

    def filter(self, cv2: Any, picture: Any, guide: Any, settings: GaussianSettings) -> Any:
        """Return the blurred array."""
        return cv2.GaussianBlur(picture, (0, 0), settings.spread)


class Box(_Filter):
    """Averages the pixels of a square."""

    name: ClassVar[str] = "box"
    Settings: ClassVar[type[BoxSettings]] = BoxSettings

    def filter(self, cv2: Any, picture: Any, guide: Any, settings: BoxSettings) -> Any:
        """Return the means."""
        return cv2.blur(picture, (2 * min(settings.radius, _LONGEST) + 1,) * 2)


class Median(_Filter):
    """Takes the median of the pixels of a square, in 256 levels."""

    name: ClassVar[str] = "median"
    Settings: ClassVar[type[MedianSettings]] = MedianSettings

    def filter(self, cv2: Any, picture: Any, guide: Any, settings: MedianSettings) -> Any:
        """Return the medians; OpenCV has large squares for 8 bits only."""
        levels = (picture * 255).round().astype(np.uint8)
        return cv2.medianBlur(levels, 2 * min(settings.radius, _LONGEST_MEDIAN) + 1).astype(np.float32) / 255


class Bilateral(_Filter):
    """Averages near pixels of like colors (Tomasi & Manduchi, ICCV 1998); cross-bilateral with a guide."""

    name: ClassVar[str] = "bilateral"
    Settings: ClassVar[type[BilateralSettings]] = BilateralSettings
    accepts_guide = True

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: BilateralSettings
    ) -> float:
        """Return the time to weigh the pixels of each window."""
        return 4e-8 * size[0] * size[1] * (1 + settings.spread) ** 2

    def filter(self, cv2: Any, picture: Any, guide: Any, settings: BilateralSettings) -> Any:
        """Return the means of like pixels."""
        tolerance = settings.tolerance / 255
        return cv2.ximgproc.jointBilateralFilter(guide, picture, -1, tolerance, settings.spread)


class Guided(_Filter):
    """Fits linear functions of the picture or a guide (He, Sun & Tang, ECCV 2010)."""

    name: ClassVar[str] = "guided"
    Settings: ClassVar[type[GuidedSettings]] = GuidedSettings
    accepts_guide = True

    def filter(self, cv2: Any, picture: Any, guide: Any, settings: GuidedSettings) -> Any:
        """Return the fitted values."""
        return cv2.ximgproc.guidedFilter(
            guide, picture, min(settings.radius, _LONGEST), (settings.tolerance / 255) ** 2
        )


class RollingGuidance(_Filter):
    """Removes small things, keeps edges (Zhang et al., ECCV 2014)."""

    name: ClassVar[str] = "rolling-guidance"
    Settings: ClassVar[type[RollingGuidanceSettings]] = RollingGuidanceSettings

    def seconds(
        self, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: RollingGuidanceSettings
    ) -> float:
        """Return the time to weigh the pixels of each window in each pass."""
        return 4e-8 * size[0] * size[1] * (1 + settings.spread) ** 2 * settings.passes

    def filter(self, cv2: Any, picture: Any, guide: Any, settings: RollingGuidanceSettings) -> Any:
        """Return the result of all passes."""
        rolled = cv2.ximgproc.rollingGuidanceFilter
        return rolled(picture, None, -1, settings.tolerance / 255, settings.spread, settings.passes)
