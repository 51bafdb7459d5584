"""The positions of one group: which are written, by which owner, and compared with which commits."""

import threading
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from typing_extensions import override

from consumers.kafka import RememberedPositions
from consumers.kafka.positions.remembered import AcceptableGap
from pipeline.records import KafkaPartition
from pipeline.store import Marks, PositionMarks, StoredPosition
from pipeline.store.collection.opening import open_marks
from tests.support.fakes.milvus import FakeMilvus

IDS = {"t": "id"}
FIRST, SECOND = ("t", 0), ("t", 1)
WAIT_S = 10


class Gated(FakeMilvus):
    """A Milvus that holds up the reads or the writes of another thread until they may pass."""

    def __init__(self, *, held: Collection[str] = ()) -> None:
        super().__init__()
        open_marks(self, "docs")
        self.held = set(held)
        self.arrived = threading.Event()
        self.may_pass = threading.Event()

    def query(self, *arguments: Any, **options: Any) -> Any:
        self._hold("query")
        return super().query(*arguments, **options)

    def upsert(self, *arguments: Any) -> None:
        self._hold("upsert")
        super().upsert(*arguments)

    def _hold(self, operation: str) -> None:
        if operation in self.held and threading.current_thread() is not threading.main_thread():
            self.arrived.set()
            assert self.may_pass.wait(WAIT_S)


class Owner(RememberedPositions):
    """The memory of one worker, after its first read."""

    def __init__(self, milvus: FakeMilvus) -> None:
        super().__init__(PositionMarks(Marks(milvus, "docs"), "g"), "g", lambda topic: True)
        self.read(IDS)
        self.gaps: list[AcceptableGap] = []

    @override
    def assigned(self, positions: Mapping[KafkaPartition, int], uncommitted: Collection[KafkaPartition] = ()) -> None:
        super().assigned(positions, uncommitted)

    def write_meanwhile(self, offsets: Mapping[KafkaPartition, int]) -> threading.Thread:
        def write() -> None:
            try:
                self.write(offsets)
            except AcceptableGap as gap:
                self.gaps.append(gap)

        thread = threading.Thread(target=write)
        thread.start()
        return thread


def stored(milvus: FakeMilvus) -> dict[KafkaPartition, StoredPosition]:
    return dict(PositionMarks(Marks(milvus, "docs"), "g").read(IDS).current)


def offsets(milvus: FakeMilvus) -> dict[KafkaPartition, int]:
    return {name: position.offset for name, position in stored(milvus).items()}


def test_a_commit_to_compare_is_kept_while_others_are_compared() -> None:
    milvus = Gated()
    owner = Owner(milvus)
    owner.write({FIRST: 10, SECOND: 10})
    owner.expect({FIRST: 10})
    milvus.held = {"query"}
    writer = owner.write_meanwhile({FIRST: 12})
    assert milvus.arrived.wait(WAIT_S)
    owner.expect({SECOND: 500})
    milvus.may_pass.set()
    writer.join(WAIT_S)
    assert ["490 records" in str(gap) for gap in owner.gaps] == [True]
    with pytest.raises(AcceptableGap, match="490 records"):
        owner.write({SECOND: 510})
    assert offsets(milvus) == {FIRST: 10, SECOND: 10}, "the gap is still to be seen"


def test_a_commit_that_was_compared_is_compared_once() -> None:
    milvus = FakeMilvus()
    open_marks(milvus, "docs")
    owner = Owner(milvus)
    owner.write({FIRST: 10})
    owner.expect({FIRST: 10})
    owner.write({FIRST: 12})
    owner.expect({FIRST: 13})
    with pytest.raises(AcceptableGap, match="1 records"):
        owner.write({FIRST: 14})
    owner.expect({FIRST: 12})
    owner.write({FIRST: 14})
    owner.write({FIRST: 15})
    assert offsets(milvus) == {FIRST: 15}


def test_a_write_under_way_is_known_until_it_is_answered() -> None:
    milvus = Gated(held=["upsert"])
    owner = Owner(milvus)
    owner.assigned({FIRST: 0, SECOND: 0})
    assert not owner.writing([FIRST])
    writer = owner.write_meanwhile({FIRST: 100})
    assert milvus.arrived.wait(WAIT_S)
    owner.released([FIRST, SECOND])
    assert (owner.writing([FIRST]), owner.writing([SECOND]), owner.writing([FIRST, SECOND])) == (True, False, True)
    milvus.may_pass.set()
    writer.join(WAIT_S)
    assert not owner.writing([FIRST])
    assert offsets(milvus) == {FIRST: 100}


def test_a_write_that_fails_is_under_way_no_more() -> None:
    milvus = FakeMilvus()
    open_marks(milvus, "docs")
    owner = Owner(milvus)
    milvus.fail_next("upsert", RuntimeError("refused"), collection="docs__marks")
    with pytest.raises(RuntimeError):
        owner.write({FIRST: 1})
    assert not owner.writing([FIRST])


def test_a_former_owner_writes_no_position_over_that_of_the_next_one() -> None:
    milvus = FakeMilvus()
    open_marks(milvus, "docs")
    former = Owner(milvus)
    former.assigned({FIRST: 0, SECOND: 0})
    former.write({FIRST: 90, SECOND: 5})
    former.released([FIRST])
    owner = Owner(milvus)
    owner.assigned({FIRST: 90})
    owner.write({FIRST: 200})
    former.write({FIRST: 100, SECOND: 6})  # taken from the records before the revocation
    former.write({FIRST: 110, SECOND: 7})
    assert offsets(milvus) == {FIRST: 200, SECOND: 7}


def test_a_position_of_a_former_assignment_of_the_same_worker_is_left_out() -> None:
    milvus = FakeMilvus()
    open_marks(milvus, "docs")
    former, other = Owner(milvus), Owner(milvus)
    former.assigned({FIRST: 0})
    former.released([FIRST])
    other.write({FIRST: 200})
    former.read(IDS)
    former.assigned({FIRST: 200})
    former.write({FIRST: 100})
    assert offsets(milvus) == {FIRST: 200}
    former.write({FIRST: 201})
    assert offsets(milvus) == {FIRST: 201}


def test_where_reading_began_is_kept_with_the_position_until_kafka_has_confirmed_a_commit() -> None:
    milvus = FakeMilvus()
    open_marks(milvus, "docs")
    owner = Owner(milvus)
    owner.begin({FIRST: 40, SECOND: 0})
    owner.assigned({FIRST: 40, SECOND: 0}, [FIRST])
    owner.write({FIRST: 45, SECOND: 5})
    assert stored(milvus) == {FIRST: StoredPosition(45, "g", 40), SECOND: StoredPosition(5, "g", None)}
    owner.confirmed([FIRST])
    owner.write({FIRST: 46})
    assert stored(milvus)[FIRST] == StoredPosition(46, "g", None)


def test_a_first_position_of_a_former_version_is_where_reading_began() -> None:
    milvus = FakeMilvus()
    open_marks(milvus, "docs")
    Marks(milvus, "docs").write("position", {"id/0": {"topic": "t", "offset": 7, "group": "g", "first": True}})
    assert stored(milvus) == {FIRST: StoredPosition(7, "g", 7)}
