"""Values read in the background: once at a time, kept over failures, never waited for twice."""

import asyncio
import threading

import structlog

from consumers.query.web.refreshed import Reading, Refreshed
from pipeline.errors import Unavailable
from tests.support.rigs.search import Clock


class Source:
    """Counts; fails while there is an error."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()

    def __call__(self) -> int:
        assert self.free.wait(10)
        self.count += 1
        if self.error is not None:
            raise self.error
        return self.count


def latest(refreshed: Refreshed[int], *, settled: bool = True) -> Reading[int]:
    """The reading; `settled`: after the attempt that it began has ended."""

    async def read() -> Reading[int]:
        reading = await refreshed.latest()
        if settled and refreshed._attempt is not None:
            await asyncio.wrap_future(refreshed._attempt)
            reading = refreshed._reading
        return reading

    return asyncio.run(read())


def test_it_is_read_again_only_when_it_is_old() -> None:
    source, clock = Source(), Clock()
    refreshed = Refreshed(source, 30, name="test", clock=clock)
    assert [latest(refreshed).value for _ in range(3)] == [1, 1, 1]
    clock.now += 31
    assert latest(refreshed, settled=False).value == 1
    assert latest(refreshed).value == 2
    refreshed.close()


def test_many_pages_begin_one_reading_and_wait_no_longer_than_it() -> None:
    source = Source()
    source.free.clear()
    refreshed = Refreshed(source, 30, name="test")

    async def pages() -> list[int | None]:
        reading = [asyncio.create_task(refreshed.latest()) for _ in range(5)]
        await asyncio.sleep(0)
        source.free.set()
        return [(await page).value for page in reading]

    assert asyncio.run(pages()) == [1] * 5
    assert source.count == 1
    refreshed.close()


def test_a_failure_keeps_the_last_value_and_is_not_repeated_at_once() -> None:
    source, clock = Source(), Clock()
    refreshed = Refreshed(source, 30, name="test", clock=clock)
    latest(refreshed)
    clock.now += 31
    source.error = Unavailable("away")
    with structlog.testing.capture_logs() as lines:
        reading = latest(refreshed)
        assert (reading.value, reading.failed) == (1, True)
        latest(refreshed)
    assert source.count == 2
    assert [(line["event"], line["why"]) for line in lines] == [("page.unread", "away")]
    clock.now += 31
    source.error = None
    assert latest(refreshed).value == 3
    assert not latest(refreshed).failed
    refreshed.close()


def test_a_bug_is_logged_and_ends_nothing() -> None:
    source, clock = Source(), Clock()
    source.error = KeyError("x")
    refreshed = Refreshed(source, 30, name="test", clock=clock)
    with structlog.testing.capture_logs() as lines:
        assert latest(refreshed).failed
    assert lines[0]["log_level"] == "error"
    source.error, clock.now = None, clock.now + 31
    assert latest(refreshed).value == 2
    refreshed.close()


def test_after_the_end_nothing_is_read() -> None:
    source = Source()
    refreshed = Refreshed(source, 30, name="test")
    refreshed.close()
    assert latest(refreshed).value is None
    assert source.count == 0
