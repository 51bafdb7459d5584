"""The metadata names that rows carry: a filter on a name that no row has matches nothing, silently."""

import difflib
import heapq
from collections.abc import Callable, Iterable

_MOST_NAMES = 10_000
_MOST_COMPARED = 200
_LONGEST_COMPARED = 64
"""Comparing two names takes time with the square of their lengths."""
_ALIKE = 0.7


class MetadataNames:
    """A cache of names seen in results and of names that were missing a moment ago, shared by threads."""

    def __init__(self, ttl_s: float, clock: Callable[[], float], most: int = _MOST_NAMES) -> None:
        """`most`: names kept of each of the two kinds."""
        self._seen: set[str] = set()
        self._missing: dict[str, float] = {}
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock

    def learn(self, names: Iterable[str]) -> None:
        """Note names that rows carry."""
        if len(self._seen) < self._most:
            self._seen.update(names)

    def learn_missing(self, names: Iterable[str]) -> None:
        """Note names that no row carries, for `ttl_s`."""
        for name in names:
            if len(self._missing) >= self._most:
                self._missing.clear()
            self._missing[name] = self._clock() + self._ttl_s

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that only Milvus knows to be carried or missing."""
        return [name for name in names if name not in self._seen and not self._is_missing(name)]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that no row carried a moment ago."""
        return [name for name in names if name not in self._seen and self._is_missing(name)]

    def known(self, most: int) -> list[str]:
        """Up to `most` of the names that rows were seen to carry, sorted."""
        return heapq.nsmallest(most, self._seen.copy())

    def near(self, name: str, declared: Iterable[str]) -> str | None:
        """The name that rows carry and that is most like `name`; None where none is like it."""
        candidates = likeliest(name, {*self._seen.copy(), *declared})
        return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=_ALIKE)), None)

    def _is_missing(self, name: str) -> bool:
        return self._missing.get(name, 0.0) > self._clock()


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
