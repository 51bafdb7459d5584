"""The moment by which a record was acknowledged: taken from a position that Milvus remembers, while a request waits."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import Unavailable
from pipeline.query.freshness.instants import Instants, Seen, see
from pipeline.query.freshness.waiting import OffsetWaiting
from pipeline.query.request.freshness import AwaitedOffset
from pipeline.store import Marks, PositionMarks, open_marks
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets

NAME = ("topic", 0)
RECORD = [AwaitedOffset(topic="topic", partition=0, offset=7)]


@pytest.fixture
def marked(milvus: FakeMilvus) -> FakeMilvus:
    open_marks(milvus, "documents", create=True)
    return milvus


def remember(api: FakeMilvus, offset: int, topic_id: str = "id") -> None:
    marks = Marks(api, "documents")
    marks.read("position")
    PositionMarks(marks, "group").write({NAME: offset}, {"topic": topic_id}, began={})


def test_without_a_position_no_moment_is_known(milvus: FakeMilvus) -> None:
    assert see(milvus, "documents", {"topic": "id"}) == Seen({"topic": "id"}, {}, None)


def test_the_moment_is_later_than_every_write_below_the_position(marked: FakeMilvus) -> None:
    before = marked.instant()
    remember(marked, 5)
    remember(marked, 8)
    seen = see(marked, "documents", {"topic": "id"})
    assert (seen.positions, seen.covers(RECORD)) == ({NAME: 8}, True)
    assert seen.instant is not None
    assert before is not None
    assert seen.instant > before
    remember(marked, 7)  # read again after a loss: the newest counts, not the highest
    assert not see(marked, "documents", {"topic": "id"}).covers(RECORD)


def test_a_position_of_a_topic_that_was_made_again_says_nothing(marked: FakeMilvus) -> None:
    remember(marked, 8, "old")
    assert not see(marked, "documents", {"topic": "new"}).covers(RECORD)
    assert see(marked, "documents", {"topic": "old"}).covers(RECORD)


class Site:
    """One waiting request, and what the reads of positions see."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self.offsets = FakeOffsets()
        self.seen = Seen(self.offsets.topic_ids, {NAME: 8}, 4_711)
        self.error: Exception | None = None
        self.reads = 0
        self.waiting = OffsetWaiting(
            self.offsets, thread, instants=Instants(self.read, thread), max_waiting=1, poll_s=0.001
        )

    def read(self) -> Seen:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.seen

    async def reads_ended(self, more: int = 3) -> None:
        wanted = self.reads + more
        while self.reads < wanted:
            await asyncio.sleep(0.001)

    def wait(self, *steps: object) -> int | None:
        """What the wait returns when each step was done and read, and then the commit."""

        async def run() -> int | None:
            request = asyncio.create_task(self.waiting.wait(RECORD, 20.0))
            await self.reads_ended()
            for step in steps:
                if isinstance(step, Seen):
                    self.seen = step
                else:
                    assert step is None or isinstance(step, Exception)
                    self.error = step
                await self.reads_ended()
            self.offsets.commits = {NAME: 8}
            return await request

        return asyncio.run(run())


@pytest.fixture
def site() -> Iterator[Site]:
    with ThreadPoolExecutor(1) as thread:
        yield Site(thread)


def test_the_moment_of_the_first_read_that_sees_the_record_counts(site: Site) -> None:
    assert site.wait(Seen(site.offsets.topic_ids, {NAME: 9}, 5_000)) == 4_711


def test_a_position_below_the_record_gives_no_moment(site: Site) -> None:
    site.seen = Seen(site.offsets.topic_ids, {NAME: 7}, 4_711)
    assert site.wait() is None


def test_after_a_failure_the_record_must_be_seen_again(site: Site) -> None:
    assert site.wait(Unavailable("away"), Seen({}, {}, None), None) is None


def test_what_was_seen_of_another_topic_gives_no_moment(site: Site) -> None:
    site.seen = Seen({"topic": "old"}, {NAME: 8}, 4_711)
    assert site.wait() is None
