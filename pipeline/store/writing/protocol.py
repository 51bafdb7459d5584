"""The decisions of the write protocol: what a micro-batch changes, given the ledger. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from pipeline.records import Delete, Position, Put
from pipeline.store.writing.former_places import left_behind, merged

Key: TypeAlias = tuple[str | None, str]
"""Tenant and doc_id: what identifies a document."""
Change: TypeAlias = Put | Delete
Refusal: TypeAlias = tuple[Change, str, str]
"""The operation, a stable snake_case reason, and a sentence for people."""
Footprint: TypeAlias = Mapping[str, int]
"""Milvus partition -> n: the document may have rows for chunks 0 … n-1 there, and no others anywhere."""


class Earlier(NamedTuple):
    """An operation that was folded into a later one of its key."""

    operation: Change
    chunks: int | None
    """The number of its chunks, 0 for a delete. None: nobody can have written it before."""


NOWHERE = Position("", -1, -1)
"""The position in the intent of a document that was never stored: every record is newer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One document in the ledger: its stored version, and where rows of it may be."""

    doc_id: str
    tenant: str | None
    position: Position
    """The newest record with this content. Rows keep the position of the record that wrote them, which may be older."""
    record_time: int
    """Kafka's timestamp of that record, epoch milliseconds."""
    version: int
    """Of the record's version field; 0 without one."""
    versioned: bool
    state: Literal["live", "deleted"]
    footprint: Footprint
    content_hash: str
    row_hash: str
    fingerprint: str
    """Of the model that made the stored vectors."""
    topic_id: str
    """Of the topic in `position`, as Kafka gives it to every topic created; "" where it is not known."""
    pending: bool
    """A change was begun and possibly not finished, so rows may differ from version and hashes."""
    former: Footprint = field(default_factory=dict)
    """Places that the last change has left: should Milvus lose its deletes, rows may be there again."""
    written_at: Position | None = None
    """The record that wrote the rows, where it is another one than `position`."""


@dataclass(frozen=True, slots=True)
class DocumentHashes:
    """What is compared to find out whether a document is stored already."""

    content_hash: str
    row_hash: str
    milvus_partition: str


class Decision(Enum):
    """What to do with an operation, given the document's ledger entry."""

    WRITE = "rows change"
    ADVANCE = "a newer record has the stored content: only the ledger row changes"
    UNCHANGED = "this version is stored"
    STALE = "a newer version is stored"


