"""The canary: a document that is published at intervals, searched for by its id, and deleted when it is found.

It goes the way of every document, through Kafka, an ingest worker and Milvus, so the time until it is found is how old
an answer is. Searches leave it out (`pipeline.query.canary_rows`).
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import structlog

from pipeline.errors import MilvusStreamError, UsageError
from pipeline.intake import Decoder, RecordMapping
from pipeline.records import CANARY_PREFIX, Delete, Position, Put, Rejected, SourceRecord
from pipeline.telemetry import QueryMetrics

log = structlog.get_logger(__name__)

_LOOK_S = 0.05
"""Between two searches for a canary that is not found yet."""
_TEXT = "canary"
_TENANT = CANARY_PREFIX.rstrip(":")
_MOST_UNDELETED = 100


class Sender(Protocol):
    """Publishes records."""

    def send(self, topic: str, key: bytes, value: bytes | None) -> int:
        """Publish one record; returns its Kafka timestamp (epoch milliseconds). Raises Unavailable, UsageError."""

    def close(self) -> None:
        """Close the connection, if there is one."""


Visible = Callable[[str, str | None, int], bool]
"""Whether a search finds the document with this id and tenant whose record has this Kafka timestamp."""


@dataclass(frozen=True, slots=True)
class CanaryRecords:
    """The records of canaries in the format of the configured ones."""

    mapping: RecordMapping

    @property
    def tenant(self) -> str | None:
        """The tenant of every canary."""
        return None if self.mapping.tenant_field is None else _TENANT

    def put(self, doc_id: str, now_ms: int) -> bytes:
        """The value that stores a canary; its event time is the record's Kafka timestamp."""
        if self.mapping.format == "text":
            return _TEXT.encode()
        return orjson.dumps({self.mapping.text_field: _TEXT, **self._identity(doc_id, now_ms)})

    def delete(self, doc_id: str, now_ms: int) -> bytes | None:
        """The value that deletes it: null, or with tenants a record whose delete field is true."""
        if self.mapping.tenant_field is None:
            return None
        return orjson.dumps({str(self.mapping.delete_field): True, **self._identity(doc_id, now_ms)})

    def check(self, decoder: Decoder) -> None:
        """Raise UsageError where the configured format cannot say what a canary needs."""
        doc_id = CANARY_PREFIX + "check"
        for value, kind in ((self.put(doc_id, 1), Put), (self.delete(doc_id, 2), Delete)):
            record = SourceRecord(Position("canary", 0, 0), 0, doc_id.encode(), value)
            operation = decoder.decode(record, None)
            if isinstance(operation, Rejected):
                raise UsageError(f"query.canary needs a document that can be stored and deleted: {operation.message}")
            if not isinstance(operation, kind):
                raise UsageError("query.canary: record.* makes another operation of a canary's record; set it to null")

    def _identity(self, doc_id: str, now_ms: int) -> dict[str, Any]:
        names = self.mapping
        fields: dict[str, Any] = {names.id_field: doc_id}
        if names.tenant_field is not None:
            fields[names.tenant_field] = self.tenant
        if names.version_field is not None:
            fields[names.version_field] = now_ms
        return fields


class Canary:
    """Publishes a canary every `interval_s` on a thread of its own, from `start` until `close`."""

    def __init__(
        self,
        records: CanaryRecords,
        sender: Sender,
        topic: str,
        *,
        visible: Visible,
        leftovers: Callable[[], Sequence[str]],
        metrics: QueryMetrics,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`leftovers`: the ids of canaries that former processes have not deleted; read once, at the start."""
        self._records = records
        self._sender = sender
        self._topic = topic
        self._visible = visible
        self._leftovers = leftovers
        self._metrics = metrics
        self._interval_s = interval_s
        self._clock = clock
        self._stop = threading.Event()
        self._undeleted: list[str] = []
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    def start(self) -> None:
        """Publish the first canary now."""
        self._thread.start()

    def close(self) -> None:
        """Delete the canary under way, and end the thread; waits some seconds at most."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            self._take_over()
            while not self._stop.is_set():
                began = self._clock()
                self._once()
                self._stop.wait(max(0.0, self._interval_s - (self._clock() - began)))
        except Exception as error:  # the edge of this thread: searches go on without a canary
            log.exception("canary.ended", error_type=type(error).__name__)
            self._metrics.canary_failures.inc()
        finally:
            self._sender.close()

    def _take_over(self) -> None:
        try:
            self._undeleted = list(self._leftovers())
        except MilvusStreamError as error:
            log.warning("canary.leftovers_unread", why=str(error))

    def _once(self) -> None:
        """Publish one, wait until it is found or the interval is over, and delete it."""
        doc_id = CANARY_PREFIX + uuid.uuid4().hex
        try:
            began = self._clock()
            timestamp_ms = self._send(doc_id, self._records.put(doc_id, _now_ms()))
            if self._found(doc_id, timestamp_ms, began + self._interval_s):
                self._metrics.canary_seconds.observe(self._clock() - began)
            elif not self._stop.is_set():
                self._failed(doc_id, f"it was not found within {self._interval_s:g} s")
        except MilvusStreamError as error:
            self._failed(doc_id, str(error))
        self._undeleted = [*self._undeleted, doc_id][-_MOST_UNDELETED:]
        self._delete()

    def _found(self, doc_id: str, timestamp_ms: int, deadline: float) -> bool:
        while not self._stop.is_set() and self._clock() < deadline:
            if self._visible(doc_id, self._records.tenant, timestamp_ms):
                return True
            self._stop.wait(_LOOK_S)
        return False

    def _delete(self) -> None:
        """Delete what was published; what cannot be deleted now is deleted after the next one."""
        try:
            while self._undeleted:
                doc_id = self._undeleted[0]
                self._send(doc_id, self._records.delete(doc_id, _now_ms()))
                del self._undeleted[0]
        except MilvusStreamError as error:
            log.warning("canary.not_deleted", canaries=len(self._undeleted), why=str(error))

    def _send(self, doc_id: str, value: bytes | None) -> int:
        return self._sender.send(self._topic, doc_id.encode(), value)

    def _failed(self, doc_id: str, why: str) -> None:
        self._metrics.canary_failures.inc()
        log.warning("canary.failed", doc_id=doc_id, topic=self._topic, why=why)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
