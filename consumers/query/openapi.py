"""The JSON schema of a search request, for OpenAPI; a test holds it against the parser."""

from typing import Any

from pipeline.query.filters import MAX_NAME_CHARS
from pipeline.query.limits import MAX_INT, Limits
from pipeline.query.request import DEFAULT_LIMIT

DESCRIPTION = """Find the documents nearest in meaning to a text.

A `query` that is a list is answered with `answers`, one for each text in the same order; a single text with `results`.
Results are ordered by `score`, higher is nearer. Only the newest version of a document is shown, and with `group_by`
`doc_id` (the default) only its best chunk. `searched` names the Milvus partitions that were read and those the time
range left out; `partial` says that the time ran out before enough documents were collected. `limit` times the number of
texts and the bytes of the results are bounded; a request beyond is answered 422."""

_FILTER_TEXT = """A comparison or a combination. `eq`, `gt` … match rows that carry the field with a value of that type;
`ne` and `nin` are the exact complement of `eq` and `in`: rows without the field match. A field that no row has is
reported in `warnings`."""


def request_schemas(limits: Limits) -> dict[str, Any]:
    """Components of OpenAPI 3.1: `SearchRequest`, `Filter`, `Problem`."""
    text = {"type": "string", "minLength": 1, "maxLength": limits.max_query_chars}
    name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS, "pattern": "^[^$]"}
    key = {**name, "not": {"pattern": r"\]\["}}
    string = {"type": "string", "maxLength": limits.max_value_chars}
    whole = {"type": "integer", "minimum": -MAX_INT, "maximum": MAX_INT}
    ordered = {"anyOf": [string, whole, {"type": "number"}]}
    scalar = {"anyOf": [*ordered["anyOf"], {"type": "boolean"}]}
    values = {"type": "array", "items": scalar, "minItems": 1, "maxItems": limits.max_filter_values}
    filters = {"type": "array", "items": {"$ref": "#/components/schemas/Filter"}, "minItems": 1}
    time = {"type": "string", "description": "RFC 3339; without an offset UTC, a date alone is its midnight."}

    def comparison(operators: list[str], value: dict[str, Any]) -> dict[str, Any]:
        return _object({"type": {"enum": operators}, "key": key, "value": value}, ["type", "key", "value"])

    timeout = {"minimum": limits.min_timeout_ms, "maximum": limits.max_timeout_ms, "default": limits.default_timeout_ms}
    properties = {
        "query": {"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": limits.max_queries}]},
        "limit": {"type": "integer", "minimum": 1, "maximum": limits.max_limit, "default": DEFAULT_LIMIT},
        "time": {
            "description": "Event times, half open: from is included, to is not.",
            "anyOf": [
                _object({"last": {"type": "string", "examples": ["90m", "24h", "7d"]}}, ["last"]),
                _object({"from": time, "to": time}, []) | {"minProperties": 1},
                {"type": "null"},
            ],
        },
        "filter": {"anyOf": [{"$ref": "#/components/schemas/Filter"}, {"type": "null"}]},
        "fields": {
            "description": "Names of the metadata wanted in the results; null: all of it.",
            "anyOf": [{"type": "array", "items": name, "maxItems": limits.max_fields}, {"type": "null"}],
        },
        "group_by": {"enum": ["doc_id", None], "default": "doc_id"},
        "timeout_ms": {"type": "integer", **timeout},
    }
    return {
        "SearchRequest": _object(properties, ["query"]),
        "Filter": {
            "description": _FILTER_TEXT,
            "anyOf": [
                comparison(["eq", "ne"], scalar),
                comparison(["gt", "gte", "lt", "lte"], ordered),
                comparison(["prefix"], {**string, "minLength": 1}),
                comparison(["in", "nin"], values),
                _object({"type": {"enum": ["and", "or"]}, "filters": filters}, ["type", "filters"]),
            ],
        },
        "Problem": _problem(),
    }


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """The error answers of a search."""
    reasons = {
        400: "The body is not JSON.",
        413: "The body is too large.",
        415: "The body is not declared as application/json.",
        422: "The request is not valid; `at` is the JSON pointer of what is wrong.",
        429: "Too many searches at a time; see Retry-After.",
        500: "Internal error.",
        503: "Milvus or the model cannot be used at the moment; see Retry-After.",
        504: "No result in the time of the request.",
    }
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": reason, "content": content} for status, reason in reasons.items()}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _problem() -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in ("type", "title", "detail", "at")}
    return {
        "type": "object",
        "description": "RFC 9457.",
        "properties": {**properties, "status": {"type": "integer"}},
        "required": ["type", "title", "status", "detail"],
    }