@dataclass(frozen=True, slots=True)
class WritePlan:
    """The decisions for one micro-batch, as of the time they were made."""

    to_embed: Sequence[Put]
    """Documents to be chunked and embedded."""
    deletes: Sequence[Delete] = ()
    advances: Sequence[Change] = ()
    """Stored already by an older record of the same content."""
    unchanged: int = 0
    """Operations that need no document row: stored already."""
    stale: int = 0
    """Operations dropped because a newer version is stored."""
    refused: Sequence[Refusal] = ()
    hashes: Mapping[Key, DocumentHashes] = field(default_factory=dict)
    """Of the puts in `to_embed`."""
    stored: Mapping[Key, Entry] = field(default_factory=dict)
    """Their documents' ledger entries; batches in flight may still change them."""
    by_arrival: int = 0
    """Operations that count as newer only because they arrived later: their versions cannot be compared."""
    in_flight: Sequence[Key] = ()
    """Keys whose ledger entries stay in the cache until the plan is applied."""
    rewrite: Collection[Key] = ()
    """Keys whose content is stored by the ledger, but not by the rows: they are written again."""
    earlier: Mapping[Key, Footprint] = field(default_factory=dict)
    """Places of operations folded away, which an earlier owner may have written without any trace in the ledger."""
    pending: Collection[Key] = ()
    """Keys whose ledger entry was pending when the plan was made."""

    def without(self, dropped: Callable[[Change], bool]) -> "WritePlan":
        """The plan without the operations for which `dropped` is true: they are neither written nor deleted."""
        return replace(
            self,
            to_embed=[put for put in self.to_embed if not dropped(put)],
            deletes=[delete for delete in self.deletes if not dropped(delete)],
            advances=[change for change in self.advances if not dropped(change)],
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of one applied micro-batch."""

    rows_written: int
    rows_deleted: int
    """Rows that may have existed, by the footprint."""
    written: int = 0
    """Documents stored."""
    deleted: int = 0
    """Documents deleted."""
    unchanged: int = 0
    """Operations whose content was stored by a batch that was in flight when this one was planned."""
    stale: int = 0
    """Operations older than what such a batch has stored."""
    refused: Sequence[Refusal] = ()
    set_aside: Sequence[tuple[Change, str]] = ()
    """Operations to be tried again later, and the words in which Milvus refused them; see `UnlistedAnswers`."""
    unfinished: Collection[Key] = ()
    """Keys of the plan whose document is neither in its old nor in its new version: its operation was refused."""


def decide(entry: Entry | None, operation: Change, hashes: DocumentHashes | None, fingerprint: str) -> Decision:
    """Compare an operation with its document's ledger entry.

    `hashes` are the Put's, None for a Delete. A pending entry has the version before the change that was begun, and
    its rows cannot be trusted: the same version is written again.
    """
    if entry is None:
        return Decision.WRITE
    order = _order(entry, operation)
    if order < 0:
        return Decision.STALE
    if entry.pending or not _holds(entry, hashes, fingerprint):
        return Decision.WRITE
    return Decision.ADVANCE if order else Decision.UNCHANGED


def comparable(entry: Entry, operation: Change) -> bool:
    """Whether the versions decide which is newer: both are from the version field, or both are offsets of one log.

    They do not after a topic was created again, or when a key changed its Kafka partition: then arrival decides.
    """
    if operation.by_arrival:
        return _same_log(entry, operation)
    if entry.versioned or operation.version is not None:
        return entry.versioned and operation.version is not None
    return _same_log(entry, operation)


def _same_log(entry: Entry, operation: Change) -> bool:
    if operation.position[:2] != entry.position[:2]:
        return False
    return operation.topic_id == entry.topic_id or not operation.topic_id or not entry.topic_id


def _order(entry: Entry, operation: Change) -> int:
    """-1: older than the entry, 0: the same version, 1: newer, or not comparable (then arrival decides)."""
    if not comparable(entry, operation):
        return 1
    if operation.version is not None and operation.version != entry.version and not operation.by_arrival:
        return 1 if operation.version > entry.version else -1
    if _same_log(entry, operation):
        offset, stored = operation.position.offset, entry.position.offset
        return (offset > stored) - (offset < stored)
    return 0


def _holds(entry: Entry, hashes: DocumentHashes | None, fingerprint: str) -> bool:
    if hashes is None:
        return entry.state == "deleted"
    return (
        entry.state == "live"
        and entry.content_hash == hashes.content_hash
        and entry.row_hash == hashes.row_hash
        and entry.fingerprint == fingerprint
        and entry.footprint.keys() == {hashes.milvus_partition}
    )


def intent(entry: Entry | None, operation: Change, place: Footprint, beyond: Footprint | None = None) -> Entry | None:
    """The ledger entry to write before rows change: the old version, with a footprint that also covers the new rows.

    `beyond`: further places where rows may be.
    None where none is needed: the stored entry is already like that, or there are no rows before and after.
    """
    if entry is None and not place and not beyond:
        return None
    before = entry or Entry(
        doc_id=operation.key[1],
        tenant=operation.key[0],
        position=NOWHERE,
        record_time=0,
        version=0,
        versioned=False,
        state="deleted",
        footprint={},
        content_hash="",
        row_hash="",
        fingerprint="",
        topic_id="",
        pending=True,
    )
    footprint = merged(before.footprint, place, beyond or {})
    if entry is not None and entry.pending and entry.footprint == footprint:
        return None
    return replace(before, footprint=footprint, former={}, pending=True)


def final(
    operation: Change,
    hashes: DocumentHashes | None,
    place: Footprint,
    fingerprint: str,
    footprint: Footprint | None = None,
) -> Entry:
    """The ledger entry when the rows are exactly those of the operation; `footprint`: of its intent.

    A delete has one, too, even of an unknown key: otherwise an older record, read again, would bring the document back.
    """
    tenant, doc_id = operation.key
    return Entry(
        doc_id=doc_id,
        tenant=tenant,
        position=operation.position,
        record_time=operation.timestamp_ms,
        version=operation.version or 0,
        versioned=operation.version is not None,
        state="deleted" if hashes is None else "live",
        footprint=place,
        content_hash="" if hashes is None else hashes.content_hash,
        row_hash="" if hashes is None else hashes.row_hash,
        fingerprint="" if hashes is None else fingerprint,
        topic_id=operation.topic_id,
        pending=False,
        former=left_behind(footprint or {}, place),
    )


def advanced(entry: Entry, operation: Change) -> Entry:
    """The ledger entry after a newer record with the same content.

    Without it, a replay of a range that ends between the two records would take the older one for the newest.
    """
    return replace(
        entry,
        position=operation.position,
        record_time=operation.timestamp_ms,
        version=operation.version or 0,
        versioned=operation.version is not None,
        topic_id=operation.topic_id,
        written_at=entry.written_at or entry.position,
    )


def surplus(footprint: Footprint, place: Footprint) -> dict[str, range]:
    """Milvus partition -> chunks with rows that may exist and are not of the new version."""
    ranges = {partition: range(place.get(partition, 0), chunks) for partition, chunks in footprint.items()}
    return {partition: chunks for partition, chunks in ranges.items() if chunks}
