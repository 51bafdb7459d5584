"""What one search request may contain, and the error for a request that does not keep to it."""

from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.records import MAX_INT64

MAX_INT = MAX_INT64
"""Integers in filters lie within plus or minus this; Milvus 2.3.5 cannot parse the literal -2**63."""


class InvalidRequest(UsageError):
    """A search request that cannot be answered as it stands; `at` is the JSON pointer of what is wrong.

    The message never repeats a value of the request: it may be a query text.
    """

    def __init__(self, at: str, message: str) -> None:
        super().__init__(f"{at}: {message}" if at else message)
        self.at = at
        self.detail = message


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request; far below the server's own (facts: top k 16,384, depth of parentheses, 64 MiB)."""

    max_limit: int = 1000
    """Most results of a request: `limit` times its number of texts."""
    max_queries: int = 32
    """Most texts in one request."""
    max_query_chars: int = 8_192
    max_filter_depth: int = 8
    max_filter_values: int = 1_000
    """Most values in the whole filter, those inside lists included."""
    max_value_chars: int = 8_192
    max_fields: int = 64
    min_timeout_ms: int = 10
    max_timeout_ms: int = 60_000
    default_timeout_ms: int = 5_000
    max_body_bytes: int = 64 * 1024


def pointer(at: str, part: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member of what `at` points to."""
    return f"{at}/{str(part).replace('~', '~0').replace('/', '~1')}"


def check_text(at: str, value: object, limit: int) -> str:
    """`value` if it is a string of at most `limit` characters that UTF-8 can carry; raises InvalidRequest."""
    if not isinstance(value, str):
        raise InvalidRequest(at, "must be a string")
    if len(value) > limit:
        raise InvalidRequest(at, f"has {len(value):,} characters; at most {limit:,} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(at, "contains half a surrogate pair, which is not text") from None
    return value


def check_keys(at: str, node: dict[str, object], known: tuple[str, ...]) -> None:
    """Raise InvalidRequest for the first key that is not known."""
    for key in node:
        if key not in known:
            shown = check_text(at, key, 256)
            raise InvalidRequest(pointer(at, shown), f"is not a known key; known are {', '.join(known)}")
