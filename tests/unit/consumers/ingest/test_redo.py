"""What a worker redoes after worker and Milvus have ended together, and Milvus has lost what was not flushed."""

import pytest

from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.power_loss import PowerLoss
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, NOON, TOPIC, Rig, document

DAY = 86_400_000
LEDGER = f"{COLLECTION}__ledger"


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 1)
    broker.create_topic(DEAD_LETTERS, 1)
    return broker


def read_all(broker: FakeBroker, milvus: FakeMilvus) -> Rig:
    rig = Rig(broker, milvus, until_caught_up=True)
    rig.start()
    assert rig.ended().clean
    return rig


def cut_off(broker: FakeBroker, milvus: FakeMilvus) -> PowerLoss:
    """A worker that ends once a batch is written and before anything is acknowledged or committed."""
    power = PowerLoss(milvus)
    ledger_writes = 0

    def end(operation: str, collection: str, when: str) -> None:
        nonlocal ledger_writes
        if (operation, collection, when) == ("upsert", LEDGER, "after"):
            ledger_writes += 1
            if ledger_writes == 2:
                raise RuntimeError("kill -9")

    milvus.hook = end
    rig = Rig(broker, milvus)
    rig.start()
    with pytest.raises(RuntimeError, match="kill -9"):
        rig.ended()
    milvus.hook = None
    return power


def test_rows_that_were_lost_are_written_again_though_the_ledger_has_them(broker: FakeBroker) -> None:
    milvus = FakeMilvus()
    broker.produce(TOPIC, document("first"))
    read_all(broker, milvus)
    broker.produce(TOPIC, document("second"))
    power = cut_off(broker, milvus)
    power.strike(lambda place, states: 0 if place[0] == COLLECTION else states - 1)
    assert read_all(broker, milvus).texts() == {"first": ["some words"], "second": ["some words"]}


@pytest.mark.parametrize("last", ["other words", "some words"], ids=["changed", "as it was stored"])
def test_rows_of_a_version_that_is_folded_away_now_are_deleted(broker: FakeBroker, last: str) -> None:
    milvus = FakeMilvus()
    broker.produce(TOPIC, document("d"))
    read_all(broker, milvus)
    broker.produce(TOPIC, document("d", "a longer text " * 20, event_time=NOON - DAY))
    power = cut_off(broker, milvus)
    power.strike(lambda place, states: 0 if place[0] == LEDGER else states - 1)
    broker.produce(TOPIC, document("d", last))
    assert read_all(broker, milvus).texts() == {"d": [last]}
