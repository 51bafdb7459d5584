"""The workspace of an audit: operations, rows and ledger rows by document, without texts, in a temporary SQLite file.

It takes some 0.5 KB a record, row and ledger row, in a temporary folder (TMPDIR) that is removed at the end.
"""

import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson

from pipeline.audit import ExpectedWrite, StoredRow
from pipeline.errors import MilvusStreamError
from pipeline.records import VECTOR_FIELD, Position
from pipeline.store import Entry, Key, entry_row, row_entry

T = TypeVar("T")

BUCKET_DOCUMENTS = 10_000
"""Documents compared at a time, which bounds the memory of an audit."""
_KEYS = 2**32
_DIGEST = 8
_CACHE_KIB = 64 * 1024
_TABLES = """
CREATE TABLE operations (key BLOB, source INT, at INT, time INT, doc_id TEXT, tenant TEXT, version INT, certain INT,
                         event_time INT, content TEXT, row TEXT, chunks BLOB);
CREATE TABLE rows (key BLOB, id TEXT, place INT, chunk INT, text BLOB, row TEXT, source INT, at INT,
                   doc_id TEXT, tenant TEXT, copies INT DEFAULT 1);
CREATE TABLE entries (key BLOB, entry BLOB);
CREATE TABLE dead_letters (source INT, at INT, PRIMARY KEY (source, at)) WITHOUT ROWID;
CREATE TABLE suspects (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE findings (key BLOB, kind TEXT, finding BLOB);
"""
_INDEXES = ("operations", "rows", "entries")


@dataclass(slots=True)
class StoredDocument:
    """One document: the operations of its records, its ledger entry and its rows."""

    key: bytes
    operations: list[ExpectedWrite] = field(default_factory=list)
    entry: Entry | None = None
    rows: list[StoredRow] = field(default_factory=list)

    @property
    def name(self) -> Key:
        """Tenant and doc_id."""
        if self.operations:
            return self.operations[0].key
        if self.entry is not None:
            return self.entry.tenant, self.entry.doc_id
        return self.rows[0].key


