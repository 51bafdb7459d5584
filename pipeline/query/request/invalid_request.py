"""The errors of a request that cannot be answered, with the place of what is wrong."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import UsageError

_OBJECTS = {
    "SearchRequest": 'the body must be a JSON object such as {"query": "refund failed"}',
    "SimilarRequest": 'the body must be a JSON object such as {"doc_id": "ticket-4711"}',
    "FusionOptions": 'must be an object such as {"k": 60, "dense": 1, "keyword": 1}',
    "RecencyOptions": 'must be an object such as {"half_life": "12h", "weight": 0.3}',
    "RerankOptions": 'must be true, false, or an object such as {"top": 50, "budget_ms": 500}',
    "FreshnessOptions": 'must be an object such as {"level": "strong"}',
    "AwaitedOffset": 'must be an object such as {"topic": "documents", "partition": 0, "offset": 42}',
    "TimeWindow": 'must be an object such as {"last": "24h"} or {"from": "2026-11-22", "to": …}',
}
_TYPES = (
    "must be one of eq, ne, gt, gte, lt, lte, in, nin, prefix, contains, contains_any, contains_all, exists, match, "
    "and, or, not"
)
_MESSAGES = {
    "missing": "is missing",
    "model_attributes_type": 'must be an object such as {{"type": "eq", "key": "lang", "value": "en"}}',
    "union_tag_invalid": _TYPES,
    "union_tag_not_found": _TYPES,
    "string_type": "must be a string",
    "string_unicode": "contains half a surrogate pair, which is not text",
    "string_pattern_mismatch": "must be a field name: not empty, no control characters, not starting with $",
    "string_too_short": "must have at least one character",
    "string_too_long": "has {size:,} characters; at most {most:,} are allowed",
    "list_type": "must be a list of {member}s",
    "too_short": "must be a list of at least one {member}",
    "too_long": "holds {size:,} {member}s; at most {most:,} are allowed",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
}
"""By pydantic's type of error."""
_MEMBERS = {
    "query": "text",
    "filters": "filter",
    "value": "value",
    "fields": "field name",
    "facets": "field name",
    "key": "field name",
    "wait_for": "record",
}


class InvalidRequest(UsageError):
    """A search request whose content is wrong; `at` is the JSON pointer of what is wrong.

    The message never repeats a value of the request: it may be a query text.
    """

    def __init__(self, at: str, message: str) -> None:
        super().__init__(f"{at}: {message}" if at else message)
        self.at = at
        self.detail = message


class MalformedRequest(UsageError):
    """A request whose bytes are not JSON."""


def pointer(at: str, part: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member of what `at` points to."""
    return f"{at}/{str(part).replace('~', '~0').replace('/', '~1')}"


def first_problem(error: ValidationError) -> InvalidRequest:
    """The first problem that pydantic found, in words that say what is right."""
    problems = error.errors(include_url=False)
    details = problems[0]
    for problem in problems:
        # Of one object a key that is missing is named before another one that is wrong.
        if problem["type"] == "missing" and problem["loc"][:-1] == details["loc"][:-1]:
            details = problem
    path = _path(details["loc"])
    at = ""
    for part in path:
        at = pointer(at, part)
    return InvalidRequest(at + _below(details), _message(details, str(path[-1]) if path else ""))


def _path(loc: tuple[str | int, ...]) -> list[str | int]:
    """The keys and indices that lead to a value. Behind a union pydantic adds the branch it took: left out here."""
    path: list[str | int] = []
    in_branch = False
    for part in loc:
        if in_branch:
            in_branch = False
            continue
        path.append(part)
        in_branch = path in (["query"], ["rerank"]) or (
            path[0] == "filter" and (path[-1] in ("filter", "key") or path[-2] == "filters")
        )
    return path


def _below(details: ErrorDetails) -> str:
    """Where the problem is inside the value that pydantic names."""
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return "/type"
    return str(details.get("ctx", {}).get("at", ""))


def _message(details: ErrorDetails, name: str) -> str:
    """The problem of a value by its name; a check of our own has the whole message already."""
    context = details.get("ctx", {})
    if details["type"] == "model_type":
        return _OBJECTS.get(context["class_name"], "must be a JSON object")
    if details["type"] == "missing" and name == "query":
        return "is missing: a text, or a list of texts"
    template = _MESSAGES.get(details["type"])
    if template is None:
        return details["msg"]
    given = details["input"]
    size = len(given) if isinstance(given, str | list) else 0
    return template.format(
        size=size,
        member=_MEMBERS.get(name, "value"),
        most=context.get("max_length", 0),
        expected=context.get("expected", ""),
    )
