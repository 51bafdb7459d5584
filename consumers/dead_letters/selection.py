"""Which dead letters are to be put back: filters, what a letter says about its record, and what is newer. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from consumers.dead_letters.envelope import RETRIES
from consumers.kafka import DeadLetter
from pipeline.errors import UsageError
from pipeline.intake import Decoder
from pipeline.records import Delete, Position, Put, Rejected, SourceRecord
from pipeline.store import Entry

_FILTERS = ("reason", "stage", "topic")


class Outcome(StrEnum):
    """What becomes of a letter that matches the filters."""

    PUT_BACK = "put_back"
    RETRIED_BEFORE = "retried_before"
    """Put back by an earlier run, or another letter about the same record is."""
    SUPERSEDED = "superseded"
    """A newer version of the document is stored, or waits in the topic."""
    TRUNCATED = "truncated"
    """The letter does not hold the whole record."""
    WAITING = "waiting"
    """The group has not committed the record: it reads it again by itself."""
    OTHER_TOPIC = "other_topic"
    """From a topic that is not in `kafka.topics`."""
    NO_ORIGIN = "no_origin"
    """Another program wrote it and does not say where the record stood."""
    REFUSED = "refused"
    """Its topic does not take it any more."""
    GONE = "gone"
    """It has left the dead-letter topic meanwhile."""
    LEFT = "left"
    """Beyond `--limit`, or the run was stopped before."""


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Letters pass whose values are among those given; no names: all letters."""

    allowed: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "LetterFilter":
        """From `name=value`; the same name again allows one more value. Raises UsageError."""
        allowed: dict[str, frozenset[str]] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or not value or name not in _FILTERS:
                known = ", ".join(f"{one}=…" for one in _FILTERS)
                raise UsageError(f"--filter {text!r}: write {known}, e.g. --filter reason=missing_text")
            allowed[name] = allowed.get(name, frozenset()) | {value}
        return cls(allowed)

    def passes(self, letter: DeadLetter) -> bool:
        """Whether the letter is asked for."""
        values = {"reason": letter.reason, "stage": letter.stage, "topic": letter.topic}
        return all(values[name] in allowed for name, allowed in self.allowed.items())

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, values in self.allowed.items() for value in sorted(values))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A letter that may be put back, without its bytes."""

    at: Position
    """In the dead-letter topic."""
    letter_id: str
    origin: Position
    size: int
    asks: Delete | None
    """Document, version and time that the record is about; None where that cannot be told."""
    rejected_again: str | None
    """Why it cannot: the reason for which the present configuration rejects the record as well."""


def origin_of(letter: DeadLetter) -> Position | None:
    """Where the record stood."""
    if not letter.topic or letter.partition is None or letter.offset is None:
        return None
    return Position(letter.topic, letter.partition, letter.offset)


def letter_id(letter: DeadLetter, origin: Position) -> str:
    """The same for every letter about the same record.

    Of its content, too: offsets begin anew in a topic that was created anew, and a letter that lies about its origin
    must not pass for another.
    """
    digest = hashlib.sha256()
    parts = ("/".join(map(str, origin)).encode(), str(letter.timestamp_ms).encode(), letter.record.key)
    for part in (*parts, letter.record.value):
        digest.update(b"-" if part is None else b"%d:" % len(part) + part)
    return digest.hexdigest()[:40]


def rejected_record(letter: DeadLetter, origin: Position) -> SourceRecord:
    """The record as the worker read it."""
    record = letter.record
    return SourceRecord(origin, letter.timestamp_ms, record.key, record.value, letter.original_headers, letter.topic_id)


def headers_back(letter: DeadLetter) -> tuple[tuple[str, bytes], ...]:
    """The record's own headers and how often it was put back; kafka-python can send no header without a value."""
    return (
        *((name, value or b"") for name, value in letter.original_headers),
        (RETRIES, str(letter.retries + 1).encode()),
    )


def requested_operation(record: SourceRecord, decoder: Decoder, now_ms: int) -> Delete | Rejected:
    """Which document and version a record is about (whatever it does to it), or why it would be rejected now."""
    operation = decoder.decode(record, now_ms)
    if isinstance(operation, Put):
        tenant, doc_id = operation.key
        return Delete(record.position, record.timestamp_ms, doc_id, tenant, operation.version, operation.topic_id)
    return operation


def superseded(asked: Delete, entries: Iterable[Entry], moved: Mapping[Position, Position]) -> bool:
    """Whether any of the entries of this document is as new as the record, or newer.

    By the version field where both have it; by offset in the same Kafka partition; else by Kafka's timestamp: for
    ingest arrival would decide, but a record that is put back arrives last. `moved`: where a record stands that was put
    back before -> where it stood first, which is what counts.
    """
    return any(_as_new(entry, moved.get(entry.position, entry.position), asked) for entry in entries)


def _as_new(entry: Entry, position: Position, asked: Delete) -> bool:
    if position.offset < 0:
        return False  # nothing is stored yet
    versioned = asked.version is not None
    if entry.versioned and asked.version is not None and entry.version != asked.version:
        return entry.version > asked.version
    same_topic = entry.topic_id == asked.topic_id or not entry.topic_id or not asked.topic_id
    if entry.versioned == versioned and position[:2] == asked.position[:2] and same_topic:
        return position.offset >= asked.position.offset
    return entry.record_time >= asked.timestamp_ms
