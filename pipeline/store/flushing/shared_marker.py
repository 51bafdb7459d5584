"""Shared flushes: marks by which one worker announces its flushes, and what others conclude from them."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pipeline.errors import Unavailable
from pipeline.records import Finished
from pipeline.store.collection.marks import NO_PAYLOAD, Marks

_FORGET_MS = 86_400_000

FlushCounts: TypeAlias = Mapping[str, int]
"""Flusher -> flushes of every collection that it has finished, one after the other."""


@dataclass(frozen=True, slots=True)
class FlushMark:
    """The announcement of one flusher: how many flushes it has finished. Every new count has a new flusher id."""

    flusher: str
    count: int


class FlushMarker:
    """The flush marks of one collection, as one worker reads and writes them."""

    def __init__(self, marks: Marks, wall_clock: Callable[[], float] = time.time) -> None:
        self._marks = marks
        self._wall_clock = wall_clock
        self._own = _new_count()

    def read(self) -> FlushCounts:
        """The latest count of every flusher; a strong read. Raises Unavailable."""
        return {flusher: mark.count for flusher, mark in self._marks.read("flush").items()}

    def begin(self) -> None:
        """Prepare for flushes that `advance` will announce; they must begin after this has returned."""
        try:
            marks = self._marks.read("flush")
        except Unavailable:
            self._own = _new_count()
            return
        stored = marks.get(self._own.flusher)
        # A server that lost power may have lost marks. A worker that reads the marks then must not take the rest of an
        # old count for flushes to come: the count continues only from what is stored.
        if (0 if stored is None else stored.count) != self._own.count:
            self._own = _new_count()
        before_ms = int(self._wall_clock() * 1000) - _FORGET_MS
        self._marks.forget("flush", [flusher for flusher, mark in marks.items() if mark.written_ms < before_ms])

    def advance(self) -> FlushMark:
        """Announce that one more flush of every collection has finished, which began after `begin` had returned.

        Raises Unavailable; then the next announcement starts a new count, so no mark is ever written twice.
        """
        flusher = self._own.flusher
        self._own = _new_count()
        self._own = FlushMark(flusher, self._marks.write("flush", {flusher: NO_PAYLOAD})[flusher].count)
        return self._own

    def restart(self) -> None:
        """Start a new count: what this flusher has announced so far proves nothing about flushes to come."""
        self._own = _new_count()


def _new_count() -> FlushMark:
    """A count that starts from zero, under a new flusher id."""
    return FlushMark(uuid.uuid4().hex, 0)


@dataclass(slots=True)
class _Group:
    """Receipts with the same marks."""

    base: dict[str, int]
    """Flusher -> its count when it was first seen after the acks."""
    receipts: list[Finished]


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

    def observe(self, marks: FlushCounts, acked: Sequence[Finished]) -> list[Finished]:
        """Add `acked`, all acknowledged before `marks` were read; returns the receipts that are durable now."""
        durable: list[Finished] = []
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

    def take(self) -> list[Finished]:
        """Remove and return all receipts: a flush of this worker makes them durable."""
        taken = [receipt for group in self._groups for receipt in group.receipts]
        self._groups = []
        return taken
