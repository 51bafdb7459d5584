"""Milvus loses with its power what was acknowledged and not flushed, while the worker lives on."""

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.embedding import HashEmbedder
from pipeline.errors import OffsetsLost, Stopped, Unavailable
from pipeline.records import Chunk, KafkaPartition
from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, GROUP, TOPIC, Rig, document, running, soon

NAMES = (COLLECTION, f"{COLLECTION}__ledger", f"{COLLECTION}__marks")


class Disk(FakeMilvus):
    """A Milvus of which only flushed rows survive a loss of power; flushes may be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.may_flush = threading.Event()
        self.may_flush.set()
        self._flushed: dict[str, dict[str, dict[str, dict[str, object]]]] = {}

    def flush(self, collection: str) -> None:
        if not self.may_flush.is_set():
            raise Unavailable("flush refused")
        super().flush(collection)
        self._flushed[collection] = self.stored(collection)

    def lose_power(self) -> None:
        """Every connection breaks; the server is back with what was flushed."""
        self.down = True
        for name in set(NAMES) & set(self._collections):
            held = self._collections[name]
            flushed = self._flushed.get(name, {})
            held.partitions = {partition: dict(flushed.get(partition, {})) for partition in held.partitions}
            held.undo.clear()
        self.down = False


class Slow(HashEmbedder):
    """Holds a text that says so in the model until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__("hash:8")
        self.entered = threading.Event()
        self.go = threading.Event()

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        if any("SLOW" in chunk.text for chunk in chunks):
            self.entered.set()
            assert self.go.wait(20)
        return super().embed(chunks)


@pytest.fixture
def broker() -> FakeBroker:
    made = FakeBroker()
    made.create_topic(TOPIC, 2)
    made.create_topic(DEAD_LETTERS, 1)
    return made


@pytest.mark.parametrize("append", [False, True])
def test_what_was_lost_is_written_again_before_it_is_committed(broker: FakeBroker, append: bool) -> None:
    milvus = Disk()
    rig = Rig(broker, milvus, durability="flush", append=append)
    broker.produce(TOPIC, document("first", "first"))
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        milvus.may_flush.clear()
        broker.produce(TOPIC, document("second", "second"))
        soon(lambda: ["second"] in rig.texts().values() and rig.flow.idle)
        milvus.lose_power()
        milvus.may_flush.set()
        soon(lambda: rig.committed().get(0) == 2)
        assert sorted(rig.texts().values()) == [["first"], ["second"]]


def test_a_run_that_ends_when_it_has_caught_up_reads_again_what_was_lost_at_its_end(broker: FakeBroker) -> None:
    milvus = Disk()
    milvus.may_flush.clear()
    rig = Rig(broker, milvus, durability="flush", until_caught_up=True)
    broker.produce(TOPIC, document("a", "a"))
    broker.produce(TOPIC, document("b", "b"), partition=1)
    rig.start()
    soon(lambda: len(rig.texts()) == 2 and rig.flow.idle)
    milvus.lose_power()
    milvus.may_flush.set()
    assert rig.ended().clean
    assert rig.committed() == {0: 1, 1: 1}
    assert rig.texts() == {"a": ["a"], "b": ["b"]}


def test_a_run_of_so_many_records_counts_none_twice_that_it_reads_again(broker: FakeBroker) -> None:
    milvus = Disk()
    milvus.may_flush.clear()
    rig = Rig(broker, milvus, durability="flush", max_records=5)
    for number in range(4):
        broker.produce(TOPIC, document(f"d{number}"), partition=number % 2)
    rig.start()
    soon(lambda: len(rig.texts()) == 4 and rig.flow.idle)
    milvus.lose_power()
    soon(lambda: len(rig.texts()) == 4 and rig.flow.idle)
    milvus.may_flush.set()
    for number in range(4, 8):
        broker.produce(TOPIC, document(f"d{number}"), partition=number % 2)
    summary = rig.ended()
    assert (summary.consumed, summary.clean) == (5, True)
    assert sum(rig.committed().values()) == 5
    assert len(rig.texts()) == 5


