"""Filters: from JSON in the shape of OpenAI's vector stores to a Milvus expression.

Only typed values reach the expression, each as one literal, and names only as declared fields or as `$meta["name"]`; so
no value or name can change what the expression means. The forms below were compared on Milvus 2.3.5 and Milvus Lite
3.2: they mean the same on both, which `in` over metadata, `not` around a comparison and `like` do not.

Meaning: `eq`, `gt` … match rows that carry the field with a value of that type; `ne` and `nin` are exactly the
complement of `eq` and `in`, so rows without the field match. (Milvus Lite cannot tell true from 1 in metadata.)
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from pipeline.query.limits import MAX_INT, InvalidRequest, Limits, check_keys, check_text, pointer
from pipeline.store import CollectionInfo, literal

Scalar: TypeAlias = bool | int | float | str
Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "prefix"]
FieldType = Literal["string", "integer", "number", "boolean", "other"]

COMPARISONS: tuple[Operator, ...] = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "prefix")
COMBINATIONS = ("and", "or")
MAX_NAME_CHARS = 256

_SYMBOLS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_KINDS: Mapping[str, FieldType] = {
    "VARCHAR": "string",
    "BOOL": "boolean",
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "number"),
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Milvus cuts the path of a key at every `][`, also inside the quotes. `$meta["]["]` then ends the whole server (2.3.5).
_PATH_CUT = "]["


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field against a value, or against several for `in` and `nin`."""

    operator: Operator
    name: str
    values: tuple[Scalar, ...]
    """One value, or several for `in` and `nin`."""
    at: str = ""
    """JSON pointer of the comparison, for messages."""


@dataclass(frozen=True, slots=True)
class Combination:
    """All of the filters (`and`), or at least one (`or`)."""

    operator: Literal["and", "or"]
    filters: tuple["Filter", ...]


Filter: TypeAlias = Comparison | Combination


@dataclass(frozen=True, slots=True)
class FilterableFields:
    """The declared fields of a collection; every other name is metadata in the dynamic field."""

    declared: Mapping[str, FieldType]
    """Name -> kind of value; `other` (vectors) cannot be filtered on."""
    dynamic: bool = True


def filterable_fields(collection: CollectionInfo) -> FilterableFields:
    """The catalogue of an existing collection."""
    kinds = {field.name: _KINDS.get(field.type, "other") for field in collection.fields}
    return FilterableFields(kinds, collection.dynamic)


def parse_filter(node: object, limits: Limits, at: str = "/filter") -> Filter:
    """Check a decoded JSON filter and give it types.

    Raises InvalidRequest with the JSON pointer of what is wrong: an unknown type or key, a value that is neither
    string, number nor boolean, deeper than `max_filter_depth` or more than `max_filter_values` values in all.
    """
    parsed = _parse(node, limits, at, 1)
    if sum(max(1, len(leaf.values)) for leaf in comparisons(parsed)) > limits.max_filter_values:
        raise InvalidRequest(at, f"holds more than {limits.max_filter_values:,} values")
    return parsed


def comparisons(node: Filter) -> Iterator[Comparison]:
    """Every comparison inside a filter, left to right."""
    if isinstance(node, Comparison):
        yield node
    else:
        for part in node.filters:
            yield from comparisons(part)


def compile_filter(node: Filter, catalogue: FilterableFields) -> str:
    """The Milvus expression of a filter.

    Raises InvalidRequest where a value does not fit the declared field's type, or the field cannot be filtered on.
    """
    if isinstance(node, Combination):
        return balanced([compile_filter(part, catalogue) for part in node.filters], node.operator)
    kind = catalogue.declared.get(node.name)
    if kind is not None:
        return _compile_declared(node, kind)
    if not catalogue.dynamic:
        known = ", ".join(sorted(name for name, kind in catalogue.declared.items() if kind != "other"))
        raise InvalidRequest(pointer(node.at, "key"), f"names no field of the collection; it has {known}")
    return _compile_metadata(node)


def balanced(terms: Sequence[str], operator: str) -> str:
    """Join terms as a balanced tree of parentheses.

    A flat chain of 1,000 terms takes Milvus 2.3.5 1.3 s to parse, and the time grows with the square; a tree 10 ms.
    """
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({balanced(terms[:half], operator)} {operator} {balanced(terms[half:], operator)})"


def metadata_reference(name: str) -> str:
    """The expression for one key of the dynamic field.

    Raises ValueError for a name with `][` inside: Milvus would read another path, and some of them end the server.
    """
    if _PATH_CUT in name:
        raise ValueError("a name with ][ inside has no expression that Milvus reads as that name")
    return f"$meta[{literal(name)}]"


def check_name(at: str, value: object) -> str:
    """A usable field name: 1 to 256 characters, none of them a control character, not starting with `$`."""
    name = check_text(at, value, MAX_NAME_CHARS)
    if not name or name.startswith("$") or _CONTROL.search(name):
        raise InvalidRequest(at, "must be a field name: not empty, no control characters, not starting with $")
    return name


def _check_filter_name(at: str, value: object) -> str:
    name = check_name(at, value)
    if _PATH_CUT in name:
        raise InvalidRequest(at, "contains ][, where Milvus would cut it; rows cannot be filtered by such a name")
    return name


