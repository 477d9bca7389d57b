"""Presets of methods on pictures: settings that go together, by name; importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ...errors import SettingError
from ...registry import PICTURE_METHODS
from ...settings import Settings
from ...validation import check_choice
from .settings import GPNNSettings, PatchDiffusionSettings
from .texture_settings import GPDM_PUBLISHED, StyleOptimizationSettings, TextureOptimizationSettings

__all__ = [
    "PICTURE_PRESETS",
    "PICTURE_PRESET_HELP",
    "changed_settings",
    "presets_of",
    "settings_named",
    "task_settings",
]

#: Settings by the name of the preset.
PICTURE_PRESETS: Mapping[str, Settings] = MappingProxyType(
    {
        "small-pieces": PatchDiffusionSettings(patch_size=3, softness=16.0, neighbors=16),
        "gpnn-original": GPNNSettings(
            alpha=0.005,
            alpha_unit="distance",
            noise=1.5,  # 0.75 in the code, whose pixels are in [0, 1]
            grey_noise=True,
            start="picture",
            square_coarsest=True,
            coarsest_iterations=10,
            blurred_keys="first",
        ),
        "gpnn-efficient": GPNNSettings(alpha=0.005, alpha_unit="squared"),
        "gpnn-published": GPNNSettings(
            patch_size=5, alpha=0.04, noise=0.86, start="picture", ratio=0.9, iterations=1, sweeps=1
        ),
        "gpdm-original": GPDM_PUBLISHED.changed(learning_rate=0.01),
        "gpdm-paper": GPDM_PUBLISHED.changed(noise=0.75),
        "kwatra": TextureOptimizationSettings(detail=1.0),
        "gutierrez": TextureOptimizationSettings(join="median", power=1.0),
        "elad-milanfar": StyleOptimizationSettings(hallucination=1.0, smoothing=3.0),
    }
)

#: One phrase about each preset.
PICTURE_PRESET_HELP: Mapping[str, str] = MappingProxyType(
    {
        "small-pieces": "patch-diffusion that copies smaller pieces, and blurs a little",
        "gpnn-original": "gpnn as a public code of its paper: a square coarsest scale, strong noise on the picture",
        "gpnn-efficient": "gpnn as the public Efficient-GPNN: an absolute alpha, blurred keys",
        "gpnn-published": "gpnn that copies as much, and leaves as much in place, as the results its authors published",
        "gpdm-original": "gpdm as its authors' code: 300 steps a scale, new directions each step; slow",
        "gpdm-paper": "gpdm as in its paper's table: faster steps from less noise; slow",
        "kwatra": "texture-optimization with all pixels compared in every iteration; slow",
        "gutierrez": "texture-optimization of power 1, joined by medians",
        "elad-milanfar": "style-optimization that paints plain regions freely, and smooths within edges",
    }
)


def presets_of(task: str) -> dict[str, Settings]:
    """Return the presets of methods that do a task."""
    names = PICTURE_METHODS.having(task)
    return {name: each for name, each in PICTURE_PRESETS.items() if PICTURE_METHODS.name_of(each) in names}


def settings_named(task: str, settings: Settings | str | None) -> Settings | None:
    """Return settings, those of a task's preset where they are its name.

    Raises:
        SettingError: for another name.
    """
    return (
        presets_of(task)[check_choice("settings", settings, presets_of(task))]
        if isinstance(settings, str)
        else settings
    )


def changed_settings(task: str, settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with some changed.

    Raises:
        SettingError, SettingTypeError: for values out of range, and for a setting that only other methods of the task
            have, with their names.
    """
    for name in changes:
        others = [each for each in PICTURE_METHODS.having(task) if hasattr(PICTURE_METHODS.settings_class(each), name)]
        if others and not hasattr(settings, name):
            text = f"absent for {PICTURE_METHODS.name_of(settings)}: it is a setting of {' and '.join(others)}"
            raise SettingError(name, changes[name], text)
    return settings.changed(**changes)


def task_settings(task: str, method: str | None = None, preset: str | None = None) -> Settings:
    """Return the settings of a preset, or the defaults of a method: the task's default method where there is neither.

    Raises:
        SettingError: for an unknown task, a method or preset that does not do it, and for both together.
    """
    base = PICTURE_METHODS.settings_class(PICTURE_METHODS.serving(task, method))()
    if preset is None:
        return base
    if method is not None:
        raise SettingError("preset", preset, "absent where method is there")
    return presets_of(task)[check_choice("preset", preset, presets_of(task))]
