"""Filters as Milvus expressions.

Only typed values reach the expression, each as one literal, and names only as declared fields or as `$meta["name"]`; so
no value or name can change what the expression means. Conditions on metadata are in `metadata_expressions.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.query.request.filters import (
    MAX_INTEGER,
    Combination,
    Comparison,
    Element,
    Elements,
    Equality,
    Existence,
    Filter,
    Membership,
    Negation,
    Ordering,
    Prefix,
    Scalar,
    Words,
    path_of,
    values_of,
)
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.metadata_expressions import MetadataField, balanced, prefix_range
from pipeline.records import NODE_FIELDS
from pipeline.store import Capabilities, CollectionInfo, capabilities_of, keyword_settings_of, literal

FieldType = Literal["string", "integer", "number", "boolean", "other"]

_SYMBOLS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_FIELD_TYPES: Mapping[str, FieldType] = {
    "VARCHAR": "string",
    "BOOL": "boolean",
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "number"),
}
_CONTENTS = {"string": "strings", "boolean": "true and false", "integer": "whole numbers", "number": "numbers"}
_NO_MATCH = "needs a collection that was created with milvus.enable_match: true, and this one was not"
_NO_MATCH_HERE = "needs Milvus 2.5 or newer, or Lite, and a collection that was created with milvus.enable_match: true"


@dataclass(frozen=True, slots=True)
class FilterableFields:
    """The declared fields of a collection; every other name is metadata in the dynamic field."""

    declared: Mapping[str, FieldType]
    """Type of each field by its name; `other` (vectors) cannot be filtered on."""
    dynamic: bool = True
    """Whether there is a dynamic field."""
    nullable: frozenset[str] = frozenset()
    """The declared fields that a row may lack."""
    words: re.Pattern[str] | None = None
    """What a word of the text is, where rows can be filtered by its words; None: they cannot."""
    server: Capabilities = field(default_factory=lambda: capabilities_of((2, 3, 5), lite=False))


def filterable_fields(collection: CollectionInfo, server: Capabilities) -> FilterableFields:
    """The fields of an existing collection on a server with these capabilities."""
    keywords = keyword_settings_of(collection)
    return FilterableFields(
        {info.name: _FIELD_TYPES.get(info.type, "other") for info in collection.fields},
        collection.dynamic,
        frozenset(info.name for info in collection.fields if info.nullable),
        keywords.word if server.text_match and keywords.enable_match else None,
        server,
    )


def compile_filter(node: Filter, fields: FilterableFields, at: str = "/filter", *, negated: bool = False) -> str:
    """The Milvus expression of a filter, or of its exact opposite; `at` is the filter's JSON pointer in the request.

    A negation is moved down to the comparisons, because servers differ in what `not` makes of a row without the field.
    Raises InvalidRequest where a value does not fit the declared field's type, or the field cannot be filtered on so.
    """
    match node:
        case Negation():
            return compile_filter(node.filter, fields, f"{at}/filter", negated=not negated)
        case Combination():
            parts = enumerate(node.filters)
            terms = [compile_filter(part, fields, f"{at}/filters/{index}", negated=negated) for index, part in parts]
            return balanced(terms, "and" if (node.type == "and") != negated else "or")
        case Words():
            expression = _compile_words(node, fields, at)
            return f"not ({expression})" if negated else expression
    path = path_of(node)
    field_type = fields.declared.get(path[0])
    if field_type is not None:
        return _compile_declared(node, field_type, fields, at, negated=negated)
    if not fields.dynamic:
        known = ", ".join(sorted(name for name, known_type in fields.declared.items() if known_type != "other"))
        raise InvalidRequest(f"{at}/key", f"names no field of the collection; it has {known}")
    if path[0] in NODE_FIELDS:
        raise InvalidRequest(f"{at}/key", "names a field for LlamaIndex, which is no metadata")
    return MetadataField(path, fields.server).condition(node, at, negated=negated)


def _compile_words(node: Words, fields: FilterableFields, at: str) -> str:
    if fields.words is None:
        raise InvalidRequest(f"{at}/type", _NO_MATCH if fields.server.text_match else _NO_MATCH_HERE)
    words = list(dict.fromkeys(fields.words.findall(node.value)))
    # The server looks for any of the words that it is given in one call.
    calls = words if node.words == "all" else [" ".join(words)]
    return balanced([f"text_match(text, {literal(words)})" for words in calls], "and")


def _compile_declared(
    node: Comparison, field_type: FieldType, fields: FilterableFields, at: str, *, negated: bool
) -> str:
    """A declared field holds one type, and is in every row unless it may be null."""
    name = path_of(node)[0]
    _check_declared(node, field_type, at)
    values = [literal(_whole(value) if field_type == "integer" else value) for value in values_of(node)]
    opposite = negated != (node.type in ("ne", "nin"))
    match node:
        case Equality():
            expression = f"{name} {'!=' if opposite else '=='} {values[0]}"
        case Membership():
            expression = f"{'not ' * opposite}({name} in [{', '.join(values)}])"
        case Ordering():
            comparison = f"{name} {_SYMBOLS[node.type]} {values[0]}"
            expression = f"not ({comparison})" if opposite else comparison
        case Prefix():
            expression = f"not ({prefix_range(name, node.value)})" if opposite else prefix_range(name, node.value)
        case Element() | Elements():  # refused above
            raise AssertionError(node.type)
        case Existence():
            return _compile_existence(name, fields, wanted=node.value != negated)
    return f"({name} is null or {expression})" if opposite and name in fields.nullable else expression


def _check_declared(node: Comparison, field_type: FieldType, at: str) -> None:
    """Raise InvalidRequest where a comparison of the field has no meaning."""
    name, *inner = path_of(node)
    if field_type == "other":
        raise InvalidRequest(f"{at}/key", "names a vector field; filter on the others")
    if inner:
        raise InvalidRequest(f"{at}/key/1", f"names a part of the field {name}, which holds {_CONTENTS[field_type]}")
    if isinstance(node, Element | Elements):
        raise InvalidRequest(f"{at}/key", f"names the field {name}, which holds {_CONTENTS[field_type]} and no lists")
    if not all(_fits(value, field_type, node) for value in values_of(node)):
        raise InvalidRequest(f"{at}/value", f"does not fit the field {name}, which holds {_CONTENTS[field_type]}")


def _compile_existence(name: str, fields: FilterableFields, *, wanted: bool) -> str:
    """Every row has a declared field that may not be null."""
    if name in fields.nullable:
        return f"{name} is not null" if wanted else f"{name} is null"
    return 'id != ""' if wanted else 'id == ""'


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
