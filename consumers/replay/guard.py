"""The guard of a replay into the live collection: it never replaces newer data of the ingest workers."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from typing_extensions import override

from consumers.kafka import LiveGroup
from pipeline.errors import MilvusStreamError, UsageError
from pipeline.records import Chunk, EmbeddedPut
from pipeline.store import (
    Applied,
    Change,
    Earlier,
    Key,
    Ledger,
    Unfinished,
    Vectors,
    WritePlan,
    Writer,
    compare_entry,
)

_ATTEMPTS = 5
_UNKNOWN = (
    "for some time Kafka did not say that no ingest workers run, so they may have changed documents of the batches "
    "that are planned. Nothing of those was written since: start this replay again, and it goes on where it stopped"
)


class GuardedWriter(Writer):
    """A Writer for a collection that the workers of a live group write, too.

    It writes only while the group has no members, each batch within one absence of them: see LiveGroup. So for each
    document:

    1. The group has members and the ledger row is pending: a worker is writing the document, or will. It is left alone.
    2. Only the arrival would make the record newer (the key changed its Kafka partition, and the timestamps are equal):
       the row stays. In a replay the old records arrive last.
    3. The document would change (other chunking or mapping, a record rejected before) and the group has members, or may
       have had some since the first batch that changes anything was planned: the replay ends.
    4. Otherwise it is written as by ingest.
    """

    def __init__(
        self, writer: Writer, open_ledger: Callable[[bool], Ledger], live: LiveGroup, *, pause_s: float = 0.5
    ) -> None:
        """`open_ledger(strong)` makes a ledger with an empty cache.

        `pause_s`: wait between two reads of the ledger if a worker may just have begun a document.
        """
        self._writer = writer
        self._open_ledger = open_ledger
        self._live = live
        self._pause_s = pause_s
        self._absence = 0
        """The absence of workers in which the ledger was read. Batches are planned ahead, so there is one for all."""
        self._changes = False
        """Whether a batch planned in that absence changes a document."""

    def plan(self, operations: Sequence[Change], folded: Sequence[Earlier] = ()) -> WritePlan:
        """Plan the writes. Raises UsageError if a live worker may write one of the documents at the same time."""
        plan = WritePlan([])
        for attempt in range(_ATTEMPTS):
            absent = self._absent()
            # A stale first read costs little: documents that would be written because of it are read again.
            entries = self._open_ledger(attempt > 0).read(operation.key for operation in operations)
            stale, left_alone, remaining = 0, 0, []
            for operation in operations:
                entry, _ = entries[operation.key]
                if entry is not None and entry.pending and not absent:
                    left_alone += 1
                elif entry is not None and compare_entry(entry, operation).by_arrival:
                    stale += 1
                else:
                    remaining.append(operation)
            plan = self._writer.plan(remaining, folded)
            if not plan.in_flight or absent:
                self._changes |= bool(plan.in_flight)
                return replace(plan, unchanged=plan.unchanged + left_alone, stale=plan.stale + stale)
            # A worker may have begun the document since that read: its row is pending now, or newer.
            self._writer.apply(plan.without(lambda _: True), ())
            if attempt + 1 < _ATTEMPTS:
                time.sleep(self._pause_s)
        raise _raced(plan)

    @override
    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        return self._writer.reusable(plan, chunks)

    @override
    def unfinished(self, keys: Collection[Key], doubted: Collection[Key]) -> Mapping[Key, Unfinished]:
        # A live worker may be at it.
        return {}

    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        """Write the plan. Raises UsageError if workers run, MilvusStreamError if some have since the plan was made."""
        if plan.in_flight and not self._absent():
            raise _raced(plan)
        return self._writer.apply(plan, puts)

    def left_s(self) -> float:
        """Return the seconds in which no worker begins to write, for each request. Raises LeaseExpired."""
        return self._live.left_s(self._absence)

    @override
    def forget(self) -> None:
        self._writer.forget()

    def _absent(self) -> bool:
        """Whether the group has no members.

        Raises MilvusStreamError if it may have had some since changes were planned.
        """
        if not self._live.absent():
            return False
        if self._live.absence != self._absence:
            if self._changes:
                raise MilvusStreamError(_UNKNOWN)
            self._writer.forget()  # what it has read may have been changed by workers
            self._absence = self._live.absence
        return True


def _raced(plan: WritePlan) -> UsageError:
    change: list[Change] = [*plan.to_embed, *plan.deletes, *plan.advances]
    topic, partition, offset = change[0].position if change else ("", 0, 0)
    return UsageError(
        f"{len(plan.in_flight)} documents of a batch would change in the live collection (the first by "
        f"{topic}/{partition}/{offset}: another chunking or mapping, or a record rejected before), while ingest "
        "workers write it: a newer version could be undone. Stop the workers and start this replay again (it goes on "
        "where it stopped), or replay --into another collection"
    )