class _Numbers(Generic[T]):
    """Small numbers for a few different values, in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self.values: list[T] = []

    def of(self, value: T) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
        return number


class AuditWorkspace:
    """The temporary file, for one thread. Raises MilvusStreamError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = sqlite3.connect(folder / "audit.sqlite", isolation_level=None)
        # Only this process reads the file, so nothing needs to survive a crash.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}", "temp_store = FILE"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")
        self._sources: _Numbers[tuple[str, int]] = _Numbers()
        self._places: _Numbers[str] = _Numbers()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- what was read -----------------------------------------------------------------------------------------------

    def add_operations(self, operations: Iterable[tuple[bytes, ExpectedWrite]]) -> None:
        """Add operations by the digest of their document."""
        self._insert(
            "operations",
            12,
            (
                (
                    key,
                    self._sources.of(operation.position[:2]),
                    operation.position.offset,
                    operation.timestamp_ms,
                    operation.key[1],
                    operation.key[0],
                    operation.version,
                    operation.certain,
                    operation.event_time,
                    operation.content_hash,
                    operation.row_hash,
                    b"".join(operation.chunks),
                )
                for key, operation in operations
            ),
        )

    def add_rows(self, rows: Iterable[tuple[bytes, StoredRow]]) -> None:
        """Add rows by the digest of their document."""
        self._insert(
            "rows",
            11,
            (
                (
                    key,
                    row.id,
                    self._places.of(row.milvus_partition),
                    row.chunk,
                    row.text,
                    row.row_hash,
                    self._sources.of(row.position[:2]),
                    row.position.offset,
                    row.key[1],
                    row.key[0],
                    row.copies,
                )
                for key, row in rows
            ),
        )

    def add_entries(self, entries: Iterable[tuple[bytes, Entry]]) -> None:
        """Add ledger rows by the digest of their document."""
        self._insert("entries", 2, ((key, _packed(entry)) for key, entry in entries))

    def add_dead_letters(self, positions: Iterable[Position]) -> None:
        """Add positions of records that are in the dead-letter topic."""
        numbers = ((self._sources.of(position[:2]), position.offset) for position in positions)
        self._insert("dead_letters", 2, numbers)

    def forget_rows(self, milvus_partition: str) -> None:
        """Remove the rows of a Milvus partition, which is read again."""
        with self._writing():
            self._file.execute("DELETE FROM rows WHERE place = ?", (self._places.of(milvus_partition),))

    def suspect(self, keys: Iterable[bytes]) -> None:
        """Mark documents to be compared a second time."""
        self._insert("suspects", 1, ((key,) for key in keys))

    def clear(self, keys: Iterable[bytes]) -> None:
        """Remove marks and findings of documents."""
        values = [(key,) for key in keys]
        with self._writing():
            self._file.execute("CREATE INDEX IF NOT EXISTS findings_key ON findings (key)")
            for table in ("suspects", "findings"):
                self._file.executemany(f"DELETE FROM {table} WHERE key = ?", values)  # noqa: S608 - our own names

    def add_findings(self, findings: Iterable[tuple[bytes, str, Mapping[str, Any]]]) -> None:
        """Add findings by document and kind, as they will be reported."""
        self._insert("findings", 3, ((key, kind, orjson.dumps(finding)) for key, kind, finding in findings))

    def index(self) -> None:
        """Make the file ready to be read by document, after everything was added."""
        with self._writing():
            for name in _INDEXES:
                self._file.execute(f"CREATE INDEX IF NOT EXISTS {name}_key ON {name} (key)")

    # --- by document -------------------------------------------------------------------------------------------------

    def count(self, table: str) -> int:
        """The number of rows in one of the tables."""
        return int(self._file.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own names

    def buckets(self) -> Iterator[list[StoredDocument]]:
        """All documents in buckets of some thousand, by the beginning of their digest."""
        most = max(self.count(name) for name in _INDEXES)
        parts = max(1, -(-most // BUCKET_DOCUMENTS))
        edges = [(number * _KEYS // parts).to_bytes(4, "big") for number in range(1, parts)]
        for low, high in zip([b"", *edges], [*edges, b"\xff" * 32], strict=True):
            yield self._load("key >= ? AND key < ?", (low, high))

    def suspects(self, size: int) -> Iterator[list[StoredDocument]]:
        """The marked documents in groups of up to `size`, as they were read the first time."""
        after = b""
        while True:
            where = "SELECT key FROM suspects WHERE key > ? ORDER BY key LIMIT ?"
            keys = [row[0] for row in self._file.execute(where, (after, size))]
            if not keys:
                return
            yield self._load(f"key IN ({','.join('?' * len(keys))})", keys)
            after = keys[-1]

    def kinds(self) -> dict[str, int]:
        """The number of findings by kind."""
        return dict(self._file.execute("SELECT kind, count(*) FROM findings GROUP BY kind"))

    def findings(self, limit: int) -> list[dict[str, Any]]:
        """The first findings, by document."""
        rows = self._file.execute("SELECT finding FROM findings ORDER BY key, kind LIMIT ?", (limit,))
        return [orjson.loads(finding) for (finding,) in rows]

    def suspected(self, keys: Collection[bytes]) -> set[bytes]:
        """Those of the documents that are marked."""
        where = f"SELECT key FROM suspects WHERE key IN ({','.join('?' * len(keys))})"  # noqa: S608 - only marks
        return {row[0] for row in self._file.execute(where, tuple(keys))}

    def _load(self, where: str, values: Sequence[Any]) -> list[StoredDocument]:
        documents: defaultdict[bytes, StoredDocument] = defaultdict(lambda: StoredDocument(b""))
        is_dead_letter = "EXISTS (SELECT 1 FROM dead_letters d WHERE d.source = o.source AND d.at = o.at)"
        for row in self._file.execute(f"SELECT o.*, {is_dead_letter} FROM operations o WHERE {where}", values):  # noqa: S608
            documents[row[0]].operations.append(self._operation(row))
        for row in self._file.execute(f"SELECT * FROM rows WHERE {where}", values):  # noqa: S608
            documents[row[0]].rows.append(self._row(row))
        for key, entry in self._file.execute(f"SELECT * FROM entries WHERE {where}", values):  # noqa: S608
            documents[key].entry = row_entry(orjson.loads(entry))
        for key, document in documents.items():
            document.key = key
        return list(documents.values())

    def _operation(self, row: Sequence[Any]) -> ExpectedWrite:
        _, source, at, time, doc_id, tenant, version, certain, event_time, content, row_hash, chunks, is_dead = row
        return ExpectedWrite(
            position=self._position(source, at),
            timestamp_ms=time,
            key=(tenant, doc_id),
            version=version,
            # A record in the dead-letter topic was rejected, but a replay may have accepted it since.
            certain=bool(certain) and not is_dead,
            event_time=event_time,
            content_hash=content,
            row_hash=row_hash,
            chunks=tuple(chunks[start : start + _DIGEST] for start in range(0, len(chunks), _DIGEST)),
        )

    def _row(self, row: Sequence[Any]) -> StoredRow:
        _, id_, place, chunk, text, row_hash, source, at, doc_id, tenant, copies = row
        position = self._position(source, at)
        name = self._places.values[place]
        return StoredRow(id_, name, (tenant, doc_id), chunk, text, row_hash, position, copies)

    def _position(self, source: int, offset: int) -> Position:
        topic, partition = self._sources.values[source]
        return Position(topic, partition, offset)

    def _insert(self, table: str, columns: int, values: Iterable[tuple[Any, ...]]) -> None:
        marks = ",".join("?" * columns)
        with self._writing():
            self._file.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)  # noqa: S608 - our names

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise MilvusStreamError(
                f"the audit's temporary file in {self._folder} cannot be written: {error}. Set TMPDIR to a folder with "
                "more room, or audit a shorter time with --from and --to"
            ) from error


@contextmanager
def open_workspace() -> Iterator[AuditWorkspace]:
    """A workspace that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="milvus-stream-audit-") as folder:
        workspace = AuditWorkspace(Path(folder))
        try:
            yield workspace
        finally:
            workspace.close()


def _packed(entry: Entry) -> bytes:
    row = entry_row(entry)
    return orjson.dumps({name: value for name, value in row.items() if name != VECTOR_FIELD})
