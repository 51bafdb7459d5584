"""Shared flushes: marks in the ledger by which one worker announces its flushes, and what others conclude from them."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import structlog

from pipeline.errors import Unavailable
from pipeline.records import VECTOR_FIELD, Receipt
from pipeline.store.collection.schema import LEDGER_DIMENSION, ledger_name
from pipeline.store.milvus.api import MilvusApi

log = structlog.get_logger(__name__)

MARKER_STATE = "marker"
"""In the column `state`; rows of documents have `live` or `deleted` there."""
_KAFKA_PARTITION = -2
"""The value by which marks are found; Milvus compares numbers much faster than texts."""
_FORGET_MS = 86_400_000
_READS = 3

Marks: TypeAlias = Mapping[str, int]
"""Flusher -> flushes of every collection that it has finished, one after the other."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The announcement of one flusher: how many flushes it has finished. Every new count has a new flusher id."""

    flusher: str
    count: int


class FlushMarker:
    """The marks in one collection's ledger, as one worker reads and writes them.

    Every mark is a new row that is never changed. One row updated in place would be simpler, but Milvus 2.3.5 can lose
    the delete of an upsert that arrives while a flushed segment is loaded, and then answers the older row even to a
    strong read (measured: 8 after 12 was acknowledged).
    """

    def __init__(self, api: MilvusApi, collection: str, wall_clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._name = ledger_name(collection)
        self._wall_clock = wall_clock
        self._own = _new_count()

    def read(self) -> Marks:
        """The latest mark of every flusher; a strong read. Raises Unavailable."""
        marks: dict[str, int] = {}
        for row in self._rows():
            marks[row["fingerprint"]] = max(row["version"], marks.get(row["fingerprint"], 0))
        return marks

    def begin(self) -> None:
        """Prepare for flushes that `advance` will announce; they must begin after this has returned."""
        try:
            rows = self._rows()
        except Unavailable:
            self._own = _new_count()
            return
        stored = max((row["version"] for row in rows if row["fingerprint"] == self._own.flusher), default=0)
        # A server that lost power may have lost marks. A worker that reads the marks then must not take the rest of an
        # old count for flushes to come: the count continues only from what is stored.
        if stored != self._own.count:
            self._own = _new_count()
        self._forget([row["id"] for row in rows if row["record_time"] < self._now_ms() - _FORGET_MS])

    def advance(self) -> Mark:
        """Announce that one more flush of every collection has finished, which began after `begin` had returned.

        Raises Unavailable; then the next announcement starts a new count, so no mark is ever written twice.
        """
        before, mark = self._own, Mark(self._own.flusher, self._own.count + 1)
        self._own = _new_count()
        self._api.upsert(self._name, None, [self._row(mark)])
        self._own = mark
        self._forget([_id(before)] if before.count else [])
        return mark

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        where = f"kafka_partition == {_KAFKA_PARTITION}"
        for _ in range(_READS):
            rows = self._api.query(self._name, where, ["id", "fingerprint", "version", "record_time"], strong=True)
            # Where an id is stored twice, Milvus 2.3.5 leaves other rows out of the answer; a count shows that. It also
            # differs when a mark was written between the two reads.
            count = self._api.query(self._name, where, ["count(*)"], strong=True)[0]["count(*)"]
            if count <= len(rows):
                return rows
        raise Unavailable(f"{count} marks in {self._name} and only {len(rows)} answered")

    def _forget(self, ids: Sequence[str]) -> None:
        """Delete old marks, which only cost space; those that remain are deleted when they are a day old."""
        if ids:
            try:
                self._api.delete(self._name, None, ids)
            except Unavailable as error:
                log.debug("flush.marks_kept", marks=len(ids), error_type=type(error).__name__)

    def _row(self, mark: Mark) -> dict[str, Any]:
        return {
            "id": _id(mark),
            "doc_id": "",
            "tenant": "",
            "topic": "",
            "kafka_partition": _KAFKA_PARTITION,
            "kafka_offset": -1,
            "record_time": self._now_ms(),
            "version": mark.count,
            "versioned": False,
            "state": MARKER_STATE,
            "footprint": "{}",
            "content_hash": "",
            "row_hash": "",
            "fingerprint": mark.flusher,
            "topic_id": "",
            "pending": False,
            VECTOR_FIELD: np.ones(LEDGER_DIMENSION, dtype=np.float32),
        }

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _new_count() -> Mark:
    """A count that starts from zero, under a new flusher id."""
    return Mark(uuid.uuid4().hex, 0)


def _id(mark: Mark) -> str:
    # Differs from the id of every document's ledger row, which is the digest of another prefix.
    return blake2b(f"flush marker {mark.flusher} {mark.count}".encode(), digest_size=20).hexdigest()


@dataclass(slots=True)
class _Group:
    """Receipts with the same marks."""

    base: dict[str, int]
    """Flusher -> its count when it was first seen after the acks."""
    receipts: list[Receipt]


@dataclass(slots=True)
class PendingOnPeer:
    """Receipts that wait for another worker's flush.

    A receipt is durable once some worker has announced **two** flushes after the count m that was read when the write
    was acknowledged: flush m + 1 may have begun before the write, flush m + 2 cannot have. Workers are counted each by
    itself, and one without a mark at that time counts from where it is first seen. Proof: docs/guarantees.md.
    """

    _groups: list[_Group] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(group.receipts) for group in self._groups)

    def observe(self, marks: Marks, acked: Sequence[Receipt]) -> list[Receipt]:
        """Add `acked`, all acknowledged before `marks` were read; returns the receipts that are durable now."""
        durable: list[Receipt] = []
        waiting: list[_Group] = []
        for group in self._groups:
            if any(marks.get(flusher, 0) >= count + 2 for flusher, count in group.base.items()):
                durable += group.receipts
                continue
            group.base = {**marks, **group.base}
            if waiting and waiting[-1].base == group.base:
                waiting[-1].receipts += group.receipts
            else:
                waiting.append(group)
        if acked:
            waiting.append(_Group(dict(marks), list(acked)))
        self._groups = waiting
        return durable

    def take(self) -> list[Receipt]:
        """Remove and return all receipts: a flush of this worker makes them durable."""
        taken = [receipt for group in self._groups for receipt in group.receipts]
        self._groups = []
        return taken
