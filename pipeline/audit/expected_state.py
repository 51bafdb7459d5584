"""The possible final states of a document after all of its records were applied. Pure.

Usually there is exactly one. There are several if the topic does not determine the order or the outcome:

1. The key was in several logs, and versions and timestamps are equal, so the arrival decided.
2. It was in several logs with and without versions, where the order of reading them can matter (docs/guarantees.md).
3. It is unknown whether a record was accepted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, permutations

from pipeline.order import compare, own_rank
from pipeline.records import MIN_INT64, Delete, Position, Put, Rank
from pipeline.store import Key, content_hash, row_hash

_MOST_LOGS = 3
"""Of so many logs every order of reading is tried; of more, each log as the last."""


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
    rank: Rank | None = None
    """With what is known of the document's other records; None: of this record alone."""

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
        return Delete(self.position, self.timestamp_ms, doc_id, tenant, self.version, rank=self.rank)


@dataclass(frozen=True, slots=True)
class ExpectedState:
    """What may be stored of one document."""

    candidates: tuple[ExpectedWrite, ...]
    """The possible last writes, the most probable first."""
    maybe_nothing: bool
    """Nothing stored is correct, too, because no operation is certain to have been accepted."""
    by_reading: bool = False
    """How the logs were read may have decided (case 2 above)."""

    @classmethod
    def of(cls, operations: Iterable[ExpectedWrite]) -> "ExpectedState":
        """The possible final states, by the order that ingest applies, too."""
        ordered = sorted(operations, key=lambda operation: operation.position)
        last_writes: dict[Position, ExpectedWrite] = {}
        maybe_nothing = bool(ordered)
        for sequence in _readings(ordered):
            states = _applied(sequence)
            maybe_nothing = maybe_nothing and None in states
            for state in states:
                if state is not None:
                    last_writes.setdefault(state.position, state)
        logs = {operation.position[:2] for operation in ordered}
        mixed = len({operation.version is not None for operation in ordered}) > 1
        candidates = sorted(last_writes.values(), key=_probability, reverse=True)
        return cls(tuple(candidates), maybe_nothing, by_reading=mixed and len(logs) > 1)


def supersedes(later: ExpectedWrite, earlier: ExpectedWrite) -> bool:
    """Whether `earlier` makes no difference behind `later`, which must be the document's next operation of its log."""
    if not later.certain or later.position[:2] != earlier.position[:2]:
        return False
    if (later.version is None) != (earlier.version is None):
        return False
    versions = later.version or 0, earlier.version or 0
    return versions[0] > versions[1] or (versions[0] == versions[1] and later.timestamp_ms >= earlier.timestamp_ms)


def _readings(operations: Sequence[ExpectedWrite]) -> Iterator[Sequence[ExpectedWrite]]:
    """Orders in which the operations may have been read, each log in its own order."""
    logs = [list(of_log) for _, of_log in groupby(operations, key=lambda operation: operation.position[:2])]
    if len(logs) <= 1:
        yield operations
        return
    orders = (
        permutations(logs) if len(logs) <= _MOST_LOGS else ([*logs[n + 1 :], *logs[: n + 1]] for n in range(len(logs)))
    )
    for order in orders:
        yield [operation for of_log in order for operation in of_log]


def _applied(operations: Sequence[ExpectedWrite]) -> set[ExpectedWrite | None]:
    """The possible states after these operations in turn."""
    states: set[ExpectedWrite | None] = {None}
    for operation in operations:
        kept: set[ExpectedWrite | None] = set() if operation.certain else states
        states = kept | {_newer(state, operation) for state in states}
    return states


def _newer(state: ExpectedWrite | None, operation: ExpectedWrite) -> ExpectedWrite:
    own = own_rank(operation.position, "", operation.timestamp_ms, operation.version)
    if state is None or state.rank is None:
        return replace(operation, rank=own)
    order, rank, _ = compare(state.rank, own)
    return replace(state if order < 0 else operation, rank=rank)


def _probability(write: ExpectedWrite) -> tuple[bool, int, int, Position]:
    version = MIN_INT64 if write.version is None else write.version
    return write.certain, version, write.timestamp_ms, write.position
