"""Ledger rows of documents deleted long ago: removed in small steps, so that the ledger does not grow for ever."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from pipeline.errors import Unavailable
from pipeline.store.collection.schema import ledger_name
from pipeline.store.milvus.api import MilvusApi

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """How long a delete is remembered, and how gently it is forgotten."""

    retention_s: float
    """By the Kafka timestamp of the deleting record. An older record read again after that brings the document back."""
    rows: int = 500
    """Of one step: one query and one delete."""
    pause_s: float = 2.0
    """Between two steps while there is more to do."""
    every_s: float = 3600.0


class TombstoneSweep:
    """Removes what is old of the Kafka partitions a worker owns; for the thread that writes the ledger.

    Only the owner of a document's Kafka partition writes its ledger row, and only that thread: so no row can have
    become one of a living document between being found and being deleted.
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
        """Whether a step should be made now."""
        return self._clock() >= self._due_at

    def step(self, owned: Collection[tuple[str, int]]) -> int:
        """Remove at most `policy.rows` rows of these Kafka partitions; returns how many. An outage: later."""
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
        # A topic's name is letters, digits, dots, dashes and underscores, so JSON is its literal.
        mine = " or ".join(f"(topic == {json.dumps(t)} and kafka_partition in {sorted(n)})" for t, n in numbers.items())
        return f'state == "deleted" and pending == false and record_time < {before_ms} and ({mine})'