def test_a_run_of_so_many_records_reads_again_what_was_lost_at_its_end(broker: FakeBroker) -> None:
    milvus = Disk()
    milvus.may_flush.clear()
    rig = Rig(broker, milvus, durability="flush", max_records=3)
    for number in range(5):
        broker.produce(TOPIC, document(f"d{number}"))
    rig.start()
    soon(lambda: len(rig.texts()) == 3 and rig.flow.idle)
    milvus.lose_power()
    milvus.may_flush.set()
    summary = rig.ended()
    assert (summary.consumed, summary.clean) == (3, True)
    assert rig.committed() == {0: 3}
    assert sorted(rig.texts()) == ["d0", "d1", "d2"]


def test_a_stop_at_once_after_the_loss_commits_nothing_of_it(broker: FakeBroker) -> None:
    milvus = Disk()
    milvus.may_flush.clear()
    rig = Rig(broker, milvus, durability="flush", shutdown_s=0.3)
    broker.produce(TOPIC, document("a", "a"))
    rig.start()
    soon(lambda: len(rig.texts()) == 1 and rig.flow.idle)
    milvus.lose_power()
    rig.stop.set()
    milvus.may_flush.set()
    rig.ended()
    assert rig.committed() == {} or rig.texts() == {"a": ["a"]}


def unflushed(rig: Rig) -> int:
    """Receipts that wait for a flush."""
    return rig.worker._governor.pending()


def test_a_flush_during_the_drain_of_a_rebalance_hides_no_loss(broker: FakeBroker) -> None:
    milvus, model = Disk(), Slow()
    rig = Rig(broker, milvus, durability="flush", embedder=model)
    rig.source._drain_s = 15.0
    draining, drain = threading.Event(), rig.worker.drain

    def observed(partitions: Collection[KafkaPartition]) -> bool:
        draining.set()
        return drain(partitions)

    rig.worker.drain = observed  # type: ignore[method-assign]
    with running(rig):
        soon(lambda: len(rig.source.assignment()) == 2)
        milvus.may_flush.clear()
        broker.produce(TOPIC, document("kept", "kept"))
        soon(lambda: "kept" in rig.texts() and unflushed(rig))
        broker.produce(TOPIC, document("slow", "SLOW"), partition=1)
        soon(model.entered.is_set)
        broker.join(GROUP, object())
        soon(draining.is_set)
        milvus.lose_power()
        milvus.may_flush.set()
        soon(lambda: not unflushed(rig))  # dropped; or flushed again, without the rows that are gone
        model.go.set()
        soon(lambda: rig.committed().get(0) == 1)
        assert rig.texts()["kept"] == ["kept"]


def test_a_flush_during_a_commit_at_the_end_of_a_run_hides_no_loss(broker: FakeBroker) -> None:
    milvus = Disk()
    rig = Rig(broker, milvus, durability="flush", until_caught_up=True)
    commit, upsert, may_write = rig.source.commit, milvus.upsert, threading.Event()

    def held(collection: str, partition: str | None, rows: Sequence[Any]) -> None:
        if collection == COLLECTION and rows[0]["doc_id"] == "late":
            assert may_write.wait(20)
        upsert(collection, partition, rows)

    def waits(offsets: Mapping[KafkaPartition, int]) -> bool:
        """The first commit has no effect; the next one lasts until Milvus is lost and back."""
        if not may_write.is_set():
            milvus.may_flush.clear()
            may_write.set()
            soon(lambda: "late" in rig.texts() and rig.flow.idle)
            return False
        if not milvus.may_flush.is_set():
            soon(lambda: unflushed(rig))
            milvus.lose_power()
            milvus.may_flush.set()
            soon(lambda: not unflushed(rig))
        return commit(offsets)

    milvus.upsert = held  # type: ignore[method-assign]
    rig.source.commit = waits  # type: ignore[method-assign]
    for number in range(10):  # a batch
        broker.produce(TOPIC, document(f"first{number}"))
    broker.produce(TOPIC, document("late", "late"), partition=1)
    assert rig.run_to_its_end().clean
    assert rig.committed() == {0: 10, 1: 1}
    assert rig.texts()["late"] == ["late"]


