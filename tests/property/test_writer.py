"""The write protocol under crashes, lost replies and outages: L1 and L2 always hold, and a repetition is exact."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle, repeat
from typing import Literal, TypeAlias, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.records import Delete, Put
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import open_collection, open_ledger
from pipeline.store.partition_names import Partitioning, partition_name
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.ledger.ledger_rows import row_entry
from pipeline.store.writing.protocol.decisions import Entry, WritePlan
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.rows import row_ids
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import DIMENSION, delete, embed_all, put
from tests.support.examples import examples
from tests.support.fakes.faulty_milvus import Crash
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.writer import newest

NAME = "docs"
LEDGER = "docs__ledger"
POLICY = WritePolicy(max_rows=3, max_bytes=2000)  # a document of more than three rows is cut
Operation = Put | Delete
Fault = Literal["ok", "crash", "lost", "away"]
Step: TypeAlias = tuple[str, tuple[str, int] | None, int]
"""Key, text and day (None: a delete), version."""
T = TypeVar("T")


class Server:
    """A fake Milvus whose every call takes 7 s, may crash, fail or lose its reply, and is followed by a check."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self._now_s = 0.0
        self._faults = iter(faults)
        self._fault: Fault = "ok"
        self.broken: list[str] = []
        self.interlude: Callable[[], None] | None = None
        """What another thread does during the next call."""
        self.api = FakeMilvus(staleness_writes=3, staleness_s=60, clock=self.now, seed=seed)
        open_collection(self.api, NAME, {"name": "m"}, DIMENSION, IndexSettings("FLAT", "COSINE", {}), create=True)
        open_ledger(self.api, NAME)
        self.api.hook = self._around

    def now(self) -> float:
        return self._now_s

    def _around(self, operation: str, collection: str, when: Literal["before", "after"]) -> None:
        self._now_s += 3.5
        if when == "before":
            if self.interlude is not None:
                interlude, self.interlude = self.interlude, None
                interlude()
            self._fault = next(self._faults, "ok")
            if self._fault == "away":
                raise Unavailable("away")
            return
        self.check()
        if self._fault == "crash":
            raise Crash
        if self._fault == "lost":
            raise OutcomeUnknown("the reply is lost")

    def writer(self) -> UpsertWriter:
        ledger = Ledger(self.api, NAME, POLICY, staleness_s=60, max_cached=2, clock=self.now)
        partitions = MilvusPartitions(self.api, NAME)
        return UpsertWriter(self.api, NAME, partitions, Partitioning("day"), POLICY, fingerprint="model", ledger=ledger)

    def entries(self) -> dict[str, Entry]:
        """doc_id -> ledger entry."""
        return {row["doc_id"]: row_entry(row) for row in self.api.stored(LEDGER)["_default"].values()}

    def rows(self) -> dict[str, dict[str, tuple[str, int, str]]]:
        """doc_id -> row id -> (Milvus partition, chunk, text)."""
        found: dict[str, dict[str, tuple[str, int, str]]] = {}
        for partition, rows in self.api.stored(NAME).items():
            for identifier, row in rows.items():
                of_document = found.setdefault(row["doc_id"], {})
                if identifier in of_document:
                    self.broken.append(f"id {identifier} is in two Milvus partitions")
                of_document[identifier] = partition, row["chunk"], row["text"]
        return found

    def check(self) -> None:
        """L1: rows are within the footprint. L2: without `pending`, they are exactly those of the footprint."""
        entries, stored = self.entries(), self.rows()
        for doc_id, rows in stored.items():
            entry = entries.get(doc_id)
            for partition, chunk, _ in rows.values():
                if entry is None or chunk >= entry.footprint.get(partition, 0):
                    self.broken.append(f"L1: {doc_id} has chunk {chunk} in {partition}, the ledger says {entry}")
        for doc_id, entry in entries.items():
            expected = {
                identifier
                for partition, chunks in entry.footprint.items()
                for identifier in row_ids(None, doc_id, partition, range(chunks))
            }
            if not entry.pending and stored.get(doc_id, {}).keys() != expected:
                self.broken.append(f"L2: {doc_id} is not pending and has other rows than {entry}")


def rows_of(operation: Operation) -> set[tuple[str, int, str]]:
    if isinstance(operation, Delete):
        return set()
    place = partition_name("day", operation.document.event_time)
    return {(place, number, word) for number, word in enumerate(operation.document.text.split())}


