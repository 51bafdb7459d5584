"""One worker flushes for all: what it tells the others by a row of the ledger, and what they may conclude."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from pipeline.records import Receipt
from pipeline.store.api import MilvusApi
from pipeline.store.schema import LEDGER_DIMENSION, ledger_name

MARKER_STATE = "marker"
"""In the column `state`; rows of documents have `live` or `deleted` there."""
# No document's ledger row has it: those are digests of something that begins otherwise.
_ID = blake2b(b"flush marker", digest_size=20).hexdigest()


@dataclass(frozen=True, slots=True)
class Mark:
    """How many flushes of every collection one flusher has finished."""

    flusher: str
    count: int


class FlushMarker:
    """The marker row of one collection's ledger; each worker has an object of its own."""

    def __init__(self, api: MilvusApi, collection: str) -> None:
        self._api = api
        self._name = ledger_name(collection)
        self._own = Mark(uuid.uuid4().hex, 0)

    def read(self) -> Mark | None:
        """What the last flusher has told, None before the first. Sees every mark written before. Raises Unavailable."""
        rows = self._api.query(self._name, f'id in ["{_ID}"]', ["fingerprint", "version"], strong=True)
        return Mark(rows[0]["fingerprint"], rows[0]["version"]) if rows else None

    def advance(self) -> None:
        """Tell that one more flush has finished, which began after the last call of this returned.

        Raises Unavailable; then it may have happened, and the call must be repeated before the next flush begins.
        """
        mark = Mark(self._own.flusher, self._own.count + 1)
        row = {
            "id": _ID,
            "doc_id": "",
            "tenant": "",
            "topic": "",
            "kafka_partition": -1,
            "kafka_offset": -1,
            "record_time": 0,
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
        self._api.upsert(self._name, None, [row])
        self._own = mark


@dataclass(slots=True)
class _Group:
    base: Mark | None
    receipts: list[Receipt]


@dataclass(slots=True)
class Followed:
    """Receipts that wait for somebody else's flush.

    A mark read after the acknowledgement says m. The flush that m + 1 will tell of may have begun before the
    acknowledgement; the one of m + 2 begins after m + 1 was written, hence after the read. So the receipts are durable
    when the same flusher tells m + 2. Another flusher's numbers cannot be compared: then it begins anew.
    """

    _groups: list[_Group] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(group.receipts) for group in self._groups)

    def look(self, mark: Mark | None, acked: Sequence[Receipt]) -> list[Receipt]:
        """A mark was read after all of `acked` were acknowledged; returns what is durable by now."""
        durable: list[Receipt] = []
        waiting: list[_Group] = []
        for group in self._groups:
            if group.base is None or mark is None or mark.flusher != group.base.flusher:
                group.base = mark
            if group.base is not None and mark is not None and mark.count >= group.base.count + 2:
                durable += group.receipts
            elif waiting and waiting[-1].base == group.base:
                waiting[-1].receipts += group.receipts
            else:
                waiting.append(group)
        if acked:
            waiting.append(_Group(mark, list(acked)))
        self._groups = waiting
        return durable

    def take(self) -> list[Receipt]:
        """Everything that waits: a flush of this worker's own settles it."""
        taken = [receipt for group in self._groups for receipt in group.receipts]
        self._groups = []
        return taken
