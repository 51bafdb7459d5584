"""One worker flushes for all: what it tells the others by rows of the ledger, and what they may conclude."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import structlog

from pipeline.errors import Unavailable
from pipeline.records import Receipt
from pipeline.store.collection.schema import LEDGER_DIMENSION, ledger_name
from pipeline.store.milvus.api import MilvusApi

log = structlog.get_logger(__name__)

MARKER_STATE = "marker"
"""In the column `state`; rows of documents have `live` or `deleted` there."""
_KAFKA_PARTITION = -2
"""By which the marks are found; a number, because Milvus compares numbers much faster than texts."""
_FORGET_MS = 86_400_000
_READS = 3

Marks: TypeAlias = Mapping[str, int]
"""Flusher -> how many flushes of every collection it has finished, one after the other."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What one flusher tells. It is another flusher whenever a count begins anew."""

    flusher: str
    count: int


class FlushMarker:
    """The marks in one collection's ledger; each worker has an object of its own.

    Every mark is a row with an id of its own that is written once. One row changed in place would be simpler, but
    Milvus 2.3.5 can lose the delete in an upsert that comes while it loads what was just flushed, and then answers the
    older row even to a strong read (measured: 8 after 12 was acknowledged).
    """

    def __init__(self, api: MilvusApi, collection: str, wall_clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._name = ledger_name(collection)
        self._wall_clock = wall_clock
        self._own = _anew()

    def read(self) -> Marks:
        """What the flushers have told so far; sees every mark written before. Raises Unavailable."""
        marks: dict[str, int] = {}
        for row in self._rows():
            marks[row["fingerprint"]] = max(row["version"], marks.get(row["fingerprint"], 0))
        return marks

    def begin(self) -> None:
        """The flushes that `advance` will tell of begin after this returned."""
        try:
            rows = self._rows()
        except Unavailable:
            self._own = _anew()
            return
        told = max((row["version"] for row in rows if row["fingerprint"] == self._own.flusher), default=0)
        # A server that lost power may have lost marks. Who looks then must not take the count up to the last one,
        # which stands for flushes long ago, for the flushes to come: so the count goes on only from what is there.
        if told != self._own.count:
            self._own = _anew()
        self._forget([row["id"] for row in rows if row["record_time"] < self._now_ms() - _FORGET_MS])

    def advance(self) -> Mark:
        """Tell that one more flush of every collection has finished, which began after `begin` returned.

        Raises Unavailable; then the next one counts anew, so that no mark is ever written twice.
        """
        before, mark = self._own, Mark(self._own.flusher, self._own.count + 1)
        self._own = _anew()
        self._api.upsert(self._name, None, [self._row(mark)])
        self._own = mark
        self._forget([_id(before)] if before.count else [])
        return mark

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        where = f"kafka_partition == {_KAFKA_PARTITION}"
        for _ in range(_READS):
            rows = self._api.query(self._name, where, ["id", "fingerprint", "version", "record_time"], strong=True)
            # Where an id stands twice, Milvus 2.3.5 leaves other rows out of the answer; a count tells. It also
            # differs when a mark was written between the two.
            count = self._api.query(self._name, where, ["count(*)"], strong=True)[0]["count(*)"]
            if count <= len(rows):
                return rows
        raise Unavailable(f"{count} marks in {self._name} and only {len(rows)} answered")

    def _forget(self, ids: Sequence[str]) -> None:
        """Old marks only cost space: one that is not deleted now is deleted when it is a day old."""
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
            "vector": np.ones(LEDGER_DIMENSION, dtype=np.float32),
        }

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _anew() -> Mark:
    return Mark(uuid.uuid4().hex, 0)


def _id(mark: Mark) -> str:
    # No document's ledger row has it: those are digests of something that begins otherwise.
    return blake2b(f"flush marker {mark.flusher} {mark.count}".encode(), digest_size=20).hexdigest()


@dataclass(slots=True)
class _Group:
    base: dict[str, int]
    receipts: list[Receipt]


@dataclass(slots=True)
class Followed:
    """Receipts that wait for somebody else's flush.

    Marks read after the acknowledgement say m for a flusher. The flush that its m + 1 will tell of may have begun
    before the acknowledgement. The one of m + 2 began after m + 1 was written: else the flusher would have counted
    anew. The read is strong and did not see m + 1, so it began before that, hence the acknowledgement came before the
    flush of m + 2, and the receipts are durable when m + 2 is told. Flushers may overlap: each is counted by itself,
    and one that had told nothing yet counts from where it is seen first.
    """

    _groups: list[_Group] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(group.receipts) for group in self._groups)

    def look(self, marks: Marks, acked: Sequence[Receipt]) -> list[Receipt]:
        """Marks were read after all of `acked` were acknowledged; returns what is durable by now."""
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
        """Everything that waits: a flush of this worker's own settles it."""
        taken = [receipt for group in self._groups for receipt in group.receipts]
        self._groups = []
        return taken
