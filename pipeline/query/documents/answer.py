"""The answers about one document in the shape of their JSON; OpenAPI is derived from these types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.query.answer import Origin
from pipeline.timestamps import format_time

WriteMode = Literal["upsert", "append"]
"""One current version of a document, or every record a document of its own."""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """One chunk of a document."""

    id: str
    """Primary key of the row."""
    chunk: int
    """Its number in the document, from 0."""
    text: str


@dataclass(frozen=True, slots=True)
class DocumentVersion:
    """What one record stored."""

    event_time: str | None
    """RFC 3339, UTC."""
    version: int | None
    """Of the record's version field; null without one, and in append mode."""
    partition: str | None
    """Name of the Milvus partition; null where the name does not follow from the event time."""
    source: Origin
    """The record that wrote the rows."""
    metadata: Mapping[str, Any]
    text: str | None
    """The chunks joined; null where some are missing."""
    text_exact: bool
    """Whether `text` is proven to be the text of the record. Rows do not hold where a chunk begins, so how far it
    repeats the one before it is found by comparing them, and by the digest of the text that upsert mode stores.
    """
    complete: bool
    """Whether `chunks` has all that is stored; where not, `warnings` says why."""
    chunks: tuple[StoredChunk, ...]

    @property
    def readable(self) -> str:
        """The text, or where it is null the chunks that are there, with blank lines between them."""
        return "\n\n".join(chunk.text for chunk in self.chunks) if self.text is None else self.text


@dataclass(frozen=True, slots=True)
class StoredDocument(DocumentVersion):
    """A document as it is stored now: its current version, in append mode the newest one."""

    doc_id: str
    tenant: str | None
    mode: WriteMode
    pending: bool
    """A change of it was begun and is not finished: this is the version before it."""
    earlier: tuple[DocumentVersion, ...]
    """In append mode the other versions, newest first; else empty."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows that one record wrote."""

    source: Origin
    rows: int


@dataclass(frozen=True, slots=True)
class PartitionRows:
    """Rows of a document in one Milvus partition."""

    name: str | None
    """Null where the name does not follow from the event time."""
    state: Literal["loaded", "not_loaded", "dropped"]
    """Rows of a partition that is not loaded cannot be counted."""
    expected: int | None
    """Rows that the ledger says are there at most; null in append mode, which has no ledger."""
    rows: int
    """Rows that are there."""
    sources: tuple[SourceRows, ...]
    """The same rows by the record that wrote them."""


@dataclass(frozen=True, slots=True)
class RecordOrigin:
    """A Kafka record."""

    topic: str
    partition: int
    offset: int
    timestamp: str | None
    """Kafka's timestamp of the record, RFC 3339; null where it is not known."""


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger's entry of a document."""

    state: Literal["live", "deleted"]
    pending: bool
    """A change was begun and possibly not finished: rows of two versions may be there."""
    version: int | None
    record: RecordOrigin | None
    """The newest record with this content; null: the document is being stored for the first time."""
    topic_id: str
    """Kafka's id of the record's topic; "" where it is not known."""
    written_by: Origin | None
    """The record that wrote the rows: an earlier one of the same content, or `record`."""
    deleted_at: str | None
    """When the delete was written, RFC 3339; null for a live document, and where it is not known."""
    fingerprint: str
    """Identifies the model and the chunking that made the stored vectors."""
    footprint: Mapping[str, int]
    """Milvus partition -> rows that may be there."""
    former: Mapping[str, int]
    """Milvus partition -> rows that were there before the last change, and are deleted."""


@dataclass(frozen=True, slots=True)
class DocumentHistory:
    """Where a document is in Milvus, and the records it came from."""

    doc_id: str
    tenant: str | None
    mode: WriteMode
    ledger: LedgerState | None
    """Null in append mode."""
    partitions: tuple[PartitionRows, ...]
    warnings: tuple[str, ...]


def shown_time(epoch_ms: int) -> str | None:
    """RFC 3339 in UTC; None for what no calendar holds."""
    try:
        return format_time(epoch_ms)
    except OverflowError:
        return None


def record_time(epoch_ms: int) -> str | None:
    """Kafka's timestamp of a record; None where it has none, which is negative."""
    return None if epoch_ms < 0 else shown_time(epoch_ms)
