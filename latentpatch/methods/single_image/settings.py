"""Settings of the methods on pictures; importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting

__all__ = ["GPNNSettings"]


@dataclass(frozen=True)
class GPNNSettings(Settings):
    """Settings of GPNN (Granot et al., CVPR 2022)."""

    patch_size: int = setting(7, "side of the patches, in pixels", minimum=3, maximum=33, symbol="p")
    alpha: float | None = setting(
        0.005,
        "how far a patch that is the nearest one of no other is preferred; lower values use more of the picture",
        above=0,
        symbol="alpha",
    )
    noise: float = setting(
        0.75, "standard deviation of the noise in the coarsest picture, in half ranges of the pixels", minimum=0,
        maximum=100, symbol="sigma",
    )  # fmt: skip
    ratio: float = setting(
        0.75, "size of a scale relative to the next finer one", minimum=0.3, maximum=0.95, symbol="1/r"
    )
    coarsest: int = setting(14, "shorter side of the coarsest scale, in pixels", minimum=4, limit=256)
    iterations: int = setting(10, "searches at a scale", minimum=1, limit=50, symbol="T")
    coarsest_iterations: int = setting(1, "searches at the coarsest scale; more copy more", minimum=1, limit=50)
