"""Milvus loses with its power what was acknowledged and not flushed, while the worker lives on."""

import json
import threading
from functools import partial

import pytest

from pipeline.errors import Unavailable
from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, TOPIC, Rig, document, running, soon

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
    milvus.fail_next("upsert", Unavailable("away"), collection=f"{COLLECTION}__marks")
    with running(rig):
        for number in range(3):
            broker.produce(TOPIC, document(f"d{number}", "text"), partition=number % 2)
            broker.produce(TOPIC, b"no document", partition=number % 2)
            done = 2 * (number // 2 + 1)
            soon(partial(committed, rig, number % 2, done))
            assert rig.committed().items() <= remembered(milvus, durability).items()


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
