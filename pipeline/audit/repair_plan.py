"""The repair of a document: what to write before its last operation is applied again. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.audit.expected_state import ExpectedWrite
from pipeline.audit.findings import AuditScope, StoredRow
from pipeline.records import Rank
from pipeline.store import NOWHERE, Entry, compare_entry, final


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What to write before the document's last operation is applied again."""

    intent: Entry
    """A pending ledger entry that covers every row found, so that the writer deletes exactly the surplus."""
    strays: Mapping[str, Sequence[str]]
    """Milvus partition -> row ids that no footprint can cover, because they were computed for another partition."""
    rank: Rank | None = None
    """Of the last operation, with what is known of the document's other records."""


def plan_repair(
    expected: ExpectedWrite, entry: Entry | None, rows: Sequence[StoredRow], scope: AuditScope
) -> RepairPlan:
    """The plan for a document whose last operation is `expected`. Rows of other programs are left alone."""
    footprint = dict(entry.footprint) if entry is not None else {}
    strays: dict[str, list[str]] = {}
    for row in rows:
        made_for = row.made_for(scope)
        if made_for is None:
            continue
        if made_for != row.milvus_partition or _is_stray_in_append_mode(row, expected, scope):
            strays.setdefault(row.milvus_partition, []).append(row.id)
        else:
            footprint[made_for] = max(row.chunk + 1, footprint.get(made_for, 0))
    operation = expected.as_delete()
    if entry is None or compare_entry(entry, operation).order < 0:
        # Otherwise the guard would take the record for older than what a wrong ledger row says.
        entry = final(operation, None, {}, "")._replace(position=NOWHERE, version=0, versioned=False)
    return RepairPlan(entry._replace(footprint=footprint, pending=True), strays, expected.rank)


def _is_stray_in_append_mode(row: StoredRow, expected: ExpectedWrite, scope: AuditScope) -> bool:
    if not scope.append or expected.event_time is None:
        return False
    place = scope.partitioning.place(expected.event_time, expected.timestamp_ms)
    return row.milvus_partition != place or row.chunk >= len(expected.chunks)
