"""Presets: settings by the name of what they are good for; importing this module imports no torch."""

from __future__ import annotations

from ...errors import SettingTypeError
from ...settings import Settings
from ...validation import check_choice
from .settings import FEW_SOURCES, RasterSettings, ResynthesisSettings

__all__ = [
    "DEFAULT_PRESET",
    "FEWEST_SOURCES",
    "FEW_GRID",
    "FEW_SOURCES",
    "INPAINTING_SAMPLER",
    "PRESETS",
    "PRESET_HELP",
    "default_settings",
    "settings_named",
]

_FEW = ResynthesisSettings(
    patch_size=10 / 16,
    stride=4 / 16,
    neighbors=3,
    max_share=0.36,
    start_candidates=1,
    allow_start_as_donor=True,
    donors=6,
    bands=2,
)

#: Settings by name: from nearest to one source to farthest, then for few sources, then the paper's. Sizes are shares
#: of the grid's shorter side, so that a patch covers the same part of a picture of any size.
PRESETS: dict[str, Settings] = {
    "faithful": ResynthesisSettings(allow_start_as_donor=True),
    "balanced": ResynthesisSettings(),
    "diverse": ResynthesisSettings(max_share=0.1),
    "few": _FEW,
    "few-faithful": _FEW.changed(max_share=0.375),
    "paper": RasterSettings(),
}
DEFAULT_PRESET = "balanced"

#: Sources, and cells of the grid's shorter side, that the preset ``few`` needs at least. Below :data:`FEW_SOURCES` it
#: is the default: with others, pictures repeat themselves.
FEWEST_SOURCES, FEW_GRID = 6, 16

#: Sampler that fills masks where none is named.
INPAINTING_SAMPLER = "raster"

#: One sentence a preset, for help and documentation.
PRESET_HELP = {
    "faithful": "like balanced, but the start source may give up to a quarter of an image; closest to one source",
    "balanced": "rebuild a random source from patches of a random half of the others, at most 30 % from any one",
    "diverse": "like balanced, but at most 10 % from any one source",
    "few": "for some sixteen sources: each image is made of six of them, in large pieces, at most 36 % from any one",
    "few-faithful": "like few, but at most 37.5 % from any one source: closer to the sources, and to people in them",
    "paper": "the multi-scale raster sampler of the paper",
}


def default_settings(num_sources: int) -> Settings:
    """Return the settings of images where none are chosen: those of the preset ``few`` for few sources.

    Fewer than six cannot keep the cap of ``few``: for them the caps of the other presets follow from their number.

    Args:
        num_sources: sources that may give patches, a group as one; 0 where they are not known.
    """
    return PRESETS["few" if FEWEST_SOURCES <= num_sources < FEW_SOURCES else DEFAULT_PRESET]


def settings_named(settings: Settings | str | None) -> Settings | None:
    """Return settings, those of a preset where they are its name.

    Raises:
        SettingError, SettingTypeError: for another name, or what is no settings.
    """
    if isinstance(settings, str):
        return PRESETS[check_choice("settings", settings, PRESETS)]
    if not isinstance(settings, Settings | None):
        wanted = f"settings of a sampler, such as PRESETS['few'].changed(max_share=0.3), or one of {', '.join(PRESETS)}"
        raise SettingTypeError("settings", settings, wanted)
    return settings
