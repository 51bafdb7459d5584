"""What a worker's readiness probe says."""

import pytest

from pipeline.errors import Unavailable
from tests.support.fakes.kafka import FakeBroker
from tests.support.rigs.worker import DEAD_LETTERS, TOPIC, Rig, document, running, soon


@pytest.fixture
def broker() -> FakeBroker:
    made = FakeBroker()
    made.create_topic(TOPIC, 1)
    made.create_topic(DEAD_LETTERS, 1)
    return made


def test_a_worker_whose_flushes_fail_is_not_ready_while_something_waits_for_one(broker: FakeBroker) -> None:
    rig = Rig(broker, durability="flush")
    refused = True

    def refuse(operation: str, collection: str, when: str) -> None:
        if operation == "flush" and refused:
            raise Unavailable("flush refused by the test")

    with running(rig):
        soon(rig.source.assignment)
        rig.milvus.hook = refuse
        broker.produce(TOPIC, document("a"))
        soon(lambda: "flush refused by the test" in rig.worker.ready().get("flush", ""))
        refused = False
        soon(lambda: rig.committed() == {0: 1})
        soon(lambda: rig.worker.ready() == {})
