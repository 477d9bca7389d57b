"""Settings declared once: default, range, help and symbol stand on the dataclass field.

:func:`setting` declares a field. From the declaration come the checks (:class:`Settings`), the options of the command
line, the fields and ranges of HTTP requests, and the tables of the documentation
(``python -m latentpatch.settings`` prints these). Importing this module imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import SettingError, SettingTypeError
from .validation import plain

__all__ = ["Setting", "Settings", "aliases_of", "check_limits", "declared", "setting", "settings_table"]

S = TypeVar("S", bound="Settings")

# Magnitudes of float32, in which methods compute, and the largest of integers.
_LEAST, _MOST, _MOST_INTEGER = 2.0**-126, 2.0**128 - 2.0**104, 2**63 - 1


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting.

    Attributes:
        name: of the field; :func:`declared` fills it in, as it does ``default``, ``types`` and ``is_optional``.
        default: value where none is given.
        types: accepted types: of ``int``, ``float``, ``bool``, ``str``, or ``tuple`` for a tuple of integers.
        is_optional: whether None is accepted, which leaves the value to the sampler.
        help: one sentence without a full stop, in the imperative or a noun phrase.
        minimum, maximum: bounds, both included; None for no bound. They hold for each element of a tuple.
        above: lower bound that is not included.
        choices: the accepted texts; empty for any.
        limit: largest value accepted from outside: in requests, in the metadata of pictures, in model files.
        limited_by: ``grid`` or ``sources``, where no value above the grid's shorter side or their number is of use.
        symbol: in the sampler's paper.
        default_help: the default in words, where the sampler decides it.
        metavar: placeholder on the command line.
        is_advanced: whether the command line lists it under the advanced settings.
        aliases: former names, which stay valid.
        before: value in force in records that were written before there was this setting; None for the default.
    """

    name: str = ""
    default: Any = None
    types: tuple[type, ...] = ()
    is_optional: bool = False
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    limit: float | None = None
    limited_by: str | None = None
    symbol: str | None = None
    default_help: str | None = None
    metavar: str | None = None
    is_advanced: bool = False
    aliases: tuple[str, ...] = ()
    before: Any = None

    @property
    def range_text(self) -> str:
        """The accepted values in words, such as "from 1 to 16" or "above 0 and at most 1"."""
        if self.types == (bool,):
            return "True or False"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        parts = []
        if self.minimum is not None and self.maximum is not None:
            parts.append(f"from {self.minimum:g} to {self.maximum:g}")
        elif self.minimum is not None:
            parts.append(f"at least {self.minimum:g}")
        elif self.above is not None:
            parts.append(f"above {self.above:g}" + ("" if self.maximum is None else f" and at most {self.maximum:g}"))
        elif self.maximum is not None:
            parts.append(f"at most {self.maximum:g}")
        if float in self.types and int not in self.types and not parts:
            parts.append("a finite number")
        return " ".join(parts) or "a " + " or ".join(kind.__name__ for kind in self.types)

    @property
    def default_text(self) -> str:
        """The default as documentation shows it."""
        if self.default_help is not None:
            return self.default_help
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def check(self, value: Any, *, name: str | None = None) -> None:
        """Refuse a value of another type or out of range.

        Raises:
            SettingTypeError, SettingError: with the setting's name and its range.
        """
        name = name or self.name
        if value is None and self.is_optional:
            return
        if tuple in self.types:
            if not isinstance(value, tuple) or not value:
                raise SettingTypeError(name, value, "one integer or several")
            for element in value:
                replace(self, types=(int,)).check(element, name=name)
            return
        if isinstance(value, bool) != (self.types == (bool,)):
            raise SettingTypeError(name, value, self._type_text)
        # An integer is a number; a floating-point number is no integer.
        accepted = (*self.types, int) if float in self.types else self.types
        if not isinstance(value, accepted):
            raise SettingTypeError(name, value, self._type_text)
        if self.choices and value not in self.choices:
            raise SettingError(name, value, self.range_text)
        if isinstance(value, (int, float)) and not self.has(value):
            is_odd = not 0 <= value <= 0 and not _LEAST <= abs(value) <= _MOST_INTEGER
            held = f", as {'int64' if isinstance(value, int) else 'float32'} can hold it" if is_odd else ""
            raise SettingError(name, value, self.range_text + held)

    def has(self, value: float) -> bool:
        """Return whether a number is within the bounds, and one that float32 or int64 can hold (NaN is none)."""
        return (
            (value == 0 or _LEAST <= abs(value) <= (_MOST_INTEGER if isinstance(value, int) else _MOST))
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
        )

    @property
    def _type_text(self) -> str:
        names = {bool: "True or False", int: "an integer", float: "a number", str: "text"}
        return "a number" if float in self.types else " or ".join(names[kind] for kind in self.types)


def setting(default: Any, help: str, **declaration: Any) -> Any:
    """Declare a field of a :class:`Settings` class.

    Args:
        default: value where none is given; None leaves it to the sampler.
        help: one sentence without a full stop.
        declaration: further attributes of :class:`Setting`.
    """
    return field(default=default, metadata={"setting": Setting(help=help, **declaration)})


