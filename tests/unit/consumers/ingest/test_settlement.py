"""What a loss of Milvus changes on the way from a receipt to an offset."""

from collections import deque
from collections.abc import Mapping

import pytest

from consumers.ingest.settlement import Acknowledged, Settlement
from pipeline.errors import Unavailable
from pipeline.ingest import CommitQueue
from pipeline.records import KafkaPartition, Position, Receipt
from pipeline.store import Flusher, FlushGovernor, FlushPolicy
from tests.support.fakes.milvus import FakeMilvus

NAME = ("t", 0)


class Site:
    """A settlement over a flusher whose steps the test does, and a store that remembers positions."""

    def __init__(self) -> None:
        self.receipts = CommitQueue()
        self.acknowledged: Acknowledged = deque()
        self.remembered: list[Mapping[KafkaPartition, int]] = []
        self.now = 0.0
        self.flusher = Flusher(
            FakeMilvus(),
            [],
            FlushPolicy("flush", interval_s=1.0),
            on_durable=self.receipts.put_all,
            clock=lambda: self.now,
            positions=self,
            on_acked=lambda receipt, rows: self.acknowledged.append((receipt, rows)),
        )
        self.epoch = 1
        """The number of the first batch whose receipts count."""
        self.settlement = Settlement(self.receipts, self.acknowledged, FlushGovernor(self.flusher), self.current)
        self.settlement.tracker.assigned({NAME: 0})

    def write(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Remember positions; as `PositionStore`."""
        self.remembered.append(offsets)

    def current(self, receipt: Receipt) -> list[Position]:
        return list(receipt.positions) if receipt.batch >= self.epoch else []

    def take(self, *offsets: int) -> None:
        self.settlement.tracker.taken([Position(*NAME, offset) for offset in offsets])

    def acknowledge(self, *offsets: int) -> None:
        """The flow's part: Milvus has acknowledged a batch."""
        self.flusher.acked(Receipt([Position(*NAME, offset) for offset in offsets], self.epoch), len(offsets))

    def flush(self) -> None:
        self.now += 1.0
        self.flusher.step()

    def reread(self) -> None:
        """Begin again at what is committed, in a new epoch."""
        self.epoch += 1
        self.settlement.tracker.assigned({NAME: 0})


@pytest.fixture
def site() -> Site:
    site = Site()
    site.take(0)
    site.acknowledge(0)
    site.settlement.settle()
    return site


def test_without_a_loss_a_flush_finishes_what_was_acknowledged(site: Site) -> None:
    site.flush()
    site.settlement.settle()
    assert site.remembered == [{NAME: 1}]
    assert site.settlement.committable() == {NAME: 1}
    site.settlement.milvus_lost()
    assert not site.settlement.reread_lost(site.reread)
    assert site.settlement.committable() == {NAME: 1}


def test_a_flush_after_the_loss_finishes_and_remembers_nothing_of_what_came_before_it(site: Site) -> None:
    site.settlement.milvus_lost()
    site.flush()
    site.settlement.settle()
    assert site.remembered == []
    assert site.settlement.unfinished
    assert site.settlement.reread_lost(site.reread)
    site.settlement.settle()
    site.take(0)
    assert site.settlement.committable() == {}


def test_receipts_that_come_between_the_loss_and_its_handling_finish_nothing(site: Site) -> None:
    site.take(1)
    site.settlement.milvus_lost()
    site.acknowledge(1)  # written behind the loss, after a record that is gone
    site.receipts.put(Receipt([Position(*NAME, 0), Position(*NAME, 1)], site.epoch))
    site.settlement.settle()
    site.settlement.dropped([("t", 1)])
    site.flush()
    site.settlement.settle()
    assert site.remembered == []
    assert site.settlement.reread_lost(site.reread)
    site.take(0, 1)
    site.settlement.settle()
    site.flush()
    site.settlement.settle()
    assert site.settlement.committable() == {}
    site.acknowledge(0, 1)
    site.settlement.settle()
    site.flush()
    site.settlement.settle()
    assert site.settlement.committable() == {NAME: 2}


def test_a_reread_that_is_postponed_is_repeated_and_nothing_is_taken_before_it(site: Site) -> None:
    def away() -> None:
        raise Unavailable("Kafka is away")

    site.settlement.milvus_lost()
    for _ in range(2):
        assert site.settlement.reread_lost(away)
        site.receipts.put(Receipt([Position(*NAME, 0)], site.epoch))
        site.settlement.settle()
        assert site.settlement.unfinished
        assert site.settlement.lost
    assert site.settlement.reread_lost(site.reread)
    assert not site.settlement.lost
