"""The envelope of a dead letter: the rejected record with Kafka Connect's headers, which other tools can read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.intake.reasons import Reason
from pipeline.records import Position, Rejected, SourceRecord

CONNECT = "__connect.errors."
PIPELINE_HEADER = CONNECT + "connector.name"
"""Prefix of the headers that Kafka Connect writes (DeadLetterQueueReporter.java); their values are UTF-8 strings."""
OWN = "milvus-stream."
"""Prefix of the headers that Kafka Connect has no name for."""

MAX_MESSAGE_BYTES = 1_024
MAX_STACK_BYTES = 8_192
_SMALLEST_LIMIT = 1_024
_RECORD_OVERHEAD = 128
"""Upper bound of record and batch framing in bytes."""
_HEADER_OVERHEAD = 10
_EXCEPTION_MESSAGE = CONNECT + "exception.message"
_NULL_HEADERS = OWN + "null-headers"
_ORIGINAL_TIMESTAMP = OWN + "original-timestamp"
_MAX_DIGITS = 19
RETRIES = OWN + "retries"
"""How often `dlq retry` has sent a record back to its topic; kept if the record is rejected again."""

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class OutgoingDeadLetter:
    """A dead letter to be produced."""

    position: Position
    """Of the rejected record."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    cut: frozenset[str] = frozenset()
    """Which of `value` and `key` were cut while reading; headers give their full size."""
    batch: int = 0
    """As in Receipt."""
    topic_id: str = ""
    """Kafka's id of the topic in `position`; "" where it is not known."""
    reason: str = ""

    @property
    def size(self) -> int:
        """Approximate bytes on the wire."""
        return _RECORD_OVERHEAD + len(self.key or b"") + len(self.value or b"") + _headers_size(self.headers)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of the dead-letter topic, read back."""

    record: SourceRecord
    """The record of the dead-letter topic itself."""
    topic: str
    partition: int | None
    offset: int | None
    topic_id: str
    """Id of `topic`; "" if it is not known."""
    timestamp_ms: int
    """Timestamp of the rejected record, epoch milliseconds; -1 for none."""
    stage: str
    reason: str
    """`unknown` if another program wrote the dead letter."""
    message: str
    original_headers: tuple[tuple[str, bytes | None], ...]
    """The headers the rejected record had."""
    truncated: bool
    """Whether key, value or headers of the record were cut."""
    retries: int = 0
    """How often the record had been sent back to its topic before."""


def encode_dead_letter(rejected: Rejected, *, pipeline: str, worker: str) -> OutgoingDeadLetter:
    """Encode a rejected record: key, value, headers and timestamp unchanged, and the reason in further headers.

    Existing headers are kept, even if they use Kafka Connect's names (Connect does the same). `decode_dead_letter`
    therefore relies only on our own headers, which are always appended last. kafka-python cannot send a header without
    a value: it gets an empty one, and `milvus-stream.null-headers` lists its index.
    """
    record = rejected.record
    headers: list[tuple[str, bytes]] = [(name, value or b"") for name, value in record.headers]
    taken = {name for name, _ in record.headers}
    about = {
        CONNECT + "topic": record.position.topic,
        CONNECT + "partition": str(record.position.partition),
        CONNECT + "offset": str(record.position.offset),
        PIPELINE_HEADER: pipeline,
        CONNECT + "task.id": worker,
        CONNECT + "stage": rejected.stage,
        CONNECT + "class.name": f"pipeline.{_ROOMS.get(rejected.stage, rejected.stage)}",
        CONNECT + "exception.class.name": rejected.error_class,
        _EXCEPTION_MESSAGE: _cut(rejected.message, MAX_MESSAGE_BYTES),
        # A rejected record has no call stack of interest: the first line of one contains everything.
        CONNECT + "exception.stacktrace": _cut(f"{rejected.error_class}: {rejected.message}", MAX_STACK_BYTES),
    }
    own = {
        _ORIGINAL_TIMESTAMP: "",
        _NULL_HEADERS: ",".join(str(index) for index, (_, value) in enumerate(record.headers) if value is None),
        OWN + "topic-id": record.topic_id,
        OWN + "reason": rejected.reason,
        _ORIGIN: "/".join(map(str, record.position)),
        _HEADER_NAMES: "",
    }
    notes = () if record.defect is None else record.defect.notes
    own |= {OWN + name: value for name, value in notes}
    cut = frozenset(part for part in ("value", "key") if OWN + f"truncated-{part}-size" in own)
    headers += [(name, _utf8(value)) for name, value in about.items() if name not in taken]
    headers += [(name, _utf8(value)) for name, value in own.items() if value or name in taken]
    return OutgoingDeadLetter(
        record.position,
        record.key,
        record.value,
        tuple(headers),
        record.timestamp_ms,
        cut,
        rejected.batch,
        record.topic_id,
        rejected.reason,
    )


_HEADER_NAMES = OWN + "header-names"
"""`INDEX:HEX` of the record's header names that are not UTF-8, comma-separated; the names have `\\xNN` instead."""
_ORIGIN = OWN + "origin"
"""`TOPIC/PARTITION/OFFSET` of the rejected record; no topic has a slash in its name."""
_ROOMS: Mapping[str, str] = {
    "decode": "intake.Decoder",
    "validate": "intake.Decoder",
    "embed": "embedding.Embedder",
    "write": "store.Writer",
}


