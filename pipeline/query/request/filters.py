"""Filters in the shape of OpenAI's vector stores, as pydantic models: what is accepted, and the schema of it.

Meaning: `eq`, `gt`, `contains` … match rows that carry the field with a value of that type; `ne` and `nin` are exactly
the complement of `eq` and `in`, and `not` of any filter, so rows without the field match. (Milvus Lite takes true for 1
in metadata.)
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import override

from pipeline.query.request.invalid_request import pointer
from pipeline.records import MAX_INT64

MAX_INTEGER = MAX_INT64
"""Integers in filters lie within plus or minus this; Milvus 2.3.5 cannot parse the literal -2**63."""
MAX_NAME_CHARS = 256
MAX_VALUE_CHARS = 8_192
MAX_VALUES = 1_000
"""Most values in a whole filter, those inside lists included."""
MAX_PARTS = 2 * MAX_VALUES
"""Most filters and members of lists in a whole filter, right or wrong: pydantic reports each wrong one, and half a
million of them take 5 s."""
MAX_DEPTH = 8
"""Far below the depth of parentheses that Milvus parses."""
MAX_PATH = 8
"""Most names in the path of a nested field."""
PATH_CUT = "]["
"""Milvus cuts the path of a key at every `][`, also inside the quotes. `$meta["]["]` then ends the server (2.3.5)."""

Scalar: TypeAlias = bool | int | float | str
Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "prefix"]
COMPARISONS: tuple[Operator, ...] = get_args(Operator)
_WORD = re.compile(r"\w+")


class StrictModel(BaseModel):
    """A part of a request: no unknown keys, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    known_keys: ClassVar[Mapping[str, None]]

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.known_keys = dict.fromkeys(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        """Name an unknown key before anything else: a misspelt key is the reason why another one is missing."""
        if isinstance(value, dict) and not value.keys() <= cls.known_keys.keys():
            raise _unknown_key(next(key for key in value if key not in cls.known_keys), cls.known_keys)
        return value


def _unknown_key(key: str, known: Iterable[str]) -> PydanticCustomError:
    if len(key) > MAX_NAME_CHARS:
        problem = "has a key of {chars} characters; at most {most} are allowed"
        return PydanticCustomError("long_key", problem, {"chars": len(key), "most": MAX_NAME_CHARS})
    if not is_text(key):
        return PydanticCustomError("key_unicode", "contains half a surrogate pair, which is not text")
    message = "is not a known key; known are {known}"
    return PydanticCustomError("unknown_key", message, {"known": ", ".join(known), "at": pointer("", key)})


def is_text(value: str) -> bool:
    """Whether UTF-8 can carry the string: JSON's escapes can write half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_path(name: str) -> str:
    if PATH_CUT in name:
        raise PydanticCustomError(
            "path_cut", "contains ][, where Milvus would cut it; rows cannot be filtered by such a name"
        )
    return name


def _check_no_place(name: str) -> str:
    if name.isascii() and name.isdigit():
        raise PydanticCustomError(
            "place", "is digits alone, which Milvus takes for a place in a list; rows cannot be filtered by such a path"
        )
    return name


def _check_length(path: list[str]) -> list[str]:
    """An expression repeats the path for every value."""
    chars = sum(map(len, path))
    if chars > MAX_NAME_CHARS:
        problem = "has {chars} characters in its names together; at most {most} are allowed"
        raise PydanticCustomError("long_path", problem, {"chars": chars, "most": MAX_NAME_CHARS})
    return path


def _key_shape(value: object) -> str | None:
    if isinstance(value, str):
        return "name"
    return "path" if isinstance(value, list) else None


def _check_words(value: str) -> str:
    if not words_of(value):
        raise PydanticCustomError("no_word", "holds no word")
    return value


def words_of(text: str) -> list[str]:
    """The words of a text by letters, digits and underscores, each once."""
    return list(dict.fromkeys(_WORD.findall(text)))


def _check_scalar(value: object) -> object:
    """Refuse what Milvus cannot compare with.

    Checked before pydantic tries the types in turn: it would take 2**63 for a floating-point number, and report one
    problem for each type.
    """
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARS:
            problem = "has {chars} characters; at most {most} are allowed"
            raise PydanticCustomError(
                "long_value", problem, {"chars": f"{len(value):,}", "most": f"{MAX_VALUE_CHARS:,}"}
            )
        if not is_text(value):
            raise PydanticCustomError("value_unicode", "contains half a surrogate pair, which is not text")
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            problem = "is beyond the integers Milvus stores (plus or minus {most})"
            raise PydanticCustomError("large_integer", problem, {"most": str(MAX_INTEGER)})
    elif not isinstance(value, float):
        raise PydanticCustomError("no_scalar", "must be a string, a number or a boolean")
    elif not math.isfinite(value):
        raise PydanticCustomError("infinite", "must be a finite number")
    return value


def _check_ordered(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("boolean", "must be a number or a string for gt, gte, lt and lte")
    return _check_scalar(value)


FieldName = Annotated[
    str,
    # 1 to 256 characters; no control characters; names with $ are Milvus's own.
    Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^$\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"),
]
FilterKey = Annotated[FieldName, AfterValidator(_check_path), Field(json_schema_extra={"not": {"pattern": r"\]\["}})]
_PathName = Annotated[
    FieldName,
    AfterValidator(_check_path),
    AfterValidator(_check_no_place),
    Field(json_schema_extra={"not": {"anyOf": [{"pattern": r"\]\["}, {"pattern": "^[0-9]+$"}]}}),
]
_Key = Annotated[
    Annotated[FilterKey, Tag("name")]
    | Annotated[list[_PathName], Field(min_length=1, max_length=MAX_PATH), AfterValidator(_check_length), Tag("path")],
    Discriminator(
        _key_shape,
        custom_error_type="key",
        custom_error_message='must be a field name, or for a nested field a list of names such as ["customer", "city"]',
    ),
]
_Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
_Text = Annotated[str, Field(max_length=MAX_VALUE_CHARS)]
_Value = Annotated[_Text | _Integer | float | bool, BeforeValidator(_check_scalar)]
_OrderedValue = Annotated[_Text | _Integer | float, BeforeValidator(_check_ordered)]


class Equality(StrictModel):
    """Rows whose field is the value (`eq`), or all others (`ne`)."""

    type: Literal["eq", "ne"]
    key: _Key
    value: _Value


class Ordering(StrictModel):
    """Rows whose field lies on one side of the value; strings are ordered by their UTF-8 bytes."""

    type: Literal["gt", "gte", "lt", "lte"]
    key: _Key
    value: _OrderedValue


class Prefix(StrictModel):
    """Rows whose field is a string that begins with the value."""

    type: Literal["prefix"]
    key: _Key
    value: Annotated[str, Field(min_length=1, max_length=MAX_VALUE_CHARS)]


class Membership(StrictModel):
    """Rows whose field is one of the values (`in`), or all others (`nin`)."""

    type: Literal["in", "nin"]
    key: _Key
    value: Annotated[list[_Value], Field(min_length=1, max_length=MAX_VALUES)]


class Element(StrictModel):
    """Rows whose field is a list that contains the value."""

    type: Literal["contains"]
    key: _Key
    value: _Value


class Elements(StrictModel):
    """Rows whose field is a list that contains at least one of the values (`contains_any`), or all (`contains_all`)."""

    type: Literal["contains_any", "contains_all"]
    key: _Key
    value: Annotated[list[_Value], Field(min_length=1, max_length=MAX_VALUES)]


class Existence(StrictModel):
    """Rows that have the field, whatever its value; with `value` false all others."""

    type: Literal["exists"]
    key: _Key
    value: bool = True


class Words(StrictModel):
    """Rows whose text has all of the words, or any; for collections created with `milvus.enable_match`."""

    type: Literal["match"]
    value: Annotated[
        str,
        Field(min_length=1, max_length=MAX_VALUE_CHARS, json_schema_extra={"pattern": r"\w"}),
        AfterValidator(_check_words),
    ]
    words: Literal["all", "any"] = "all"


class Combination(StrictModel):
    """Rows that match all of the filters (`and`), or at least one (`or`)."""

    type: Literal["and", "or"]
    filters: Annotated[list["Filter"], Field(min_length=1, max_length=MAX_VALUES)]


class Negation(StrictModel):
    """Rows that do not match the filter: exactly all others."""

    type: Literal["not"]
    filter: "Filter"


Comparison: TypeAlias = Equality | Ordering | Prefix | Membership | Element | Elements | Existence
Filter: TypeAlias = Annotated[
    Equality | Ordering | Prefix | Membership | Element | Elements | Existence | Words | Combination | Negation,
    Field(
        discriminator="type",
        description="A comparison or a combination. `eq`, `gt`, `contains` … match rows that carry the field with a "
        "value of that type; `ne` and `nin` are the exact complement of `eq` and `in`, and `not` of any filter: rows "
        "without the field match. A field that no row has, or none with such a value, is reported in `warnings`.",
    ),
]


def values_of(comparison: Comparison) -> list[Scalar]:
    """The value of a comparison, or the values of one that takes a list; none for `exists`."""
    if isinstance(comparison, Existence):
        return []
    value = comparison.value
    return [*value] if isinstance(value, list) else [value]


def path_of(comparison: Comparison) -> tuple[str, ...]:
    """The names that lead to the field: one, or several for a nested field."""
    return (comparison.key,) if isinstance(comparison.key, str) else tuple(comparison.key)


def comparisons(node: Filter) -> Iterator[Comparison]:
    """Every comparison of a field inside a filter, left to right."""
    for leaf in _leaves(node):
        if not isinstance(leaf, Words):
            yield leaf


def _leaves(node: Filter) -> Iterator[Comparison | Words]:
    if isinstance(node, Combination):
        for part in node.filters:
            yield from _leaves(part)
    elif isinstance(node, Negation):
        yield from _leaves(node.filter)
    else:
        yield node


def _check_shape(node: Any) -> Any:
    """Refuse a filter that is nested too deep or has too many parts before pydantic descends into it."""
    if _parts(node) > MAX_PARTS:
        raise PydanticCustomError("too_many_parts", "holds more than {most} parts", {"most": f"{MAX_PARTS:,}"})
    return node


def _parts(node: Any, depth: int = 1, at: str = "") -> int:
    """How many filters and members of lists there are; beyond `MAX_PARTS` not all are counted."""
    if depth > MAX_DEPTH:
        message = "is nested deeper than {levels} levels"
        raise PydanticCustomError("too_deep", message, {"levels": MAX_DEPTH, "at": at})
    if not isinstance(node, dict):
        return 1
    count = 1 + sum(len(members) for name in ("key", "value") if isinstance(members := node.get(name), list))
    parts = node.get("filters")
    for index, part in enumerate(parts if isinstance(parts, list) else ()):
        if count > MAX_PARTS:
            break
        count += _parts(part, depth + 1, f"{at}/filters/{index}")
    if "filter" in node:
        count += _parts(node["filter"], depth + 1, f"{at}/filter")
    return count


def _check_values(node: Filter) -> Filter:
    sizes = (len(words_of(leaf.value) if isinstance(leaf, Words) else values_of(leaf)) for leaf in _leaves(node))
    if sum(sizes) > MAX_VALUES:
        raise PydanticCustomError("too_many_values", "holds more than {most} values", {"most": f"{MAX_VALUES:,}"})
    return node


BoundedFilter: TypeAlias = Annotated[Filter, BeforeValidator(_check_shape), AfterValidator(_check_values)]
"""A whole filter; its parts are `Filter`."""
