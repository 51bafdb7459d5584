"""Strong searches: every read of one search sees what was acknowledged before it; and what waits searches so."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from pipeline.errors import Unavailable
from pipeline.query import (
    Cursors,
    FreshnessWatch,
    InvalidRequest,
    NotFreshYet,
    Overloaded,
    SearchAnswer,
    SearchAnswers,
    Searcher,
    SearchService,
)
from pipeline.query.freshness.waiting import OffsetWaiting
from pipeline.store import Marks, PositionMarks, open_marks
from pipeline.telemetry import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Library, doc_ids, eq, find


class East:
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0]] * len(texts), np.float32)


@pytest.fixture
def stale() -> FakeMilvus:
    """A server whose reads miss the last write of each collection unless they are strong."""
    api = FakeMilvus(staleness_writes=1)
    api.create_collection(DOCUMENTS)
    return api


STRONG = {"level": "strong"}


def test_a_strong_search_sees_the_last_write(stale: FakeMilvus) -> None:
    searcher = Searcher(stale, COLLECTION)
    library = Library(stale)
    library.put("a", 0.0, lang="en")
    assert doc_ids(find(searcher)) == []
    assert doc_ids(find(searcher, freshness=STRONG)) == ["a"]
    assert doc_ids(find(searcher, freshness=STRONG, filter=eq("lang", "en"), limit=200, group_by=None)) == ["a"]
    assert doc_ids(find(searcher, freshness={"level": "bounded"})) == []


def test_a_strong_search_sees_the_last_write_of_the_ledger(stale: FakeMilvus) -> None:
    searcher = Searcher(stale, COLLECTION)
    library = Library(stale)
    library.put("a", 0.0, offset=1)
    library.put("b", 1.0, offset=1)
    library.enter("b", 1)
    library.enter("a", 2)
    assert doc_ids(find(searcher, freshness=STRONG, time={"from": "2026-11-22"})) == ["b"]


def test_a_strong_search_reads_a_milvus_partition_made_a_moment_ago(stale: FakeMilvus) -> None:
    searcher = Searcher(stale, COLLECTION)
    library = Library(stale)
    library.put("a", 0.0, "2026-11-21")
    find(searcher)
    library.put("b", 0.0, "2026-11-22")
    assert doc_ids(find(searcher, freshness=STRONG, time={"from": "2026-11-22"})) == ["b"]


class Site:
    """A service over a server with stale reads and a consumer group."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self.registry = CollectorRegistry()
        self.offsets = FakeOffsets()
        self.watch = FreshnessWatch(milvus, COLLECTION, self.offsets)
        self.service = SearchService(
            Searcher(milvus, COLLECTION),
            East(),
            QueryMetrics(self.registry),
            cursors=Cursors(b"k" * 16, COLLECTION),
            freshness=self.watch,
        )

    @property
    def waiting(self) -> OffsetWaiting:
        waiting = self.watch._waiting
        assert waiting is not None
        return waiting

    def search(self, offset: int, **body: object) -> SearchAnswer:
        freshness = {"wait_for": [{"topic": "topic", "partition": 0, "offset": offset}], **body}
        answer = asyncio.run(self.service.answer({"query": "q", "freshness": freshness, "timeout_ms": 500}))
        assert isinstance(answer, SearchAnswer)
        return answer

    def outcome(self, name: str) -> float | None:
        return self.registry.get_sample_value("query_requests_total", {"outcome": name})


@pytest.fixture
def site(stale: FakeMilvus) -> Iterator[Site]:
    made = Site(stale)
    with closing(made.service):
        yield made


def test_a_record_that_is_committed_is_found(site: Site, stale: FakeMilvus) -> None:
    Library(stale).put("a", 0.0, offset=7)
    site.offsets.commits = {("topic", 0): 8}
    assert [result.doc_id for result in site.search(7).results] == ["a"]
    assert site.registry.get_sample_value("query_duration_seconds_count", {"phase": "wait"}) == 1


