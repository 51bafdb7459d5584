"""Values that are read beside the requests."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import Unavailable
from pipeline.query.freshness.background import RETRY_S, Background
from tests.support.rigs.search import Clock
from tests.support.waiting import eventually


class Reading:
    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self.clock = Clock()
        self.free = threading.Event()
        self.free.set()
        self.reads = 0
        self.error: Exception | None = None
        self.background = Background(self.read, thread, ttl_s=1.0, what="a number", clock=self.clock)

    def read(self) -> int:
        self.reads += 1
        assert self.free.wait(10)
        if self.error is not None:
            raise self.error
        return self.reads

    def settled(self) -> int | None:
        """The last value, once no read is under way."""
        eventually(lambda: self.background._reading is None)
        return self.background.last()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def reading(thread: ThreadPoolExecutor) -> Iterator[Reading]:
    made = Reading(thread)
    yield made
    made.free.set()


def test_the_last_value_never_waits(reading: Reading) -> None:
    reading.free.clear()
    assert [reading.background.last() for _ in range(3)] == [None] * 3
    reading.free.set()
    assert reading.settled() == 1
    reading.clock.now += 0.9
    assert reading.background.last() == 1
    assert reading.reads == 1
    reading.clock.now += 0.1
    assert reading.background.last() == 1
    assert reading.settled() == 2


def test_requests_that_come_at_a_time_share_a_read(reading: Reading) -> None:
    async def many() -> list[int]:
        reading.free.clear()
        requests = [asyncio.create_task(reading.background.now()) for _ in range(5)]
        while not reading.reads:
            await asyncio.sleep(0.001)
        requests[0].cancel()
        await asyncio.wait(requests[:1])
        reading.free.set()
        return await asyncio.gather(*requests[1:])

    assert asyncio.run(many()) == [1] * 4
    assert asyncio.run(reading.background.now()) == 1
    reading.clock.now += 1.0
    assert asyncio.run(reading.background.now()) == 2


def test_an_error_is_used_again_as_a_value_is(reading: Reading) -> None:
    reading.error = Unavailable("away")
    for _ in range(3):
        with pytest.raises(Unavailable, match="away"):
            asyncio.run(reading.background.now())
    assert reading.reads == 1
    reading.clock.now += 1.0
    reading.error = None
    assert asyncio.run(reading.background.now()) == 2


def test_requests_seldom_repeat_a_read_that_failed(reading: Reading) -> None:
    assert reading.background.last() is None
    assert reading.settled() == 1
    reading.error = Unavailable("away")
    reading.clock.now += 1.0
    reading.background.last()
    assert reading.settled() == 1
    reading.clock.now += RETRY_S - 0.1
    assert reading.settled() == 1
    assert reading.reads == 2
    reading.error = None
    reading.clock.now += 0.1
    reading.background.last()
    assert reading.settled() == 3


def test_after_the_end_the_last_value_remains(reading: Reading, thread: ThreadPoolExecutor) -> None:
    reading.background.last()
    assert reading.settled() == 1
    thread.shutdown()
    reading.clock.now += 1.0
    assert reading.background.last() == 1
    with pytest.raises(Unavailable, match="closing"):
        asyncio.run(reading.background.now())
