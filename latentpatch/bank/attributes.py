"""What is known about each picture: tables of attributes, and conditions on them."""

from __future__ import annotations

import csv
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError

__all__ = ["Predicate", "parse_predicate", "read_attributes"]

_PATH_COLUMNS = ("file", "filename", "image", "path")


def read_attributes(path: str | Path) -> dict[str, dict[str, str]]:
    """Attributes by picture, from a CSV file with a header, in UTF-8.

    Args:
        path: the file. Column ``id`` names the picture; without one, the stem of the path in column
            ``file``, ``filename``, ``image`` or ``path`` does, else that in the first column.

    Returns:
        For each picture its row, all columns by name; empty values are ``""``. Space around names
        of columns and before values is dropped.

    Raises:
        FileError: where the file is unreadable, empty, not UTF-8, without rows, has rows of another
            length than the header, or names a column or a picture twice or not at all.
    """
    path = Path(path)
    header: list[str] | None = None
    rows: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            for values in reader:
                if not values:
                    continue
                if header is None:
                    header = _checked_header(values, path)
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(values) != len(header):
                    raise FileError(f"{where}: {len(values)} values; {len(header)} are expected, as in the header")
                row = dict(zip(header, values, strict=True))
                key = _key(row)
                if not key:
                    raise FileError(f"{where}: names no picture")
                if key in rows:
                    raise FileError(
                        f"{where}: {key!r} again, first in line {lines[key]}; one row a picture is expected"
                    )
                rows[key], lines[key] = row, reader.line_num
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 ({error.reason}); a CSV file in UTF-8 is expected") from error
    except csv.Error as error:
        raise FileError(f"{path}, line {reader.line_num if reader else 1}: not readable as CSV: {error}") from error
    if header is None:
        raise FileError(f"{path}: empty; a CSV file with a header is expected")
    if not rows:
        raise FileError(f"{path}: only a header; one row a picture is expected")
    return rows


def _checked_header(values: list[str], path: Path) -> list[str]:
    header = [value.strip() for value in values]
    for name in header:
        if header.count(name) > 1:
            raise FileError(f"{path}: column {name!r} comes twice in the header; every name once is expected")
    return header


def _key(row: dict[str, str]) -> str:
    if "id" in row:
        return row["id"]
    column = next((name for name in _PATH_COLUMNS if name in row), next(iter(row)))
    return Path(row[column]).stem


# --- Conditions --------------------------------------------------------------------------------

_Condition = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True)
class Predicate:
    """A condition on the attributes of a picture, made by :func:`parse_predicate`.

    Attributes:
        text: what was parsed; ``str()`` gives it too.
        names: the attributes it asks for.
    """

    text: str
    names: frozenset[str]
    _condition: _Condition = field(repr=False)

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        """Whether it holds for attributes; those missing count as empty."""
        return self._condition(attributes)

    def __str__(self) -> str:
        return self.text


def parse_predicate(text: str) -> Predicate:
    """Parse a condition such as ``sex=female and (birth_year < 1980 or not hair="dark blond")``.

    Comparisons are NAME OPERATOR VALUE, with ``=`` (or ``==``), ``!=``, ``<``, ``<=``, ``>`` or
    ``>=``; they are joined by ``and``, which binds tighter, ``or``, ``not`` and parentheses. Names
    and values with spaces or other signs stand in single or double quotes.

    ``=`` compares numbers where both sides are numbers, otherwise text; ``!=`` is its opposite. The
    others compare numbers only. An attribute that is missing or empty equals only ``""`` and is
    neither below nor above anything.

    Raises:
        ValueError: naming the text, the position (from 1) and what was expected there.
    """
    parser = _Parser(text)
    condition = parser.any_of(0)
    parser.expect("end", "'and', 'or' or the end")
    return Predicate(text, frozenset(parser.names), condition)


_ORDERINGS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

# Decimals are exact, as long identifiers need; a huge exponent would be refused by them.
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")


def _number(text: str) -> Decimal | None:
    return Decimal(text.strip()) if _NUMBER.fullmatch(text) else None


# Classes rather than closures, so that predicates can be compared and sent to other processes.


