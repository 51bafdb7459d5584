"""A worker whose schema registry goes away: it waits, goes on, and can be stopped; no record is dead-lettered."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.support.fakes.kafka import FakeBroker
from tests.support.log_text import LogText
from tests.support.rigs import registered
from tests.support.rigs.schema_registry import FakeSchemaRegistry, schema_registry
from tests.support.rigs.worker import DEAD_LETTERS, NOON, TOPIC, Rig, document, running, soon

MOMENT = datetime.fromtimestamp(NOON / 1000, UTC)


@pytest.fixture
def registry() -> Iterator[FakeSchemaRegistry]:
    with schema_registry() as served:
        yield served


@pytest.fixture
def broker(registry: FakeSchemaRegistry) -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 1)
    broker.create_topic(DEAD_LETTERS, 1)
    write = registered.avro(registry.address)
    for number in range(3):
        broker.produce(TOPIC, write({"id": number, "text": f"text {number}", "event_time": MOMENT}), partition=0)
    return broker


def test_records_wait_for_the_registry_and_are_stored_when_it_is_back(
    broker: FakeBroker, registry: FakeSchemaRegistry, log_text: LogText
) -> None:
    registry.away = True
    written = log_text("text")
    rig = Rig(broker, registry_url=registry.address)
    with running(rig):
        soon(lambda: "schema registry" in rig.worker.ready())
        asked = len(registry.asked)
        soon(lambda: len(registry.asked) > asked + 3)
        assert not rig.worker.alive()
        assert rig.texts() == {}
        registry.away = False
        soon(lambda: len(rig.texts()) == 3)
        broker.produce(TOPIC, document("json", "plain"), partition=0)
        soon(lambda: rig.committed() == {0: 4})
        assert "schema registry" not in rig.worker.ready()
    assert broker.read(DEAD_LETTERS) == []
    assert written.getvalue().count("registry.unavailable") == 1
    assert written.getvalue().count("registry.available") == 1


def test_a_worker_that_waits_for_the_registry_can_be_stopped(broker: FakeBroker, registry: FakeSchemaRegistry) -> None:
    registry.away = True
    rig = Rig(broker, registry_url=registry.address, shutdown_s=0.2)
    rig.start()
    soon(lambda: "schema registry" in rig.worker.ready())
    rig.stop.set()
    assert not rig.ended().clean
    assert rig.committed() == {}
    assert broker.read(DEAD_LETTERS) == []
