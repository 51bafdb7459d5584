"""Filters as Milvus expressions.

Only typed values reach the expression, each as one literal, and names only as declared fields or as `$meta["name"]`; so
no value or name can change what the expression means. The forms below were compared on Milvus 2.3.5 and Milvus Lite
3.2: they mean the same on both, which `in` over metadata, `not` around a comparison and `like` do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.query.request.filters import (
    MAX_INTEGER,
    PATH_CUT,
    Combination,
    Comparison,
    Equality,
    Filter,
    Membership,
    Ordering,
    Prefix,
    Scalar,
    values_of,
)
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.store import CollectionInfo, literal

FieldType = Literal["string", "integer", "number", "boolean", "other"]

_SYMBOLS = {"eq": "==", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_FIELD_TYPES: Mapping[str, FieldType] = {
    "VARCHAR": "string",
    "BOOL": "boolean",
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "number"),
}
_CONTENTS = {"string": "strings", "boolean": "true and false", "integer": "whole numbers", "number": "numbers"}


@dataclass(frozen=True, slots=True)
class FilterableFields:
    """The declared fields of a collection; every other name is metadata in the dynamic field."""

    declared: Mapping[str, FieldType]
    """Type of each field by its name; `other` (vectors) cannot be filtered on."""
    dynamic: bool = True
    """Whether there is a dynamic field."""


def filterable_fields(collection: CollectionInfo) -> FilterableFields:
    """The fields of an existing collection."""
    types = {field.name: _FIELD_TYPES.get(field.type, "other") for field in collection.fields}
    return FilterableFields(types, collection.dynamic)


def compile_filter(node: Filter, fields: FilterableFields, at: str = "/filter") -> str:
    """The Milvus expression of a filter; `at` is its JSON pointer in the request.

    Raises InvalidRequest where a value does not fit the declared field's type, or the field cannot be filtered on.
    """
    if isinstance(node, Combination):
        parts = enumerate(node.filters)
        return balanced([compile_filter(part, fields, f"{at}/filters/{index}") for index, part in parts], node.type)
    field_type = fields.declared.get(node.key)
    if field_type is not None:
        return _compile_declared(node, field_type, at)
    if not fields.dynamic:
        known = ", ".join(sorted(name for name, known_type in fields.declared.items() if known_type != "other"))
        raise InvalidRequest(f"{at}/key", f"names no field of the collection; it has {known}")
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
    if PATH_CUT in name:
        raise ValueError("a name with ][ inside has no expression that Milvus reads as that name")
    return f"$meta[{literal(name)}]"


def _compile_declared(node: Comparison, field_type: FieldType, at: str) -> str:
    """A declared field is in every row and holds one type, so Milvus's own operators have their plain meaning."""
    if field_type == "other":
        raise InvalidRequest(f"{at}/key", "names a vector field; filter on the others")
    for value in values_of(node):
        if not _fits(value, field_type, node):
            problem = f"does not fit the field {node.key}, which holds {_CONTENTS[field_type]}"
            raise InvalidRequest(f"{at}/value", problem)
    if isinstance(node, Prefix):
        return _prefix_range(node.key, node.value)
    values = [literal(_whole(value) if field_type == "integer" else value) for value in values_of(node)]
    if isinstance(node, Membership):
        negation = "not " if node.type == "nin" else ""
        return f"{negation}({node.key} in [{', '.join(values)}])"
    return f"{node.key} {_SYMBOLS[node.type]} {values[0]}"


def _fits(value: Scalar, field_type: FieldType, node: Comparison) -> bool:
    """Whether a comparison of the field with the value has a meaning."""
    number = not isinstance(value, bool | str)
    match field_type:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool) and isinstance(node, Equality | Membership)
        case "integer":
            return number and isinstance(_whole(value), int) and not isinstance(node, Prefix)
        case _:
            return number and not isinstance(node, Prefix)


def _whole(value: Scalar) -> Scalar:
    """A whole float as an integer: Milvus 2.3.5 refuses `chunk == 1.0`."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    return value


def _compile_metadata(node: Comparison) -> str:
    """A metadata field may be absent, and its rows may hold different types."""
    reference = metadata_reference(node.key)
    match node:
        case Prefix():
            return _prefix_range(reference, node.value)
        case Ordering():
            return f"{reference} {_SYMBOLS[node.type]} {literal(node.value)}"
        case Equality(type="eq") | Membership(type="in"):
            return balanced([f"{reference} == {literal(value)}" for value in values_of(node)], "or")
        case _:
            # `!=` alone holds for a row without the field on Milvus 2.3.5 and does not on Lite.
            differs = balanced([f"{reference} != {literal(value)}" for value in values_of(node)], "and")
            return f"((not (exists {reference})) or {differs})"


def _prefix_range(reference: str, start: str) -> str:
    r"""Strings that begin with `start`, as a range: the servers differ in what `%`, `_` and `\\` mean in `like`."""
    end = start.rstrip("\U0010ffff")
    if not end:
        return f"{reference} >= {literal(start)}"
    following = ord(end[-1]) + 1
    after = end[:-1] + chr(0xE000 if following == 0xD800 else following)  # UTF-8 has no surrogates
    return f"({reference} >= {literal(start)} and {reference} < {literal(after)})"
