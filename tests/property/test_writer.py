"""The write protocol under crashes, lost replies and outages: L1 and L2 hold at every moment, and a redo is exact."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.records import Delete, Put
from pipeline.store.collection import open_collection, open_ledger
from pipeline.store.indexes import IndexSettings
from pipeline.store.ledger import Ledger, row_entry
from pipeline.store.partitions import MilvusPartitions, partition_name
from pipeline.store.plan import Plan
from pipeline.store.requests import WritePolicy
from pipeline.store.rows import row_ids
from pipeline.store.upsert_writer import UpsertWriter
from tests.support.documents import DIMENSION, delete, embed_all, put
from tests.support.fake_milvus import FakeMilvus

NAME = "docs"
LEDGER = "docs__ledger"
POLICY = WritePolicy(max_rows=3, max_bytes=1 << 20)
Operation = Put | Delete
Fault = Literal["ok", "crash", "lost", "away"]
Step: TypeAlias = tuple[str, tuple[str, int, str] | None, int]
"""Key, (text, day, tag) or None for a delete, version."""
T = TypeVar("T")


class Crash(BaseException):
    """The process is gone: nothing after this line runs."""


class Server:
    """A fake Milvus whose every call may crash, fail or lose its reply, and which checks the invariants after each."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.api = FakeMilvus(staleness_writes=3, seed=seed)
        open_collection(self.api, NAME, {"name": "m"}, DIMENSION, IndexSettings("FLAT", "COSINE", {}), create=True)
        open_ledger(self.api, NAME)
        self._faults = iter(faults)
        self._now: str = "ok"
        self.broken: list[str] = []
        self.api.hook = self._around

    def _around(self, operation: str, collection: str, when: Literal["before", "after"]) -> None:
        if when == "before":
            self._now = next(self._faults, "ok")
            if self._now == "away":
                raise Unavailable("away")
            return
        self.check()
        if self._now == "crash":
            raise Crash
        if self._now == "lost":
            raise OutcomeUnknown("the reply is lost")

    def writer(self) -> UpsertWriter:
        return UpsertWriter(
            self.api,
            NAME,
            MilvusPartitions(self.api, NAME),
            "day",
            POLICY,
            fingerprint="model",
            ledger=Ledger(self.api, NAME, POLICY, max_remembered=2, clock=lambda: 0.0),
        )

    def rows(self) -> dict[str, dict[str, tuple[str, int, str]]]:
        """doc_id -> row id -> (Milvus partition, chunk, text)."""
        found: dict[str, dict[str, tuple[str, int, str]]] = {}
        for partition, rows in self.api.stored(NAME).items():
            for identifier, row in rows.items():
                of_document = found.setdefault(row["doc_id"], {})
                if identifier in of_document:
                    self.broken.append(f"id {identifier} stands in two Milvus partitions")
                of_document[identifier] = partition, row["chunk"], row["text"]
        return found

    def check(self) -> None:
        """L1: rows are within the footprint. L2: without `pending`, they are exactly those of the footprint."""
        entries = {
            entry.doc_id: entry for row in self.api.stored(LEDGER)["_default"].values() for entry in [row_entry(row)]
        }
        stored = self.rows()
        for doc_id, rows in stored.items():
            entry = entries.get(doc_id)
            for partition, chunk, _ in rows.values():
                if entry is None or chunk >= entry.footprint.get(partition, 0):
                    self.broken.append(f"L1: {doc_id} has chunk {chunk} in {partition}, the ledger says {entry}")
        for doc_id, entry in entries.items():
            if not entry.pending:
                expected = {
                    identifier
                    for partition, chunks in entry.footprint.items()
                    for identifier in row_ids(None, doc_id, partition, range(chunks))
                }
                if stored.get(doc_id, {}).keys() != expected:
                    self.broken.append(f"L2: {doc_id} is not pending and has other rows than {entry}")


def fold(operations: Sequence[Operation]) -> list[Operation]:
    last: dict[tuple[str | None, str], Operation] = {}
    for operation in operations:
        last.pop(operation.key, None)
        last[operation.key] = operation
    return list(last.values())


def run(writer: UpsertWriter, batches: Sequence[Sequence[Operation]], first: int, ahead: Sequence[int]) -> int:
    """Plan up to `ahead` batches before the first of them is applied. The number of batches done, crash or not."""
    done = first
    waiting: deque[Plan] = deque()
    upcoming = first
    try:
        while done < len(batches):
            window = ahead[done % len(ahead)]
            while upcoming < len(batches) and len(waiting) < window:
                waiting.append(persistently(partial(writer.plan, fold(batches[upcoming]))))
                upcoming += 1
            plan = waiting.popleft()
            persistently(partial(writer.apply, plan, embed_all(plan.to_embed)))
            done += 1
    except Crash:
        return done
    return done


def persistently(call: Callable[[], T]) -> T:
    while True:
        try:
            return call()
        except Unavailable:
            continue


def expected_rows(operations: Sequence[Operation]) -> dict[str, set[tuple[str, int, str]]]:
    """Last write wins, where a version older than the one stored is no write. Records stand in one Kafka partition."""
    current: dict[str, Operation] = {}
    for operation in operations:
        there = current.get(operation.key[1])
        both = there is not None and operation.version is not None and there.version is not None
        if there is None or not both or (operation.version or 0) >= (there.version or 0):
            current[operation.key[1]] = operation
    return {
        doc_id: {
            (partition_name("day", operation.document.event_time), number, word)
            for number, word in enumerate(operation.document.text.split())
        }
        for doc_id, operation in current.items()
        if isinstance(operation, Put)
    }


texts = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=7).map(" ".join)
steps = st.tuples(
    st.sampled_from(["k1", "k2", "k3"]),
    st.one_of(st.none(), st.tuples(texts, st.integers(0, 2), st.sampled_from(["x", "y"]))),
    st.integers(0, 4),
)
batch_lists = st.lists(st.lists(steps, min_size=1, max_size=5), min_size=1, max_size=5)
fault_lists = st.lists(st.sampled_from(["ok", "ok", "ok", "ok", "crash", "lost", "away"]), max_size=60)


def records(batches: Sequence[Sequence[Step]], *, versioned: bool) -> list[list[Operation]]:
    offset = 0
    made: list[list[Operation]] = []
    for batch in batches:
        operations: list[Operation] = []
        for key, content, number in batch:
            version = number if versioned else None
            if content is None:
                operations.append(delete(key, offset, version=version))
            else:
                text, day, tag = content
                operations.append(put(key, text, offset, day=day, version=version, metadata={"tag": tag}))
            offset += 1
        made.append(operations)
    return made


@settings(max_examples=300, deadline=None, derandomize=True)
@given(batch_lists, fault_lists, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.booleans(), st.integers(0, 9))
def test_a_redo_after_any_crash_ends_in_exactly_the_current_rows(
    steps: list[list[Step]],
    faults: list[Fault],
    ahead: list[int],
    versioned: bool,
    seed: int,
) -> None:
    batches = records(steps, versioned=versioned)
    server = Server(faults, seed)
    done = 0
    while done < len(batches):
        done = run(server.writer(), batches, done, ahead)
    assert server.broken == []
    folded = [operation for batch in batches for operation in fold(batch)]
    assert {key: set(rows.values()) for key, rows in server.rows().items()} == expected_rows(folded)
    assert not any(row["pending"] for row in server.api.stored(LEDGER)["_default"].values())
    assert {row["doc_id"] for row in server.api.stored(LEDGER)["_default"].values()} == {
        operation.key[1] for operation in folded
    }
