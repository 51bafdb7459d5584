"""The metadata fields that rows carry, and the types of their values.

A filter on a name that no row has, or with a value of a type that no row has there, matches nothing, silently.
"""

import difflib
import heapq
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, TypeAlias

from pipeline.records import NODE_FIELDS

Path: TypeAlias = tuple[str, ...]
"""The names that lead to a field."""
Kind: TypeAlias = str
"""The type of a value as a warning names it."""

LIST: Kind = "a list"
_MOST_NAMES = 10_000
_MOST_COMPARED = 200
_LONGEST_COMPARED = 64
"""Comparing two names takes time with the square of their lengths."""
_ALIKE = 0.7
_MOST_ELEMENTS = 64
"""Elements of a list whose types are read."""


class MetadataNames:
    """A cache of names and types seen in rows and of those missing a moment ago, shared by threads."""

    def __init__(self, ttl_s: float, clock: Callable[[], float], most: int = _MOST_NAMES) -> None:
        """`most`: fields kept of each of the kinds of knowledge."""
        self._kinds: dict[Path, frozenset[Kind]] = {}
        self._missing: dict[Path, float] = {}
        self._lacking: dict[tuple[Path, frozenset[Kind]], float] = {}
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock

    def learn_row(self, row: Mapping[str, Any], declared: Container[str]) -> None:
        """Note the fields at the top of a row's metadata."""
        for name, value in row.items():
            if name not in declared and name not in NODE_FIELDS:
                self._learn((name,), value)

    def learn_nested(self, row: Mapping[str, Any], paths: Iterable[Path]) -> None:
        """Note those of the fields that the row carries."""
        for path in paths:
            value: Any = row
            for name in path:
                if not isinstance(value, Mapping) or name not in value:
                    break
                value = value[name]
            else:
                self._learn(path, value)

    def _learn(self, path: Path, value: object) -> None:
        kinds, known = kinds_of(value), self._kinds.get(path)
        if known is None and len(self._kinds) < self._most:
            self._kinds[path] = kinds
        elif known is not None and not kinds <= known:
            self._kinds[path] = kinds | known

    def learn_missing(self, paths: Iterable[Path]) -> None:
        """Note fields that no row carries, for `ttl_s`."""
        for path in paths:
            if len(self._missing) >= self._most:
                self._missing.clear()
            self._missing[path] = self._clock() + self._ttl_s

    def learn_lacking(self, path: Path, kinds: frozenset[Kind]) -> None:
        """Note that no row carries the field with a value of these types, for `ttl_s`."""
        if len(self._lacking) >= self._most:
            self._lacking.clear()
        self._lacking[path, kinds] = self._clock() + self._ttl_s

    def kinds(self, path: Path) -> frozenset[Kind]:
        """The types of the values that were seen in the field."""
        return self._kinds.get(path, frozenset())

    def has(self, path: Path) -> bool:
        """Whether a value was seen in the field, so that its types are known."""
        return path in self._kinds

    def lacks(self, path: Path, kinds: frozenset[Kind]) -> bool:
        """Whether no row had these types there a moment ago."""
        return self._lacking.get((path, kinds), 0.0) > self._clock()

    def unknown(self, paths: Iterable[Path]) -> list[Path]:
        """Those fields whose types, or whether they are there at all, only Milvus knows."""
        return [path for path in paths if path not in self._kinds and not self._is_missing(path)]

    def missing(self, paths: Iterable[Path]) -> list[Path]:
        """Those fields that no row carried a moment ago."""
        return [path for path in paths if path not in self._kinds and self._is_missing(path)]

    def known(self, most: int) -> list[str]:
        """Up to `most` of the names that rows were seen to carry, sorted."""
        return heapq.nsmallest(most, {path[0] for path in self._kinds.copy()})

    def near(self, name: str, declared: Iterable[str]) -> str | None:
        """The name that rows carry and that is most like `name`; None where none is like it."""
        candidates = likeliest(name, {*(path[0] for path in self._kinds.copy()), *declared})
        return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=_ALIKE)), None)

    def _is_missing(self, path: Path) -> bool:
        return self._missing.get(path, 0.0) > self._clock()


def kind_of(value: object) -> Kind:
    """The type of a value."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case Mapping():
            return "an object"
        case None:
            return "null"
        case _:
            return LIST


def kinds_of(value: object) -> frozenset[Kind]:
    """The type of a value; of a list also that of its elements, of which the first are read. Empty for null."""
    if value is None:
        return frozenset()
    kind = kind_of(value)
    if kind != LIST or not isinstance(value, list | tuple):
        return frozenset([kind])
    return frozenset([LIST, *(f"{LIST} of {kind_of(element)}" for element in value[:_MOST_ELEMENTS])])


def likeliest(name: str, names: Iterable[str]) -> list[str]:
    """At most 200 of `names` that may be alike, chosen cheaply: the same first character, then about as long.

    Empty for a name of more than 64 characters.
    """
    length, first = len(name), name[:1].casefold()
    if length > _LONGEST_COMPARED:
        return []
    longest_difference = length * (1 - _ALIKE) / _ALIKE * 2

    def rank(other: str) -> tuple[bool, int]:
        return other[:1].casefold() != first, abs(len(other) - length)

    similar_length = (other for other in names if abs(len(other) - length) <= longest_difference)
    comparable = (other for other in similar_length if len(other) <= _LONGEST_COMPARED)
    return heapq.nsmallest(_MOST_COMPARED, comparable, key=rank)
