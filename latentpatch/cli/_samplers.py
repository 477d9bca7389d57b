"""Presets, samplers and their declared settings as options; importing this module imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import SettingError
from ..methods.latent.presets import DEFAULT_PRESET, FEW_SOURCES, INPAINTING_SAMPLER, PRESET_HELP, PRESETS
from ..registry import SAMPLERS
from ..settings import Setting, Settings, declared
from ._parsing import OptionGroup, Parser

if TYPE_CHECKING:
    from ..model import LatentPatch

__all__ = [
    "MaskSamplerOptions",
    "RasterOptions",
    "SamplerOptions",
    "add_settings",
    "option_flag",
    "settings_of",
    "settings_rows",
]

S = TypeVar("S", bound="SamplerOptions")

_DEST = "setting_"  # before the names of settings in the parsed command line


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(OptionGroup):
    """A preset or a sampler, and changed settings of it.

    Attributes:
        preset: name of a preset.
        sampler: name of a sampler.
        changes: settings on the command line, by their present names.
    """

    has_presets: ClassVar[bool] = True

    preset: str | None = None
    sampler: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def offered(cls) -> list[str]:
        """Return the names of the samplers to choose from."""
        return list(SAMPLERS)

    @classmethod
    def add_to(cls, parser: Parser, omit: Collection[str] = ()) -> None:
        names, lines = cls.offered(), []
        if cls.has_presets:
            lines += [
                f"presets ({DEFAULT_PRESET} by default; few below {FEW_SOURCES} sources):",
                *settings_rows({name: PRESET_HELP[name] for name in PRESETS}),
            ]
        if len(names) > 1:
            lines += ["samplers:", *settings_rows({name: SAMPLERS.summary(name) for name in names})]
            section = parser.add_argument_group("how images are assembled", "\n".join(lines))
            choice = section.add_mutually_exclusive_group()
            if cls.has_presets:
                choice.add_argument("--preset", choices=tuple(PRESETS), help="a sampler with settings that go together")
            choice.add_argument("--sampler", choices=names, help=cls._sampler_help())
        add_settings(parser, SAMPLERS.settings(), names)

    @classmethod
    def _sampler_help(cls) -> str:
        return "a sampler with its default settings"

    @classmethod
    def read(cls: type[S], parsed: argparse.Namespace) -> S:
        """Return the choice that a parsed command line stands for."""
        return replace(super().read(parsed), changes=settings_of(parsed))

    @property
    def name(self) -> str | None:
        """Name of the chosen sampler; None where a fitted model or the default preset decides."""
        return self.sampler if self.preset is None else SAMPLERS.name_of(PRESETS[self.preset])

    def checked_name(self, is_fitted: bool) -> str | None:
        """Return the sampler's name; refuse settings that it does not have, or that do not go together.

        Args:
            is_fitted: whether a model file may hold other settings than the defaults.

        Returns:
            None where a model file decides.

        Raises:
            ValueError: naming a setting.
        """
        if self.preset is not None or not is_fitted:
            return SAMPLERS.name_of(self.settings())
        if self.name is not None:
            self._check_names(SAMPLERS.settings_class(self.name))
        return self.name

    def settings(self, current: Settings | None = None) -> Settings:
        """Return the settings in force.

        Args:
            current: settings of a fitted model, which hold where no preset and no other sampler is chosen.

        Raises:
            ValueError: for a setting of another sampler, and values that do not go together.
        """
        if self.preset is not None:
            base = PRESETS[self.preset]
        else:
            base = PRESETS[DEFAULT_PRESET] if current is None else current
            if self.name not in (None, SAMPLERS.name_of(base)):
                base = SAMPLERS.settings_class(str(self.name))()
        self._check_names(type(base))
        return base.changed(**self.changes)

    @property
    def is_named(self) -> bool:
        """True where a preset, a sampler or a setting is on the command line."""
        return self.preset is not None or self.sampler is not None or bool(self.changes)

    def settings_for(self, model: LatentPatch, where: str | None = None) -> Settings:
        """Return the settings in force for a model, where a predicate may choose among its sources.

        Raises:
            ValueError: for a setting of another sampler, and values that do not go together.
        """
        if not self.is_named:
            return model.settings_for(model.bank.candidates(where))
        return self.settings(model.chosen_settings)

    def _check_names(self, kind: type[Settings]) -> None:
        for name in self.changes:
            if name not in declared(kind):
                raise ValueError(self._foreign(name))

    def _foreign(self, name: str) -> str:
        """Return the refusal of a setting that the chosen sampler does not have; it names the samplers that have it."""
        owners = [sampler for sampler in SAMPLERS.settings()[name] if sampler in self.offered()]
        presets = [preset for preset, settings in PRESETS.items() if SAMPLERS.name_of(settings) in owners]
        ways = f"--sampler {'|'.join(owners)}"
        if self.has_presets and presets:
            ways += f" or --preset {'|'.join(presets)}"
        return f"{option_flag(name)} belongs to {' and '.join(owners)}: add {ways}"


@dataclass(frozen=True, kw_only=True)
class MaskSamplerOptions(SamplerOptions):
    """A sampler that fills masks, and changed settings of it."""

    has_presets = False

    @classmethod
    def offered(cls) -> list[str]:
        return sorted(SAMPLERS.having("accepts_mask"), key=lambda name: name != INPAINTING_SAMPLER)

    @classmethod
    def _sampler_help(cls) -> str:
        return f"a sampler that fills masks ({INPAINTING_SAMPLER})"

    @property
    def name(self) -> str:
        """Name of the chosen sampler."""
        return self.sampler or INPAINTING_SAMPLER


class RasterOptions(MaskSamplerOptions):
    """Settings of the raster sampler."""

    @classmethod
    def offered(cls) -> list[str]:
        return [INPAINTING_SAMPLER]


def settings_rows(rows: Mapping[str, str]) -> list[str]:
    """Return the lines of a table of names and texts."""
    width = max(map(len, rows))
    return [f"  {name:{width}}  {text}" for name, text in rows.items()]


def add_settings(parser: Parser, settings: Mapping[str, Mapping[str, Setting]], names: Sequence[str]) -> None:
    """Add the options of settings, in the sections of basic and of advanced ones.

    Args:
        parser: parser of a command.
        settings: for each setting's name its declarations by method.
        names: methods to choose from, the default first.
    """
    sections = {
        False: parser.add_argument_group("settings"),
        True: parser.add_argument_group("advanced settings"),
    }
    for name, by_method in settings.items():
        declarations = {method: each for method, each in by_method.items() if method in names}
        if declarations:
            is_advanced = all(each.is_advanced for each in declarations.values())
            _add_setting(sections[is_advanced], name, declarations, names[0])


def settings_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the settings on a parsed command line by their present names."""
    return {key.removeprefix(_DEST): value for key, value in vars(parsed).items() if key.startswith(_DEST)}


