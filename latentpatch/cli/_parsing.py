"""Command lines declared as dataclasses: one field an option, with its type, default and help.

Parsing returns an instance; options that are not on the command line keep the field's default. Importing this module
imports no torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, TypeVar

from ..errors import printable, shorten

__all__ = [
    "OptionGroup",
    "Parser",
    "argument",
    "choice",
    "flag",
    "group",
    "integer",
    "number",
    "option",
    "output_path",
    "switch",
]

_MOST_DIGITS = 1000  # digits of an integer; Python reads some 4300

G = TypeVar("G", bound="OptionGroup")


def option(
    type: Callable[[str], Any], metavar: str | None, help: str, *flags: str, default: Any = None, **declaration: Any
) -> Any:
    """Declare an option.

    Args:
        type: reader of the value.
        metavar: placeholder of the value.
        help: one sentence without a full stop.
        flags: ``--FIELD-NAME`` is added to short flags; another long flag replaces it.
        default: value where the option is absent; the help shows numbers and text.
        declaration: ``section``, the title of a part of the help; ``exclusive``, the name of a group of options of
            which one is allowed, and needed where they are ``required``; ``former``, the values of former flags,
            which the help does not list; and arguments of :meth:`argparse.ArgumentParser.add_argument`.
    """
    if default is not None and not isinstance(default, tuple):
        help += f" ({default})"
    return _declare(flags, default, type=type, metavar=metavar, help=help, **declaration)


def choice(choices: Collection[str], help: str, default: str | None = None) -> Any:
    """Declare an option whose value is one of some names."""
    return option(str, None, help, default=default, choices=choices)


def flag(help: str, *flags: str, **declaration: Any) -> Any:
    """Declare an option without a value: False where it is absent."""
    return _declare(flags, False, action="store_true", help=help, **declaration)


def switch(help: str, **declaration: Any) -> Any:
    """Declare a pair of options, ``--NAME`` and ``--no-NAME``: None where both are absent."""
    return _declare((), None, action=argparse.BooleanOptionalAction, help=help, **declaration)


def argument(metavar: str, help: str, nargs: str | int | None = None) -> Any:
    """Declare a positional path, or several: an empty tuple where ``nargs`` is ``*`` and there are none."""
    metadata = {"argument": {"type": path, "metavar": metavar, "help": help, "nargs": nargs}}
    return field(default=(), metadata=metadata) if nargs == "*" else field(metadata=metadata)


def group(kind: type[OptionGroup], omit: Collection[str] = ()) -> Any:
    """Declare the options of another class as a part of this one's, some omitted, which keep their defaults."""
    return field(metadata={"group": kind, "omit": omit})


def _declare(flags: tuple[str, ...], default: Any, **declaration: Any) -> Any:
    if declaration.get("type") is Path:
        declaration["type"] = path
    metadata = {"option": {"flags": flags, **declaration}}
    is_needed = declaration.get("required") and "exclusive" not in declaration
    return field(metadata=metadata) if is_needed else field(default=default, metadata=metadata)


class OptionGroup:
    """Base of dataclasses whose fields :func:`option` and its kin declare.

    Attributes:
        title: section of the help for options that name none; None is the parser's own.
    """

    title: ClassVar[str | None] = None

    @classmethod
    def add_to(cls, parser: Parser, omit: Collection[str] = ()) -> None:
        """Add the options to a parser, some omitted."""
        for each in fields(cls):  # type: ignore[arg-type]  # subclasses are dataclasses
            if "group" in each.metadata:
                each.metadata["group"].add_to(parser, each.metadata["omit"])
            elif "argument" in each.metadata:
                parser.add_argument(each.name, default=argparse.SUPPRESS, **each.metadata["argument"])
            elif "option" in each.metadata and each.name not in omit:
                parser.add_option(each.name, **{"section": cls.title, **each.metadata["option"]})

    @classmethod
    def read(cls: type[G], parsed: argparse.Namespace) -> G:
        """Return the instance that a parsed command line stands for."""
        values: dict[str, Any] = {}
        for each in fields(cls):  # type: ignore[arg-type]
            if "group" in each.metadata:
                values[each.name] = each.metadata["group"].read(parsed)
            elif hasattr(parsed, each.name):
                value = getattr(parsed, each.name)
                values[each.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def check(self) -> None:
        """Refuse options that do not go together, before anything is loaded.

        Raises:
            ValueError: naming an option.
        """
        for each in fields(self):  # type: ignore[arg-type]
            if "group" in each.metadata:
                getattr(self, each.name).check()


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line, and whose help keeps the lines of descriptions."""

    def __init__(self, **arguments: Any) -> None:
        # An abbreviation would change its meaning with the next option.
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **arguments)
        self._sections: dict[Any, Any] = {None: self}

    def add_option(
        self,
        name: str,
        flags: tuple[str, ...],
        section: str | None,
        exclusive: str | None = None,
        former: Mapping[str, Any] = MappingProxyType({}),
        **arguments: Any,
    ) -> None:
        """Add an option to a section of the help, and to a group of mutually exclusive options."""
        if section not in self._sections:
            self._sections[section] = self.add_argument_group(section)
        target = self._sections[section]
        if exclusive is not None:
            required = arguments.pop("required", False)
            if exclusive not in self._sections:
                self._sections[exclusive] = target.add_mutually_exclusive_group(required=required)
            target = self._sections[exclusive]
        if len(name) > 1 and not any(each.startswith("--") for each in flags):
            flags = (*flags, f"--{name.replace('_', '-')}")
        arguments |= {"dest": name, "default": argparse.SUPPRESS}
        target.add_argument(*flags or (f"-{name}",), **arguments)
        hidden: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        for each, value in former.items():
            target.add_argument(each, action="store_const", const=value, **hidden)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"latentpatch: error: {printable(message)} (see {self.prog} --help)\n")


def path(text: str) -> Path:
    """Read a path; an empty text is none, though it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(text)


def output_path(text: str) -> Path:
    """Read a path to write to; what is left of ``$FOLDER/`` where the variable is not set is the root folder."""
    if text and not text.strip("/"):
        raise argparse.ArgumentTypeError(f"must be another place than the root folder, got {text}")
    return path(text)


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a reader of integers of at least ``minimum``, which is not negative, and at most ``maximum``."""
    constraint = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def read(text: str) -> int:
        value = int(text) if text.isdecimal() and len(text) < _MOST_DIGITS else -1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"must be an integer {constraint}, got {shorten(text)}")
        return value

    return read


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return a reader of numbers in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"must be a number from {minimum:g} to {maximum:g}, got {text!r}")
        return value

    return read
