"""One document under examination, and the words in which its problems are described. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pipeline.audit.expected_state import ExpectedWrite
from pipeline.audit.findings import AuditScope, Finding, FindingKind, Outcome, Problem, StoredRow
from pipeline.records import Position
from pipeline.store import NOWHERE, Entry, Footprint


@dataclass(slots=True)
class DocumentCase:
    """One document's ledger entry and rows, and the problems found so far."""

    entry: Entry | None
    rows: Sequence[StoredRow]
    scope: AuditScope
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, kind: FindingKind, sentence: str, partitions: Collection[str] = (), *, repairable: bool = True
    ) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, sentence, tuple(sorted(partitions)), repairable))

    def finding(self, outcome: Outcome, expected: ExpectedWrite | None = None, *, unread: bool = False) -> Finding:
        """The finding; `outcome` is that without problems."""
        return Finding("problem" if self.problems else outcome, tuple(self.problems), expected, unread)

    @property
    def places(self) -> set[str]:
        """Milvus partitions where rows are or may be."""
        return partitions_of(self.rows) | set(self.entry.footprint if self.entry else ())

    @property
    def live(self) -> bool:
        """Whether anything says that the document exists."""
        return bool(self.rows) or (self.entry is not None and self.entry.state == "live")


def names_record(entry: Entry, expected: ExpectedWrite) -> bool:
    """Whether the entry is of this record, or of one of the same version: any of those may have been the last."""
    same_version = (entry.versioned, entry.version) == (expected.version is not None, expected.version or 0)
    return same_version and (entry.versioned or entry.position == expected.position)


def same_content(entry: Entry, expected: ExpectedWrite) -> bool:
    """Whether the entry has the state and the hashes of the expected write."""
    state = "deleted" if expected.event_time is None else "live"
    hashes = entry.content_hash, entry.row_hash
    return entry.state == state and hashes == (expected.content_hash, expected.row_hash)


def footprint_of(rows: Sequence[StoredRow]) -> dict[str, int]:
    """The footprint of these rows; a negative number of chunks where they are not 0 … n-1 without a gap."""
    chunks: dict[str, list[int]] = {}
    for row in rows:
        chunks.setdefault(row.milvus_partition, []).append(row.chunk)
    return {
        name: len(numbers) if sorted(numbers) == list(range(len(numbers))) else -len(numbers)
        for name, numbers in chunks.items()
    }


def partitions_of(rows: Sequence[StoredRow]) -> set[str]:
    """The Milvus partitions in which the rows are."""
    return {row.milvus_partition for row in rows}


# --- words -----------------------------------------------------------------------------------------------------------


def record_text(position: Position) -> str:
    """The record at a position."""
    return "no record" if position == NOWHERE else f"{position.topic}/{position.partition}/{position.offset}"


def rows_text(rows: Sequence[StoredRow]) -> str:
    """A number of rows."""
    return "1 row" if len(rows) == 1 else f"{len(rows)} rows"


def footprint_text(footprint: Footprint) -> str:
    """Numbers of chunks by Milvus partition."""
    parts = [f"{abs(count)} in {name}" for name, count in sorted(footprint.items())]
    return f"chunks: {', '.join(parts)}" if parts else "no rows"


def numbers_text(numbers: Sequence[int]) -> str:
    """The first few numbers of a list."""
    first = ", ".join(map(str, numbers[:5]))
    return f"{first} and {len(numbers) - 5} more" if len(numbers) > 5 else first