def test_a_late_record_ends_the_search_within_its_time(site: Site, stale: FakeMilvus) -> None:
    Library(stale).put("a", 0.0, offset=7)
    site.offsets.commits = {("topic", 0): 7}
    with pytest.raises(NotFreshYet):
        site.search(7, timeout_ms=50)
    site.offsets.commits = {("topic", 0): 8}
    assert site.search(7, timeout_ms=400).results
    assert (site.outcome("late"), site.outcome("ok")) == (1, 1)


def test_a_late_record_is_named_also_where_only_the_request_has_a_limit(site: Site) -> None:
    with pytest.raises(NotFreshYet):
        site.search(7)


def test_too_many_that_wait_are_overload(site: Site) -> None:
    wait = {"wait_for": [{"topic": "topic", "partition": 0, "offset": 7}], "timeout_ms": 100}

    async def two() -> list[object]:
        requests = [site.service.answer({"query": "q", "freshness": wait}) for _ in range(2)]
        return await asyncio.gather(*requests, return_exceptions=True)

    assert {type(error) for error in asyncio.run(two())} == {NotFreshYet, Overloaded}
    assert (site.outcome("late"), site.outcome("overloaded")) == (1, 1)


@pytest.mark.parametrize("with_watch", [True, False])
def test_without_kafka_no_request_can_wait(stale: FakeMilvus, with_watch: bool) -> None:
    watch = FreshnessWatch(stale, COLLECTION, None) if with_watch else None
    service = SearchService(Searcher(stale, COLLECTION), East(), QueryMetrics(CollectorRegistry()), freshness=watch)
    with closing(service):
        wait = {"wait_for": [{"topic": "topic", "partition": 0, "offset": 0}]}
        with pytest.raises(InvalidRequest, match=r"kafka\.bootstrap_servers") as refused:
            asyncio.run(service.answer({"query": "q", "freshness": wait}))
        assert refused.value.at == "/freshness/wait_for"
        answer = asyncio.run(service.answer({"query": "q", "freshness": STRONG}))
        assert answer.freshness.lag_s is None


def test_closing_ends_the_connection_to_kafka(site: Site) -> None:
    site.service.close()
    site.service.close()
    site.watch._kafka_thread.shutdown()
    assert site.offsets.closed


@pytest.mark.parametrize(("level", "found"), [("strong", ["a", "b"]), ("bounded", ["a"])])
def test_a_search_that_waited_sees_at_least_its_record(
    site: Site, stale: FakeMilvus, level: str, found: list[str]
) -> None:
    stale.staleness_writes = 0
    open_marks(stale, COLLECTION, create=True)
    library = Library(stale)
    library.put("a", 0.0, offset=7)
    PositionMarks(Marks(stale, COLLECTION), "group").write({("topic", 0): 8}, site.offsets.topic_ids, began={})
    freshness = {"level": level, "wait_for": [{"topic": "topic", "partition": 0, "offset": 7}]}

    async def run() -> SearchAnswer | SearchAnswers:
        request = asyncio.create_task(site.service.answer({"query": "q", "freshness": freshness}))
        while not request.done() and not any(waiting.seen for waiting in site.waiting._waiting):
            await asyncio.sleep(0.001)
        stale.staleness_writes = 1
        library.put("b", 1.0, offset=8)
        site.offsets.commits = {("topic", 0): 8}
        return await request

    answer = asyncio.run(run())
    assert isinstance(answer, SearchAnswer)
    assert [result.doc_id for result in answer.results] == found


def test_a_further_page_does_not_wait_again_and_sees_the_record(site: Site, stale: FakeMilvus) -> None:
    stale.staleness_writes = 0
    library = Library(stale)
    library.put("a", 0.0, offset=6)
    site.offsets.commits = {("topic", 0): 8}
    freshness = {"wait_for": [{"topic": "topic", "partition": 0, "offset": 7}]}

    def ask(**body: object) -> SearchAnswer:
        answer = asyncio.run(site.service.answer(body))
        assert isinstance(answer, SearchAnswer)
        return answer

    library.put("c", 2.0, offset=7)
    first = ask(query="q", freshness=freshness, limit=1, timeout_ms=500)
    site.offsets.error = Unavailable("Kafka is away")
    stale.staleness_writes = 1
    assert [result.doc_id for result in ask(cursor=first.next_cursor).results] == ["c"]
