"""Kafka as a model, Milvus in memory and workers between them: what the state machine of the writer moves."""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from pipeline.errors import Unavailable
from pipeline.intake import fold
from pipeline.records import Delete, EmbeddedPut, Position, Put
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import open_collection, open_ledger
from pipeline.store.partition_names import Partitioning, partition_name
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.ledger.ledger_rows import row_entry
from pipeline.store.writing.ledger.tombstone_cleanup import SweepPolicy, TombstoneSweep
from pipeline.store.writing.protocol.decisions import NOWHERE, Entry, WritePlan
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.rows import row_ids
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import DIMENSION, NOON_MS, embed_all
from tests.support.fakes.faulty_milvus import Crash, FaultyMilvus
from tests.support.fakes.milvus import FakeMilvus

NAME = "docs"
LEDGER = "docs__ledger"
POLICY = WritePolicy(max_rows=3, max_bytes=2000)  # a document of more than three rows is cut
STALENESS_S = 20
RETENTION_S = 60
PARTITIONS = (0, 1)
WORKERS = (0, 1, 2)
Operation: TypeAlias = Put | Delete
Stored: TypeAlias = tuple[str, int, str, str]
"""Milvus partition, chunk, text and the metadata field `tag` of one row."""


@dataclass(slots=True)
class Batch:
    """Records on their way through a worker."""

    number: int
    operations: Sequence[Operation]
    ends: dict[int, int]
    """Kafka partition -> the offset behind its last record in here."""
    cut_at: int = 0
    """The batch is cut in front of this operation behind its plan; 0: it stays whole."""
    plan: WritePlan | None = None
    puts: Sequence[EmbeddedPut] = ()


@dataclass(slots=True)
class Worker:
    """A process: what it believes to own, and what is in flight."""

    api: FaultyMilvus
    writer: UpsertWriter
    next: dict[int, int] = field(default_factory=dict)
    """Kafka partition -> the offset it reads next."""
    done: dict[int, int] = field(default_factory=dict)
    batches: deque[Batch] = field(default_factory=deque)
    number: int = 0
    abandoned: dict[int, int] = field(default_factory=dict)
    """Kafka partition -> the last batch that was made before it was given away."""
    must_forget: bool = False

    def drop(self, partition: int) -> None:
        self.abandoned[partition] = self.number
        self.next.pop(partition, None)
        self.done.pop(partition, None)


