"""The warnings about a filter that probably does not mean what it says: Milvus answers its mistakes with nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import NotFound, Unavailable
from pipeline.query.candidates import CandidateSearch
from pipeline.query.request.filter_expressions import FilterableFields
from pipeline.query.request.filters import (
    Comparison,
    Element,
    Elements,
    Existence,
    Scalar,
    comparisons,
    path_of,
    values_of,
)
from pipeline.query.request.metadata_expressions import MetadataField, balanced
from pipeline.query.request.metadata_fields import LIST, Kind, MetadataNames, Path, kind_of
from pipeline.records import METADATA_FIELD

_MOST_FIELDS = 16
"""Most fields of one filter that are checked."""
_SAMPLE = 16
"""Rows read to find out which fields there are and of which types."""


@dataclass(frozen=True, slots=True)
class _Use:
    """What a filter expects of a field."""

    kinds: frozenset[Kind]
    """The types of its values; rows with any of them match by type. Empty: whatever type."""
    example: Scalar | None
    """A value to find rows of the type by; None: elements of a list."""


def filter_warnings(
    names: MetadataNames, search: CandidateSearch, fields: FilterableFields, clock: Callable[[], float]
) -> tuple[str, ...]:
    """Name the fields that no row has, and those that have no value of the filter's type in any row.

    One read at most, of 16 rows. Not an error: whether a request is right must not depend on which rows have arrived.
    """
    if search.request.filter is None:
        return ()
    uses: dict[Path, _Use] = {}
    for comparison in comparisons(search.request.filter):
        path = path_of(comparison)
        if path[0] not in fields.declared and (path in uses or len(uses) < _MOST_FIELDS):
            uses[path] = _merged(uses.get(path), _use(comparison))
    try:
        _look_up(names, uses, search, fields)
    except (Unavailable, NotFound):
        return ()
    near = _Near(names, fields, lambda: clock() < search.deadline)
    missing = names.missing(uses)
    wrong = [path for path in uses if path not in missing and _unmet(names, path, uses[path])]
    return (*(near.warning(path) for path in missing), *(_type_warning(names, path, uses[path]) for path in wrong))


def _use(comparison: Comparison) -> _Use:
    if isinstance(comparison, Existence):
        return _Use(frozenset(), None)
    values = values_of(comparison)
    if isinstance(comparison, Element | Elements):
        return _Use(frozenset(f"{LIST} of {kind_of(value)}" for value in values), None)
    return _Use(frozenset(map(kind_of, values)), values[0])


def _merged(one: _Use | None, other: _Use) -> _Use:
    """Of two comparisons of a field the one with a type; of two types either suffices."""
    if one is None:
        return other
    return _Use(one.kinds | other.kinds, one.example if one.example is not None else other.example)


def _unmet(names: MetadataNames, path: Path, use: _Use) -> bool:
    return bool(use.kinds) and names.has(path) and not use.kinds & names.kinds(path)


def _look_up(
    names: MetadataNames, uses: Mapping[Path, _Use], search: CandidateSearch, fields: FilterableFields
) -> None:
    """Find out with one read which of the names rows carry; where all are known, which of the types.

    Rows with one name, or one type, prove nothing about the others. Those stay unknown until a later request looks for
    them alone.
    """
    if unknown := names.unknown(uses):
        wanted = [MetadataField(path, fields.server).exists for path in unknown]
        if not _sampled(names, wanted, uses, search, fields):
            names.learn_missing(unknown)
        return
    untyped = [path for path in uses if _unmet(names, path, uses[path]) and not names.lacks(path, uses[path].kinds)]
    if untyped:
        wanted = [_of_type(MetadataField(path, fields.server), uses[path]) for path in untyped]
        found = _sampled(names, wanted, uses, search, fields)
        for path in untyped:
            if not found or uses[path].example is None:
                names.learn_lacking(path, uses[path].kinds)


def _of_type(field: MetadataField, use: _Use) -> str:
    """No expression finds the lists of one type on every server: then the sample decides."""
    return field.exists if use.example is None else field.of_kind(use.example)


def _sampled(
    names: MetadataNames,
    wanted: Sequence[str],
    uses: Mapping[Path, _Use],
    search: CandidateSearch,
    fields: FilterableFields,
) -> bool:
    """Learn from rows that match any of the expressions; whether there are some."""
    rows = search.sample(balanced(wanted, "or"), (METADATA_FIELD,), _SAMPLE)
    for row in rows:
        names.learn_row(row, fields.declared)
        names.learn_nested(row, [path for path in uses if len(path) > 1])
    return bool(rows)


@dataclass(frozen=True, slots=True)
class _Near:
    """Finds the name that was meant."""

    names: MetadataNames
    fields: FilterableFields
    in_time: Callable[[], bool]

    def warning(self, path: Path) -> str:
        """The warning for a missing name; with the name that was meant, if there is time to find it."""
        if len(path) > 1:
            return f"the filter names {list(path)!r}, and no row with such a field was found"
        filterable = (known for known, field_type in self.fields.declared.items() if field_type != "other")
        near = self.names.near(path[0], filterable) if self.in_time() else None
        hint = f"; did you mean {near!r}?" if near else ""
        return f"the filter names {path[0]!r}, and no row with such a field was found{hint}"


def _type_warning(names: MetadataNames, path: Path, use: _Use) -> str:
    name = repr(path[0]) if len(path) == 1 else repr(list(path))
    stored = " or ".join(sorted(names.kinds(path))) or "null"
    wanted = " or ".join(sorted(use.kinds))
    return f"the filter looks for {wanted} in {name}, and no row with such a value was found; rows have {stored}"
