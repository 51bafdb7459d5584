"""Facets: how often each value of a metadata field occurs in rows. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pipeline.records import TENANT_FIELD

MAX_VALUES = 20
"""Most values of a facet; the most frequent ones."""
MAX_ELEMENTS = 16
"""Elements of a longer list are not counted."""
MAX_VALUE_CHARS = 256
"""A longer text is not counted."""

FacetScalar: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class FacetValue:
    """One value, and how many documents have it; where every chunk is a result, how many chunks."""

    value: FacetScalar
    count: int


@dataclass(frozen=True, slots=True)
class Facet:
    """The most frequent values of one field."""

    name: str
    values: tuple[FacetValue, ...]
    """At most 20, the most frequent first."""
    other_values: int
    """How many further values there are."""


@dataclass(frozen=True, slots=True)
class Facets:
    """The facets of a search: of the rows that its filter and its time range leave, whatever the query is."""

    fields: tuple[Facet, ...]
    """In the order of the request."""
    sampled: bool
    """Not every such row was read, so the counts are of some of them."""
    rows_read: int
    rows: int | None
    """How many rows there are; null where that is not known."""


def count_values(
    rows: Iterable[Mapping[str, Any]], names: Sequence[str], *, group_by: Literal["doc_id"] | None
) -> tuple[Facet, ...]:
    """The facets of rows that hold `names`, `doc_id` and the tenant; with `group_by` a document counts once a value."""
    counts: dict[str, Counter[tuple[bool, FacetScalar]]] = {name: Counter() for name in names}
    counted: defaultdict[tuple[str, str], set[tuple[str, tuple[bool, FacetScalar]]]] = defaultdict(set)
    for row in rows:
        document = counted[repr(row.get(TENANT_FIELD)), row["doc_id"]] if group_by else set()
        for name in names:
            for value in set(_values(row.get(name))):
                if (name, value) not in document:
                    document.add((name, value))
                    counts[name][value] += 1
    return tuple(_facet(name, counts[name]) for name in names)


def _values(value: object) -> Iterator[tuple[bool, FacetScalar]]:
    """(whether it is a boolean, value) of a scalar or of each scalar in a short list: for Python True equals 1."""
    elements = value if isinstance(value, list) else [value]
    if len(elements) > MAX_ELEMENTS:
        return
    for element in elements:
        if isinstance(element, str) and len(element) > MAX_VALUE_CHARS:
            continue
        if isinstance(element, bool | int | float | str):
            yield isinstance(element, bool), element


def _facet(name: str, counts: Counter[tuple[bool, FacetScalar]]) -> Facet:
    """The most frequent values; those as frequent by their type and value, so that the order depends on no read."""

    def order(entry: tuple[tuple[bool, FacetScalar], int]) -> tuple[Any, ...]:
        (boolean, value), count = entry
        text = isinstance(value, str)
        return -count, boolean, text, value

    best = sorted(counts.items(), key=order)[:MAX_VALUES]
    values = tuple(FacetValue(value, count) for (_, value), count in best)
    return Facet(name, values, len(counts) - len(values))
