"""Requests that wait for records: one loop reads offsets for all of them, and only while one waits."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.errors import RateLimited, Unavailable, UsageError
from pipeline.query.freshness.instants import Instants, Seen
from pipeline.query.freshness.offsets import Behind, NotFreshYet, OffsetsUnavailable
from pipeline.query.freshness.waiting import OffsetWaiting, behind
from pipeline.query.request.freshness import AwaitedOffset
from pipeline.query.request.invalid_request import InvalidRequest
from tests.support.fakes.offsets import FakeOffsets

LONG_S, SHORT_S = 20.0, 0.1


def record(offset: int, partition: int = 0, topic: str = "topic") -> AwaitedOffset:
    return AwaitedOffset(topic=topic, partition=partition, offset=offset)


@pytest.fixture
def offsets() -> FakeOffsets:
    return FakeOffsets(partitions=2)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


Run = Callable[[Callable[[OffsetWaiting], Coroutine[Any, Any, None]]], OffsetWaiting]


@pytest.fixture
def run(offsets: FakeOffsets, thread: ThreadPoolExecutor) -> Run:
    """Runs a test on an event loop."""

    def started(test: Callable[[OffsetWaiting], Coroutine[Any, Any, None]]) -> OffsetWaiting:
        instants = Instants(lambda: Seen({}, {}, None), thread)
        waiting = OffsetWaiting(offsets, thread, instants=instants, max_waiting=3, poll_s=0.001)
        asyncio.run(test(waiting))
        return waiting

    return started


async def read_again(offsets: FakeOffsets, times: int = 2) -> None:
    """Return after further reads have ended."""
    wanted = offsets.reads + times
    while offsets.reads < wanted:
        await asyncio.sleep(0.001)


def test_a_record_is_processed_when_the_committed_offset_is_behind_it() -> None:
    commits = {("topic", 0): 5}
    assert behind([record(4)], commits) == []
    assert behind([record(5)], commits) == [Behind("topic", 0, 5, 5, 1)]
    assert behind([record(9), record(0, partition=1)], commits) == [
        Behind("topic", 0, 9, 5, 5),
        Behind("topic", 1, 0, None, 1),
    ]


def test_a_request_waits_until_all_of_its_records_are_committed(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        offsets.commits = {("topic", 0): 5}
        request = asyncio.create_task(waiting.wait([record(5), record(0, partition=1)], LONG_S))
        await read_again(offsets)
        offsets.commits = {("topic", 0): 6}
        await read_again(offsets)
        assert not request.done()
        offsets.commits = {("topic", 0): 6, ("topic", 1): 1}
        await request

    run(test)


def test_many_requests_share_the_reads_which_end_with_the_last_one(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        requests = [asyncio.create_task(waiting.wait([record(number)], LONG_S)) for number in range(3)]
        await read_again(offsets)
        offsets.free.clear()
        before = offsets.reads
        await asyncio.sleep(0)
        offsets.commits = {("topic", 0): 3}
        offsets.free.set()
        await asyncio.gather(*requests)
        assert offsets.reads - before <= 2
        while waiting.running:
            await asyncio.sleep(0.001)
        ended = offsets.reads
        await asyncio.sleep(0.01)
        assert offsets.reads == ended
        await waiting.wait([record(2)], LONG_S)
        assert (offsets.reads, offsets.topic_reads) == (ended + 1, 1)

    run(test)


def test_a_topic_that_is_not_read_into_the_collection_is_refused_without_a_call(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await waiting.wait([record(0), record(0, topic="other")], LONG_S)
        assert refused.value.at == "/freshness/wait_for/1/topic"

    run(test)
    assert (offsets.reads, offsets.topic_reads) == (0, 0)


def test_a_kafka_partition_that_does_not_exist_is_refused(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await waiting.wait([record(0, partition=1), record(0, partition=2)], LONG_S)
        assert refused.value.at == "/freshness/wait_for/1/partition"
        assert "2 Kafka partitions" in str(refused.value)

    run(test)


def test_a_kafka_partition_that_was_added_later_is_known_within_a_second(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        offsets.commits = {("topic", 1): 1, ("topic", 2): 1}
        await waiting.wait([record(0, partition=1)], LONG_S)
        offsets.counts = {"topic": 3}
        await waiting.wait([record(0, partition=2)], LONG_S)

    run(test)
    assert offsets.topic_reads == 2


def test_a_record_that_is_late_is_named_with_how_far_it_is_behind(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        offsets.commits = {("topic", 0): 5}
        with pytest.raises(NotFreshYet) as late:
            await waiting.wait([record(4), record(7)], SHORT_S)
        assert late.value.behind == (Behind("topic", 0, 7, 5, 3),)

    run(test)


def test_only_so_many_requests_wait_at_a_time(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        requests = [asyncio.create_task(waiting.wait([record(1)], LONG_S)) for _ in range(3)]
        await read_again(offsets)
        with pytest.raises(RateLimited):
            await waiting.wait([record(1)], LONG_S)
        requests[0].cancel()
        await asyncio.wait(requests[:1])
        with pytest.raises(NotFreshYet):
            await waiting.wait([record(1)], SHORT_S)
        offsets.commits = {("topic", 0): 2}
        await asyncio.gather(*requests[1:])

    run(test)


def test_an_outage_of_kafka_ends_no_wait(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        offsets.error = Unavailable("the broker is away")
        request = asyncio.create_task(waiting.wait([record(1)], LONG_S))
        while not offsets.topic_reads:
            await asyncio.sleep(0.001)
        with pytest.raises(OffsetsUnavailable, match="the broker is away"):
            await waiting.wait([record(1)], SHORT_S)
        offsets.error = None
        offsets.commits = {("topic", 0): 2}
        await request

    run(test)


def test_what_kafka_refuses_ends_every_wait(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        requests = [asyncio.create_task(waiting.wait([record(1)], LONG_S)) for _ in range(2)]
        await read_again(offsets)
        offsets.error = UsageError("no right to Describe the group")
        assert [type(error) for error in await asyncio.gather(*requests, return_exceptions=True)] == [UsageError] * 2
        offsets.error = None
        offsets.commits = {("topic", 0): 2}
        await waiting.wait([record(1)], LONG_S)

    run(test)


def test_a_call_that_hangs_does_not_hold_a_request_beyond_its_time(run: Run, offsets: FakeOffsets) -> None:
    async def test(waiting: OffsetWaiting) -> None:
        offsets.free.clear()
        with pytest.raises(OffsetsUnavailable):
            await waiting.wait([record(1)], SHORT_S)
        offsets.free.set()

    run(test)
