"""Presets of methods on pictures: settings that go together, by name; importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...settings import Settings
from .settings import GPNNSettings

__all__ = ["PICTURE_PRESETS", "PICTURE_PRESET_HELP"]

#: Settings by the name of the preset.
PICTURE_PRESETS: Mapping[str, Settings] = MappingProxyType(
    {
        "gpnn-original": GPNNSettings(
            alpha=0.005,
            alpha_unit="distance",
            grey_noise=True,
            start="picture",
            square_coarsest=True,
            coarsest_iterations=10,
            blurred_keys="first",
        ),
        "gpnn-efficient": GPNNSettings(alpha=0.005, alpha_unit="squared"),
    }
)

#: One phrase about each preset.
PICTURE_PRESET_HELP: Mapping[str, str] = MappingProxyType(
    {
        "gpnn-original": "gpnn as its authors' code: a square coarsest scale, noise on the picture; copies most",
        "gpnn-efficient": "gpnn as the public Efficient-GPNN: an absolute alpha, blurred keys",
    }
)
