"""The selection of dead letters to retry: filters, the record inside a dead letter, and newer versions. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from consumers.dead_letters.envelope import RETRIES, DeadLetter
from pipeline.errors import UsageError
from pipeline.intake import Decoder
from pipeline.records import Delete, Position, Put, Rejected, SourceRecord
from pipeline.store import NOWHERE, Entry, compare_entry

_FILTERS = ("reason", "stage", "topic")


class RetryOutcome(StrEnum):
    """The outcome of a retry for a dead letter that passes the filters."""

    RETRIED = "retried"
    """Its record was sent back to its topic."""
    RETRIED_BEFORE = "retried_before"
    """An earlier run has retried it, or another dead letter of the same record is retried."""
    SUPERSEDED = "superseded"
    """A newer version of the document is stored, or waits in the topic."""
    TRUNCATED = "truncated"
    """It does not contain the whole record."""
    WAITING = "waiting"
    """The group has not committed the record, so workers read it again."""
    OTHER_TOPIC = "other_topic"
    """Its topic is not in `kafka.topics`."""
    NO_ORIGIN = "no_origin"
    """Another program wrote it, without the position of the record."""
    REFUSED = "refused"
    """Its topic does not accept the record any more."""
    GONE = "gone"
    """It left the dead-letter topic during the run."""
    LEFT = "left"
    """Beyond `--limit`, or the run was stopped before it."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Allowed values by name; a dead letter passes if each of its values is allowed. No names: all pass."""

    allowed: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "DeadLetterFilter":
        """Parse `name=value` texts; the same name again allows one more value. Raises UsageError."""
        allowed: dict[str, frozenset[str]] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or not value or name not in _FILTERS:
                known = ", ".join(f"{known_name}=…" for known_name in _FILTERS)
                raise UsageError(f"--filter {text!r}: write {known}, e.g. --filter reason=missing_text")
            allowed[name] = allowed.get(name, frozenset()) | {value}
        return cls(allowed)

    def passes(self, dead_letter: DeadLetter) -> bool:
        """Whether the dead letter passes."""
        values = {"reason": dead_letter.reason, "stage": dead_letter.stage, "topic": dead_letter.topic}
        return all(values[name] in allowed for name, allowed in self.allowed.items())

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, values in self.allowed.items() for value in sorted(values))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dead letter that may be retried, without its bytes."""

    position: Position
    """In the dead-letter topic."""
    record_id: str
    origin: Position
    """Of the rejected record."""
    size: int
    operation: Delete | None
    """Document, version and time of the record; None if they are unknown."""
    rejected_again: str | None
    """The reason for which the present configuration rejects the record, too."""


def origin_of(dead_letter: DeadLetter) -> Position | None:
    """Return the position of the rejected record; None if the dead letter does not contain it."""
    if not dead_letter.topic or dead_letter.partition is None or dead_letter.offset is None:
        return None
    return Position(dead_letter.topic, dead_letter.partition, dead_letter.offset)


def record_id(dead_letter: DeadLetter, origin: Position) -> str:
    """Return an id that is the same for all dead letters of one record.

    It covers the content, too: offsets start again at 0 in a recreated topic, and a dead letter with a false origin
    must not be taken for another one.
    """
    digest = hashlib.sha256()
    parts = (
        "/".join(map(str, origin)).encode(),
        str(dead_letter.timestamp_ms).encode(),
        dead_letter.record.key,
        dead_letter.record.value,
    )
    for part in parts:
        digest.update(b"-" if part is None else b"%d:" % len(part) + part)
    return digest.hexdigest()[:40]


def rejected_record(dead_letter: DeadLetter, origin: Position) -> SourceRecord:
    """Return the record as the worker read it."""
    record = dead_letter.record
    return SourceRecord(
        origin,
        dead_letter.timestamp_ms,
        record.key,
        record.value,
        dead_letter.original_headers,
        dead_letter.topic_id,
    )


def retry_headers(dead_letter: DeadLetter) -> tuple[tuple[str, bytes], ...]:
    """Return the record's own headers and its number of retries; kafka-python cannot send a header without a value."""
    return (
        *((name, value or b"") for name, value in dead_letter.original_headers),
        (RETRIES, str(dead_letter.retries + 1).encode()),
    )


def requested_operation(record: SourceRecord, decoder: Decoder, now_ms: int) -> Delete | Rejected:
    """Return document and version of a record, a put or a delete, as a Delete; or why it would be rejected now."""
    operation = decoder.decode(record, now_ms)
    if isinstance(operation, Put):
        tenant, doc_id = operation.key
        return Delete(record.position, record.timestamp_ms, doc_id, tenant, operation.version, operation.topic_id)
    return operation


def superseded(operation: Delete, entries: Iterable[Entry], moved: Mapping[Position, Position]) -> bool:
    """Whether any entry of the document is at least as new as the record.

    `moved`: positions of retried records -> their first positions, which count here. For an entry:

    1. Nothing is stored yet: it is older.
    2. Else `pipeline.order` decides, as in ingest. Where that leaves it to the arrival, the entry is newer: a retried
       record always arrives last.
    """
    return any(_is_as_new(entry, moved.get(entry.position, entry.position), operation) for entry in entries)


def _is_as_new(entry: Entry, first_position: Position, operation: Delete) -> bool:
    if entry.position == NOWHERE:
        return False
    comparison = compare_entry(entry._replace(position=first_position), operation)
    return comparison.order <= 0 or comparison.by_arrival
