"""What the worker relies on from the source of a replay, on real Apache Kafka."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from consumers.kafka import JobMembership
from consumers.replay import ReplaySource
from consumers.replay.range import ReplayRange, ReplaySpan
from pipeline.records import KafkaPartition
from tests.support.rigs.kafka import Member, RealRig
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.servers,
    # kafka-python leaves a socket open if it is closed with a request unsent.
    pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning"),
]
RECORDS = 8
"""In each of two Kafka partitions; the range ends two before the end of the log."""
END = RECORDS - 2


class Replay:
    """A replay's source over a topic of its own, and the worker that reads it."""

    def __init__(
        self,
        rig: RealRig,
        stack: ExitStack,
        *,
        rate: float | None = None,
        ends: tuple[int, int] = (END, END),
        **settings_more: Any,
    ) -> None:
        """`ends`: of the range, in each Kafka partition."""
        self._rig = rig
        self.topic = rig.topic(2)
        for number in range(RECORDS):
            for partition in range(2):
                rig.produce(self.topic, b"%d" % number, partition=partition)
        rig.flush()
        settings = rig.settings(self.topic, **settings_more)
        job = JobMembership(settings, "docs", "replay")
        stack.callback(job.close)
        job.join()
        ranges = {(self.topic, partition): ReplayRange(0, 0, end, 0) for partition, end in enumerate(ends)}
        self.group = f"{settings.group_id}.replay"
        self.source = ReplaySource(settings, ReplaySpan(self.group, ranges, {}), job, rate=rate)
        stack.callback(self.source.close, 5)
        self.reader = Member(self.source)

    @property
    def both(self) -> tuple[KafkaPartition, KafkaPartition]:
        return (self.topic, 0), (self.topic, 1)

    def read_to_the_end(self) -> None:
        def exhausted() -> bool:
            self.reader.poll(0.05)
            return self.source.exhausted

        eventually(exhausted, within=10, every=0, what="the end of the range")

    def read_on(self, partition: int, count: int) -> None:
        """Produce more records to one Kafka partition, and read them all."""
        for _ in range(count):
            self._rig.produce(self.topic, b"more", partition=partition)
        self._rig.flush()
        self.reader.read(len(self.reader.records) + count)

    def again(self, first: int) -> list[tuple[int, int]]:
        """Kafka partition and offset of the records read after so many."""
        return sorted((record.position.partition, record.position.offset) for record in self.reader.records[first:])


@pytest.fixture
def rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    with closing(RealRig(kafka_bootstrap)) as real:
        yield real


def test_a_reread_begins_at_the_committed_position_and_ends_at_the_range(rig: RealRig) -> None:
    with ExitStack() as stack:
        replay = Replay(rig, stack)
        reader = replay.reader
        replay.read_to_the_end()
        assert len(reader.records) == 2 * END
        reader.finish([record for record in reader.records if record.position.offset < 4])
        assert reader.commit()
        reader.finish(list(reader.records))
        replay.source.reread()
        assert not replay.source.exhausted
        assert reader.events == [("assigned", replay.both), ("assigned", replay.both)]
        assert reader.positions == dict.fromkeys(replay.both, 4)
        assert {lag.position for lag in replay.source.lag().values()} == {4}
        replay.read_to_the_end()
        assert replay.again(2 * END) == [(partition, offset) for partition in range(2) for offset in range(4, END)]
        assert reader.tracker.committable() == {}, "it was finished before it was read again"
        assert rig.committed(replay.group) == dict.fromkeys(replay.both, 4)


def test_a_reread_before_the_end_reads_every_record_once_more(rig: RealRig) -> None:
    with ExitStack() as stack:
        replay = Replay(rig, stack, rate=10.0)
        replay.reader.read(2)
        first = len(replay.reader.records)
        assert first < 2 * END
        replay.source.reread()
        replay.read_to_the_end()
        assert replay.again(first) == [(partition, offset) for partition in range(2) for offset in range(END)]


def test_a_reread_while_paused_reads_nothing_until_it_is_resumed(rig: RealRig) -> None:
    with ExitStack() as stack:
        replay = Replay(rig, stack)
        replay.read_to_the_end()
        replay.source.pause()
        replay.source.reread()
        assert [replay.reader.poll(0.05) for _ in range(5)] == [[]] * 5
        assert not replay.source.exhausted
        replay.source.resume()
        replay.read_to_the_end()
        assert replay.again(2 * END) == [(partition, offset) for partition in range(2) for offset in range(END)]


def test_a_reread_leaves_out_a_kafka_partition_that_is_finished(rig: RealRig) -> None:
    with ExitStack() as stack:
        replay = Replay(rig, stack)
        reader = replay.reader
        replay.read_to_the_end()
        reader.finish([record for record in reader.records if record.position.partition == 1])
        assert reader.commit()
        replay.source.reread()
        assert reader.positions == {(replay.topic, 0): 0, (replay.topic, 1): END}
        replay.read_to_the_end()
        assert replay.again(2 * END) == [(0, offset) for offset in range(END)]


def test_a_reread_reads_again_what_was_finished_and_paused_in_the_middle_of_a_fetch(rig: RealRig) -> None:
    """kafka-python keeps the rest of the fetch, and reads neither it nor anything else of the partition."""
    with ExitStack() as stack:
        replay = Replay(rig, stack, ends=(2, RECORDS + 4), max_poll_records=3)
        reader = replay.reader
        reader.read(2 + RECORDS)  # t/0 is finished: six records of its only fetch remain
        replay.read_on(1, 2)  # to the end of a fetch, and not of the range
        first = len(reader.records)
        replay.source.reread()
        reader.read(2 * first)
        assert replay.again(first) == [(0, 0), (0, 1), *((1, offset) for offset in range(RECORDS + 2))]
        replay.read_on(1, 2)
        assert replay.source.exhausted
