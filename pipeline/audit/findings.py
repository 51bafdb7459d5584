"""The input and the result of an audit: its scope, the stored rows, and the findings. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from pipeline.audit.expected_state import ExpectedWrite
from pipeline.records import (
    METADATA_FIELD,
    RESERVED_NAMES,
    ROW_FIELDS,
    TENANT_FIELD,
    Document,
    KafkaPartition,
    Position,
)
from pipeline.store import DEFAULT_PARTITION, AppendIds, Entry, Key, Partitioning, append_row_id, row_hash, row_id

FindingKind = Literal["missing", "extra", "stale", "misplaced", "duplicated", "incomplete", "pending", "ledger"]
KINDS: tuple[FindingKind, ...] = (
    "missing",
    "extra",
    "stale",
    "misplaced",
    "duplicated",
    "incomplete",
    "pending",
    "ledger",
)
Outcome = Literal["sound", "problem", "unverifiable", "undecided", "pruned", "changing"]
Where: TypeAlias = Literal["here", "gone", "later"]

STORED_FIELDS = (*ROW_FIELDS, METADATA_FIELD)
"""The columns an audit reads of a row."""
_MOST_CHUNKS = 1_000_000
"""No document has so many: a row with a higher number is another program's, and too many to delete by a footprint."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row as it was read, without its text."""

    id: str
    milvus_partition: str
    """The Milvus partition that was read."""
    key: Key
    chunk: int
    text: bytes
    """Its `text_digest`."""
    row_hash: str
    """Of event time, tenant and metadata; "" where they cannot be milvus-stream's."""
    position: Position
    copies: int = 1

    def made_for(self, scope: "AuditScope") -> str | None:
        """The Milvus partition that the row's id was computed for; None: milvus-stream never makes this id."""
        if not 0 <= self.chunk < _MOST_CHUNKS:
            return None
        if scope.appended is not None:
            return self.milvus_partition if scope.appended.maker(self) is not None else None
        for name in (self.milvus_partition, DEFAULT_PARTITION, *scope.milvus_partitions):
            if self.id == row_id(*self.key, self.chunk, name):
                return name
        return None


@dataclass(frozen=True, slots=True)
class AppendedIds:
    """The ids of rows in append mode."""

    ids: AppendIds
    """As the collection's stamp says."""
    topic_ids: Mapping[str, str]
    """Kafka's present id of each topic; "" where it is not known."""
    former: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The ids that a topic has had while it was read into the collection."""

    def of(self, position: Position, topic_id: str | None = None) -> str:
        """The id of the first row of the record at a position, by default one of the topic as it exists now."""
        present = self.topic_ids.get(position.topic, "") if topic_id is None else topic_id
        return append_row_id(position, present if self.ids == "topic-id" else None, 0)

    def maker(self, row: StoredRow) -> str | None:
        """The id of the topic whose record wrote the row; None: milvus-stream never makes this row's id."""
        if not 0 <= row.chunk < _MOST_CHUNKS:
            return None
        present, topic = self.topic_ids.get(row.position.topic, ""), row.position.topic
        if self.ids == "topic-name":
            return present if row.id == append_row_id(row.position, None, row.chunk) else None
        for topic_id in (present, *self.former.get(topic, ())):
            if row.id == append_row_id(row.position, topic_id, row.chunk):
                return topic_id
        return None

    def of_former_topic(self, row: StoredRow) -> bool:
        """Whether the row is of a topic of the same name that was deleted."""
        return self.maker(row) not in {None, self.topic_ids.get(row.position.topic, "")}

    def document(self, row: StoredRow) -> str:
        """The id of the first row of the document that the row belongs to."""
        return self.of(row.position, self.maker(row))


@dataclass(frozen=True, slots=True)
class AuditScope:
    """What an audit covers, and the settings by which documents were stored."""

    partitioning: Partitioning
    fingerprint: str
    """Of model and chunking, as in the ledger."""
    milvus_partitions: Collection[str]
    unloaded: Collection[str]
    """Milvus partitions that cannot be read."""
    offsets: Mapping[KafkaPartition, tuple[int, int]]
    """Offsets [start, end) read of each Kafka partition; records behind the end may be in work."""
    compacted: Collection[str] = ()
    """Topics in which a record inside the range may be gone."""
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Kafka's ids: an entry with another one names a record of a topic that was deleted and created again."""
    deletes_kept_from_ms: int = 0
    """Deletes by records with an earlier Kafka timestamp (epoch milliseconds) have left the ledger."""
    appended: "AppendedIds | None" = None
    """Append mode; None: upsert mode."""

    @property
    def append(self) -> bool:
        """Whether every record is a document of its own."""
        return self.appended is not None

    def of_this_log(self, entry: Entry) -> bool:
        """Whether the record that the ledger names is of the topic as it exists now."""
        topic_id = self.topic_ids.get(entry.position.topic, "")
        return not topic_id or not entry.topic_id or topic_id == entry.topic_id

    def where(self, position: Position) -> Where:
        """Whether a record is in the range that was read, is gone from the topic, or came later."""
        start, end = self.offsets.get(position[:2], (0, 0))
        if position[:2] in self.offsets and position.offset >= end:
            return "later"
        if position.topic in self.compacted or not start <= position.offset < end:
            return "gone"
        return "here"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one document."""

    kind: FindingKind
    sentence: str
    milvus_partitions: tuple[str, ...] = ()
    repairable: bool = True
    """Whether writing the document's last operation again corrects it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one document."""

    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    expected: ExpectedWrite | None = None
    """What should be stored."""
    unread_chunking: bool = False
    """Texts were not compared, because another `chunking` than the configured one had cut them."""


def text_digest(text: str) -> bytes:
    """8 bytes, equal for equal texts."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def stored_row(raw: Mapping[str, Any], milvus_partition: str, copies: int = 1) -> StoredRow:
    """A row that was read with `STORED_FIELDS` from this Milvus partition, which holds its id `copies` times."""
    tenant = raw.get(TENANT_FIELD)
    known_tenant = tenant if isinstance(tenant, str) else None
    metadata = {name: value for name, value in raw.items() if name not in RESERVED_NAMES}
    try:
        digest = row_hash(Document(raw["doc_id"], "", raw["event_time"], metadata, known_tenant))
    except ValueError:
        digest = ""
    return StoredRow(
        id=raw["id"],
        milvus_partition=milvus_partition,
        key=(known_tenant, raw["doc_id"]),
        chunk=raw["chunk"],
        text=text_digest(raw["text"]),
        row_hash=digest,
        position=Position(raw["kafka_topic"], raw["kafka_partition"], raw["kafka_offset"]),
        copies=copies,
    )
