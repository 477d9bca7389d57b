"""The memory of methods on pictures, checked before they start."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from ..errors import SettingError
from ..runs import system
from ..settings import Settings
from .picture import PictureMethod

__all__ = ["check_count", "check_memory"]

_GIBIBYTE = 1 << 30
_RESULT_BYTES = 24  # memory of a pixel of a result: three channels, twice while results are joined


def check_count(count: int, pixels: int) -> None:
    """Refuse several results, of a number of pixels each, that do not fit into memory together.

    Raises:
        SettingError: naming ``n``.
    """
    system.check_memory("n", count, _RESULT_BYTES * count * pixels if count > 1 else 0)


def check_memory(
    method: PictureMethod, pictures: Sequence[tuple[int, int]], size: tuple[int, int], count: int, settings: Settings
) -> None:
    """Refuse a number of results, or a size, that needs more memory than there is.

    Raises:
        SettingError: with the memory and with what fits.
    """
    usable = system.usable_memory()

    def needed(size: tuple[int, int], count: int = count) -> float:
        results = _RESULT_BYTES * count * size[0] * size[1]
        return max(results, method.memory(pictures, size, count, settings))

    if needed(size) <= usable:
        return
    if count > 1 and needed(size, 1) <= usable:
        system.check_memory("n", count, needed(size))
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        fitting = (int(size[0] * sqrt(middle)), int(size[1] * sqrt(middle)))
        low, high = (middle, high) if needed(fitting) <= usable else (low, middle)
    height, width = (int(side * sqrt(low)) for side in size)
    fits = f"at most some {height} x {width} pixels" if min(height, width) > 0 else "of a smaller source"
    raise SettingError(
        "size", size, f"{fits} here: {needed(size) / _GIBIBYTE:.1f} GiB of memory are needed, "
        f"{usable / _GIBIBYTE:.1f} usable"
    )  # fmt: skip