@pytest.mark.parametrize("back", [True, False])
def test_a_run_at_its_end_goes_round_while_kafka_is_away_and_nothing_can_be_read_again(
    broker: FakeBroker, back: bool
) -> None:
    milvus = Disk()
    milvus.may_flush.clear()
    rig = Rig(broker, milvus, durability="flush", until_caught_up=True)
    reread, attempts, away = rig.source.reread, list[int](), threading.Event()
    away.set()

    def postponed() -> None:
        attempts.append(1)
        if away.is_set():
            raise Unavailable("no offsets")
        reread()

    def ended() -> None:
        raise Stopped("the dead-letter thread has stopped")

    rig.source.reread = postponed  # type: ignore[method-assign]
    broker.produce(TOPIC, document("a", "a"))
    rig.start()
    soon(lambda: len(rig.texts()) == 1 and rig.flow.idle)
    milvus.lose_power()
    milvus.may_flush.set()
    soon(lambda: len(attempts) >= 2)
    if back:
        away.clear()
        assert rig.ended().clean
        assert (rig.committed(), rig.texts()) == ({0: 1}, {"a": ["a"]})
    else:
        rig.dead_letters.check = ended  # type: ignore[method-assign]
        with pytest.raises(Stopped, match="dead-letter thread"):
            rig.ended()


def test_an_outage_without_anything_in_flight_reads_nothing_again(broker: FakeBroker) -> None:
    milvus = Disk()
    rig = Rig(broker, milvus, durability="flush")
    broker.produce(TOPIC, document("a", "a"))
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        milvus.lose_power()
        broker.produce(TOPIC, document("b", "b"))
        soon(lambda: rig.committed().get(0) == 2)
    assert rig.worker.snapshot().consumed == 2
    assert rig.texts() == {"a": ["a"], "b": ["b"]}


