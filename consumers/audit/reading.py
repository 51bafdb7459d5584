"""The three things an audit reads: the records, the rows and the ledger. Each goes to the temporary file in parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from consumers.audit.workspace import AuditWorkspace, StoredDocument
from consumers.kafka import KafkaSettings, read_range
from pipeline.audit.expected_state import ExpectedWrite, supersedes
from pipeline.audit.findings import ROW_FIELDS, StoredRow, stored_row, text_digest
from pipeline.chunking import Chunker
from pipeline.intake import Decoder, Reason
from pipeline.records import Delete, KafkaPartition, Operation, Put, Rejected, SourceRecord
from pipeline.store import MilvusServerApi, WritePolicy, literal
from pipeline.store.collection.schema import ledger_name
from pipeline.store.flushing.shared_marker import MARKER_STATE
from pipeline.store.partitions import DEFAULT_PARTITION, Granularity, partition_name
from pipeline.store.scan import RowScan, StoredRows, all_partitions
from pipeline.store.writing.ledger import ENTRY_FIELDS, Ledger, row_entry
from pipeline.store.writing.protocol import Key
from pipeline.store.writing.rows import append_row_id, check_storable, content_hash, ledger_id, row_hash

T = TypeVar("T")
Told = Callable[[int], None]
"""Called with the number of things read since the last call."""

_BUFFER_RECORDS = 20_000
_BUFFER_CHARACTERS = 16_000_000
"""Texts held until they are cut into chunks."""
_PARTITIONS_AT_A_TIME = 8
_KEYS_PER_QUERY = 200
"""Documents asked for at a time; their ids stand in the filter, up to 1 KiB each."""


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """Decodes a record as ingest did, as far as that can be told now.

    Ingest compared the event time with its own clock. That moment is not known, but it was not before the record's
    Kafka timestamp (by the producer's clock) and not after now. A record accepted at both is certain, one refused at
    both is rejected; in between the ledger says what happened.
    """

    decoder: Decoder
    by: Granularity
    future_skew_ms: int
    now_ms: int

    def operation(self, record: SourceRecord) -> tuple[Operation, bool]:
        """The operation, and whether it is certain that ingest decided likewise."""
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
                partition_name(self.by, operation.document.event_time)
                row_hash(operation.document)
        except ValueError as error:
            return Rejected(record, "write", "not_storable", str(error)), True
        return operation, certain


@dataclass(slots=True)
class _Buffer:
    """Operations that may still be superseded, by document and Kafka partition, with their texts."""

    operations: dict[bytes, dict[KafkaPartition, list[tuple[ExpectedWrite, str]]]] = field(default_factory=dict)
    records: int = 0
    characters: int = 0

    def add(self, key: bytes, wanted: ExpectedWrite, text: str) -> None:
        some = self.operations.setdefault(key, {}).setdefault(wanted.position[:2], [])
        while some and supersedes(wanted, some[-1][0]):
            self.characters -= len(some.pop()[1])
        some.append((wanted, text))
        self.records += 1
        self.characters += len(text)

    @property
    def full(self) -> bool:
        return self.records >= _BUFFER_RECORDS or self.characters >= _BUFFER_CHARACTERS

    def drain(self, chunker: Chunker) -> Iterator[tuple[bytes, ExpectedWrite]]:
        left = [
            (key, wanted, text)
            for key, by_partition in self.operations.items()
            for some in by_partition.values()
            for wanted, text in some
        ]
        self.operations, self.records, self.characters = {}, 0, 0
        for part in in_parts(left, 1000):
            texts = [text for _, wanted, text in part if wanted.event_time is not None]
            chunked = iter(chunker.chunk(texts))
            for key, wanted, _ in part:
                if wanted.event_time is None:
                    yield key, wanted
                else:
                    yield key, replace(wanted, chunks=tuple(text_digest(chunk.text) for chunk in next(chunked)))


def in_parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of up to `size`."""
    waiting = iter(values)
    while part := list(islice(waiting, size)):
        yield part


def document_digest(operation: Put | Delete, *, append: bool) -> bytes:
    """What stands for the document in the temporary file."""
    identifier = append_row_id(operation.position, 0) if append else ledger_id(*operation.key)
    return bytes.fromhex(identifier)


def row_digest(row: StoredRow, *, append: bool) -> bytes:
    """Likewise, of the document a row says it belongs to."""
    return bytes.fromhex(append_row_id(row.position, 0) if append else ledger_id(*row.key))


def read_operations(
    kafka: KafkaSettings,
    offsets: Mapping[KafkaPartition, tuple[int, int]],
    acceptance: ReplayedDecision,
    chunker: Chunker,
    spill: AuditWorkspace,
    *,
    append: bool,
    told: Told,
) -> tuple[int, int]:
    """What the records ask for; returns how many there were, and how many of them are rejected."""
    buffer = _Buffer()
    records = rejected = 0
    for record in read_range(kafka, offsets):
        records += 1
        told(1)
        operation, certain = acceptance.operation(record)
        if isinstance(operation, Rejected):
            rejected += 1
            continue
        key = document_digest(operation, append=append)
        text = operation.document.text if isinstance(operation, Put) else ""
        buffer.add(key, _wanted(operation, certain), text)
        if buffer.full:
            spill.add_operations(buffer.drain(chunker))
    spill.add_operations(buffer.drain(chunker))
    return records, rejected


def _wanted(operation: Put | Delete, certain: bool) -> ExpectedWrite:
    document = operation.document if isinstance(operation, Put) else None
    return ExpectedWrite(
        position=operation.position,
        timestamp_ms=operation.timestamp_ms,
        key=operation.key,
        version=operation.version,
        certain=certain,
        event_time=None if document is None else document.event_time,
        content_hash="" if document is None else content_hash(document.text),
        row_hash="" if document is None else row_hash(document),
    )


class StoredReader:
    """Reads rows and ledger rows with strong consistency, each Milvus partition by itself."""

    def __init__(self, api: MilvusServerApi, collection: str, *, append: bool) -> None:
        self._api = api
        self._collection = collection
        self._append = append
        self.partitions = all_partitions(api, collection)
        loaded = {DEFAULT_PARTITION, *api.loaded_partitions(collection)}
        self.unloaded = frozenset(self.partitions) - loaded
        self._loaded = [name for name in self.partitions if name in loaded]
        self._scan = RowScan(api, collection, ROW_FIELDS)

    def all_rows(self, spill: AuditWorkspace, told: Told) -> int:
        """Every row; returns how many there are, every copy counted."""
        counts = self._scan.counts(self._loaded)
        unique = dict.fromkeys(counts, 0)
        for name, raw in self._scan.read(counts):
            unique[name] += len(raw)
            told(len(raw))
            self._add(spill, name, raw, {})
        for name, count in counts.items():
            if count > unique[name]:
                spill.forget_rows(name)
                for raw, copies in self._scan.exact(name):
                    self._add(spill, name, raw, copies)
        return sum(counts.values())

    def _add(self, spill: AuditWorkspace, name: str, raw: StoredRows, copies: Mapping[str, int]) -> None:
        rows = (stored_row(each, name, copies.get(each["id"], 1)) for each in raw)
        spill.add_rows((row_digest(row, append=self._append), row) for row in rows)

    def all_entries(self, spill: AuditWorkspace, told: Told) -> int:
        """Every ledger row; returns how many there are."""
        scan = RowScan(self._api, ledger_name(self._collection), ENTRY_FIELDS)
        counts = scan.counts([DEFAULT_PARTITION])
        read = 0
        for _, raw in scan.read(counts):
            read += len(raw)
            told(len(raw))
            _add_entries(spill, raw)
        if counts[DEFAULT_PARTITION] > read:
            for raw, _ in scan.exact(DEFAULT_PARTITION):
                _add_entries(spill, raw)
        return spill.count("entries")

    def again(self, documents: Sequence[StoredDocument]) -> list[StoredDocument]:
        """The same documents with rows and ledger rows as they are now."""
        fresh = {each.key: replace(each, entry=None, rows=[]) for each in documents}
        for part in in_parts(documents, _KEYS_PER_QUERY):
            for row in self._rows_of(part):
                key = row_digest(row, append=self._append)
                if key in fresh:
                    fresh[key].rows.append(row)
        if not self._append:
            keys: dict[Key, bytes] = {each.name: each.key for each in documents}
            for name, (entry, _) in self.ledger().read(keys).items():
                fresh[keys[name]].entry = entry
        return list(fresh.values())

    def ledger(self) -> Ledger:
        """A ledger that has read nothing yet, so it reads strongly."""
        return Ledger(self._api, self._collection, WritePolicy())

    def _rows_of(self, documents: Sequence[StoredDocument]) -> Iterator[StoredRow]:
        where = self._expression(documents)
        with ThreadPoolExecutor(_PARTITIONS_AT_A_TIME) as pool:
            answers = pool.map(lambda name: [(name, *part) for part in self._scan.exact(name, where)], self._loaded)
            for answer in answers:
                for name, raw, copies in answer:
                    for each in raw:
                        yield stored_row(each, name, copies.get(each["id"], 1))

    def _expression(self, documents: Sequence[StoredDocument]) -> str:
        if not self._append:
            return f"doc_id in [{_listed(literal(each.name[1]) for each in documents)}]"
        offsets: dict[KafkaPartition, set[int]] = {}
        for each in documents:
            position = each.operations[0].position if each.operations else each.rows[0].position
            offsets.setdefault(position[:2], set()).add(position.offset)
        return " or ".join(
            f"(kafka_topic == {literal(topic)} and kafka_partition == {number} and "
            f"kafka_offset in [{_listed(map(str, sorted(some)))}])"
            for (topic, number), some in offsets.items()
        )


def _add_entries(spill: AuditWorkspace, raw: StoredRows) -> None:
    entries = (row_entry(row) for row in raw if row["state"] != MARKER_STATE)
    spill.add_entries((bytes.fromhex(ledger_id(entry.tenant, entry.doc_id)), entry) for entry in entries)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values)


def moving(
    kafka: KafkaSettings,
    ends: Mapping[KafkaPartition, tuple[int, int]],
    acceptance: ReplayedDecision,
    spill: AuditWorkspace,
    *,
    append: bool,
) -> Iterator[set[bytes]]:
    """Suspected documents that have records in these ranges, which the group has not committed when the audit began."""
    operations = (acceptance.operation(record)[0] for record in read_range(kafka, ends))
    keys = (document_digest(each, append=append) for each in operations if not isinstance(each, Rejected))
    for some in in_parts(keys, 500):
        yield spill.suspected(some)
