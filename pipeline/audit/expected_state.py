"""Which operations may have the last word on a document, once all its records have been applied. Pure.

Mostly exactly one. Several where the order is the order of arrival, which the topic does not tell (a document whose
records are in several Kafka partitions; a null value between versioned records, which a batch may fold away), or
where it is not known whether a record was accepted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.records import Position
from pipeline.store.writing.protocol import Key


@dataclass(frozen=True, slots=True)
class ExpectedWrite:
    """An accepted operation, without its text: what has to be stored if it has the last word."""

    position: Position
    timestamp_ms: int
    """Kafka's timestamp."""
    key: Key
    version: int | None
    certain: bool
    """False: it cannot be told whether the record was accepted when it was ingested."""
    event_time: int | None
    """Epoch milliseconds; None: a delete."""
    content_hash: str = ""
    row_hash: str = ""
    chunks: tuple[bytes, ...] = ()
    """Digest of each chunk's text, see `text_digest`."""


@dataclass(frozen=True, slots=True)
class ExpectedState:
    """What may be stored of one document."""

    candidates: tuple[ExpectedWrite, ...]
    """The most probable first."""
    maybe_nothing: bool
    """Also correct: nothing, because no operation is certain to have been accepted."""
    by_batches: bool = False
    """A null value stands between versioned records: a batch that holds both may have folded any of them away."""


def supersedes(later: ExpectedWrite, earlier: ExpectedWrite) -> bool:
    """Whether `earlier` need not be kept: whatever the batches were, `later` of the same Kafka partition replaces it.

    Only for the operation right before it. A null value and a versioned record never replace each other here: which of
    them lasts depends on the batches.
    """
    if not later.certain or later.position[:2] != earlier.position[:2]:
        return False
    if later.version is None or earlier.version is None:
        return later.version is None and earlier.version is None
    return later.version >= earlier.version


def last_word(operations: Iterable[ExpectedWrite]) -> ExpectedState:
    """The operations of one document that may have the last word, by the rules of `fold` and the ledger's guard."""
    ordered = sorted(operations, key=lambda operation: operation.position)
    found: set[ExpectedWrite] = set()
    nothing = bool(ordered)
    partitions = 0
    for _, some in groupby(ordered, key=lambda operation: operation.position[:2]):
        last, maybe_nothing = _of_one_partition(list(some))
        found |= last
        nothing = nothing and maybe_nothing
        partitions += 1
    versioned = {operation.version is not None for operation in ordered}
    if versioned == {True}:
        newest = max((operation.version or 0 for operation in found if operation.certain), default=-(2**63))
        found = {each for each in found if (each.version or 0) >= newest}
    elif partitions > 1 and len(versioned) > 1:
        # A null value in one Kafka partition lets an older version of another one pass the guard.
        found = set(ordered)
    by_batches = len(versioned) > 1 and (partitions > 1 or ordered[-1].version is not None)
    return ExpectedState(tuple(sorted(found, key=_probable, reverse=True)), nothing, by_batches)


def _of_one_partition(operations: Sequence[ExpectedWrite]) -> tuple[set[ExpectedWrite], bool]:
    """Every state that applying them in this order can end in, however they were cut into batches."""
    states: set[ExpectedWrite | None] = {None}
    folded: set[ExpectedWrite | None] = set()
    for operation in operations:
        before = states | folded
        after: set[ExpectedWrite | None] = {_newer(state, operation) for state in before}
        # A null value that is followed by a record in the same batch is never applied by itself.
        folded = set()
        if operation.version is None:
            folded.update(state for state in before if state is not None and state.version is not None)
        states = after if operation.certain else after | states
    return {state for state in states if state is not None}, None in states


def _newer(state: ExpectedWrite | None, operation: ExpectedWrite) -> ExpectedWrite:
    if state is None or state.version is None or operation.version is None or operation.version >= state.version:
        return operation
    return state


def _probable(operation: ExpectedWrite) -> tuple[bool, int, int, Position]:
    version = -(2**63) if operation.version is None else operation.version
    return operation.certain, version, operation.timestamp_ms, operation.position
