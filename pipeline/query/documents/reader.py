"""One document read from Milvus: whole, or where its rows are, or as a vector to compare others with."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

from pipeline.errors import NotFound, NotLoaded, Unavailable
from pipeline.query.answer import Origin
from pipeline.query.documents.answer import (
    DocumentHistory,
    DocumentVersion,
    PartitionRows,
    StoredChunk,
    StoredDocument,
    WriteMode,
    shown_time,
)
from pipeline.query.documents.appended import AppendedVersion, find_versions, whole_rows
from pipeline.query.documents.current import CurrentVersion, CurrentVersions
from pipeline.query.documents.errors import NoLedger, NoSuchDocument
from pipeline.query.documents.joining import JoinedText, join
from pipeline.query.documents.ledger_history import ledger_state, rows_by_partition, sources
from pipeline.query.documents.reads import ROW_WITH_VECTOR, WHOLE_ROW, DocumentReads, Row, position_in
from pipeline.query.documents.vectors import Likened, chunk_vector, mean_vector
from pipeline.query.search import Searcher
from pipeline.query.shaping import partition_of
from pipeline.records import NOT_METADATA, Position
from pipeline.store import Key

_CUT = "the document is larger than one answer may be: the first of its chunks are shown, and no text"
_MISSING = "rows of the document are missing in Milvus: `milvus-stream audit` finds out why and repairs them"
_EARLIER_CUT = "further versions would make the answer too large, and are left out"
_NO_LEDGER = "the ledger is not there, so which version is the current one is not known: all that is stored is shown"


class DocumentReader:
    """Reads documents of one collection; used by many threads at a time. Every read blocks up to `timeout_s`.

    `tenant`: whose document; None: of whatever tenant, see `DocumentReads.find_key`. All methods raise NoSuchDocument,
    DocumentUnreadable, InvalidRequest (several tenants have one), DeadlinePassed, Unavailable and Mismatch.
    """

    def __init__(
        self,
        searcher: Searcher,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._searcher = searcher
        self._clock = clock
        self._sleep = sleep

    def read(self, doc_id: str, tenant: str | None, timeout_s: float) -> StoredDocument:
        """The document as it is stored now."""
        with self._reading(timeout_s) as reads:
            if not reads.snapshot.one_version:
                return _appended(reads, doc_id, tenant)
            try:
                key = _key(reads, doc_id, tenant)
                return _current(reads, key, self._find(reads, key, WHOLE_ROW))
            except NoLedger:
                return _appended(reads, doc_id, tenant, (_NO_LEDGER,))

    def history(self, doc_id: str, tenant: str | None, timeout_s: float) -> DocumentHistory:
        """Where the document is in Milvus, and the records it came from; also of a deleted document."""
        with self._reading(timeout_s) as reads:
            if not reads.snapshot.one_version:
                return _history_of_rows(reads, doc_id, tenant)
            try:
                key = _key(reads, doc_id, tenant)
                entry = reads.entry(key)
            except NoLedger:
                return _history_of_rows(reads, doc_id, tenant, (_NO_LEDGER,))
            if entry is None:
                raise NoSuchDocument("no document with this id is stored")
            partitions = tuple(rows_by_partition(reads, entry))
            return DocumentHistory(doc_id, key[0], "upsert", ledger_state(entry), partitions, ())

    def document_vector(self, doc_id: str, tenant: str | None, timeout_s: float) -> Likened:
        """The mean of the vectors of a document's chunks; in append mode of its newest version."""
        with self._reading(timeout_s) as reads:
            if reads.snapshot.one_version:
                try:
                    key = _key(reads, doc_id, tenant)
                    return Likened(key, mean_vector(_rows_of(self._find(reads, key, ROW_WITH_VECTOR))))
                except NoLedger:
                    pass  # compared by the newest of the rows
            found = find_versions(reads, doc_id, tenant)
            ((_, rows, _),) = whole_rows(reads, found.versions[:1], ROW_WITH_VECTOR)
            if not rows:
                raise NoSuchDocument("no document with this id is stored")
            return Likened((found.tenant, doc_id), mean_vector(rows))

    def chunk_vector(self, chunk_id: str, tenant: str | None, timeout_s: float) -> Likened:
        """The vector of one chunk, by the primary key of its row."""
        with self._reading(timeout_s) as reads:
            return chunk_vector(reads, chunk_id, tenant)

    @contextmanager
    def _reading(self, timeout_s: float) -> Iterator[DocumentReads]:
        searcher = self._searcher
        deadline = self._clock() + timeout_s
        try:
            yield DocumentReads(searcher.api, searcher.snapshot(), searcher.settings, deadline, self._clock)
        except NotLoaded:
            searcher.forget()
            raise
        except NotFound as error:
            searcher.forget()
            raise Unavailable(f"the collection was dropped, or its partitions change too fast: {error}") from error

    def _find(self, reads: DocumentReads, key: Key, row_fields: Sequence[str]) -> CurrentVersion:
        return CurrentVersions(reads, self._sleep).find(key, row_fields)


