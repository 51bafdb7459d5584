"""Cleanup of tombstones: removes ledger rows of documents deleted long ago, so that the ledger does not grow."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from pipeline.errors import Unavailable
from pipeline.store.collection.schema import ledger_name
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.milvus.expressions import literal

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """How long tombstones are kept, and how fast they are removed."""

    retention_s: float
    """By the Kafka timestamp of the deleting record. An older record read after that brings the document back."""
    rows: int = 500
    """Rows of one step, which is one query and one delete."""
    pause_s: float = 2.0
    """Between two steps while there are more rows to remove."""
    every_s: float = 3600.0


class TombstoneSweep:
    """Removes the old tombstones of the Kafka partitions that a worker owns.

    Must be called by the thread that writes the ledger. Only that thread of the owner writes a document's ledger row,
    so no row can become one of a live document between the query and the delete.
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
            rows = self._api.query(self._name, self._expression(owned), ["id"], strong=True, limit=self._policy.rows)
            self._api.delete(self._name, None, [row["id"] for row in rows])
        except Unavailable as error:
            log.warning("tombstones.postponed", why=str(error))
            return 0
        if len(rows) >= self._policy.rows:
            self._due_at = self._clock() + self._policy.pause_s
        if rows:
            log.info("tombstones.swept", rows=len(rows))
        return len(rows)

    def _expression(self, owned: Collection[tuple[str, int]]) -> str:
        before_ms = int((self._wall_clock() - self._policy.retention_s) * 1000)
        numbers: dict[str, list[int]] = defaultdict(list)
        for topic, number in owned:
            numbers[topic].append(number)
        of_topics = [f"(topic == {literal(topic)} and kafka_partition in {sorted(n)})" for topic, n in numbers.items()]
        return f'state == "deleted" and pending == false and record_time < {before_ms} and ({" or ".join(of_topics)})'
