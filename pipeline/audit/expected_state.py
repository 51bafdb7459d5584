"""The possible final states of a document after all of its records were applied. Pure.

Usually there is exactly one. There are several if the topic does not determine the order or the outcome:

1. The key was in more than one Kafka partition.
2. A null value lies between versioned records: a batch that holds both may fold any of them away.
3. It is unknown whether a record was accepted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.records import MIN_INT64, Delete, Position, Put
from pipeline.store import Key, content_hash, row_hash


@dataclass(frozen=True, slots=True)
class ExpectedWrite:
    """An accepted operation, without its text: what must be stored if it was the last one."""

    position: Position
    timestamp_ms: int
    """Kafka's timestamp."""
    key: Key
    version: int | None
    certain: bool
    """False: it is unknown whether the record was accepted when it was ingested."""
    event_time: int | None
    """Epoch milliseconds; None: a delete."""
    content_hash: str = ""
    row_hash: str = ""
    chunks: tuple[bytes, ...] = ()
    """The `text_digest` of each chunk."""

    @classmethod
    def of(cls, operation: Put | Delete, *, certain: bool, chunks: tuple[bytes, ...] = ()) -> "ExpectedWrite":
        """The expected write of an operation; `chunks` may be added later."""
        document = operation.document if isinstance(operation, Put) else None
        return cls(
            position=operation.position,
            timestamp_ms=operation.timestamp_ms,
            key=operation.key,
            version=operation.version,
            certain=certain,
            event_time=None if document is None else document.event_time,
            content_hash="" if document is None else content_hash(document.text),
            row_hash="" if document is None else row_hash(document),
            chunks=chunks,
        )

    def as_delete(self) -> Delete:
        """A delete of the same version, for comparisons with a ledger entry that ignore the content."""
        tenant, doc_id = self.key
        return Delete(self.position, self.timestamp_ms, doc_id, tenant, self.version)


@dataclass(frozen=True, slots=True)
class ExpectedState:
    """What may be stored of one document."""

    candidates: tuple[ExpectedWrite, ...]
    """The possible last writes, the most probable first."""
    maybe_nothing: bool
    """Nothing stored is correct, too, because no operation is certain to have been accepted."""
    by_batches: bool = False
    """The batches may have decided (case 2 above)."""

    @classmethod
    def of(cls, operations: Iterable[ExpectedWrite]) -> "ExpectedState":
        """The possible final states, by the rules of `fold` and of the ledger's guard."""
        ordered = sorted(operations, key=lambda operation: operation.position)
        last_writes: set[ExpectedWrite] = set()
        maybe_nothing = bool(ordered)
        partitions = 0
        for _, of_partition in groupby(ordered, key=lambda operation: operation.position[:2]):
            writes, maybe_none = _of_one_partition(list(of_partition))
            last_writes |= writes
            maybe_nothing = maybe_nothing and maybe_none
            partitions += 1
        versioned = {operation.version is not None for operation in ordered}
        if versioned == {True}:
            newest = max((write.version or 0 for write in last_writes if write.certain), default=MIN_INT64)
            last_writes = {write for write in last_writes if (write.version or 0) >= newest}
        elif partitions > 1 and len(versioned) > 1:
            # A null value in one Kafka partition lets an older version of another one pass the guard.
            last_writes = set(ordered)
        by_batches = len(versioned) > 1 and (partitions > 1 or ordered[-1].version is not None)
        return cls(tuple(sorted(last_writes, key=_probability, reverse=True)), maybe_nothing, by_batches)


def supersedes(later: ExpectedWrite, earlier: ExpectedWrite) -> bool:
    """Whether `later` replaces `earlier` however the batches were cut; it must be the next operation of the document.

    Both must be of one Kafka partition. A null value and a versioned record never replace each other here: the batches
    decide which of them remains.
    """
    if not later.certain or later.position[:2] != earlier.position[:2]:
        return False
    if later.version is None or earlier.version is None:
        return later.version is None and earlier.version is None
    return later.version >= earlier.version


def _of_one_partition(operations: Sequence[ExpectedWrite]) -> tuple[set[ExpectedWrite], bool]:
    """The last writes that are possible, however the operations were cut into batches, and whether none is."""
    states: set[ExpectedWrite | None] = {None}
    folded: set[ExpectedWrite | None] = set()
    for operation in operations:
        before = states | folded
        after: set[ExpectedWrite | None] = {_newer(state, operation) for state in before}
        # A null value followed by another record of its key in the same batch is folded away.
        folded = set()
        if operation.version is None:
            folded.update(state for state in before if state is not None and state.version is not None)
        states = after if operation.certain else after | states
    return {state for state in states if state is not None}, None in states


def _newer(state: ExpectedWrite | None, operation: ExpectedWrite) -> ExpectedWrite:
    if state is None or state.version is None or operation.version is None or operation.version >= state.version:
        return operation
    return state


def _probability(write: ExpectedWrite) -> tuple[bool, int, int, Position]:
    version = MIN_INT64 if write.version is None else write.version
    return write.certain, version, write.timestamp_ms, write.position