def _key(reads: DocumentReads, doc_id: str, tenant: str | None) -> Key:
    return (tenant, doc_id) if tenant is not None else reads.find_key(doc_id)


def _rows_of(current: CurrentVersion) -> Sequence[Row]:
    if not current.rows:
        raise NoSuchDocument(_MISSING)
    return current.rows


def _current(reads: DocumentReads, key: Key, current: CurrentVersion) -> StoredDocument:
    rows, entry = _rows_of(current), current.entry
    version = entry.version if entry.versioned else None
    shown = _version(reads, rows, current.joined, current.partition, version=version)
    warnings = (_CUT,) if current.cut else () if current.joined else (_MISSING,)
    return _document(shown, key, "upsert", warnings, pending=entry.pending)


def _appended(reads: DocumentReads, doc_id: str, tenant: str | None, warnings: tuple[str, ...] = ()) -> StoredDocument:
    """All versions of a document of which only rows are known."""
    found = find_versions(reads, doc_id, tenant)
    warnings += found.warnings
    versions: list[DocumentVersion] = []
    for appended, rows, complete in whole_rows(reads, found.versions, WHOLE_ROW):
        if versions and not complete:
            break
        joined = join([row["text"] for row in rows], None) if rows and complete and appended.whole else None
        if joined is None:
            warnings += (_MISSING if complete else _CUT,)
        versions.append(_version(reads, rows or appended.rows[:1], joined, _place(reads, appended)))
    if len(versions) < len(found.versions):
        warnings += (_EARLIER_CUT,)
    mode: WriteMode = "upsert" if reads.snapshot.one_version else "append"
    return _document(versions[0], (found.tenant, doc_id), mode, warnings, earlier=tuple(versions[1:]))


def _history_of_rows(
    reads: DocumentReads, doc_id: str, tenant: str | None, warnings: tuple[str, ...] = ()
) -> DocumentHistory:
    found = find_versions(reads, doc_id, tenant)
    counts: dict[str | None, Counter[Position]] = {}
    for version in found.versions:
        counts.setdefault(_place(reads, version), Counter())[version.source] += len(version.rows)
    partitions = tuple(
        PartitionRows(name, "loaded", None, of_partition.total(), sources(of_partition))
        for name, of_partition in sorted(counts.items(), key=lambda item: item[0] or "")
    )
    mode: WriteMode = "upsert" if reads.snapshot.one_version else "append"
    return DocumentHistory(doc_id, found.tenant, mode, None, partitions, (*warnings, *found.warnings))


def _place(reads: DocumentReads, version: AppendedVersion) -> str | None:
    return partition_of(version.rows[0]["event_time"], reads.snapshot.partitions)


def _version(
    reads: DocumentReads,
    rows: Sequence[Row],
    joined: JoinedText | None,
    partition: str | None,
    *,
    version: int | None = None,
) -> DocumentVersion:
    hidden = {field.name for field in reads.snapshot.info.fields} | NOT_METADATA
    first = rows[0]
    return DocumentVersion(
        event_time=shown_time(first["event_time"]),
        version=version,
        partition=partition,
        source=Origin(*position_in(first)),
        metadata={name: first[name] for name in first if name not in hidden},
        text=joined.text if joined else None,
        text_exact=joined is not None and joined.exact,
        complete=joined is not None,
        chunks=tuple(StoredChunk(row["id"], row["chunk"], row["text"]) for row in rows if "text" in row),
    )


def _document(
    version: DocumentVersion,
    key: Key,
    mode: WriteMode,
    warnings: tuple[str, ...],
    *,
    pending: bool = False,
    earlier: tuple[DocumentVersion, ...] = (),
) -> StoredDocument:
    shown = {field.name: getattr(version, field.name) for field in fields(DocumentVersion)}
    return StoredDocument(
        **shown, doc_id=key[1], tenant=key[0], mode=mode, pending=pending, earlier=earlier, warnings=warnings
    )
