"""What keeps a replay into the live collection from undoing what the ingest workers write meanwhile."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.errors import UsageError
from pipeline.records import Chunk, EmbeddedPut
from pipeline.store import Applied, Change, Entry, Ledger, Vectors, WritePlan, Writer, comparable

_ATTEMPTS = 5


class GuardedWriter:
    """A Writer for a collection that a live group writes, too.

    The ledger's guard is safe as long as one worker owns a document. So while the group has members
    - a document whose ledger row is pending is left to them: they are at it, or will redo it;
    - a document that would change otherwise (other chunking or mapping, a record rejected before) ends the replay
      with UsageError: between the replay's look into the ledger and its write a worker may store a newer version.
    And always: of two records whose versions cannot be compared (a key that changed its Kafka partition) the one with
    the later Kafka timestamp is taken for newer. For ingest arrival decides; here the old ones arrive last.
    """

    def __init__(
        self, writer: Writer, look: Callable[[bool], Ledger], active: Callable[[], bool], *, pause_s: float = 0.5
    ) -> None:
        """`look(strong)` makes a ledger that has read nothing yet; `active`: whether the live group has members.

        `pause_s`: wait between two looks, when a worker may just have begun with a document.
        """
        self._writer = writer
        self._look = look
        self._active = active
        self._pause_s = pause_s

    def plan(self, operations: Sequence[Change]) -> WritePlan:
        """See Writer.plan. Raises UsageError where live workers would be raced."""
        plan = WritePlan([])
        for attempt in range(_ATTEMPTS):
            active = self._active()
            # A stale first look costs little: what would be written because of it is looked at again.
            entries = self._look(attempt > 0).read(operation.key for operation in operations)
            stale, left, kept = 0, 0, []
            for operation in operations:
                entry, _ = entries[operation.key]
                if entry is not None and entry.pending and active:
                    left += 1
                elif entry is not None and _incomparable(entry, operation) and _older(entry, operation):
                    stale += 1
                else:
                    kept.append(operation)
            plan = self._writer.plan(kept)
            if not plan.in_flight or not active:
                return replace(plan, unchanged=plan.unchanged + left, stale=plan.stale + stale)
            # A worker may have begun with the document since the look: its row is pending now, or newer.
            self._writer.apply(plan.without(lambda _: True), ())
            if attempt + 1 < _ATTEMPTS:
                time.sleep(self._pause_s)
        raise _raced(plan)

    def reusable(self, plan: WritePlan, chunks: Sequence[Sequence[Chunk]]) -> Sequence[Vectors]:
        """See Writer.reusable."""
        return self._writer.reusable(plan, chunks)

    def apply(self, plan: WritePlan, puts: Sequence[EmbeddedPut]) -> Applied:
        """See Writer.apply. Raises UsageError when workers have been started since the plan."""
        if plan.in_flight and self._active():
            raise _raced(plan)
        return self._writer.apply(plan, puts)

    def forget(self) -> None:
        """See Writer.forget."""
        self._writer.forget()


def _incomparable(entry: Entry, operation: Change) -> bool:
    if entry.versioned or operation.version is not None:
        return False
    return entry.position.offset >= 0 and not comparable(entry, operation)


def _older(entry: Entry, operation: Change) -> bool:
    return operation.timestamp_ms <= entry.record_time


def _raced(plan: WritePlan) -> UsageError:
    change: list[Change] = [*plan.to_embed, *plan.deletes, *plan.advances]
    topic, partition, offset = change[0].position if change else ("", 0, 0)
    return UsageError(
        f"{len(plan.in_flight)} documents of a batch would change in the live collection (the first by "
        f"{topic}/{partition}/{offset}: another chunking or mapping, or a record rejected before), while ingest "
        "workers write it: a newer version could be undone. Stop the workers and start this replay again (it goes on "
        "where it stopped), or replay --into another collection"
    )
