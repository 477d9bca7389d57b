"""The registry of samplers, by the name users give them.

Built-in samplers are declared here with their settings, and their modules are imported at first use: the command line
lists samplers and settings without importing torch. :func:`latentpatch.methods.base.register` adds others.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import SettingError, SettingTypeError
from .methods.latent.settings import (
    DiffusionSettings,
    RandomCellsSettings,
    RandomPatchesSettings,
    RasterSettings,
    ResynthesisSettings,
)
from .settings import Setting, Settings, declared
from .validation import check_choice

if TYPE_CHECKING:
    from .methods.base import Sampler

__all__ = [
    "FLAGS",
    "PLUGINS",
    "SAMPLERS",
    "SamplerRegistry",
    "import_plugins",
    "settings_from_record",
    "settings_record",
]

#: Flags of the sampler contract that the registry knows without importing a sampler.
FLAGS = ("accepts_reference", "accepts_mask", "is_shardable", "is_exportable")


@dataclass(frozen=True)
class _Entry:
    """A declared sampler: its settings, and its class or where that is ("MODULE:CLASS")."""

    settings_class: type[Settings]
    summary: str
    target: str | Sampler
    flags: frozenset[str] = frozenset()


class SamplerRegistry(Mapping[str, "Sampler"]):
    """Samplers by name; reading one imports its module."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def declare(
        self,
        name: str,
        settings_class: type[Settings],
        summary: str,
        target: str | Sampler,
        flags: Collection[str] = (),
    ) -> None:
        """Enter a sampler.

        Args:
            name: for users.
            settings_class: its settings; each sampler has a class of its own.
            summary: one sentence.
            target: the sampler, or "MODULE:CLASS" relative to this package.
            flags: of :data:`FLAGS`, those that are true of the sampler.

        Raises:
            ValueError: for a name or a settings class that another sampler has.
        """
        for other, entry in self._entries.items():
            if other == name or entry.settings_class is settings_class:
                raise ValueError(f"sampler {name!r}: its name or settings class is that of {other!r}")
        self._entries[name] = _Entry(settings_class, summary, target, frozenset(flags))

    def remove(self, name: str) -> None:
        """Take a sampler out again."""
        del self._entries[name]

    def __getitem__(self, name: str) -> Sampler:
        entry = self._entries[name]
        if isinstance(entry.target, str):
            module, _, attribute = entry.target.partition(":")
            sampler: Sampler = getattr(importlib.import_module(module, __package__), attribute)()
            self._entries[name] = replace(entry, target=sampler)
            return sampler
        return entry.target

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def named(self, name: str) -> Sampler:
        """Return the sampler of a name that users gave.

        Raises:
            SettingError: for an unknown name.
        """
        return self[check_choice("sampler", name, self)]

    def settings_class(self, name: str) -> type[Settings]:
        """Return the settings class of a sampler, without importing the sampler."""
        return self._entries[check_choice("sampler", name, self)].settings_class

    def having(self, flag: str) -> list[str]:
        """Return the names of the samplers of which a flag is true, without importing them."""
        return [name for name, entry in self._entries.items() if flag in entry.flags]

    def summary(self, name: str) -> str:
        """Return one sentence about a sampler."""
        return self._entries[name].summary

    def name_of(self, settings: Settings) -> str:
        """Return the name of the sampler that settings belong to.

        Raises:
            SettingTypeError: for settings of no registered sampler.
        """
        for name, entry in self._entries.items():
            if type(settings) is entry.settings_class:
                return name
        raise SettingTypeError("settings", type(settings).__name__, f"settings of one of {', '.join(self)}")

    def of(self, settings: Settings) -> Sampler:
        """Return the sampler that settings belong to."""
        return self[self.name_of(settings)]

    def settings(self) -> dict[str, dict[str, Setting]]:
        """Return every setting of every sampler: for each setting's name its declarations by sampler."""
        found: dict[str, dict[str, Setting]] = {}
        for sampler, entry in self._entries.items():
            for name, each in declared(entry.settings_class).items():
                found.setdefault(name, {})[sampler] = each
        return found


#: Samplers by the name users give them.
SAMPLERS = SamplerRegistry()
SAMPLERS.declare(
    "resynthesis",
    ResynthesisSettings,
    "Rebuilds a randomly drawn source, or a reference, from patches of the other sources.",
    ".methods.latent.resynthesis:Resynthesis",
    ("accepts_reference", "is_exportable"),
)
SAMPLERS.declare(
    "diffusion",
    DiffusionSettings,
    "Denoises Gaussian noise, or a noised reference, in closed form by the patches of the sources.",
    ".methods.latent.patch_diffusion:PatchDiffusion",
    ("accepts_reference", "accepts_mask"),
)
SAMPLERS.declare(
    "raster",
    RasterSettings,
    "Grows an image block by block, coarse to fine, in raster order: the sampler of the LatentPatch paper.",
    ".methods.latent.raster:Raster",
    ("accepts_reference", "accepts_mask", "is_shardable", "is_exportable"),
)
SAMPLERS.declare(
    "random-cells",
    RandomCellsSettings,
    "Draws the source of every cell uniformly: a baseline of the paper (figure 1 a).",
    ".methods.latent.random_tiles:RandomCells",
    ("is_shardable",),
)
SAMPLERS.declare(
    "random-patches",
    RandomPatchesSettings,
    "Draws the source of every patch uniformly: a baseline of the paper (figure 1 b).",
    ".methods.latent.random_tiles:RandomPatches",
    ("is_shardable",),
)


#: Environment variable that names modules with samplers of one's own, separated by commas.
PLUGINS = "LATENTPATCH_PLUGINS"


def import_plugins() -> None:
    """Import the modules that :data:`PLUGINS` names, whose samplers register themselves.

    The command line and the servers call this once at their start.

    Raises:
        SettingError: naming the first module that cannot be imported.
    """
    for name in filter(None, (part.strip() for part in os.environ.get(PLUGINS, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingError(PLUGINS, name, f"modules that can be imported ({error})") from error


def settings_record(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON holds them, with the name of their sampler."""
    return {"sampler": SAMPLERS.name_of(settings), **settings.record()}


def settings_from_record(record: Mapping[str, Any]) -> Settings:
    """Return the settings of a record; the raster sampler's where it names no sampler, as old files do.

    Raises:
        TypeError, ValueError: where they are not settings of a sampler.
    """
    kind = SAMPLERS.settings_class(record.get("sampler", "raster"))
    before = {name: each.before for name, each in declared(kind).items() if each.before is not None}
    values = {name: value for name, value in before.items() if name not in record}
    values |= {key: value for key, value in record.items() if key != "sampler" and value is not None}
    return kind(**values)
