"""The reads of one request about a document: all within its deadline, each for a bounded number of rows."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from pipeline.errors import NotFound
from pipeline.query.candidates import in_time
from pipeline.query.documents.errors import DocumentUnreadable, NoLedger, NoSuchDocument
from pipeline.query.request.filter_expressions import filterable_fields
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.search import SearchSettings, Snapshot
from pipeline.query.tenancy import tenant_term, within_tenant
from pipeline.records import METADATA_FIELD, TENANT_FIELD, VECTOR_FIELD, Position
from pipeline.store import DEFAULT_PARTITION, Entry, Key, MilvusServerApi, keys_of, ledger_name, literal, read_entries

Row = Mapping[str, Any]
T = TypeVar("T")

POSITION_FIELDS = ("id", "doc_id", "chunk", "event_time", "kafka_topic", "kafka_partition", "kafka_offset")
WHOLE_ROW = (*POSITION_FIELDS, "text", METADATA_FIELD)
ROW_WITH_VECTOR = (*POSITION_FIELDS, "text", VECTOR_FIELD)
_OF_EVERY_CHUNK = frozenset(ROW_WITH_VECTOR)
_MOST_TENANTS = 64
_SEVERAL_TENANTS = "several tenants have a document of this id; name one"


@dataclass(frozen=True, slots=True)
class DocumentReads:
    """The calls to Milvus of one request."""

    api: MilvusServerApi
    snapshot: Snapshot
    settings: SearchSettings
    deadline: float
    """On the clock, seconds."""
    clock: Callable[[], float] = time.monotonic

    @property
    def max_rows(self) -> int:
        """Most rows of a document that are read."""
        return self.settings.fetch.max_candidates

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.clock()

    def query(self, expression: str, fields: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """Rows of the collection. Raises DeadlinePassed, and what `MilvusApi.query` raises."""
        return in_time(
            lambda left_s: self.api.query(self.snapshot.info.name, expression, fields, timeout=left_s, **options),
            self.deadline,
            self.clock,
        )

    def within(self, tenant: str | None, expression: str) -> str:
        """The rows of an expression that are of this tenant; None: of any."""
        fields = filterable_fields(self.snapshot.info, self.api.server.capabilities)
        return within_tenant(tenant_term(tenant, fields), expression)

    def entry(self, key: Key, **consistency: Any) -> Entry | None:
        """The ledger's entry of a document. Raises NoLedger."""
        return self._entries([key], **consistency).get(key)

    def find_key(self, doc_id: str) -> Key:
        """The key of the document with this id, of whatever tenant; one that is stored, rather than a deleted one.

        Raises InvalidRequest where several tenants have one, and none is without a tenant.
        """
        own: Key = (None, doc_id)
        entry = self.entry(own)
        if entry is not None and _is_stored(entry):
            return own
        keys = self._from_ledger(
            lambda left_s: keys_of(self.api, self._ledger, doc_id, limit=_MOST_TENANTS, timeout=left_s)
        )
        stored = [key for key, found in self._entries(keys).items() if _is_stored(found)]
        if len(stored) > 1:
            raise InvalidRequest("/tenant", _SEVERAL_TENANTS)
        if stored:
            return stored[0]
        # A tombstone of whom it may be says at least that the document was deleted.
        return own if entry is not None or not keys else keys[0]

    def pages(self, ids: Sequence[str], fields: Sequence[str], **options: Any) -> Iterator[Row]:
        """The rows with these ids, mostly in their order, read as the iteration goes on."""
        size = self.settings.fetch.whole_rows
        order = {identifier: number for number, identifier in enumerate(ids)}
        for start in range(0, len(ids), size):
            wanted = set(ids[start : start + size])
            while wanted:
                rows = self.query(f"id in [{', '.join(map(literal, sorted(wanted)))}]", fields, **options)
                yield from sorted(rows, key=lambda row: order[row["id"]])
                wanted -= {row["id"] for row in rows}
                # Rows with a repeated id keep other rows out of an answer of 2.3.5: those are read by themselves.
                if not rows or not self.api.server.capabilities.stores_repeated_ids:
                    break

    def rows_by_id(self, doc_id: str, tenant: str | None, fields: Sequence[str]) -> tuple[list[dict[str, Any]], bool]:
        """Rows with this doc_id, and whether these are all; a scan of the collection.

        Without a tenant: of the document without one, or else of the only tenant that has it. Raises InvalidRequest
        where several have.
        """
        expression = self.within(tenant, f"doc_id == {literal(doc_id)}")
        rows = self.query(expression, (*fields, TENANT_FIELD), limit=self.max_rows + 1)
        tenants = {row.get(TENANT_FIELD) for row in rows}
        if tenant is None and len(tenants) > 1:
            if None not in tenants:
                raise InvalidRequest("/tenant", _SEVERAL_TENANTS)
            rows = [row for row in rows if row.get(TENANT_FIELD) is None]
        return rows[: self.max_rows], len(rows) <= self.max_rows

    def check_loaded(self, partition: str) -> None:
        """Raise DocumentUnreadable where a Milvus partition is not loaded: a read would wait for it in vain."""
        if partition in self.snapshot.released:
            message = f"its rows are in the Milvus partition {partition}, which is not loaded: load it, then try again"
            raise DocumentUnreadable("not-loaded", message)

    def is_dropped(self, partition: str) -> bool:
        """Whether there is no such Milvus partition, by a listing of now."""
        return partition != DEFAULT_PARTITION and partition not in self.api.partitions(self.snapshot.info.name)

    @property
    def _ledger(self) -> str:
        return ledger_name(self.snapshot.info.name)

    def _entries(self, keys: Sequence[Key], **consistency: Any) -> dict[Key, Entry]:
        return self._from_ledger(
            lambda left_s: read_entries(self.api, self._ledger, keys, timeout=left_s, **consistency)
        )

    def _from_ledger(self, call: Callable[[float], T]) -> T:
        try:
            return in_time(call, self.deadline, self.clock)
        except NotFound as error:
            raise NoLedger(f"the collection {self.snapshot.info.name} has no ledger") from error


def kept(row: Row) -> tuple[Row, int]:
    """The part of a row that is needed, and its bytes in an answer, where a text is twice: in its chunk and joined.

    All rows of a version have the same metadata, up to 64 KiB: only that of its first chunk is kept.
    """
    size = 2 * len(orjson.dumps(row["text"]))
    if row["chunk"] == 0:
        return row, size + len(orjson.dumps({name: row[name] for name in row if name != VECTOR_FIELD}))
    return {name: row[name] for name in row if name in _OF_EVERY_CHUNK}, size


def position_in(row: Row) -> Position:
    """The record that wrote a row."""
    return Position(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"])


def tenant_of(row: Row) -> str | None:
    """The tenant of a row; rows of other programs may have anything there."""
    tenant = row.get(TENANT_FIELD)
    return tenant if isinstance(tenant, str) else None


def dropped(partition: str) -> NoSuchDocument:
    """The error for a document whose rows went with their Milvus partition."""
    return NoSuchDocument(f"its rows were in the Milvus partition {partition}, which was dropped, as retention does")


def _is_stored(entry: Entry) -> bool:
    return entry.state == "live" or entry.pending
