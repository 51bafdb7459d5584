"""The part of Milvus's filter language that our own code writes: parsed by hand, evaluated over plain rows."""

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

Predicate = Callable[[Mapping[str, Any]], bool]
Value = Callable[[Mapping[str, Any]], Any]

MISSING = object()

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<symbol>==|!=|<=|>=|&&|\|\||<|>|\(|\)|\[|\]|,)
      | (?P<name>\$?[A-Za-z_][A-Za-z0-9_]*)
    )""",
    re.VERBOSE,
)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONSTANTS = {"true": True, "false": False}


def parse(expression: str) -> Predicate:
    """The predicate of a filter expression; ValueError where it cannot be read. Empty: every row."""
    if not expression.strip():
        return lambda row: True
    parser = _Parser(expression)
    predicate = parser.disjunction()
    parser.expect_end()
    return predicate


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"cannot parse expression at character {at}: {text[at : at + 40]!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _accept(self, *texts: str) -> bool:
        kind, text = self._peek()
        if kind in ("symbol", "name") and text in texts:
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise ValueError(f"cannot parse expression: {text!r} expected before {self._peek()[1]!r}")

    def expect_end(self) -> None:
        if self._peek()[0] != "end":
            raise ValueError(f"cannot parse expression: {self._peek()[1]!r} is left over")

    def disjunction(self) -> Predicate:
        left = self._conjunction()
        while self._accept("or", "||"):
            left = _either(left, self._conjunction())
        return left

    def _conjunction(self) -> Predicate:
        left = self._term()
        while self._accept("and", "&&"):
            left = _both(left, self._term())
        return left

    def _term(self) -> Predicate:
        if self._accept("not"):
            return _negation(self._term())
        if self._accept("("):
            inner = self.disjunction()
            self._expect(")")
            return inner
        if self._accept("exists"):
            bracketed = self._accept("(")
            value = self._reference()
            if bracketed:
                self._expect(")")
            return lambda row: value(row) is not MISSING
        return self._comparison()

    def _comparison(self) -> Predicate:
        value = self._reference()
        negated = self._accept("not")
        if self._accept("in"):
            wanted = self._list()
            among = _among(value, wanted)
            return _negation(among) if negated else among
        kind, symbol = self._next()
        if negated or kind != "symbol":
            raise ValueError(f"cannot parse expression: a comparison expected instead of {symbol!r}")
        literal = self._literal()
        if symbol == "==":
            return lambda row: _equal(value(row), literal)
        if symbol == "!=":
            return lambda row: not _equal(value(row), literal)
        if symbol not in _ORDERS:
            raise ValueError(f"cannot parse expression: a comparison expected instead of {symbol!r}")
        return _ordered(value, _ORDERS[symbol], literal)

    def _reference(self) -> Value:
        kind, name = self._next()
        if kind != "name" or name in _CONSTANTS:
            raise ValueError(f"cannot parse expression: a field expected instead of {name!r}")
        keys = [] if name == "$meta" else [name]
        while self._accept("["):
            keys.append(str(self._literal()))
            self._expect("]")
        return lambda row: _reach(row, keys)

    def _list(self) -> list[Any]:
        self._expect("[")
        values: list[Any] = []
        while not self._accept("]"):
            if values:
                self._expect(",")
            values.append(self._literal())
        return values

    def _literal(self) -> Any:
        kind, text = self._next()
        if kind == "string":
            # Milvus takes control characters as they are.
            return json.loads(text if text[0] == '"' else json.dumps(text[1:-1]), strict=False)
        if kind == "number":
            return json.loads(text)
        if kind == "name" and text in _CONSTANTS:
            return _CONSTANTS[text]
        raise ValueError(f"cannot parse expression: a value expected instead of {text!r}")


def _either(left: Predicate, right: Predicate) -> Predicate:
    return lambda row: left(row) or right(row)


def _both(left: Predicate, right: Predicate) -> Predicate:
    return lambda row: left(row) and right(row)


def _negation(inner: Predicate) -> Predicate:
    return lambda row: not inner(row)


def _among(value: Value, wanted: list[Any]) -> Predicate:
    try:
        fast = frozenset(wanted)
    except TypeError as error:  # pragma: no cover - the grammar has no list of lists
        raise ValueError("a list may hold only plain values") from error
    return lambda row: value(row) in fast


def _ordered(value: Value, compare: Callable[[Any, Any], bool], literal: Any) -> Predicate:
    def holds(row: Mapping[str, Any]) -> bool:
        found = value(row)
        return found is not MISSING and _comparable(found, literal) and compare(found, literal)

    return holds


def _equal(found: Any, literal: Any) -> bool:
    return found is not MISSING and _comparable(found, literal) and bool(found == literal)


def _comparable(found: Any, literal: Any) -> bool:
    if isinstance(found, bool) or isinstance(literal, bool):
        return isinstance(found, bool) and isinstance(literal, bool)
    if isinstance(found, str) or isinstance(literal, str):
        return isinstance(found, str) and isinstance(literal, str)
    return isinstance(found, int | float) and isinstance(literal, int | float)


def _reach(row: Mapping[str, Any], keys: list[str]) -> Any:
    value: Any = row
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
        value = value[key]
    return value