@dataclass(frozen=True)
class _Comparison:
    name: str
    operator: str
    value: str

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        actual = attributes.get(self.name, "")
        left, right = _number(actual), _number(self.value)
        numeric = left is not None and right is not None
        if self.operator in _ORDERINGS:
            return numeric and _ORDERINGS[self.operator](left, right)  # type: ignore[arg-type]
        equal = left == right if numeric else actual == self.value
        return equal if self.operator == "=" else not equal


@dataclass(frozen=True)
class _Not:
    condition: _Condition

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        return not self.condition(attributes)


@dataclass(frozen=True)
class _All:
    conditions: tuple[_Condition, ...]

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        return all(condition(attributes) for condition in self.conditions)


@dataclass(frozen=True)
class _Any:
    conditions: tuple[_Condition, ...]

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        return any(condition(attributes) for condition in self.conditions)


class _Token(NamedTuple):
    kind: str  # "text", "operator", "end", or the word or parenthesis itself
    value: str
    position: int


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<operator> [=!<>]= | [=<>] )
      | (?P<parenthesis> [()] )
      | "(?P<double> [^"]* )"
      | '(?P<single> [^']* )'
      | (?P<word> [^\s()=!<>"']+ )
    )""",
    re.VERBOSE,
)
_MAX_DEPTH = 100


class _Parser:
    """Recursive descent; each method parses what its name says and leaves the cursor after it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        self.tokens = self._tokens()
        self.cursor = 0

    def _tokens(self) -> list[_Token]:
        tokens, end = [], len(self.text.rstrip())
        start = 0
        while start < end:
            match = _TOKEN.match(self.text, start)
            if match is None:
                start = end - len(self.text[start:end].lstrip())
                sign = self.text[start]
                closing = "a closing quote" if sign in "\"'" else "a name, value or operator"
                raise self._error(start, closing, sign)
            kind, value = str(match.lastgroup), str(match[str(match.lastgroup)])
            if kind == "parenthesis":
                kind = value
            elif kind == "word" and value.lower() in ("and", "or", "not"):
                kind = value.lower()
            elif kind != "operator":
                kind = "text"
            quoted = match.lastgroup in ("double", "single")
            tokens.append(_Token(kind, value, match.start(str(match.lastgroup)) - quoted))
            start = match.end()
        return [*tokens, _Token("end", "", end)]

    def _error(self, position: int, expected: str, found: str) -> ValueError:
        found = repr(found) if found else "nothing"
        return ValueError(f"condition {self.text!r}, position {position + 1}: {expected} is expected, found {found}")

    def take(self, kind: str) -> _Token | None:
        token = self.tokens[self.cursor]
        if token.kind != kind:
            return None
        self.cursor += 1
        return token

    def expect(self, kind: str, expected: str) -> _Token:
        token = self.take(kind)
        if token is None:
            wrong = self.tokens[self.cursor]
            raise self._error(wrong.position, expected, wrong.value)
        return token

    def any_of(self, depth: int) -> _Condition:
        conditions = [self.all_of(depth)]
        while self.take("or"):
            conditions.append(self.all_of(depth))
        return conditions[0] if len(conditions) == 1 else _Any(tuple(conditions))

    def all_of(self, depth: int) -> _Condition:
        conditions = [self.condition(depth)]
        while self.take("and"):
            conditions.append(self.condition(depth))
        return conditions[0] if len(conditions) == 1 else _All(tuple(conditions))

    def condition(self, depth: int) -> _Condition:
        if depth > _MAX_DEPTH:
            token = self.tokens[self.cursor]
            raise self._error(token.position, f"nesting of at most {_MAX_DEPTH} levels", token.value)
        if self.take("not"):
            return _Not(self.condition(depth + 1))
        if self.take("("):
            inside = self.any_of(depth + 1)
            self.expect(")", "'and', 'or' or ')'")
            return inside
        return self.comparison()

    def comparison(self) -> _Comparison:
        name = self.expect("text", "the name of an attribute, 'not' or '('").value
        sign = self.expect("operator", "one of = != < <= > >=").value
        value = self.expect("text", "a value (in quotes where it has spaces or signs)")
        if sign in _ORDERINGS and _number(value.value) is None:
            raise self._error(value.position, f"a number after {sign}", value.value)
        self.names.add(name)
        return _Comparison(name, "=" if sign == "==" else sign, value.value)