@cache
def declared(kind: type[Settings]) -> dict[str, Setting]:
    """Return the declarations of a settings class by name, in order."""
    hints = get_type_hints(kind)
    found = {}
    for each in fields(kind):  # type: ignore[arg-type]  # subclasses are dataclasses
        if "setting" not in each.metadata:
            continue
        types = tuple(_plain_types(hints[each.name]))
        default = None if each.default is MISSING else each.default
        found[each.name] = replace(
            each.metadata["setting"],
            name=each.name,
            default=default,
            types=tuple(t for t in types if t is not NoneType),
            is_optional=NoneType in types,
        )
    return found


def _plain_types(hint: Any) -> list[type]:
    """Return the members of a union, a tuple of integers as ``tuple``."""
    if get_origin(hint) in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _plain_types(part)]
    return [get_origin(hint) or hint]


@cache
def aliases_of(kind: type[Settings]) -> dict[str, str]:
    """Return the present name of each former name of a settings class."""
    return {old: name for name, each in declared(kind).items() for old in each.aliases}


class _AcceptsAliases(type):
    """Metaclass of :class:`Settings`: the constructor takes former names of settings, too."""

    if not TYPE_CHECKING:  # so that type checkers see the dataclass' own signature

        def __call__(cls, *args, **kwargs):
            return super().__call__(*args, **cls.renamed(kwargs))


class Settings(metaclass=_AcceptsAliases):
    """Base of the settings of methods; subclasses are frozen dataclasses whose fields :func:`setting` declares.

    The constructor checks every declaration and then :meth:`check_together`. Former names of settings are accepted as
    keyword arguments and can be read as attributes.
    """

    def __post_init__(self) -> None:
        for name, each in declared(type(self)).items():
            value = given = plain(getattr(self, name))
            if tuple in each.types and isinstance(value, (list, tuple)):  # JSON has lists
                value = tuple(plain(element) for element in given)
            object.__setattr__(self, name, value)
            each.check(value)
        self.check_together()

    def check_together(self) -> None:
        """Refuse values that do not go together.

        Raises:
            SettingError: naming one of them.
        """

    @classmethod
    def renamed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return keyword arguments with former names replaced.

        Raises:
            SettingError: for a setting that is there under two names.
        """
        aliases, result = aliases_of(cls), {}
        for key, value in values.items():
            name = aliases.get(key, key)
            if name in result:
                raise SettingError(name, value, f"given once: {key} is its former name")
            result[name] = value
        return result

    def changed(self: S, **changes: Any) -> S:
        """Return these settings with some values changed, by present or former names.

        Raises:
            SettingError: for a name that is none of theirs.
        """
        return replace(self, **self.checked_names(changes))  # type: ignore[type-var]

    @classmethod
    def checked_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by present names.

        Raises:
            SettingError: for a name that is no setting of this class, or a setting that is there under two names.
        """
        values, names = cls.renamed(values), declared(cls)
        for name in sorted(set(values) - set(names)):
            raise SettingError("settings", name, f"one of {', '.join(names)}" if names else "absent")
        return values

    def record(self) -> dict[str, Any]:
        """Return the values by name, as JSON holds them."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def __getattr__(self, name: str) -> Any:
        present = None if name.startswith("_") else aliases_of(type(self)).get(name)
        if present is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self, present)


def check_limits(settings: Settings) -> None:
    """Refuse settings from outside, of a picture or a model file, that are beyond their limits.

    Raises:
        SettingError: naming a setting that would cost without bound.
    """
    for name, each in declared(type(settings)).items():
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if each.limit is not None and any(number is not None and number > each.limit for number in numbers):
            raise SettingError(name, value, f"at most {each.limit:g}")


def settings_table(kind: type[Settings]) -> str:
    """Return a Markdown table of a settings class: option, symbol, default, range, meaning."""
    rows = ["| setting | paper | default | values | meaning |", "|---|---|---|---|---|"]
    for name, each in declared(kind).items():
        option = f"`--{name.replace('_', '-')}`"
        former = "".join(f", formerly `{old}`" for old in each.aliases)
        rows.append(
            f"| {option} | {each.symbol or ''} | {each.default_text} | {each.range_text} | {each.help}{former} |"
        )
    return "\n".join(rows)


def main() -> int:
    """Print the tables of all methods' settings, as docs/settings.md holds them."""
    from .methods.inversion.settings import InversionSettings
    from .registry import PICTURE_METHODS, SAMPLERS

    for noun, registry in (("Sampler", SAMPLERS), ("Method", PICTURE_METHODS)):
        for name in registry:
            kind = registry.settings_class(name)
            text = settings_table(kind) if declared(kind) else "No settings."
            print(f"## {noun} `{name}`\n\n{registry.summary(name)}\n\n{text}\n")
    print(f"## Inversion\n\nSearches the inputs of a generator for a picture.\n\n{settings_table(InversionSettings)}\n")
    return 0


if __name__ == "__main__":
    from latentpatch.settings import main as print_tables

    sys.exit(print_tables())
