"""Several workers that share Kafka partitions, one Milvus: the write protocol under every order of what can happen.

Each Kafka partition has one owner. A worker has batches in flight, crashes, is cut off from Kafka, gives partitions
away and gets them back; replies are lost, requests take effect after their worker has died, reads are stale, old
ranges are read again. Model: the log of each Kafka partition. See docs/architecture.md for L1, L2 and L3.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.records import Delete
from tests.support.documents import delete, put
from tests.support.examples import examples
from tests.support.fakes.faulty_milvus import Fault
from tests.support.rigs.writer import PARTITIONS, RETENTION_S, STALENESS_S, WORKERS, World, newest, rows_of

# A text, the day that decides the Milvus partition, and metadata. Few, so that documents come back to what they were.
CONTENTS = (None, ("a", 0, "x"), ("b c d e", 0, "x"), ("b c d e", 0, "y"), ("a", 1, "x"), ("b c", 2, "y"))
FAULTS: tuple[Fault, ...] = ("away", "lost", "crash before", "crash after", "crash before its effect")
Record: TypeAlias = tuple[str, tuple[str, int, str] | None, int]
"""Which of the Kafka partition's documents, its content, its version."""
record: st.SearchStrategy[Record] = st.tuples(st.sampled_from("ab"), st.sampled_from(CONTENTS), st.integers(0, 3))
lists = st.lists(record, min_size=1, max_size=6)
long_lists = st.lists(record, min_size=3, max_size=8)
faults = st.one_of(st.none(), st.tuples(st.integers(0, 7), st.sampled_from(FAULTS)))
partitions = st.sampled_from(PARTITIONS)
counts = st.sampled_from([(1, 1), (2, 0), (0, 2), (3, 1), (1, 3), (3, 3)])
cuts = st.integers(0, 3)
"""The operation in front of which a batch is cut; 0: it stays whole."""
choices = st.integers(0, len(WORKERS) - 1)