def fitted(whole: OutgoingDeadLetter, limit: int) -> OutgoingDeadLetter:
    """Cut a dead letter to `limit` bytes: first the value, then the record's own headers, then the key.

    Headers give the full size and SHA-256 of each part that was cut, so that the record can be found in its topic by
    its position and verified. Raises ValueError for a limit into which not even the reason fits.
    """
    if whole.size <= limit:
        return whole
    if limit < _SMALLEST_LIMIT:
        raise ValueError(f"a dead-letter topic that takes only {limit} bytes a record is of no use")
    notes: list[tuple[str, bytes]] = []
    value, key, headers = whole.value, whole.key, whole.headers

    def excess() -> int:
        return replace(whole, key=key, value=value, headers=(*headers, *notes)).size - limit

    if value:
        notes += [] if "value" in whole.cut else _cut_note("value", value)
        value = value[: max(0, len(value) - excess())]
    if excess() > 0:
        about = [pair for pair in headers if pair[0].startswith((CONNECT, OWN))]
        notes.append((OWN + "dropped-headers", _utf8(str(len(headers) - len(about)))))
        # A record may have any number of headers with these prefixes, of any size; ours are the last ones.
        headers = _last_within(about, limit // 2)
    if excess() > 0 and key:
        notes += [] if "key" in whole.cut else _cut_note("key", key)
        key = key[: max(0, len(key) - excess())]
    if excess() > 0:
        headers = _last_within(headers, max(0, _headers_size(headers) - excess()))
    return replace(whole, key=key, value=value, headers=(*headers, *notes))


def _last_within(headers: Sequence[tuple[str, bytes]], budget: int) -> Headers:
    """Keep as many headers as fit, the last ones first."""
    fitting = []
    for pair in reversed(headers):
        size = _headers_size((pair,))
        if size <= budget:
            fitting.append(pair)
            budget -= size
    return tuple(reversed(fitting))


def retimed(whole: OutgoingDeadLetter) -> OutgoingDeadLetter:
    """Replace the record's timestamp, which the topic refuses (`message.timestamp.before/after.max.ms`).

    The dead letter gets the time of sending, and the record's timestamp goes into a header. A dead letter that has the
    time of sending already is returned unchanged.
    """
    if whole.timestamp_ms < 0:
        return whole
    note = (_ORIGINAL_TIMESTAMP, _utf8(str(whole.timestamp_ms)))
    return replace(whole, headers=(*whole.headers, note), timestamp_ms=-1)


def decode_dead_letter(record: SourceRecord) -> DeadLetter:
    """Decode a record of the dead-letter topic; fields that another program left out are empty.

    A malformed list of null headers shows that another program wrote the record, whatever its other headers are.
    """
    connect, own = dict(reversed(record.headers)), dict(record.headers)
    nulls_text = _text(own, _NULL_HEADERS)
    listed = [_number(index) for index in nulls_text.split(",")] if nulls_text else []
    malformed = None in listed
    if malformed:
        connect = own = {
            _EXCEPTION_MESSAGE: _utf8(f"not a dead letter of ours: its header {_NULL_HEADERS} is malformed")
        }
    nulls = set() if malformed else set(listed)
    original = tuple(
        (name, None if index in nulls else value)
        for index, (name, value) in enumerate(record.headers)
        if not name.startswith((CONNECT, OWN))
    )
    topic, partition, offset = (_text(connect, CONNECT + name) for name in ("topic", "partition", "offset"))
    if (origin := _text(own, _ORIGIN)).count("/") == 2:
        topic, partition, offset = origin.split("/")
    retimed_from, retries = _text(own, _ORIGINAL_TIMESTAMP), _text(own, RETRIES)
    return DeadLetter(
        record=record,
        topic=topic,
        partition=_number(partition),
        offset=_number(offset),
        topic_id=_text(own, OWN + "topic-id"),
        timestamp_ms=record.timestamp_ms if (known := _number(retimed_from)) is None else known,
        stage=_text(connect, CONNECT + "stage"),
        reason=_text(own, OWN + "reason") or "unknown",
        message=_text(connect, _EXCEPTION_MESSAGE),
        original_headers=original,
        truncated=any(name.startswith((OWN + "truncated-", OWN + "dropped-")) for name, _ in record.headers)
        or (record.defect is not None and record.defect.reason == Reason.RECORD_TOO_LARGE),
        retries=_number(retries) or 0,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _cut_note(part: str, whole: bytes) -> list[tuple[str, bytes]]:
    digest = hashlib.sha256(whole).hexdigest()
    return [
        (f"{OWN}truncated-{part}-size", _utf8(str(len(whole)))),
        (f"{OWN}truncated-{part}-sha256", _utf8(digest)),
    ]


def _headers_size(headers: Headers) -> int:
    return sum(len(name.encode()) + len(value) + _HEADER_OVERHEAD for name, value in headers)


def _cut(text: str, limit: int) -> str:
    raw = _utf8(text)
    return text if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore")


def _utf8(text: str) -> bytes:
    # A message that quotes a key can contain a lone surrogate; it must not stop the dead letter.
    return text.encode("utf-8", "backslashreplace")


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode("utf-8", "replace")
