"""The settings of calls that name none, as a part of :class:`~latentpatch.LatentPatch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .errors import SettingTypeError
from .methods.base import Context, Sampler
from .methods.latent.presets import DEFAULT_PRESET, FEW_GRID, PRESETS, default_settings, settings_named
from .registry import SAMPLERS
from .settings import Settings

__all__ = ["DefaultSettings"]


class DefaultSettings:
    """Settings that hold where a call names none.

    Attributes:
        chosen_settings: those that a user chose; None where they follow from the number of sources.
    """

    chosen_settings: Settings | None
    context: Callable[[Tensor | None], Context]

    @property
    def settings(self) -> Settings:
        """The settings of calls that name none."""
        return self.settings_for(None)

    @settings.setter
    def settings(self, settings: Settings | str | None) -> None:
        self.chosen_settings = settings_named(settings)

    def settings_for(self, candidates: Tensor | None) -> Settings:
        """Return the settings of calls that name none, where only some candidates of the bank give patches.

        Where there are few, on a grid that large blocks can fill, these are the settings of ``few``.
        """
        if self.chosen_settings is not None:
            return self.chosen_settings
        context = self.context(candidates)
        return default_settings(context.num_sources if min(context.grid) >= FEW_GRID else 0)

    def sampler_and_settings(
        self, name: str | None, settings: Settings | str | None, candidates: Tensor | None = None
    ) -> tuple[Sampler, Settings]:
        """Return a sampler and settings of it.

        Args:
            name: of the sampler; by default the one that the settings are for.
            settings: or the name of a preset; by default those of :meth:`settings_for`; with a name, the chosen ones
                where they are of that sampler, else the sampler's defaults.
            candidates: positions in the bank that may give patches; None for all.

        Raises:
            SettingError: for an unknown sampler, or settings of another one.
        """
        settings = settings_named(settings)
        if settings is None:
            settings = self.settings_for(candidates) if name is None else self.with_settings(name)
        method = SAMPLERS.of(settings) if name is None else SAMPLERS.named(name)
        if not isinstance(settings, method.Settings):
            raise SettingTypeError("settings", settings, f"{method.Settings.__name__} for the sampler {method.name!r}")
        return method, settings

    def with_settings(self, sampler: str | None = None, **changes: Any) -> Settings:
        """Return the chosen settings, else those of the default preset, with some changed.

        Args:
            sampler: its name; where these settings are not for it, its defaults take their place.
            changes: by name.

        Raises:
            SettingError: for an unknown sampler or setting, or a setting out of range.
        """
        base = self.chosen_settings or PRESETS[DEFAULT_PRESET]
        kind = type(base) if sampler is None else SAMPLERS.settings_class(SAMPLERS.named(sampler).name)
        return (base if isinstance(base, kind) else kind()).changed(**changes)