class World:
    """Kafka as the model, Milvus in memory, and the workers between them."""

    def __init__(self, *, seed: int, versioned: bool = False) -> None:
        self.versioned = versioned
        self.now_s = 0.0
        self.log: dict[int, list[Operation]] = {partition: [] for partition in PARTITIONS}
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.owner: dict[int, int] = {}
        self.milvus = FakeMilvus(staleness_writes=3, staleness_s=STALENESS_S, clock=lambda: self.now_s, seed=seed)
        open_collection(self.milvus, NAME, {"name": "m"}, DIMENSION, IndexSettings("FLAT", "COSINE", {}), create=True)
        open_ledger(self.milvus, NAME)
        self.workers: dict[int, Worker | None] = {number: self.started() for number in WORKERS}
        self.gone: dict[int, FaultyMilvus] = {}
        """Connections of workers that have crashed: requests of theirs may be on the way."""
        self.forgotten: set[str] = set()
        """Documents of which a tombstone was removed."""
        self.replayed: set[int] = set()
        """Kafka partitions of which an old range was read again, and nothing after it."""

    def started(self) -> Worker:
        api = FaultyMilvus(self.milvus, self._call, self.check)
        ledger = Ledger(
            api,
            NAME,
            POLICY,
            staleness_s=STALENESS_S,
            max_cached=2,
            owned=lambda: [("documents", partition) for partition in worker.next],
            clock=lambda: self.now_s,
            wall_clock=self.wall_clock,
        )
        partitions = MilvusPartitions(api, NAME)
        writer = UpsertWriter(api, NAME, partitions, Partitioning("day"), POLICY, fingerprint="m", ledger=ledger)
        worker = Worker(api, writer)
        return worker

    def wall_clock(self) -> float:
        return NOON_MS / 1000 + self.now_s

    def _call(self) -> None:
        self.now_s += 0.25

    # --- who can do what ---------------------------------------------------------------------------------------

    def working(self, number: int) -> Worker:
        worker = self.workers[number]
        assert worker is not None
        return worker

    def is_member(self, number: int) -> bool:
        """Runs, and Kafka hears it."""
        worker = self.workers[number]
        return worker is not None and worker.api.leased

    def is_away(self, number: int) -> bool:
        return not self.is_member(number)

    def can_write(self, number: int) -> bool:
        worker = self.workers[number]
        return worker is not None and bool(worker.batches)

    def can_read(self, number: int) -> bool:
        """Behind an assignment nothing is read before the batches in flight have passed."""
        worker = self.workers[number]
        if worker is None or not worker.next:
            return False
        return not worker.batches or (not worker.must_forget and worker.batches[-1].plan is not None)

    def can_progress(self, number: int) -> bool:
        """Can read, and there is something."""
        worker = self.workers[number]
        if worker is None or not self.can_read(number):
            return False
        return any(at < len(self.log[partition]) for partition, at in worker.next.items())

    def is_behind(self, number: int) -> bool:
        worker = self.workers[number]
        return worker is not None and worker.api.leased and bool(worker.done)

    # --- what happens to workers -------------------------------------------------------------------------------

    def attempt(self, number: int) -> None:
        """One attempt at the writer's next call, as the flow's stages make them: the newest batch is planned first."""
        worker = self.working(number)
        unplanned = next((batch for batch in worker.batches if batch.plan is None), None)
        try:
            if unplanned is not None:
                self._plan(worker, unplanned)
            elif worker.batches:
                self._apply(worker, worker.batches[0])
        except Unavailable:
            pass  # the same again, some time
        except Crash:
            self.workers[number] = None
            self.gone[number] = worker.api

    def _plan(self, worker: Worker, batch: Batch) -> None:
        operations = fold(batch.operations).operations
        plan = worker.writer.plan(operations)
        puts = embed_all(plan.to_embed)
        batch.plan, batch.puts = plan, puts
        for item, known in zip(puts, worker.writer.reusable(plan, [item.chunks for item in puts]), strict=True):
            for chunk, vector in zip(item.chunks, item.vectors, strict=True):
                assert np.array_equal(known.get(chunk.text, vector), vector), f"{chunk.text} with another's vector"
        if 0 < batch.cut_at < len(operations):
            self._cut(worker, batch, {operation.position for operation in operations[batch.cut_at :]})

    def _cut(self, worker: Worker, batch: Batch, later: Collection[Position]) -> None:
        """Two parts in the place of a planned batch; what it reads is done behind the second one."""
        assert batch.plan is not None
        first, second = batch.plan.cut(later)
        rest = Batch(batch.number, batch.operations, batch.ends, plan=second)
        rest.puts = [item for item in batch.puts if item.put.position in later]
        batch.puts = [item for item in batch.puts if item.put.position not in later]
        batch.plan, batch.ends = first, {}
        worker.batches.insert(worker.batches.index(batch) + 1, rest)

    def _apply(self, worker: Worker, batch: Batch) -> None:
        assert batch.plan is not None
        gone = {partition for partition, last in worker.abandoned.items() if last >= batch.number}
        plan = batch.plan.without(lambda operation: operation.position.partition in gone)
        applied = worker.writer.apply(plan, [item for item in batch.puts if item.put.position.partition not in gone])
        assert not applied.refused
        worker.batches.popleft()
        for partition, end in batch.ends.items():
            if partition not in gone:
                worker.done[partition] = end

    def sweep(self, number: int) -> None:
        """Remove old tombstones of the worker's own Kafka partitions, between two batches."""
        worker = self.working(number)
        policy = SweepPolicy(RETENTION_S, rows=2)
        sweep = TombstoneSweep(worker.api, NAME, policy, clock=lambda: self.now_s, wall_clock=self.wall_clock)
        before = self.entries()
        try:
            sweep.step([("documents", partition) for partition in worker.next])
        except Crash:
            self.workers[number] = None
            self.gone[number] = worker.api
            # Its delete may take effect later.
            self.forgotten.update(doc_id for doc_id, entry in before.items() if entry.state == "deleted")
        self.forgotten.update(before.keys() - self.entries().keys())

    def uncertain(self, doc_id: str) -> bool:
        """Whether an older record may have brought the document back, because its delete was forgotten."""
        return doc_id in self.forgotten and (self.versioned or int(doc_id[0]) in self.replayed)

    def take(self, number: int, partition: int) -> None:
        """The group gives a Kafka partition to this worker, with what that means for the one before."""
        before = self.owner.get(partition)
        if before == number:
            return
        if before is not None:
            if before in self.gone:  # its calls have ended before its lease has, and only now do others learn it
                self.gone[before].late_effects()
            if self.is_member(before):
                self.commit(before)
                self.working(before).drop(partition)
        self._give(number, partition)

    def _give(self, number: int, partition: int) -> None:
        worker = self.working(number)
        self.owner[partition] = number
        worker.next[partition] = self.committed[partition]
        worker.must_forget = True

    def come_back(self, number: int) -> None:
        mine = [partition for partition, owner in self.owner.items() if owner == number]
        worker = self.workers[number]
        if worker is None:
            self.gone.pop(number).late_effects()
            self.workers[number] = self.started()
        else:
            for partition in list(worker.next):
                worker.drop(partition)
            worker.api.lease_begins()
        for partition in mine:
            self._give(number, partition)

    def commit(self, number: int) -> None:
        for partition, end in self.working(number).done.items():
            assert self.owner[partition] == number
            self.committed[partition] = end

    def read(self, number: int, counts: Sequence[int], cut_at: int = 0) -> None:
        """A new batch of the next records of what the worker owns."""
        worker = self.working(number)
        operations: list[Operation] = []
        ends: dict[int, int] = {}
        for partition, count in zip(PARTITIONS, counts, strict=True):
            at = worker.next.get(partition, len(self.log[partition]))
            if some := self.log[partition][at : at + count]:
                operations += some
                ends[partition] = worker.next[partition] = at + len(some)
        self._submit(worker, operations, ends, cut_at)

    def replay(self, number: int, partition: int, first: int, end: int) -> None:
        worker = self.working(number)
        self.replayed.add(partition)
        self._submit(worker, self.log[partition][first : min(end, worker.next.get(partition, 0))], {})

    def _submit(self, worker: Worker, operations: Sequence[Operation], ends: dict[int, int], cut_at: int = 0) -> None:
        if operations:
            if worker.must_forget:
                worker.writer.forget()
                worker.must_forget = False
            worker.number += 1
            worker.batches.append(Batch(worker.number, operations, ends, cut_at))

    # --- what is stored ----------------------------------------------------------------------------------------

    def entries(self) -> dict[str, Entry]:
        return {row["doc_id"]: row_entry(row) for row in self.milvus.stored(LEDGER)["_default"].values()}

    def rows(self) -> dict[str, dict[str, Stored]]:
        found: dict[str, dict[str, Stored]] = {}
        for name, rows in self.milvus.stored(NAME).items():
            for identifier, row in rows.items():
                of_document = found.setdefault(row["doc_id"], {})
                assert identifier not in of_document, f"id {identifier} is in two Milvus partitions"
                of_document[identifier] = name, row["chunk"], row["text"], row["tag"]
        return found

    def check(self) -> None:
        """L1: rows are within the footprint. L2: without `pending` they are exactly those of the entry's record.

        And a document that changes or moves is never out of sight: the new rows come before the old ones go.
        """
        entries, stored = self.entries(), self.rows()
        for doc_id, rows in stored.items():
            assert doc_id in entries, f"L1: {doc_id} has rows and no ledger row"
            allowed = entries[doc_id].footprint
            for name, chunk, _, _ in rows.values():
                assert chunk < allowed.get(name, 0), f"L1: {doc_id} has chunk {chunk} in {name}: {entries[doc_id]}"
        for doc_id, entry in entries.items():
            if not entry.pending:
                expected = rows_of(self.log[entry.position.partition][entry.position.offset])
                assert stored.get(doc_id, {}) == expected, f"L2: {doc_id} has other rows than {entry} says"
            elif entry.state == "live" and not self.was_deleted(doc_id):
                assert stored.get(doc_id), f"{doc_id} is out of sight while it changes"

    def was_deleted(self, doc_id: str) -> bool:
        log = self.log[int(doc_id[0])]
        return any(isinstance(operation, Delete) and operation.doc_id == doc_id for operation in log)

    def check_committed(self) -> None:
        """L3: of what is committed nothing is missing, whatever is in flight."""
        entries = self.entries()
        for partition in PARTITIONS:
            for doc_id, operation in newest(self.log[partition][: self.committed[partition]]).items():
                entry = entries.get(doc_id)
                # By a delete that is committed, or by one behind it.
                deleted = doc_id in self.forgotten and (entry is None or entry.position == NOWHERE)
                if deleted or self.uncertain(doc_id):
                    continue
                assert entry is not None, f"L3: {doc_id} is committed and not stored"
                at = entry.version, entry.position.offset
                assert at >= (operation.version or 0, operation.position.offset), f"L3: {doc_id}: {entry}, {operation}"


def newest(operations: Sequence[Operation]) -> dict[str, Operation]:
    """By doc_id the operation that counts: the highest version, among equal ones (or without versions) the last."""
    found: dict[str, Operation] = {}
    for operation in operations:
        there = found.get(operation.key[1])
        if there is None or (operation.version or 0) >= (there.version or 0):
            found[operation.key[1]] = operation
    return found


def rows_of(operation: Operation) -> dict[str, Stored]:
    if isinstance(operation, Delete):
        return {}
    document = operation.document
    place = partition_name("day", document.event_time)
    words = document.text.split()
    ids = row_ids(None, document.doc_id, place, range(len(words)))
    return {ids[number]: (place, number, word, str(document.metadata["tag"])) for number, word in enumerate(words)}