class Machine(RuleBasedStateMachine):
    """One run of the world; `catch_up` is where everything must be exact."""

    @initialize(
        versioned=st.booleans(),
        seed=st.integers(0, 3),
        logs=st.tuples(*[long_lists] * len(PARTITIONS)),
    )
    def begin(self, *, versioned: bool, seed: int, logs: Sequence[Sequence[Record]]) -> None:
        self.versioned = versioned
        self.world = World(seed=seed, versioned=versioned)
        for partition, some in zip(PARTITIONS, logs, strict=True):
            self.produce(partition, some)
            self.world.take(0, partition)

    @rule(partition=partitions, some=lists)
    def produce(self, partition: int, some: Sequence[Record]) -> None:
        log = self.world.log[partition]
        for name, content, number in some:
            key = f"{partition}{name}"
            version = number if self.versioned else None
            if content is None:
                log.append(delete(key, len(log), version=version, partition=partition))
            else:
                text, day, tag = content
                metadata = {"tag": tag}
                made = put(key, text, len(log), day=day, version=version, metadata=metadata, partition=partition)
                log.append(made)

    @precondition(lambda self: self.who(self.world.can_progress))
    @rule(choice=choices, counts=counts, cut_at=cuts, fault=faults)
    def read(self, choice: int, counts: tuple[int, ...], cut_at: int, fault: tuple[int, Fault] | None) -> None:
        number = self.one(self.world.can_progress, choice)
        self.world.read(number, counts, cut_at)
        self.attempt(number, fault)

    @precondition(lambda self: self.who(self.world.can_write))
    @rule(choice=choices, fault=faults)
    def write(self, choice: int, fault: tuple[int, Fault] | None) -> None:
        self.attempt(self.one(self.world.can_write, choice), fault)

    @precondition(lambda self: self.who(self.world.can_progress))
    @rule(choice=choices, counts=counts, cut_at=cuts, fault=faults)
    def read_and_write(
        self, choice: int, counts: tuple[int, ...], cut_at: int, fault: tuple[int, Fault] | None
    ) -> None:
        number = self.one(self.world.can_progress, choice)
        self.world.read(number, counts, cut_at)
        self.attempt(number, None)
        self.attempt(number, fault)

    @precondition(lambda self: self.who(self.world.is_behind))
    @rule(choice=choices)
    def commit(self, choice: int) -> None:
        self.world.commit(self.one(self.world.is_behind, choice))

    @precondition(lambda self: self.who(self.world.is_member))
    @rule(choice=choices, partition=partitions)
    def rebalance(self, choice: int, partition: int) -> None:
        self.world.take(self.one(self.world.is_member, choice), partition)

    @precondition(lambda self: len(self.who(self.world.is_member)) > 1)
    @rule(choice=choices, heir=choices)
    def cut_off(self, choice: int, heir: int) -> None:
        """A worker that Kafka no longer hears continues, until it learns that it was expelled."""
        self.world.working(self.one(self.world.is_member, choice)).api.lease_ends()
        self.inherit(heir)

    @precondition(lambda self: self.who(self.world.is_away) and self.who(self.world.is_member))
    @rule(heir=choices)
    def inherit(self, heir: int) -> None:
        """The group gives what belonged to members that are gone to one that is there."""
        heir = self.one(self.world.is_member, heir)
        for partition in PARTITIONS:
            if self.world.is_away(self.world.owner[partition]):
                self.world.take(heir, partition)

    @precondition(lambda self: self.who(self.world.is_away))
    @rule(choice=choices)
    def come_back(self, choice: int) -> None:
        """A process is started again; or a worker that was cut off learns what it has lost."""
        self.world.come_back(self.one(self.world.is_away, choice))

    @precondition(lambda self: self.who(self.world.can_read))
    @rule(choice=choices, partition=partitions, first=st.integers(0, 8), count=st.integers(1, 5))
    def replay(self, choice: int, partition: int, first: int, count: int) -> None:
        """An old range is read again, and nothing after it."""
        number = self.one(self.world.can_read, choice)
        self.world.replay(number, partition, first, first + count)
        self.attempt(number, None)

    @precondition(lambda self: self.who(self.world.is_member))
    @rule(choice=choices, fault=faults, seconds=st.sampled_from([0, RETENTION_S + 1]))
    def sweep(self, choice: int, fault: tuple[int, Fault] | None, seconds: int) -> None:
        """Old tombstones are removed, with whatever is in flight."""
        self.world.now_s += seconds
        number = self.one(self.world.is_member, choice)
        api = self.world.working(number).api
        api.fail_at(*(fault or (0, None)))
        self.world.sweep(number)
        api.fail_at(0, None)

    @rule(seconds=st.sampled_from([1, STALENESS_S]), unseen=st.integers(0, 8))
    def pass_time(self, seconds: int, unseen: int) -> None:
        """And from now on a read that is not strong misses so many of the last writes."""
        self.world.now_s += seconds
        self.world.milvus.staleness_writes = unseen

    @precondition(lambda self: self.world.gone)
    @rule(choice=choices)
    def late_effects(self, choice: int) -> None:
        gone = list(self.world.gone.values())
        gone[choice % len(gone)].late_effects()

    @rule()
    def catch_up(self) -> None:
        world = self.world
        for number in filter(world.is_away, WORKERS):
            world.come_back(number)
        for number in WORKERS:
            worker = world.working(number)
            while worker.batches or any(at < len(world.log[partition]) for partition, at in worker.next.items()):
                if world.can_read(number):
                    world.read(number, (5,) * len(PARTITIONS))
                world.attempt(number)
            world.commit(number)
        assert world.committed == {partition: len(log) for partition, log in world.log.items()}
        expected = {key: operation for log in world.log.values() for key, operation in newest(log).items()}
        stored, entries = world.rows(), world.entries()
        certain = {key for key in stored.keys() | expected.keys() if not world.uncertain(key)}
        assert {key: stored.get(key, {}) for key in certain} == {key: rows_of(expected[key]) for key in certain}
        for key in certain:
            operation, entry = expected[key], entries.get(key)
            if entry is None:
                assert key in world.forgotten
                assert isinstance(operation, Delete)
            else:
                assert (entry.pending, entry.position) == (False, operation.position)
                assert entry.version == (operation.version or 0)

    def who(self, able: Callable[[int], bool]) -> list[int]:
        return [number for number in WORKERS if able(number)]

    def one(self, able: Callable[[int], bool], choice: int) -> int:
        able_ones = self.who(able)
        return able_ones[choice % len(able_ones)]

    def attempt(self, number: int, fault: tuple[int, Fault] | None) -> None:
        api = self.world.working(number).api
        api.fail_at(*(fault or (0, None)))
        self.world.attempt(number)
        api.fail_at(0, None)

    @invariant()
    def committed_is_stored(self) -> None:
        self.world.check()
        self.world.check_committed()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.catch_up()


TestWriterMachine = Machine.TestCase
TestWriterMachine.settings = examples(6, stateful_step_count=40)
