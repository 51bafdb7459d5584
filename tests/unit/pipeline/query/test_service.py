"""The search service: one flow for every way in, its deadline, its outcomes and what it reports."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from pipeline.errors import Mismatch, RateLimited, RequestRefused, RequestTooLarge, Unavailable, UsageError
from pipeline.query import (
    DeadlinePassed,
    DirectEmbedder,
    InvalidRequest,
    MalformedRequest,
    Overloaded,
    SearchAnswer,
    SearchAnswers,
    Searcher,
    SearchReport,
    SearchService,
)
from pipeline.query.answer import SearchedCounts
from pipeline.query.service import outcome_of
from pipeline.store import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, Library


class Model:
    """Embeds every text to the east; waits in `embed` while `free` is not set."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        assert self.free.wait(10)
        self.texts.extend(texts)
        if self.error is not None:
            raise self.error
        return np.array([[1, 0]] * len(texts), np.float32)


class Site:
    """A service over a fake Milvus, its metrics and its reports."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self.model = Model()
        self.registry = CollectorRegistry()
        self.reports: list[SearchReport] = []
        self.service = SearchService(
            Searcher(milvus, COLLECTION), DirectEmbedder(self.model.embed), QueryMetrics(self.registry), max_results=20
        )

    def answer(self, body: object, admit: Callable[[], None] = lambda: None) -> SearchAnswer | SearchAnswers:
        return asyncio.run(self.service.answer(body, admit=admit, report=self.reports.append))

    def outcomes(self) -> dict[str, float]:
        labels = ("ok", "invalid", "overloaded", "unavailable", "timeout", "error")
        counts = {label: self.registry.get_sample_value("query_requests_total", {"outcome": label}) for label in labels}
        return {label: count for label, count in counts.items() if count}


@pytest.fixture
def site(milvus: FakeMilvus) -> Iterator[Site]:
    made = Site(milvus)
    with closing(made.service):
        yield made


def test_bytes_and_the_same_decoded_have_one_answer(site: Site, library: Library) -> None:
    library.put("a", 0.0)
    decoded = site.answer({"query": "q", "time": {"from": "2026-11-22"}})
    encoded = site.answer(b'{"query": "q", "time": {"from": "2026-11-22"}}')
    assert isinstance(decoded, SearchAnswer)
    assert isinstance(encoded, SearchAnswer)
    assert [result.doc_id for result in decoded.results] == ["a"]
    assert (decoded.results, decoded.searched) == (encoded.results, encoded.searched)
    assert site.outcomes() == {"ok": 2}
    assert [report.outcome for report in site.reports] == ["ok", "ok"]
    assert site.reports[0].answer is decoded


def test_a_list_is_answered_with_a_list(site: Site, library: Library) -> None:
    library.put("a", 0.0)
    answer = site.answer({"query": ["q", "r"]})
    assert isinstance(answer, SearchAnswers)
    assert [[result.doc_id for result in one.results] for one in answer.answers] == [["a"], ["a"]]
    assert site.model.texts == ["q", "r"]


def test_times_are_parts_of_one_whole_rounded_to_microseconds(site: Site, library: Library) -> None:
    timing = site.answer({"query": "q"}).timing_ms
    assert timing.total == pytest.approx(timing.embed + timing.search, abs=0.002)
    assert all(span == round(span, 3) for span in (timing.embed, timing.search, timing.total))


def phases(registry: CollectorRegistry) -> dict[str, float]:
    """How many requests each phase was measured of."""
    names = ("embed", "search", "total")
    counts = {name: registry.get_sample_value("query_duration_seconds_count", {"phase": name}) for name in names}
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def words() -> FakeMilvus:
    """A server that fills a keyword index."""
    api = FakeMilvus(server=ServerInfo("v2.6.22", (2, 6, 22), lite=False))
    spec = documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    api.create_collection(spec)
    Library(api).put("a", 0.0, text="refund")
    return api


def test_a_search_by_words_embeds_nothing(words: FakeMilvus) -> None:
    site = Site(words)
    site.model.error = KeyError("the model is not needed")
    with closing(site.service):
        answer = site.answer({"query": "refund", "mode": "keyword"})
        assert isinstance(answer, SearchAnswer)
        assert [result.doc_id for result in answer.results] == ["a"]
        assert (site.model.texts, phases(site.registry)) == ([], {"search": 1, "total": 1})
        site.model.error = None
        site.answer({"query": "refund"})
        assert phases(site.registry) == {"embed": 1, "search": 2, "total": 2}


def test_a_service_without_a_model_searches_by_words_only(words: FakeMilvus) -> None:
    service = SearchService(Searcher(words, COLLECTION), None, QueryMetrics(CollectorRegistry()))
    with closing(service):
        answer = asyncio.run(service.answer({"query": ["refund"], "mode": "keyword"}))
        assert isinstance(answer, SearchAnswers)
        assert answer.answers[0].results[0].doc_id == "a"
        with pytest.raises(UsageError, match="needs a model"):
            asyncio.run(service.answer({"query": "refund"}))


def test_embedding_counts_for_the_deadline(site: Site, milvus: FakeMilvus, library: Library) -> None:
    site.model.free.clear()

    async def ask() -> None:
        try:
            await site.service.answer({"query": "q", "timeout_ms": 10}, report=site.reports.append)
        finally:
            site.model.free.set()

    calls = len(milvus.calls)
    with pytest.raises(DeadlinePassed, match="timeout_ms"):
        asyncio.run(ask())
    assert site.outcomes() == {"timeout": 1}
    assert len(milvus.calls) == calls, "nothing was searched"
    (report,) = site.reports
    assert (report.outcome, type(report.error), report.answer) == ("timeout", DeadlinePassed, None)


def test_a_time_range_counts_back_from_the_arrival(site: Site, library: Library) -> None:
    library.put("old", 0.0, "2020-01-01")
    answer = site.answer({"query": "q", "time": {"last": "1h30m"}})
    assert answer.searched == SearchedCounts(1, 1, {"outside_time_range": 1})


@pytest.mark.parametrize("body", [b"{", b"[]", {"query": "q", "limit": 21}, {"query": ["q"] * 3}, {"query": ""}])
def test_what_is_not_valid_takes_no_place_and_no_model(site: Site, body: object) -> None:
    places: list[str] = []
    with pytest.raises((InvalidRequest, MalformedRequest)):
        site.answer(body, admit=lambda: places.append("taken"))
    assert (places, site.model.texts) == ([], [])
    assert site.outcomes() == {"invalid": 1}
    assert site.reports[0].request is None


def test_a_request_that_is_not_admitted_is_not_embedded(site: Site) -> None:
    def full() -> None:
        raise Overloaded("full")

    with pytest.raises(Overloaded):
        site.answer({"query": "q"}, admit=full)
    assert site.model.texts == []
    assert site.outcomes() == {"overloaded": 1}
    request = site.reports[0].request
    assert request is not None
    assert request.queries == ("q",)


@pytest.mark.parametrize(
    ("error", "raised", "outcome"),
    [
        (RateLimited("busy"), Overloaded, "overloaded"),
        (Unavailable("closing"), Unavailable, "unavailable"),
        (TimeoutError(), DeadlinePassed, "timeout"),
        (KeyError("bug"), KeyError, "error"),
    ],
)
def test_errors_of_the_model(site: Site, error: Exception, raised: type[Exception], outcome: str) -> None:
    site.model.error = error
    with pytest.raises(raised):
        site.answer({"query": "q"})
    assert site.outcomes() == {outcome: 1}


def test_milvus_that_limits_its_clients_is_unavailable(site: Site, milvus: FakeMilvus) -> None:
    milvus.fail_next("search", RateLimited("quota"))
    with pytest.raises(RateLimited):
        site.answer({"query": "q"})
    assert site.outcomes() == {"unavailable": 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RequestRefused("x"), "invalid"),
        (RequestTooLarge("x"), "invalid"),
        (Mismatch("x"), "unavailable"),
        (UsageError("x"), "unavailable"),
        (ValueError("x"), "error"),
    ],
)
def test_every_error_has_an_outcome(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_a_closed_service_searches_no_more(milvus: FakeMilvus) -> None:
    site = Site(milvus)
    site.service.close()
    with pytest.raises(RuntimeError):
        site.answer({"query": "q"})


def test_a_direct_embedder_leaves_the_event_loop_free() -> None:
    threads: list[Any] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        threads.append(threading.get_ident())
        return np.ones((len(texts), 2), np.float32)

    vectors = asyncio.run(DirectEmbedder(embed).embed(["a", "b"]))
    assert vectors.shape == (2, 2)
    assert threads != [threading.get_ident()]
