"""Filters of Pathway's clients, JMESPath and glob patterns of paths, in the form of our search request. Pure.

1. `field == literal`, `!=`, `<`, `<=`, `>`, `>=`, in either order: the same comparison.
2. `a && b`, `a || b`, and `!` of these and of `==` and `!=`: combinations.
3. `contains(literal list, field)`: one of the values. `contains(field, literal)`: a list that contains the value.
4. `starts_with(field, 'x')`, `globmatch('x/**', field)`: a text that begins so.
5. `modified_at`, in epoch seconds: the event time.

Everything else has another meaning in Milvus or none, and is refused.
"""

import json
import re
from typing import Any

import jmespath.exceptions
import jmespath.parser

from pipeline.query import InvalidRequest

Wanted = dict[str, Any]
"""A filter as a request of POST /v1/search holds it."""

MAX_CHARS = 4_096
MODIFIED_AT = "modified_at"

_OPERATORS = {"eq": "eq", "ne": "ne", "lt": "lt", "lte": "lte", "gt": "gt", "gte": "gte"}
_FLIPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "lte": "gte", "gt": "lt", "gte": "lte"}
_NEGATED = {"eq": "ne", "ne": "eq", "and": "or", "or": "and"}
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`((?:\\.|[^`\\])*)`""", re.DOTALL)
_GLOB_CHARACTERS = re.compile(r"[*?\[\]{}()|!+@~\\]")
_FORM = "write comparisons such as lang == 'en' && priority >= `2`"


def pathway_filter(metadata_filter: str | None, filepath_globpattern: str | None) -> Wanted | None:
    """Both filters of a request as one; None: all documents. Raises InvalidRequest at the one that is refused."""
    parts = []
    if metadata_filter:
        parts.append(_of_jmespath(metadata_filter))
    if filepath_globpattern:
        pattern = _glob(filepath_globpattern, "path", "/filepath_globpattern")
        if pattern is not None:
            parts.append(pattern)
    if len(parts) > 1:
        return {"type": "and", "filters": parts}
    return parts[0] if parts else None


def _of_jmespath(text: str) -> Wanted:
    if len(text) > MAX_CHARS:
        raise _refused(f"has {len(text):,} characters; at most {MAX_CHARS:,} are allowed")
    try:
        tree = jmespath.parser.Parser().parse(_QUOTED.sub(_json_literal, text)).parsed
        return _translated(tree)
    except jmespath.exceptions.JMESPathError:
        raise _refused(f"is no JMESPath expression; {_FORM}") from None
    except RecursionError:
        raise _refused("is nested too deep") from None


def _json_literal(quoted: re.Match[str]) -> str:
    """A literal in backticks as JSON: the older form allows a text there without its quotes."""
    content = quoted[1]
    if content is None:
        return quoted[0]
    try:
        json.loads(content.replace("\\`", "`"))
    except ValueError:
        return f"`{json.dumps(content.lstrip())}`"
    return quoted[0]


def _translated(node: Any) -> Wanted:
    kind, children = node["type"], node["children"]
    match kind:
        case "comparator":
            return _comparison(node["value"], *children)
        case "and_expression" | "or_expression":
            return {"type": kind[: kind.index("_")], "filters": _flat(kind, node)}
        case "not_expression":
            return _negated(_translated(children[0]))
        case "function_expression":
            return _function(node["value"], children)
        case _:
            raise _refused(f"has a part that is no condition; {_FORM}")


def _flat(kind: str, node: Any) -> list[Wanted]:
    """The parts of a chain of one operator, which JMESPath nests pair by pair."""
    parts: list[Wanted] = []
    while node["type"] == kind:
        left, right = node["children"]
        parts.append(_translated(right))
        node = left
    return [_translated(node), *reversed(parts)]


def _comparison(operator: str, left: Any, right: Any) -> Wanted:
    if left["type"] == "literal" and right["type"] == "field":
        left, right, operator = right, left, _FLIPPED[operator]
    if left["type"] != "field" or right["type"] != "literal":
        raise _refused("compares something else than a field at the top with a literal, in quotes or backticks")
    key, value = left["value"], right["value"]
    if key == MODIFIED_AT:
        return _modified(_OPERATORS[operator], value)
    return {"type": _OPERATORS[operator], "key": key, "value": value}


def _modified(operator: str, seconds: object) -> Wanted:
    """A comparison of the event time, which has milliseconds, to the second."""
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise _refused(f"compares {MODIFIED_AT} with something else than whole seconds")
    begin = {"type": "gte", "key": "event_time", "value": seconds * 1_000}
    end = {"type": "lt", "key": "event_time", "value": (seconds + 1) * 1_000}
    before = {**begin, "type": "lt"}
    after = {**end, "type": "gte"}
    match operator:
        case "eq":
            return {"type": "and", "filters": [begin, end]}
        case "ne":
            return {"type": "or", "filters": [before, after]}
        case "lt":
            return before
        case "lte":
            return end
        case "gt":
            return after
        case _:
            return begin


def _negated(wanted: Wanted) -> Wanted:
    """The complement. Of an ordering there is none: rows without the field match neither."""
    kind = wanted["type"]
    if kind in ("and", "or"):
        return {"type": _NEGATED[kind], "filters": [_negated(part) for part in wanted["filters"]]}
    if kind in ("in", "nin"):
        return {**wanted, "type": "nin" if kind == "in" else "in"}
    if wanted["key"] == "event_time" and kind in ("gte", "lt"):  # every row has one
        return {**wanted, "type": "lt" if kind == "gte" else "gte"}
    if kind not in _NEGATED:
        raise _refused("negates something else than == and !=, which has no such filter")
    return {**wanted, "type": _NEGATED[kind]}


def _function(name: str, arguments: list[Any]) -> Wanted:
    kinds = [argument["type"] for argument in arguments]
    if kinds == ["literal", "field"]:
        value, key = arguments[0]["value"], arguments[1]["value"]
        if name == "contains" and isinstance(value, list):
            return {"type": "in", "key": key, "value": value}
        if name == "globmatch" and isinstance(value, str):
            pattern = _glob(value, key, "/metadata_filter")
            if pattern is not None:
                return pattern
            raise _refused("has a glob pattern that matches everything; leave it out")
    if kinds == ["field", "literal"]:
        key, value = arguments[0]["value"], arguments[1]["value"]
        if name == "starts_with":
            return {"type": "prefix", "key": key, "value": value}
        if name == "contains":
            return {"type": "contains", "key": key, "value": value}
    raise _refused(
        "has a function that is no filter; there are contains, starts_with and globmatch of a field and a literal"
    )


def _glob(pattern: str, key: str, at: str) -> Wanted | None:
    """The filter of a glob pattern; None: everything. Milvus compares only whole texts and their begins."""
    begin = re.sub(r"\*\*(/\*\*?)?\Z", "", pattern)
    if _GLOB_CHARACTERS.search(begin) is not None or (begin != pattern and begin and not begin.endswith("/")):
        form = "write a whole path, or a folder and everything below it, as in docs/**"
        raise InvalidRequest(at, f"has a glob pattern that Milvus cannot match; {form}")
    if begin == pattern:
        return {"type": "eq", "key": key, "value": pattern}
    return {"type": "prefix", "key": key, "value": begin} if begin else None


def _refused(problem: str) -> InvalidRequest:
    return InvalidRequest("/metadata_filter", problem)
