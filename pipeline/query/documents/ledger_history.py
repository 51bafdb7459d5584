"""Where the rows of a document are by the ledger, and which of them are there (mode upsert)."""

from collections import Counter

from pipeline.errors import NotFound, NotLoaded
from pipeline.query.answer import Origin
from pipeline.query.documents.answer import (
    LedgerState,
    PartitionRows,
    RecordOrigin,
    SourceRows,
    record_time,
    shown_time,
)
from pipeline.query.documents.current import written_at
from pipeline.query.documents.reads import POSITION_FIELDS, DocumentReads, position_in
from pipeline.records import Position
from pipeline.store import NOWHERE, Entry, in_order, row_ids


def ledger_state(entry: Entry) -> LedgerState:
    """The entry as an answer shows it."""
    stored = entry.position != NOWHERE
    origin = RecordOrigin(*entry.position, record_time(entry.record_time)) if stored else None
    return LedgerState(
        state=entry.state,
        pending=entry.pending,
        version=entry.version if entry.versioned else None,
        record=origin,
        topic_id=entry.topic_id,
        written_by=Origin(*written_at(entry)) if stored and entry.state == "live" else None,
        deleted_at=shown_time(entry.written_ms) if entry.written_ms else None,
        fingerprint=entry.fingerprint,
        footprint=dict(entry.footprint),
        former=dict(entry.former),
    )


def rows_by_partition(reads: DocumentReads, entry: Entry) -> list[PartitionRows]:
    """The rows in every Milvus partition where the ledger knows that some may be, or were before the last change."""
    return [_rows_in(reads, entry, name) for name in in_order(entry.footprint.keys() | entry.former.keys())]


def sources(positions: Counter[Position]) -> tuple[SourceRows, ...]:
    """How many rows each record wrote."""
    return tuple(SourceRows(Origin(*position), rows) for position, rows in sorted(positions.items()))


def _rows_in(reads: DocumentReads, entry: Entry, partition: str) -> PartitionRows:
    expected = entry.footprint.get(partition, 0)
    if partition in reads.snapshot.released:
        return PartitionRows(partition, "not_loaded", expected, 0, ())
    chunks = min(max(expected, entry.former.get(partition, 0)), reads.max_rows)
    ids = row_ids(entry.tenant, entry.doc_id, partition, range(chunks))
    try:
        found = {row["id"]: position_in(row) for row in reads.pages(ids, POSITION_FIELDS, partitions=[partition])}
    except (NotFound, NotLoaded) as error:
        if not reads.is_dropped(partition):
            if isinstance(error, NotFound):
                raise
            return PartitionRows(partition, "not_loaded", expected, 0, ())
        return PartitionRows(partition, "dropped", expected, 0, ())
    return PartitionRows(partition, "loaded", expected, len(found), sources(Counter(found.values())))
