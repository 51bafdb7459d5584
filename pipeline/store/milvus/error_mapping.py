"""The meaning of errors of pymilvus and gRPC: which call may be repeated, and when.

Codes are Milvus's `merr` table: as measured on 2.3.5 and Lite 3.2.2, and as the source of 2.4 to 3.0 has it. The table
decides; for a code that it does not have, the server's own `retriable` (2.4 and later; 2.3.5 and Lite never set it).
An error is read by its shape (`code`, `message`, `retriable`), so nothing here imports the SDK.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pipeline.backoff import Backoff
from pipeline.errors import (
    MilvusStreamError,
    NotFound,
    NotLoaded,
    OutcomeUnknown,
    RateLimited,
    RecordRejected,
    RequestRefused,
    RequestTooLarge,
    RowsRefused,
    Unavailable,
    UnlistedAnswer,
    UsageError,
)


class FailureKind(Enum):
    """What an answer says about the call."""

    UNAVAILABLE = "the server cannot serve; the call had no effect"
    RATE_LIMITED = "the server asks for fewer requests; the call had no effect"
    QUOTA = "the server denies writes (memory, disk, quota or a late time tick); the call had no effect"
    OUTCOME_UNKNOWN = "no answer; the call may have had its effect"
    RECOVERING = "a shard of the collection is not serviceable; the call had no effect"
    NOT_LOADED = "the collection is not loaded"
    RELEASED = "the Milvus partition is not loaded"
    NOT_FOUND = "the collection or Milvus partition does not exist"
    TOO_LARGE = "the message is over the limit"
    REFUSED = "the content of the request is refused: a bad row, expression or parameter"
    TOO_MANY_PARTITIONS = "the collection has as many Milvus partitions as the server allows"
    DENIED = "not authenticated or not permitted"
    UNSUPPORTED = "this server does not know the call"
    UNEXPECTED = "an answer that is in no table"


_BY_CODE = {
    2: FailureKind.UNAVAILABLE,
    3: FailureKind.QUOTA,  # memory limit
    4: FailureKind.UNAVAILABLE,
    6: FailureKind.REFUSED,  # Lite's invalid input
    7: FailureKind.QUOTA,  # disk limit
    8: FailureKind.RATE_LIMITED,
    9: FailureKind.QUOTA,
    10: FailureKind.UNSUPPORTED,
    11: FailureKind.QUOTA,  # the time tick is late: the server cannot keep up with what was written
    12: FailureKind.UNAVAILABLE,
    100: FailureKind.NOT_FOUND,
    103: FailureKind.UNAVAILABLE,
    106: FailureKind.RECOVERING,
    109: FailureKind.UNAVAILABLE,  # the schema was changed, and the SDK's one repetition met the old one again
    200: FailureKind.NOT_FOUND,
    201: FailureKind.RELEASED,
    202: FailureKind.UNAVAILABLE,
    305: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    1002: FailureKind.UNAVAILABLE,
    1003: FailureKind.UNAVAILABLE,  # the object store is busy
    1100: FailureKind.REFUSED,
    1101: FailureKind.REFUSED,
    1102: FailureKind.TOO_LARGE,
    1400: FailureKind.DENIED,
    1401: FailureKind.DENIED,
    1501: FailureKind.UNAVAILABLE,
    1502: FailureKind.UNAVAILABLE,
    1503: FailureKind.UNAVAILABLE,
    1504: FailureKind.UNAVAILABLE,
    1807: FailureKind.RATE_LIMITED,
    2200: FailureKind.UNAVAILABLE,  # the second query of a search met another state
    10000: FailureKind.OUTCOME_UNKNOWN,  # cancelled inside the server
    10001: FailureKind.OUTCOME_UNKNOWN,  # timed out inside the server
} | dict.fromkeys(range(901, 907), FailureKind.UNAVAILABLE)

_BY_STATUS = {
    "UNIMPLEMENTED": FailureKind.UNSUPPORTED,
    "UNAUTHENTICATED": FailureKind.DENIED,
    "PERMISSION_DENIED": FailureKind.DENIED,
    "INVALID_ARGUMENT": FailureKind.REFUSED,
    "OUT_OF_RANGE": FailureKind.REFUSED,
    "UNAVAILABLE": FailureKind.OUTCOME_UNKNOWN,
    "DEADLINE_EXCEEDED": FailureKind.OUTCOME_UNKNOWN,
    "CANCELLED": FailureKind.OUTCOME_UNKNOWN,
    "UNKNOWN": FailureKind.OUTCOME_UNKNOWN,
    "INTERNAL": FailureKind.OUTCOME_UNKNOWN,
    "ABORTED": FailureKind.OUTCOME_UNKNOWN,
    "DATA_LOSS": FailureKind.OUTCOME_UNKNOWN,
}

# Milvus 2.3 answers most failures with 65535, Lite with 1 or 101, pymilvus itself with 1: only the text distinguishes
# them. A text that is not listed may be a refusal or an outage; the callers find out which (`UnlistedAnswer`).
_BY_WORDS = (
    (FailureKind.RATE_LIMITED, ("rate limit exceeded",)),
    (FailureKind.TOO_MANY_PARTITIONS, ("partition number", "exceeds max")),
    (FailureKind.TOO_LARGE, ("message larger than max",)),
    (FailureKind.TOO_LARGE, ("maxoutputsize",)),
    (FailureKind.NOT_FOUND, ("partition name", "not found")),
    (FailureKind.NOT_FOUND, ("partition not found",)),
    (FailureKind.NOT_FOUND, ("collection not found",)),
    (FailureKind.RELEASED, ("partition not loaded",)),
    (FailureKind.NOT_LOADED, ("not loaded",)),
    (FailureKind.NOT_LOADED, ("call load()",)),
    (FailureKind.OUTCOME_UNKNOWN, ("context deadline exceeded",)),
    (FailureKind.OUTCOME_UNKNOWN, ("context canceled",)),
    (FailureKind.OUTCOME_UNKNOWN, ("wait for", "timeout")),
    (FailureKind.OUTCOME_UNKNOWN, ("retry timeout",)),
    (FailureKind.UNAVAILABLE, ("channel not available",)),
    (FailureKind.RECOVERING, ("not serviceable",)),
    (FailureKind.UNAVAILABLE, ("not ready",)),
    (FailureKind.UNAVAILABLE, ("not healthy",)),
    (FailureKind.UNAVAILABLE, ("no available",)),
    (FailureKind.UNAVAILABLE, ("closed channel",)),
    (FailureKind.REFUSED, ("invalid index type",)),
    (FailureKind.REFUSED, ("invalid collection name",)),
    (FailureKind.REFUSED, ("invalid partition name",)),
    (FailureKind.REFUSED, ("is not a number or infinity",)),
    (FailureKind.REFUSED, ("should divide the dim",)),
    (FailureKind.REFUSED, ("exceeds max length",)),
    (FailureKind.REFUSED, ("duplicate primary keys",)),
    (FailureKind.REFUSED, ("invalid utf",)),
    (FailureKind.REFUSED, ("cannot parse expression",)),
    (FailureKind.REFUSED, ("empty expression should be used with limit",)),
    (FailureKind.REFUSED, ("metric type not match",)),
    (FailureKind.REFUSED, ("should be in range",)),
    (FailureKind.REFUSED, ("vector dimension mismatch",)),
    (FailureKind.REFUSED, ("field_meta.get_sizeof() == element.line_sizeof",)),
    (FailureKind.REFUSED, ("mismatch in its core dimension",)),
)
_LITE_EXPRESSION = 101
_VAGUE_CODES = (1, 5, _LITE_EXPRESSION, 65535)
# pymilvus's own checks; their code is always 1, so the class decides.
_REFUSED_CLASSES = ("DataNotMatchException", "ParamError", "DataTypeNotMatchException", "PrimaryKeyException")
_NEVER_SENT = ("failed to connect", "connection refused", "dns resolution failed", "name resolution")


def classify(error: BaseException) -> FailureKind:
    """The kind of failure that an error of pymilvus or gRPC stands for."""
    # Where the connection breaks under a call, pymilvus reports only that it could not reconnect. The call's own
    # error is in the chain, and it may have reached the server.
    lost = any(_status_kind(link) is FailureKind.OUTCOME_UNKNOWN for link in chain(error))
    name = _status_name(error)
    if name is not None:
        return _status_kind(error) or FailureKind.UNEXPECTED
    code, message = _code(error), str(getattr(error, "message", error)).lower()
    if type(error).__name__ in _REFUSED_CLASSES:
        return FailureKind.REFUSED
    if code in _VAGUE_CODES:
        # Lite says 101 for "not loaded", which is listed, and for an expression it cannot read, in many words.
        rest = FailureKind.REFUSED if code == _LITE_EXPRESSION else FailureKind.UNEXPECTED
        kind = next((kind for kind, words in _BY_WORDS if all(word in message for word in words)), rest)
    else:
        kind = _BY_CODE.get(code, FailureKind.UNEXPECTED)
    if kind is FailureKind.UNEXPECTED and getattr(error, "retriable", False) is True:
        kind = FailureKind.UNAVAILABLE
    return FailureKind.OUTCOME_UNKNOWN if lost and kind in (FailureKind.UNAVAILABLE, FailureKind.UNEXPECTED) else kind


def _code(error: BaseException) -> int:
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else 1


def _status_name(error: BaseException) -> str | None:
    """The gRPC status of a raw RpcError, or of a MilvusException that carries one as its code."""
    code = getattr(error, "code", None)
    if callable(code):
        code = code()
    name = getattr(code, "name", None)
    return name if isinstance(name, str) and not isinstance(code, int) else None


def _status_kind(error: BaseException) -> FailureKind | None:
    name = _status_name(error)
    if name is None:
        return None
    details = getattr(error, "details", None)
    text = str(details() if callable(details) else getattr(error, "message", "")).lower()
    if name == "RESOURCE_EXHAUSTED":
        return FailureKind.TOO_LARGE if "larger than max" in text else FailureKind.RATE_LIMITED
    if name == "UNAVAILABLE" and any(words in text for words in _NEVER_SENT):
        return FailureKind.UNAVAILABLE
    return _BY_STATUS.get(name, FailureKind.UNEXPECTED)


def is_broken_connection(error: BaseException) -> bool:
    """Whether a call failed because its connection broke, or none could be made; not for refusals and deadlines."""
    return any(_status_name(link) == "UNAVAILABLE" for link in chain(error))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its causes, and the errors that were being handled when it was raised."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__]


@dataclass(frozen=True, slots=True)
class Call:
    """A call to Milvus, as error messages name it."""

    operation: str
    """upsert, query …"""
    collection: str | None = None
    effect: Literal["read", "rows", "schema"] = "read"
    """What it changes: nothing, rows (then a refusal is about the rows), or collections, partitions and indexes."""


def to_error(kind: FailureKind, call: Call, words: str) -> MilvusStreamError:
    """The error to raise for a failed call; `words` is the shortened text of the server or the SDK."""
    target = call.operation if call.collection is None else f"{call.operation} of collection {call.collection!r}"
    said = f"Milvus: {words}"
    advice = _ADVICE.get(kind, "")
    message = f"{target}: {kind.value}{advice}. {said}"
    if kind is FailureKind.TOO_MANY_PARTITIONS:
        return RecordRejected("too_many_partitions", message)
    return _ERRORS.get((kind, call.effect), _ERRORS.get((kind, None), Unavailable))(message)


_ADVICE = {
    FailureKind.NOT_LOADED: "; load it, or wait while the server recovers",
    FailureKind.RELEASED: "; load it",
    FailureKind.RECOVERING: "; known of Milvus 2.6 while compaction outruns loading, it then lasts minutes",
    FailureKind.DENIED: "; check milvus.token and the user's privileges",
}
# By kind and, where it matters, by what the call changes. Whatever is not here is trouble of the server.
_ERRORS: dict[tuple[FailureKind, str | None], type[MilvusStreamError]] = {
    (FailureKind.RATE_LIMITED, None): RateLimited,
    (FailureKind.QUOTA, None): RateLimited,
    (FailureKind.OUTCOME_UNKNOWN, "rows"): OutcomeUnknown,
    (FailureKind.OUTCOME_UNKNOWN, "schema"): OutcomeUnknown,
    (FailureKind.NOT_LOADED, None): NotLoaded,
    (FailureKind.RELEASED, None): NotLoaded,
    (FailureKind.NOT_FOUND, None): NotFound,
    (FailureKind.TOO_LARGE, None): RequestTooLarge,
    (FailureKind.REFUSED, "rows"): RowsRefused,
    (FailureKind.REFUSED, "read"): RequestRefused,
    (FailureKind.REFUSED, None): UsageError,
    (FailureKind.DENIED, None): UsageError,
    (FailureKind.UNSUPPORTED, None): UsageError,
    (FailureKind.UNEXPECTED, "rows"): UnlistedAnswer,
    (FailureKind.UNEXPECTED, "read"): UnlistedAnswer,
    (FailureKind.UNEXPECTED, "schema"): UnlistedAnswer,
}


_BACKOFF = Backoff(first_s=0.1, cap_s=3.0)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed call is repeated. Pure; all times in seconds since the first attempt began."""

    backoff: Backoff = _BACKOFF
    total_s: float = 12.0
    """No attempt begins later than this, and none may take longer than the rest of it."""
    rate_limit_s: float = 1.0
    """The shortest wait after a rate-limit answer."""
    not_loaded_s: float = 90.0
    """As `total_s`, for a collection that was loaded before: a restarted Milvus says "not loaded" for up to 60 s."""
    recovering_s: float | None = None
    """As `total_s`, while a shard is not serviceable; None: `total_s`. For jobs that would end otherwise."""

    def wait(
        self, kind: FailureKind, attempt: int, elapsed_s: float, *, jitter: float, was_loaded: bool = False
    ) -> float | None:
        """Seconds to wait before the next attempt, or None: give up.

        `attempt` counts from 1; `jitter` in [0, 1) spreads workers that fail together over the upper half of the wait.
        Every call of ours is idempotent (upsert and delete by id), so an unknown outcome is repeated too.
        """
        if kind not in (
            FailureKind.UNAVAILABLE,
            FailureKind.RATE_LIMITED,
            FailureKind.OUTCOME_UNKNOWN,
            FailureKind.NOT_LOADED,
            FailureKind.RECOVERING,
        ):
            return None
        if kind is FailureKind.NOT_LOADED and not was_loaded:
            return None
        limit = {
            FailureKind.NOT_LOADED: self.not_loaded_s,
            FailureKind.RECOVERING: self.total_s if self.recovering_s is None else self.recovering_s,
        }.get(kind, self.total_s)
        wait = self.backoff.delay_s(attempt, jitter)
        if kind is FailureKind.RATE_LIMITED:
            wait = max(wait, self.rate_limit_s)
        return wait if elapsed_s + wait <= limit else None
