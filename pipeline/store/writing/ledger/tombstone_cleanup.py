"""Cleanup of tombstones: removes ledger rows of documents deleted long ago, so that the ledger does not grow."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from pipeline.errors import Unavailable
from pipeline.store.collection.schema import ledger_name
from pipeline.store.milvus.api import MilvusApi, as_of
from pipeline.store.milvus.expressions import ids_expression, literal
from pipeline.store.writing.ledger.ledger_rows import ENTRY_FIELDS, entry_row, row_entry, written_before
from pipeline.store.writing.ledger.repeated_rows import repeated_entries
from pipeline.store.writing.protocol.decisions import Entry

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """How long tombstones are kept, and how fast they are removed."""

    retention_s: float
    """Since the delete was written, or since the Kafka timestamp of its record if that is later: on the first read of
    an old topic no delete is forgotten at once. An older record read after that brings the document back."""
    rows: int = 500
    """Rows of one step, which is one query and one delete."""
    pause_s: float = 2.0
    """Between two steps while there are more rows to remove."""
    every_s: float = 3600.0


class TombstoneSweep:
    """Removes the old tombstones of the Kafka partitions that a worker owns.

    Must be called by the thread that writes the ledger, inside the fence of these Kafka partitions: only that thread of
    the owner writes their documents. A document with records in several Kafka partitions has several writers, so each
    row is read again immediately before it is deleted, and must still be the tombstone that was found. A server that
    has lost the delete of an upsert has two rows, and may answer the tombstone of a document that was written since:
    such a document is left alone.
    """

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        policy: SweepPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._name = ledger_name(collection)
        self._policy = policy
        self._clock = clock
        self._wall_clock = wall_clock
        self._due_at = clock() + policy.pause_s

    @property
    def due(self) -> bool:
        """Whether it is time for a step."""
        return self._clock() >= self._due_at

    def step(self, owned: Collection[tuple[str, int]]) -> int:
        """Remove at most `policy.rows` rows of these Kafka partitions; returns how many. After an outage: 0."""
        self._due_at = self._clock() + self._policy.every_s
        if not owned:
            return 0
        try:
            rows = self._api.query(
                self._name, self._expression(owned), ENTRY_FIELDS, strong=True, limit=self._policy.rows
            )
            swept = self._sweep({row["id"]: row_entry(row) for row in rows})
        except Unavailable as error:
            log.warning("tombstones.postponed", why=str(error))
            return 0
        if len(rows) >= self._policy.rows:
            self._due_at = self._clock() + self._policy.pause_s
        if swept:
            log.info("tombstones.swept", rows=swept)
        return swept

    def _sweep(self, found: Mapping[str, Entry]) -> int:
        """Delete the rows that are still the tombstones found; returns how many."""
        if not found:
            return 0
        ids, now = list(found), as_of(self._api.instant())
        again = self._api.query(self._name, ids_expression(ids), ENTRY_FIELDS, **now)
        doubled: Collection[str] = ()
        if self._api.server.capabilities.answers_older_rows:
            doubled = repeated_entries(self._api, self._name, ids, len(again), now)
        unchanged = [row["id"] for row in again if row["id"] not in doubled and row_entry(row) == found[row["id"]]]
        # Earlier versions did not store when a delete was written: it counts from now on.
        undated = [found[id_]._replace(written_ms=self._now_ms()) for id_ in unchanged if not found[id_].written_ms]
        if undated:
            self._api.upsert(self._name, None, [entry_row(entry) for entry in undated])
        old = [id_ for id_ in unchanged if found[id_].written_ms]
        self._api.delete(self._name, None, old)
        return len(old)

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    def _expression(self, owned: Collection[tuple[str, int]]) -> str:
        before_ms = self._now_ms() - int(self._policy.retention_s * 1000)
        numbers: dict[str, list[int]] = defaultdict(list)
        for topic, number in owned:
            numbers[topic].append(number)
        of_topics = [f"(topic == {literal(topic)} and kafka_partition in {sorted(n)})" for topic, n in numbers.items()]
        return (
            f'state == "deleted" and pending == false and record_time < {before_ms} and '
            f"{written_before(before_ms)} and ({' or '.join(of_topics)})"
        )
