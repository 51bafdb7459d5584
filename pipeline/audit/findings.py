"""What an audit looks at, what it says, and how a document is mended. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from pipeline.audit.expected_state import ExpectedWrite
from pipeline.records import Delete, Document, KafkaPartition, Position
from pipeline.store.partitions import DEFAULT_PARTITION, Granularity, partition_name
from pipeline.store.writing.protocol import NOWHERE, Decision, Entry, Key, decide, final
from pipeline.store.writing.rows import append_row_id, row_hash, row_id

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

ROW_FIELDS = ("id", "doc_id", "chunk", "text", "event_time", "kafka_topic", "kafka_partition", "kafka_offset", "$meta")
_DECLARED = frozenset(ROW_FIELDS) | {"tenant", "vector", "sparse"}
_MOST_CHUNKS = 1_000_000
"""No document has so many: a row with a higher number is not ours, and its footprint would be too long to delete."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row as it was found, without its text."""

    id: str
    milvus_partition: str
    """The one that was asked."""
    key: Key
    chunk: int
    text: bytes
    """See `text_digest`."""
    row_hash: str
    """Of its event time, tenant and metadata; "" where they are no metadata of ours."""
    position: Position
    copies: int = 1


@dataclass(frozen=True, slots=True)
class AuditScope:
    """What the audit looks at."""

    by: Granularity
    fingerprint: str
    """Of model and chunking, as the ledger keeps it."""
    milvus_partitions: Collection[str]
    unloaded: Collection[str]
    """Milvus partitions that cannot be read."""
    offsets: Mapping[KafkaPartition, tuple[int, int]]
    """Offsets [start, end) that were read of each Kafka partition; behind the end, others may be writing."""
    compacted: Collection[str] = ()
    """Topics of which a record inside the range may be gone."""
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """As Kafka gives them: an entry with another one names a record of a topic that was deleted and made anew."""
    deletes_kept_from_ms: int = 0
    """Deletes by records with an earlier Kafka timestamp (epoch milliseconds) are forgotten in the ledger."""
    append: bool = False

    def of_this_log(self, entry: Entry) -> bool:
        """Whether the record that the ledger names stood in the topic as it is now."""
        known = self.topic_ids.get(entry.position.topic, "")
        return not known or not entry.topic_id or known == entry.topic_id

    def where(self, position: Position) -> Where:
        """Whether the record was read (or would have been, if it were there), is gone from the topic, or came later."""
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
    mendable: bool = True
    """Whether writing its last operation again puts it right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one document."""

    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    wanted: ExpectedWrite | None = None
    """What should be stored."""
    unread_chunking: bool = False
    """Its texts were not compared: they were cut by another `chunking` than the configured one."""


def text_digest(text: str) -> bytes:
    """8 bytes, equal for equal texts."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def stored_row(raw: Mapping[str, Any], milvus_partition: str, copies: int = 1) -> StoredRow:
    """A row read with `ROW_FIELDS` from this Milvus partition, where its id stands `copies` times."""
    tenant = raw.get("tenant")
    known_tenant = tenant if isinstance(tenant, str) else None
    metadata = {name: value for name, value in raw.items() if name not in _DECLARED}
    try:
        told = row_hash(Document(raw["doc_id"], "", raw["event_time"], metadata, known_tenant))
    except ValueError:
        told = ""
    return StoredRow(
        id=raw["id"],
        milvus_partition=milvus_partition,
        key=(known_tenant, raw["doc_id"]),
        chunk=raw["chunk"],
        text=text_digest(raw["text"]),
        row_hash=told,
        position=Position(raw["kafka_topic"], raw["kafka_partition"], raw["kafka_offset"]),
        copies=copies,
    )


def origin(row: StoredRow, view: AuditScope) -> str | None:
    """The Milvus partition that the row's id was made for; None: the id is not one of ours."""
    if not 0 <= row.chunk < _MOST_CHUNKS:
        return None
    if view.append:
        return row.milvus_partition if row.id == append_row_id(row.position, row.chunk) else None
    for name in (row.milvus_partition, DEFAULT_PARTITION, *view.milvus_partitions):
        if row.id == row_id(*row.key, row.chunk, name):
            return name
    return None


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What has to be written before the document's last operation is applied again."""

    intent: Entry
    """A pending ledger row that covers every row found: the writer then deletes exactly the surplus."""
    strays: Mapping[str, Sequence[str]]
    """Milvus partition -> ids of ours made for another one, which no footprint can cover."""


def mending(wanted: ExpectedWrite, entry: Entry | None, rows: Sequence[StoredRow], view: AuditScope) -> RepairPlan:
    """How to mend a document whose last operation is `wanted`. Rows with ids that are not ours are left alone."""
    footprint = dict(entry.footprint) if entry is not None else {}
    strays: dict[str, list[str]] = {}
    for row in rows:
        made_for = origin(row, view)
        if made_for is None:
            continue
        if made_for != row.milvus_partition or _stray_of_append(row, wanted, view):
            strays.setdefault(row.milvus_partition, []).append(row.id)
        else:
            footprint[made_for] = max(row.chunk + 1, footprint.get(made_for, 0))
    operation = asked(wanted)
    if entry is None or decide(entry, operation, None, view.fingerprint) is Decision.STALE:
        # The guard must not take the record for older than what a wrong ledger row says.
        entry = replace(final(operation, None, {}, ""), position=NOWHERE, version=0, versioned=False)
    return RepairPlan(replace(entry, footprint=footprint, pending=True), strays)


def asked(wanted: ExpectedWrite) -> Delete:
    """For comparisons of versions, which do not look at the content."""
    tenant, doc_id = wanted.key
    return Delete(wanted.position, wanted.timestamp_ms, doc_id, tenant, wanted.version)


def _stray_of_append(row: StoredRow, wanted: ExpectedWrite, view: AuditScope) -> bool:
    if not view.append or wanted.event_time is None:
        return False
    return row.milvus_partition != partition_name(view.by, wanted.event_time) or row.chunk >= len(wanted.chunks)