def _parse(node: object, limits: Limits, at: str, depth: int) -> Filter:
    if not isinstance(node, dict):
        raise InvalidRequest(at, 'must be an object such as {"type": "eq", "key": "lang", "value": "en"}')
    if depth > limits.max_filter_depth:
        raise InvalidRequest(at, f"is nested deeper than {limits.max_filter_depth} levels")
    kind = node.get("type")
    if isinstance(kind, str) and kind in COMBINATIONS:
        check_keys(at, node, ("type", "filters"))
        parts = node.get("filters")
        if not isinstance(parts, list) or not parts:
            raise InvalidRequest(pointer(at, "filters"), "must be a list of at least one filter")
        if len(parts) > limits.max_filter_values:
            raise InvalidRequest(pointer(at, "filters"), f"holds more than {limits.max_filter_values:,} filters")
        inner = pointer(at, "filters")
        return Combination(
            cast(Literal["and", "or"], kind),
            tuple(_parse(part, limits, pointer(inner, index), depth + 1) for index, part in enumerate(parts)),
        )
    if not isinstance(kind, str) or kind not in COMPARISONS:
        raise InvalidRequest(pointer(at, "type"), f"must be one of {', '.join((*COMPARISONS, *COMBINATIONS))}")
    check_keys(at, node, ("type", "key", "value"))
    if "value" not in node:
        raise InvalidRequest(pointer(at, "value"), "is missing")
    name = _check_filter_name(pointer(at, "key"), node.get("key"))
    return Comparison(kind, name, _values(kind, node["value"], limits, pointer(at, "value")), at)


def _values(operator: Operator, value: object, limits: Limits, at: str) -> tuple[Scalar, ...]:
    if operator in ("in", "nin"):
        if not isinstance(value, list) or not value:
            raise InvalidRequest(at, f"must be a list of at least one value for {operator}")
        if len(value) > limits.max_filter_values:
            raise InvalidRequest(at, f"holds more than {limits.max_filter_values:,} values")
        return tuple(_scalar(item, limits, pointer(at, index)) for index, item in enumerate(value))
    scalar = _scalar(value, limits, at)
    if operator == "prefix" and (not isinstance(scalar, str) or not scalar):
        raise InvalidRequest(at, "must be a string with at least one character for prefix")
    if operator in _SYMBOLS and isinstance(scalar, bool):
        raise InvalidRequest(at, f"must be a number or a string for {operator}")
    return (scalar,)


def _scalar(value: object, limits: Limits, at: str) -> Scalar:
    if isinstance(value, str):
        return check_text(at, value, limits.max_value_chars)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INT:
            raise InvalidRequest(at, f"is beyond the integers Milvus stores (plus or minus {MAX_INT})")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(at, "must be a finite number")
        return value
    raise InvalidRequest(at, "must be a string, a number or a boolean")


def _compile_declared(node: Comparison, kind: FieldType) -> str:
    """A declared field stands in every row and holds one type, so Milvus's own operators mean what they say."""
    if kind == "other":
        raise InvalidRequest(pointer(node.at, "key"), "names a vector field; filter on the others")
    values = [_fitting(value, kind, node) for value in node.values]
    if node.operator in ("in", "nin"):
        negation = "not " if node.operator == "nin" else ""
        return f"{negation}({node.name} in [{', '.join(map(literal, values))}])"
    if node.operator == "prefix":
        return _prefix(node.name, str(values[0]))
    symbol = {"eq": "==", "ne": "!=", **_SYMBOLS}[node.operator]
    return f"{node.name} {symbol} {literal(values[0])}"


def _fitting(value: Scalar, kind: FieldType, node: Comparison) -> Scalar:
    """The value in the declared field's type. Milvus 2.3.5 refuses `chunk == 1.0`, so whole floats become integers."""
    number = not isinstance(value, bool | str)
    if kind == "integer" and isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INT:
        return int(value)
    fits = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool) and node.operator in ("eq", "ne", "in", "nin"),
        "integer": isinstance(value, int) and number,
        "number": number,
    }[kind]
    if fits and not (node.operator == "prefix" and kind != "string"):
        return value
    wanted = {"string": "strings", "boolean": "true and false", "integer": "whole numbers", "number": "numbers"}[kind]
    raise InvalidRequest(pointer(node.at, "value"), f"does not fit the field {node.name}, which holds {wanted}")


def _compile_metadata(node: Comparison) -> str:
    """A metadata field may be absent, and its rows may hold different types."""
    reference = metadata_reference(node.name)
    if node.operator in ("eq", "in"):
        return balanced([f"{reference} == {literal(value)}" for value in node.values], "or")
    if node.operator in ("ne", "nin"):
        # `!=` alone holds for a row without the field on Milvus 2.3.5 and does not on Lite.
        differs = balanced([f"{reference} != {literal(value)}" for value in node.values], "and")
        return f"((not (exists {reference})) or {differs})"
    if node.operator == "prefix":
        return _prefix(reference, str(node.values[0]))
    return f"{reference} {_SYMBOLS[node.operator]} {literal(node.values[0])}"


def _prefix(reference: str, start: str) -> str:
    r"""Strings that begin with `start`, as a range: the servers differ in what `%`, `_` and `\\` mean in `like`."""
    end = start.rstrip("\U0010ffff")
    if not end:
        return f"{reference} >= {literal(start)}"
    following = ord(end[-1]) + 1
    after = end[:-1] + chr(0xE000 if following == 0xD800 else following)  # UTF-8 has no surrogates
    return f"({reference} >= {literal(start)} and {reference} < {literal(after)})"
