"""The reads of an audit: records, rows and ledger, each written to the workspace in parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from consumers.audit.workspace import AuditWorkspace, StoredDocument
from consumers.kafka import KafkaSettings, read_range
from pipeline.audit import STORED_FIELDS, AppendedIds, ExpectedWrite, StoredRow, stored_row, supersedes, text_digest
from pipeline.chunking import Chunker
from pipeline.intake import Decoder, Reason
from pipeline.records import Delete, KafkaPartition, Operation, Put, Rejected, SourceRecord
from pipeline.store import (
    DEFAULT_PARTITION,
    ENTRY_FIELDS,
    LEDGER_MARK_STATE,
    Key,
    Ledger,
    MilvusServerApi,
    Partitioning,
    RowScan,
    StoredRows,
    WritePolicy,
    all_partitions,
    check_storable,
    ledger_id,
    ledger_name,
    literal,
    row_entry,
    row_hash,
)

T = TypeVar("T")
OnRead = Callable[[int], None]
"""Called with the number of records or rows read since the last call."""

_BUFFER_RECORDS = 20_000
_BUFFER_CHARACTERS = 16_000_000
"""Characters of texts that wait to be chunked."""
_REPORT_RECORDS = 1000
_PARTITIONS_AT_A_TIME = 8
_KEYS_PER_QUERY = 200
"""Documents a query; the filter holds their ids, up to 1 KiB each."""


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """Decodes a record as ingest must have decoded it.

    Ingest compared the event time with its clock. That moment is unknown, but it was not before the record's Kafka
    timestamp (by the producer's clock) and not after now. A record that is accepted at both is certain; one refused at
    both is rejected; otherwise the ledger decides.
    """

    decoder: Decoder
    partitioning: Partitioning
    future_skew_ms: int
    now_ms: int

    def operation(self, record: SourceRecord) -> tuple[Operation, bool]:
        """The operation, and whether ingest is certain to have decided likewise."""
        operation = self.decoder.decode(record, self.now_ms)
        certain = True
        if isinstance(operation, Rejected) and operation.reason == Reason.EVENT_TIME_TOO_OLD:
            operation, certain = self.decoder.decode(record, record.timestamp_ms), False
        if isinstance(operation, Put):
            certain = certain and operation.document.event_time <= record.timestamp_ms + self.future_skew_ms
        if isinstance(operation, Rejected):
            return operation, True
        try:
            check_storable(operation.key, operation.version)
            if isinstance(operation, Put):
                self.partitioning.place(operation.document.event_time, operation.timestamp_ms)
                row_hash(operation.document)
        except ValueError as error:
            return Rejected(record, "write", "not_storable", str(error)), True
        return operation, certain


@dataclass(slots=True)
class _Buffer:
    """Operations that a later record may still supersede, by document and Kafka partition, with their texts."""

    operations: dict[bytes, dict[KafkaPartition, list[tuple[ExpectedWrite, str]]]] = field(default_factory=dict)
    records: int = 0
    characters: int = 0

    def add(self, key: bytes, write: ExpectedWrite, text: str) -> None:
        of_partition = self.operations.setdefault(key, {}).setdefault(write.position[:2], [])
        while of_partition and supersedes(write, of_partition[-1][0]):
            self.characters -= len(of_partition.pop()[1])
        of_partition.append((write, text))
        self.records += 1
        self.characters += len(text)

    @property
    def full(self) -> bool:
        return self.records >= _BUFFER_RECORDS or self.characters >= _BUFFER_CHARACTERS

    def drain(self, chunker: Chunker) -> Iterator[tuple[bytes, ExpectedWrite]]:
        """Empty the buffer; yields its operations with the digests of their chunks."""
        remaining = [
            (key, write, text)
            for key, by_partition in self.operations.items()
            for of_partition in by_partition.values()
            for write, text in of_partition
        ]
        self.operations, self.records, self.characters = {}, 0, 0
        for part in in_parts(remaining, 1000):
            texts = [text for _, write, text in part if write.event_time is not None]
            chunked = iter(chunker.chunk(texts))
            for key, write, _ in part:
                if write.event_time is None:
                    yield key, write
                else:
                    yield key, replace(write, chunks=tuple(text_digest(chunk.text) for chunk in next(chunked)))


def in_parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of up to `size`."""
    waiting = iter(values)
    while part := list(islice(waiting, size)):
        yield part


def document_digest(operation: Put | Delete, appended: AppendedIds | None) -> bytes:
    """The key of an operation's document in the workspace; `appended`: None in upsert mode."""
    return bytes.fromhex(ledger_id(*operation.key) if appended is None else appended.of(operation.position))


def row_digest(row: StoredRow, appended: AppendedIds | None) -> bytes:
    """The key of a row's document in the workspace."""
    return bytes.fromhex(ledger_id(*row.key) if appended is None else appended.document(row))


def read_operations(
    kafka: KafkaSettings,
    offsets: Mapping[KafkaPartition, tuple[int, int]],
    decision: ReplayedDecision,
    chunker: Chunker,
    workspace: AuditWorkspace,
    *,
    appended: AppendedIds | None,
    on_read: OnRead,
) -> tuple[int, int]:
    """Read the records' operations; returns how many records there were, and how many of them are rejected."""
    buffer = _Buffer()
    records = rejected = 0
    for record in read_range(kafka, offsets):
        records += 1
        if records % _REPORT_RECORDS == 0:
            on_read(_REPORT_RECORDS)
        operation, certain = decision.operation(record)
        if isinstance(operation, Rejected):
            rejected += 1
            continue
        key = document_digest(operation, appended)
        text = operation.document.text if isinstance(operation, Put) else ""
        buffer.add(key, ExpectedWrite.of(operation, certain=certain), text)
        if buffer.full:
            workspace.add_operations(buffer.drain(chunker))
    workspace.add_operations(buffer.drain(chunker))
    return records, rejected


class StoredReader:
    """Strong reads of rows and ledger rows, one Milvus partition at a time."""

    def __init__(self, api: MilvusServerApi, collection: str, appended: AppendedIds | None = None) -> None:
        """`appended`: None in upsert mode."""
        self._api = api
        self._collection = collection
        self._appended = appended
        self.partitions = all_partitions(api, collection)
        loaded = {DEFAULT_PARTITION, *api.loaded_partitions(collection)}
        self.unloaded = frozenset(self.partitions) - loaded
        self._loaded = [name for name in self.partitions if name in loaded]
        self._scan = RowScan(api, collection, STORED_FIELDS)

    def all_rows(self, workspace: AuditWorkspace, on_read: OnRead) -> int:
        """Read every row; returns how many there are, repeated ids included."""
        counts = self._scan.counts(self._loaded)
        unique = dict.fromkeys(counts, 0)
        for name, raw in self._scan.read(counts):
            unique[name] += len(raw)
            on_read(len(raw))
            self._add(workspace, name, raw, {})
        for name, count in counts.items():
            if count > unique[name]:
                workspace.forget_rows(name)
                for raw, copies in self._scan.exact(name):
                    self._add(workspace, name, raw, copies)
        return sum(counts.values())

    def _add(self, workspace: AuditWorkspace, name: str, raw: StoredRows, copies: Mapping[str, int]) -> None:
        rows = (stored_row(row, name, copies.get(row["id"], 1)) for row in raw)
        workspace.add_rows((row_digest(row, self._appended), row) for row in rows)

    def all_entries(self, workspace: AuditWorkspace, on_read: OnRead) -> int:
        """Read every ledger row; returns how many there are."""
        scan = RowScan(self._api, ledger_name(self._collection), ENTRY_FIELDS)
        counts = scan.counts([DEFAULT_PARTITION])
        read = 0
        for _, raw in scan.read(counts):
            read += len(raw)
            on_read(len(raw))
            _add_entries(workspace, raw)
        if counts[DEFAULT_PARTITION] > read:
            for raw, _ in scan.exact(DEFAULT_PARTITION):
                _add_entries(workspace, raw)
        return workspace.count("entries")

    def again(self, documents: Sequence[StoredDocument]) -> list[StoredDocument]:
        """The same documents with their current rows and ledger rows."""
        fresh = {document.key: replace(document, entry=None, rows=[]) for document in documents}
        for part in in_parts(documents, _KEYS_PER_QUERY):
            for row in self._rows_of(part):
                key = row_digest(row, self._appended)
                if key in fresh:
                    fresh[key].rows.append(row)
        if self._appended is None:
            keys: dict[Key, bytes] = {document.name: document.key for document in documents}
            for name, (entry, _) in self.ledger().read(keys).items():
                fresh[keys[name]].entry = entry
        return list(fresh.values())

    def ledger(self) -> Ledger:
        """A ledger with an empty cache, which reads strongly."""
        return Ledger(self._api, self._collection, WritePolicy())

    def _rows_of(self, documents: Sequence[StoredDocument]) -> Iterator[StoredRow]:
        where = self._expression(documents)
        with ThreadPoolExecutor(_PARTITIONS_AT_A_TIME) as pool:
            answers = pool.map(lambda name: [(name, *part) for part in self._scan.exact(name, where)], self._loaded)
            for pages in answers:
                for name, raw, copies in pages:
                    for row in raw:
                        yield stored_row(row, name, copies.get(row["id"], 1))

    def _expression(self, documents: Sequence[StoredDocument]) -> str:
        if self._appended is None:
            return f"doc_id in [{', '.join(literal(document.name[1]) for document in documents)}]"
        offsets: dict[KafkaPartition, set[int]] = {}
        for document in documents:
            position = document.operations[0].position if document.operations else document.rows[0].position
            offsets.setdefault(position[:2], set()).add(position.offset)
        return " or ".join(
            f"(kafka_topic == {literal(topic)} and kafka_partition == {number} and "
            f"kafka_offset in [{', '.join(map(str, sorted(of_partition)))}])"
            for (topic, number), of_partition in offsets.items()
        )


def _add_entries(workspace: AuditWorkspace, raw: StoredRows) -> None:
    entries = (row_entry(row) for row in raw if row["state"] != LEDGER_MARK_STATE)
    workspace.add_entries((bytes.fromhex(ledger_id(entry.tenant, entry.doc_id)), entry) for entry in entries)


def keys_in_flight(
    kafka: KafkaSettings,
    ranges: Mapping[KafkaPartition, tuple[int, int]],
    decision: ReplayedDecision,
    workspace: AuditWorkspace,
    *,
    appended: AppendedIds | None,
) -> Iterator[set[bytes]]:
    """Marked documents with records in these ranges, which the group had not committed when the audit began."""
    operations = (decision.operation(record)[0] for record in read_range(kafka, ranges))
    keys = (document_digest(op, appended) for op in operations if not isinstance(op, Rejected))
    for part in in_parts(keys, 500):
        yield workspace.suspected(part)