@pytest.mark.parametrize("durability", ["flush", "ack"])
def test_a_commit_is_never_ahead_of_what_milvus_remembers(broker: FakeBroker, durability: str) -> None:
    milvus = Disk()
    rig = Rig(broker, milvus, durability=durability)
    with running(rig):
        soon(rig.source.assignment)
        milvus.fail_next("upsert", Unavailable("away"), collection=f"{COLLECTION}__marks")
        for number in range(3):
            broker.produce(TOPIC, document(f"d{number}", "text"), partition=number % 2)
            broker.produce(TOPIC, b"no document", partition=number % 2)
            done = 2 * (number // 2 + 1)
            soon(partial(committed, rig, number % 2, done))
            kept = remembered(milvus, durability)
            assert all(offset <= kept[number] for number, offset in rig.committed().items())


def committed(rig: Rig, partition: int, offset: int) -> bool:
    return rig.committed().get(partition) == offset


def remembered(milvus: Disk, durability: str) -> dict[int, int]:
    """The positions that would be left after a loss of power; with durability `ack`, those that are there."""
    rows = milvus._flushed if durability == "flush" else {NAMES[2]: milvus.stored(NAMES[2])}
    positions: dict[int, tuple[int, int]] = {}
    for row in rows[NAMES[2]]["_default"].values():
        if row["kind"] == "position":
            number = int(str(row["name"]).rpartition("/")[2])
            offset = json.loads(str(row["payload"]))["offset"]
            positions[number] = max(positions.get(number, (0, 0)), (int(str(row["count"])), offset))
    return {number: offset for number, (_, offset) in positions.items()}


# --- a start over a Milvus that knows less than Kafka ----------------------------------------------------------------


def filled(broker: FakeBroker, milvus: Disk) -> None:
    """Ten records, the odd ones bad, are stored or dead-lettered, and committed."""
    for number in range(10):
        broker.produce(TOPIC, b"bad" if number % 2 else document(f"d{number}"))
    Rig(broker, milvus, durability="flush", until_caught_up=True).run_to_its_end()
    assert broker.committed(GROUP)[TOPIC, 0] == 10


def test_a_collection_that_was_dropped_stops_the_next_start_and_is_not_created_over_the_gap(broker: FakeBroker) -> None:
    filled(broker, Disk())
    empty = Disk()
    with pytest.raises(OffsetsLost, match="committed offset 10 in Kafka, but Milvus remembers none") as stopped:
        Rig(broker, empty, until_caught_up=True).run_to_its_end()
    assert stopped.value.exit_code == 4
    assert "--accept-gap" in str(stopped.value)
    assert "--to-earliest" in str(stopped.value)
    assert broker.committed(GROUP)[TOPIC, 0] == 10
    broker.produce(TOPIC, document("new"))
    rig = Rig(broker, empty, until_caught_up=True, accept_gap=True)
    rig.run_to_its_end()
    assert list(rig.texts()) == ["new"]
    Rig(broker, empty, until_caught_up=True).run_to_its_end()  # what was accepted once is remembered


def test_a_collection_that_was_restored_stops_the_next_start_with_both_positions(broker: FakeBroker) -> None:
    milvus = Disk()
    filled(broker, milvus)
    for number in range(4):
        broker.produce(TOPIC, document(f"later{number}"))
    milvus.may_flush.clear()
    rig = Rig(broker, milvus, durability="ack", until_caught_up=True)
    rig.run_to_its_end()
    assert broker.committed(GROUP)[TOPIC, 0] == 14
    milvus.lose_power()
    milvus.may_flush.set()
    with pytest.raises(
        OffsetsLost, match="offset 14 in Kafka, but Milvus remembers 10: 4 records are missing"
    ) as stopped:
        Rig(broker, milvus, until_caught_up=True).run_to_its_end()
    assert f"--topic {TOPIC}:0 --to-offset 10" in str(stopped.value)
    broker.store(GROUP, {(TOPIC, 0): 10}, {TOPIC: broker.describe(TOPIC)[0]})  # what the message says
    rig = Rig(broker, milvus, until_caught_up=True)
    rig.run_to_its_end()
    assert sorted(rig.texts()) == [*(f"d{number}" for number in range(0, 10, 2)), *(f"later{n}" for n in range(4))]


def test_a_group_whose_offsets_have_expired_stops_although_it_would_begin_at_the_beginning(broker: FakeBroker) -> None:
    milvus = Disk()
    filled(broker, milvus)
    for name in list(broker.committed(GROUP)):
        broker.forget_commit(GROUP, name)
    for number in range(5):
        broker.produce(TOPIC, document(f"unread{number}"))
    broker.delete_records(TOPIC, 0, 13)
    with pytest.raises(OffsetsLost, match="Milvus remembers 10; the log begins at 13, so 3 records are gone unread"):
        Rig(broker, milvus, until_caught_up=True).run_to_its_end()
    assert (TOPIC, 0) not in broker.committed(GROUP)
    rig = Rig(broker, milvus, until_caught_up=True, accept_gap=True)
    rig.run_to_its_end()
    assert {"unread3", "unread4"} < set(rig.texts())
    assert broker.committed(GROUP)[TOPIC, 0] == 15


def test_a_log_that_lost_its_end_stops_the_start(broker: FakeBroker) -> None:
    milvus = Disk()
    filled(broker, milvus)
    broker.truncate(TOPIC, 0, 6)
    broker.store(GROUP, {(TOPIC, 0): 5}, {TOPIC: broker.describe(TOPIC)[0]})  # a commit that still fits
    for accept_gap in (False, True):  # documents would be stale: this gap cannot be accepted
        with pytest.raises(OffsetsLost, match="up to offset 10 were read, but the log was cut at 6, so 4 offsets"):
            Rig(broker, milvus, until_caught_up=True, accept_gap=accept_gap).run_to_its_end()


def test_a_collection_filled_by_a_former_version_is_read_on_and_remembered_from_then_on(broker: FakeBroker) -> None:
    milvus = Disk()
    filled(broker, milvus)
    milvus.drop_collection(NAMES[2])
    broker.produce(TOPIC, document("new"))
    rig = Rig(broker, milvus, durability="flush", until_caught_up=True)
    rig.run_to_its_end()
    assert "new" in rig.texts()
    assert remembered(milvus, "flush")[0] == 11


def test_a_first_start_is_remembered_before_kafka_knows_it(broker: FakeBroker) -> None:
    milvus = Disk()
    Rig(broker, milvus, until_caught_up=True).run_to_its_end()
    assert remembered(milvus, "ack") == {0: 0, 1: 0}
    for name in list(broker.committed(GROUP)):  # as if the process had ended in between
        broker.forget_commit(GROUP, name)
    broker.produce(TOPIC, document("a"))
    rig = Rig(broker, milvus, until_caught_up=True)
    rig.run_to_its_end()
    assert list(rig.texts()) == ["a"]


# --- the first commit of a Kafka partition has no effect -------------------------------------------------------------


def behind_a_lost_first_commit(broker: FakeBroker, milvus: Disk, **more: Any) -> Rig:
    """A worker that has written one record of a new Kafka partition, and committed nothing of it."""
    broker.produce(TOPIC, document("a", "a"))
    Rig(broker, milvus, durability="flush", until_caught_up=True).run_to_its_end()
    broker.add_partitions(TOPIC, 3)
    broker.drops.add((TOPIC, 2))
    rig = Rig(broker, milvus, durability="flush", **more)
    rig.start()
    soon(lambda: broker.dropped)
    milvus.may_flush.clear()
    broker.drops.clear()
    broker.produce(TOPIC, document("b", "b"), partition=2)
    soon(lambda: "b" in rig.texts() and remembered(milvus, "ack")[2] == 1)
    assert (TOPIC, 2) not in broker.committed(GROUP)
    return rig


def test_a_first_commit_that_is_lost_is_no_loss_for_a_reread(broker: FakeBroker) -> None:
    milvus = Disk()
    rig = behind_a_lost_first_commit(broker, milvus)
    try:
        rig.worker.on_milvus_lost()
        milvus.may_flush.set()
        soon(lambda: rig.committed().get(2) == 1 or rig.error)
    finally:
        rig.stop.set()
    assert rig.ended().clean
    assert rig.texts() == {"a": ["a"], "b": ["b"]}


def test_a_first_commit_that_is_lost_is_no_loss_for_the_next_start(broker: FakeBroker) -> None:
    milvus = Disk()
    rig = behind_a_lost_first_commit(broker, milvus, shutdown_s=0.1)
    rig.stop.set()
    rig.ended()
    assert (TOPIC, 2) not in broker.committed(GROUP)
    milvus.may_flush.set()
    again = Rig(broker, milvus, durability="flush", until_caught_up=True)
    again.run_to_its_end()
    assert again.worker.snapshot().consumed == 1, "it begins where the first start began"
    assert broker.committed(GROUP)[TOPIC, 2] == 1
    assert again.texts() == {"a": ["a"], "b": ["b"]}


def test_a_commit_that_expires_after_a_lost_first_one_is_a_loss(broker: FakeBroker) -> None:
    milvus = Disk()
    rig = behind_a_lost_first_commit(broker, milvus)
    milvus.may_flush.set()
    soon(lambda: rig.committed().get(2) == 1)
    broker.produce(TOPIC, document("c", "c"), partition=2)
    soon(lambda: rig.committed().get(2) == 2)
    rig.stop.set()
    rig.ended()
    broker.forget_commit(GROUP, (TOPIC, 2))
    with pytest.raises(OffsetsLost, match="Milvus remembers 2"):
        Rig(broker, milvus, until_caught_up=True).run_to_its_end()
