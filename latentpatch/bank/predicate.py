"""Predicates on the attributes of sources, such as ``sex=female and birth_year<1980``.

Texts are read as tokens, checked against the grammar, and parsed by Python's own parser as a boolean expression of
comparisons of constants; nothing else can be in it, and nothing is executed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from ..errors import SettingError
from ..io.listing import normalized

__all__ = ["Predicate", "equality", "parse_predicate"]

_ORDERINGS = ("<", "<=", ">", ">=")
_OPERATORS = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
#: Kinds of tokens in each place, and these in words.
_GRAMMAR = {
    "operand": (("text", "not", "("), "the name of an attribute, 'not' or '('"),
    "operator": (("operator",), "one of = != < <= > >="),
    "value": (("text",), "a value (in quotes where it has spaces or signs)"),
    "end": (("and", "or", "end"), "'and', 'or' or the end"),
    ")": (("and", "or", ")"), "'and', 'or' or ')'"),
}
_MAX_DEPTH = 100  # parentheses and negations within each other

# Decimals are exact, as long identifiers need; a huge exponent would be refused by them.
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")
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


@dataclass(frozen=True)
class Predicate:
    """A predicate on the attributes of a source, made by :func:`parse_predicate`.

    Attributes:
        text: the text that was parsed; ``str()`` returns it, too.
        names: the attributes in it.
    """

    text: str
    names: frozenset[str]
    _tree: ast.expr = field(repr=False, compare=False)

    def __call__(self, attributes: Mapping[str, str]) -> bool:
        """Return whether attributes satisfy the predicate; missing ones count as empty."""
        return _holds(self._tree, attributes)

    def __str__(self) -> str:
        return self.text


def parse_predicate(text: str) -> Predicate:
    """Parse a predicate such as ``sex=female and (birth_year < 1980 or not hair="dark blond")``.

    Comparisons are NAME OPERATOR VALUE, with ``=`` (or ``==``), ``!=``, ``<``, ``<=``, ``>`` or
    ``>=``, combined by ``and``, which binds tighter, ``or``, ``not`` and parentheses. Names
    and values with spaces or other signs stand in single or double quotes.

    ``=`` compares numbers where both sides are numbers, otherwise text; ``!=`` is its opposite. The
    others compare numbers only. An attribute that is missing or empty equals only ``""`` and is
    neither below nor above anything.

    Raises:
        SettingError: about ``where``, with the position (from 1) of the fault and what must be there.
    """
    text = normalized(text)
    tokens = _tokens(text)
    _check_grammar(text, tokens)
    tree = ast.parse("".join(token.python for token in tokens).strip(), mode="eval").body
    names = {node.left.value for node in ast.walk(tree) if isinstance(node, ast.Compare)}  # type: ignore[attr-defined]
    return Predicate(text, frozenset(names), tree)


def equality(name: str, value: str) -> str:
    """Return the predicate that an attribute has a value; empty where their quotes leave no way to write it."""
    texts = [text if re.fullmatch(r"[\w.-]+", text) else _quoted(text) for text in (name, value)]
    return "=".join(texts) if all(texts) else ""


def _quoted(text: str) -> str:
    return next((f"{quote}{text}{quote}" for quote in "\"'" if quote not in text), "")


class _Token(NamedTuple):
    kind: str  # "text", "operator", "end", or the word or parenthesis itself
    value: str
    position: int
    python: str  # the token in Python


def _tokens(text: str) -> list[_Token]:
    tokens, start, end = [], 0, len(text.rstrip())
    while start < end:
        match = _TOKEN.match(text, start)
        if match is None:
            start = end - len(text[start:end].lstrip())
            expected = "a closing quote" if text[start] in "\"'" else "a name, value or operator"
            raise _error(text, start, expected, text[start])
        group = str(match.lastgroup)
        value, position = match[group], match.start(group) - (group in ("double", "single"))
        if group == "operator":
            tokens.append(_Token(group, value, position, "==" if value == "=" else value))
        elif group == "parenthesis" or (group == "word" and value.lower() in ("and", "or", "not")):
            tokens.append(_Token(value.lower(), value, position, f" {value.lower()} "))
        else:
            tokens.append(_Token("text", value, position, repr(value)))
        start = match.end()
    return [*tokens, _Token("end", "", end, "")]


def _check_grammar(text: str, tokens: list[_Token]) -> None:
    """Refuse tokens that are no predicate, at the first that is out of place."""
    state, sign = "operand", ""
    nesting: list[str] = []  # open parentheses, and negations of what is to come
    for kind, value, position, _ in tokens:
        kinds, expected = _GRAMMAR[state]
        if state == "operand" and len(nesting) > _MAX_DEPTH:
            raise _error(text, position, f"nesting of at most {_MAX_DEPTH} levels", value)
        if kind not in kinds:
            raise _error(text, position, expected, value)
        if kind in ("not", "("):
            nesting.append(kind)
        elif kind in ("and", "or"):
            state = "operand"
        elif kind == "operator":
            state, sign = "value", value
        elif state == "operand":
            state = "operator"
        else:  # a value or a parenthesis ends an operand, and with it the operand's negations
            if state == "value" and sign in _ORDERINGS and _number(value) is None:
                raise _error(text, position, f"a number after {sign}", value)
            if kind == ")":
                nesting.pop()
            while nesting and nesting[-1] == "not":
                nesting.pop()
            state = ")" if nesting else "end"


def _error(text: str, position: int, expected: str, found: str) -> SettingError:
    found = repr(found) if found else "nothing"
    return SettingError("where", text, f"a condition with {expected} at position {position + 1} (found {found})")


def _number(text: str) -> Decimal | None:
    return Decimal(text.strip()) if _NUMBER.fullmatch(text) else None


def _holds(node: ast.expr, attributes: Mapping[str, str]) -> bool:
    """Return the value of a parsed expression."""
    match node:
        case ast.BoolOp(ast.And(), values):
            return all(_holds(value, attributes) for value in values)
        case ast.BoolOp(ast.Or(), values):
            return any(_holds(value, attributes) for value in values)
        case ast.UnaryOp(ast.Not(), operand):
            return not _holds(operand, attributes)
        case ast.Compare(ast.Constant(str(name)), [sign], [ast.Constant(str(value))]):
            actual = attributes.get(name, "")
            left, right = _number(actual), _number(value)
            if type(sign) in _OPERATORS:
                return left is not None and right is not None and bool(_OPERATORS[type(sign)](left, right))
            is_equal = actual == value if left is None or right is None else left == right
            return is_equal == isinstance(sign, ast.Eq)
    raise TypeError(f"a predicate has no {type(node).__name__}")