def _add_setting(section: Any, name: str, declarations: Mapping[str, Setting], default_sampler: str) -> None:
    """Add an option for a setting, and hidden ones for its former names."""
    first = next(iter(declarations.values()))
    text = f"{first.help} ({_defaults(declarations, default_sampler)})".replace("%", "%%")
    options: dict[str, Any] = {"dest": _DEST + name, "default": argparse.SUPPRESS}
    if first.types == (bool,):
        options |= {"action": argparse.BooleanOptionalAction}
    else:
        options |= {"type": _reader(declarations), "metavar": first.metavar or "VALUE"}
    section.add_argument(option_flag(name), help=text, **options)
    for former in dict.fromkeys(alias for each in declarations.values() for alias in each.aliases):
        section.add_argument(option_flag(former), help=argparse.SUPPRESS, **options)


def option_flag(name: str) -> str:
    """Return the option of a setting."""
    return f"--{name.replace('_', '-')}"


def _defaults(declarations: Mapping[str, Setting], default_sampler: str) -> str:
    """Return the defaults in words, with their samplers but for those of the default sampler."""
    samplers: dict[str, list[str]] = {}
    for sampler, each in declarations.items():
        samplers.setdefault(each.default_text, []).append(sampler)
    return "; ".join(
        text if default_sampler in names else f"{', '.join(names)}: {text}" for text, names in samplers.items()
    )


def _reader(declarations: Mapping[str, Setting]) -> Callable[[str], Any]:
    """Return a reader of values that the setting of at least one sampler accepts."""

    def read(text: str) -> Any:
        refusal = None
        for each in declarations.values():
            value = _parsed(text, each.types)
            try:
                each.check(value)
            except SettingError as error:
                refusal = error
            else:
                return value
        raise argparse.ArgumentTypeError(f"must be {refusal.constraint if refusal else ''}, got {text!r}")

    return read


def _parsed(text: str, types: tuple[type, ...]) -> Any:
    """Return a value of one of the types; the text itself where it is none."""
    readers: dict[type, Callable[[str], Any]] = {
        tuple: lambda text: tuple(int(part) for part in text.split(",")),
        int: int,
        float: float,
    }
    for kind, read in readers.items():
        if kind in types:
            with suppress(ValueError):
                return read(text)
    return text