def run(server: Server, operations: Sequence[Operation], done: int, sizes: Iterator[int], ahead: Iterator[int]) -> int:
    """Write from `done` on, several batches planned before the first is applied; how many are done, crash or not.

    Every third batch is applied while the next one is planned.
    """
    writer, upcoming = server.writer(), done
    waiting: deque[tuple[int, WritePlan]] = deque()

    def apply() -> None:
        nonlocal done
        end, plan = waiting.popleft()
        persistently(partial(writer.apply, plan, embed_all(plan.to_embed)))
        done = end

    try:
        while done < len(operations):
            window = next(ahead)
            while upcoming < len(operations) and len(waiting) < window:
                batch = operations[upcoming : upcoming + next(sizes)]
                upcoming += len(batch)
                server.interlude = apply if waiting and upcoming % 3 == 0 else None
                plan = persistently(partial(writer.plan, list(newest(batch).values())))
                server.interlude = None
                waiting.append((upcoming, plan))
            if waiting:
                apply()
    except Crash:
        pass
    finally:
        server.interlude = None
    return done


def persistently(call: Callable[[], T]) -> T:
    while True:
        try:
            return call()
        except Unavailable:
            continue


def records(steps: Sequence[Step], *, versioned: bool) -> list[Operation]:
    made: list[Operation] = []
    for offset, (key, content, number) in enumerate(steps):
        version = number if versioned else None
        if content is None:
            made.append(delete(key, offset, version=version))
        else:
            text, day = content
            made.append(put(key, text, offset, day=day, version=version))
    return made


# Few, so that documents often come back to what they were.
# Few, so that documents often come back to what they were. A text, and the day that decides the Milvus partition.
contents = st.sampled_from([None, ("a", 0), ("b c d e", 0), ("a", 1), ("b c d e", 2)])
steps_lists = st.lists(st.tuples(st.sampled_from(["k1", "k2"]), contents, st.integers(0, 4)), max_size=20)
fault_lists = st.lists(st.sampled_from(["ok", "ok", "ok", "crash", "lost", "away"]), max_size=60)
small = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@examples(6)
@given(
    steps=steps_lists,
    faults=fault_lists,
    sizes=small,
    ahead=small,
    back=small,
    versioned=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_redo_after_any_crash_ends_in_exactly_the_current_rows(
    *,
    steps: list[Step],
    faults: list[Fault],
    sizes: list[int],
    ahead: list[int],
    back: list[int],
    versioned: bool,
    seed: int,
) -> None:
    write_all(Server(faults, seed), records(steps, versioned=versioned), cycle(sizes), cycle(ahead), cycle(back))


A, B, MOVED, FAR = ("a", 0), ("b c d e", 0), ("a b", 1), ("c", 2)


@pytest.mark.parametrize(
    "contents",
    [
        [A, B, A],
        [B, A, B, A],
        [A, MOVED, FAR],
        [A, MOVED, A, MOVED],
        [A, None, B],
        [None, A, None],
        [B, MOVED, None, FAR, A],
    ],
)
@pytest.mark.parametrize("fault", ["crash", "lost"])
def test_a_fault_at_every_single_call(contents: list[tuple[str, int] | None], fault: Fault) -> None:
    operations = records([("k", content, 0) for content in contents], versioned=False)
    for ok_calls in range(14 * len(contents)):
        for redo_size in (1, 2, len(contents)):
            sizes = chain([1] * len(contents), repeat(redo_size))
            faults: list[Fault] = ["ok"] * ok_calls
            write_all(Server([*faults, fault], seed=ok_calls), operations, sizes, repeat(2), repeat(1))


def write_all(
    server: Server, operations: Sequence[Operation], sizes: Iterator[int], ahead: Iterator[int], back: Iterator[int]
) -> None:
    done = run(server, operations, 0, sizes, ahead)
    while done < len(operations):
        # What was committed may lag behind what was done, and the batches are cut differently the next time.
        done = run(server, operations, max(0, done - next(back) + 1), sizes, ahead)
    assert server.broken == []
    expected = newest(operations)
    stored = server.rows()
    assert {key: set(stored.get(key, {}).values()) for key in stored.keys() | expected.keys()} == {
        key: rows_of(operation) for key, operation in expected.items()
    }
    entries = server.entries()
    assert {key: (entry.pending, entry.position) for key, entry in entries.items()} == {
        key: (False, operation.position) for key, operation in expected.items()
    }
