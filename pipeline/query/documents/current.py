"""The current version of a document by the ledger (mode upsert): its rows, and none of another version.

Ledger and rows are two collections, and a writer may be between the two. So the rows must be exactly those of which the
ledger speaks, or both are read again.

1. The entry is not pending, and all its rows are there, of the record that it names: the current version.
2. It is pending, and the rows of the version before make the text whose digest it has: that version, and it is said
   that a change is pending.
3. Otherwise both are read again, as of the server's present moment, for a second or so. Then a document that is being
   changed is an error, and of one whose rows are missing those that are there are shown.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import NotFound
from pipeline.query.documents.answer import record_time, shown_time
from pipeline.query.documents.errors import DocumentUnreadable, NoSuchDocument
from pipeline.query.documents.joining import JoinedText, join
from pipeline.query.documents.reads import DocumentReads, Row, dropped, kept, position_in
from pipeline.records import Position
from pipeline.store import Entry, Key, as_of, content_hash, row_ids

_PAUSES_S = (0.0, 0.0, 0.1, 0.3, 0.6)
"""Before each attempt. A change takes some 100 ms from its intent to its end, unless the worker was killed."""


@dataclass(frozen=True, slots=True)
class CurrentVersion:
    """One version of a document as the ledger and the rows show it."""

    entry: Entry
    partition: str | None
    """The Milvus partition of its rows; None: there are none, or rows in several."""
    rows: tuple[Row, ...]
    """In order of their chunks."""
    joined: JoinedText | None
    """None where rows are missing, or not all were read."""
    cut: bool
    """Not all rows were read: there are too many, or they are too large."""

    @property
    def whole(self) -> bool:
        """Whether these are rows of one version, and if they could all be read, all of it."""
        if self.entry.pending:
            return self.joined is not None and self.joined.exact
        return self.cut or self.joined is not None


class CurrentVersions:
    """Finds the current version of documents."""

    def __init__(self, reads: DocumentReads, sleep: Callable[[float], None] = time.sleep) -> None:
        self._reads = reads
        self._sleep = sleep

    def find(self, key: Key, fields: Sequence[str]) -> CurrentVersion:
        """The current version. Raises NoSuchDocument, DocumentUnreadable; NoLedger."""
        consistency: dict[str, Any] = {}
        found = None
        for pause_s in _PAUSES_S:
            if found is not None and self._reads.left_s() < 2 * pause_s:
                break
            if pause_s:
                self._sleep(pause_s)
            if found is not None:
                consistency = as_of(self._reads.api.instant())
            entry = self._reads.entry(key, **consistency)
            check_stored(entry)
            assert entry is not None  # noqa: S101 - for mypy
            found = self._version(entry, fields, consistency)
            if found.whole:
                return found
        assert found is not None  # noqa: S101 - there is a first attempt
        if found.entry.pending:
            message = "the document is being changed, and neither version of it is whole at the moment; try again"
            raise DocumentUnreadable("changing", message)
        return found

    def _version(self, entry: Entry, fields: Sequence[str], consistency: dict[str, Any]) -> CurrentVersion:
        rows: list[Row] = []
        partitions: set[str] = set()
        size = 0
        cut = False
        for partition, chunks in entry.footprint.items():
            for found in self._rows(entry, partition, chunks, fields, consistency):
                if position_in(found) != written_at(entry):
                    continue
                row, row_bytes = kept(found)
                size += row_bytes
                if size > self._reads.settings.max_answer_bytes or len(rows) >= self._reads.max_rows:
                    cut = True
                    break
                rows.append(row)
                partitions.add(partition)
        rows.sort(key=lambda row: row["chunk"])
        cut = cut or sum(entry.footprint.values()) > self._reads.max_rows
        numbers = [row["chunk"] for row in rows]
        together = bool(rows) and len(partitions) == 1 and numbers == list(range(len(rows)))
        expected = sum(entry.footprint.values())
        joined = None
        if together and not cut and (entry.pending or len(rows) == expected):
            joined = join([row["text"] for row in rows], lambda text: content_hash(text) == entry.content_hash)
        return CurrentVersion(entry, next(iter(partitions)) if len(partitions) == 1 else None, tuple(rows), joined, cut)

    def _rows(
        self, entry: Entry, partition: str, chunks: int, fields: Sequence[str], consistency: dict[str, Any]
    ) -> Iterator[Row]:
        self._reads.check_loaded(partition)
        ids = row_ids(entry.tenant, entry.doc_id, partition, range(min(chunks, self._reads.max_rows)))
        try:
            yield from self._reads.pages(ids, fields, partitions=[partition], **consistency)
        except NotFound:
            if not self._reads.is_dropped(partition):
                raise
            if len(entry.footprint) == 1:
                raise dropped(partition) from None


def check_stored(entry: Entry | None) -> None:
    """Raise NoSuchDocument where the ledger has no live document, with what it knows."""
    if entry is None:
        raise NoSuchDocument("no document with this id is stored")
    if entry.state == "live":
        return
    if entry.pending:
        raise NoSuchDocument("no document with this id is stored yet; it is being written at the moment, try again")
    deleted_at = shown_time(entry.written_ms) if entry.written_ms else record_time(entry.record_time)
    raise NoSuchDocument(f"the document was deleted{f' at {deleted_at}' if deleted_at else ''}", deleted_at)


def written_at(entry: Entry) -> Position:
    """The record that wrote the rows of the entry."""
    return entry.written_at or entry.position
