"""Reranking in a search: which candidates are scored, what order and scores come out, and what happens on failure."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Unavailable
from pipeline.query import (
    FetchSettings,
    InvalidRequest,
    RerankFailed,
    Reranking,
    Searcher,
    SearchSettings,
    parse_request,
)
from pipeline.query.request.rerank import MAX_CANDIDATES, RerankOptions
from pipeline.query.rerank.reranker import RerankFailure
from pipeline.store import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.reranking import ScriptedReranker
from tests.support.rigs.search import COLLECTION, DOCUMENTS, EAST, Clock, Library, clock, doc_ids, find, library, milvus
from tests.support.waiting import Gate

__all__ = ["clock", "library", "milvus"]


@pytest.fixture
def reranker() -> ScriptedReranker:
    return ScriptedReranker()


@pytest.fixture
def make(milvus: FakeMilvus, reranker: ScriptedReranker) -> Callable[..., Searcher]:
    def searcher(**options: bool | int) -> Searcher:
        return Searcher(milvus, COLLECTION, reranking=Reranking(reranker, **options))  # type: ignore[arg-type]

    return searcher


@pytest.fixture
def searcher(make: Callable[..., Searcher]) -> Searcher:
    return make()


@pytest.fixture
def ten(library: Library) -> Library:
    """Documents 0 to 9, the nearest first."""
    for number in range(10):
        library.put(str(number), 5.0 * number)
    return library


class Slow(FakeMilvus):
    """Reads of rows, of which the first takes longer than it may."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.allowed: list[float] = []

    def query(self, *args: Any, timeout: float | None = None, **options: Any) -> list[dict[str, Any]]:
        assert timeout is not None
        self.allowed.append(timeout)
        if len(self.allowed) == 1:
            self.clock.now += timeout + 0.1
            raise Unavailable("the deadline was exceeded")
        return super().query(*args, timeout=timeout, **options)


def test_the_best_candidates_come_in_the_rerankers_order(
    searcher: Searcher, reranker: ScriptedReranker, ten: Library
) -> None:
    found = find(searcher, rerank={"top": 5}, limit=3)
    assert doc_ids(found) == ["4", "3", "2"]
    ((query, texts, timeout_s),) = reranker.calls
    assert (query, texts) == ("q", [f"chunk 0 of {number}" for number in range(5)])
    assert 0 < timeout_s <= 1
    assert [result.score for result in found.results[0]] == pytest.approx([5 / 6, 4 / 6, 3 / 6])
    assert all(result.scores == {"rerank": result.score} for result in found.results[0])
    assert found.warnings == ()
    assert found.rerank_s is not None
    assert found.rerank_failure is None


def test_all_results_are_reranked_where_the_limit_is_larger(searcher: Searcher, ten: Library) -> None:
    assert doc_ids(find(searcher, rerank={"top": 2}, limit=6)) == ["5", "4", "3", "2", "1", "0"]


def test_without_a_word_about_it_the_configuration_decides(
    make: Callable[..., Searcher], reranker: ScriptedReranker, ten: Library
) -> None:
    assert doc_ids(find(make(), limit=2)) == ["0", "1"]
    assert doc_ids(find(make(default=True), limit=2)) == ["9", "8"]
    assert doc_ids(find(make(default=True), limit=2, rerank=False)) == ["0", "1"]
    assert len(reranker.calls) == 1
    by_vector = parse_request({"vector": [1, 0], "limit": 2})
    assert doc_ids(make(default=True).search(by_vector, EAST, 5.0, now_ms=0)) == ["0", "1"]


def test_equal_scores_keep_the_order_of_the_search(
    searcher: Searcher, reranker: ScriptedReranker, ten: Library
) -> None:
    reranker.score = lambda texts: [0.5] * len(texts)
    assert doc_ids(find(searcher, rerank=True, limit=10)) == [str(number) for number in range(10)]


def by_chunk(texts: Sequence[str]) -> list[float]:
    """Chunk 2 of a document is better than chunk 1, document b better than a."""
    return [int(text.split()[1]) / 4 + (0.1 if text.endswith("b") else 0) for text in texts]


def test_documents_are_ordered_by_their_best_chunk(
    searcher: Searcher, reranker: ScriptedReranker, library: Library
) -> None:
    for chunk in range(3):
        library.put("a", 1.0 + chunk, chunk=chunk)
        library.put("b", 10.0 + chunk, chunk=chunk)
    reranker.score = by_chunk
    found = find(searcher, rerank={"top": 2}, limit=2, group_size=2).results[0]
    assert [(result.doc_id, result.chunk) for result in found] == [("b", 1), ("b", 0), ("a", 1), ("a", 0)]
    everything = find(searcher, rerank={"top": 6}, limit=3, group_by=None).results[0]
    assert [(result.doc_id, result.chunk) for result in everything] == [("b", 2), ("a", 2), ("b", 1)]


def test_recency_counts_after_the_reranker_too(
    searcher: Searcher, reranker: ScriptedReranker, library: Library
) -> None:
    library.put("old", 10.0, "1970-01-01")
    library.put("new", 0.0, "1970-02-01")
    body = {"rerank": True, "recency": {"half_life": "1d", "weight": 1}}
    found = searcher.search(parse_request({"query": "q", **body}), EAST, 5.0, now_ms=32 * 86_400_000)
    (new, old) = found.results[0]
    assert (new.doc_id, old.doc_id) == ("new", "old")
    assert new.score == pytest.approx(new.scores["rerank"] * new.scores["recency"])
    assert old.scores["rerank"] > new.scores["rerank"]


@pytest.mark.parametrize("reason", ["timeout", "overloaded", "failed"])
def test_after_a_failure_the_order_of_the_search_is_kept_with_a_warning(
    searcher: Searcher, reranker: ScriptedReranker, ten: Library, reason: RerankFailure
) -> None:
    plain = find(searcher, limit=3)
    reranker.failure = RerankFailed(reason, "http://10.0.0.1 said no")
    found = find(searcher, rerank=True, limit=3)
    assert found.results == plain.results
    assert found.rerank_failure == reason
    (warning,) = found.warnings
    assert "order of the search" in warning
    assert "10.0.0.1" not in warning
    assert found.more


def test_where_one_text_of_a_list_fails_none_is_reranked(
    searcher: Searcher, reranker: ScriptedReranker, ten: Library
) -> None:
    def score(texts: Sequence[str]) -> list[float]:
        if len(reranker.calls) == 2:
            raise RerankFailed("failed")
        return [0.9] * len(texts)

    reranker.score = score
    vectors = np.array([[1, 0], [1, 0]], np.float32)
    found = find(searcher, vectors, query=["a", "b"], rerank=True, limit=2)
    assert [doc_ids(found, index) for index in (0, 1)] == [["0", "1"], ["0", "1"]]
    assert all("rerank" not in result.scores for results in found.results for result in results)


def test_each_text_of_a_list_is_reranked_for_itself(
    searcher: Searcher, reranker: ScriptedReranker, ten: Library
) -> None:
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    found = find(searcher, vectors, query=["a", "b"], rerank={"top": 3}, limit=2)
    assert [doc_ids(found, index) for index in (0, 1)] == [["2", "1"], ["7", "8"]]
    assert [query for query, _, _ in reranker.calls] == ["a", "b"]


def test_nothing_found_asks_nobody(searcher: Searcher, reranker: ScriptedReranker) -> None:
    found = find(searcher, rerank=True)
    assert (found.results, found.warnings, reranker.calls) == (((),), (), [])


def test_rerank_is_refused_where_there_is_no_reranker(milvus: FakeMilvus, ten: Library) -> None:
    plain = Searcher(milvus, COLLECTION)
    for wanted in (True, {}, {"top": 3}):
        with pytest.raises(InvalidRequest, match=r"query\.rerank\.model") as refused:
            find(plain, rerank=wanted)
        assert refused.value.at == "/rerank"
    assert doc_ids(find(plain, rerank=False, limit=1)) == ["0"]


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"rerank": "yes"}, "/rerank"),
        ({"rerank": 1}, "/rerank"),
        ({"rerank": []}, "/rerank"),
        ({"rerank": {"top": 0}}, "/rerank/top"),
        ({"rerank": {"top": 201}}, "/rerank/top"),
        ({"rerank": {"top": 1.5}}, "/rerank/top"),
        ({"rerank": {"budget_ms": 9}}, "/rerank/budget_ms"),
        ({"rerank": {"budget_ms": 60_001}}, "/rerank/budget_ms"),
        ({"rerank": {"n": 1}}, "/rerank/n"),
        ({"rerank": True, "limit": 201}, "/rerank"),
        ({"rerank": {"top": 101}, "query": ["a", "b"]}, "/rerank"),
        ({"rerank": {"top": 41}, "group_size": 5}, "/rerank"),
        ({"rerank": True, "query": None, "vector": [1, 0]}, "/rerank"),
    ],
)
def test_a_request_beyond_the_bounds_is_refused(body: dict[str, object], at: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"query": "q", **body})
    assert refused.value.at == at


def test_results_beyond_what_can_be_reranked_come_with_a_warning_where_the_configuration_asks(
    make: Callable[..., Searcher], reranker: ScriptedReranker, ten: Library
) -> None:
    found = find(make(default=True), limit=201)
    assert doc_ids(found) == [str(number) for number in range(10)]
    assert reranker.calls == []
    assert found.rerank_s is None
    (warning,) = found.warnings
    assert "at most 200" in warning


@given(limit=st.integers(1, 1000), texts=st.integers(1, 32), top=st.none() | st.integers(1, 200))
def test_never_more_than_the_bound_is_scored(limit: int, texts: int, top: int | None) -> None:
    window = RerankOptions(top=top).window(limit, texts)
    assert window is None or (window * texts <= MAX_CANDIDATES and window >= limit)


def test_searches_beyond_the_places_keep_their_order_at_once(
    make: Callable[..., Searcher], reranker: ScriptedReranker, ten: Library
) -> None:
    gate = Gate()

    def slow(texts: Sequence[str]) -> list[float]:
        gate()
        return [0.5] * len(texts)

    reranker.score = slow
    searcher = make(max_waiting=1)
    first = threading.Thread(target=lambda: find(searcher, rerank=True))
    first.start()
    gate.await_call()
    second = find(searcher, rerank=True)
    plain = find(searcher)
    gate.open()
    first.join()
    assert second.rerank_failure == "overloaded"
    assert doc_ids(second) == doc_ids(plain)
    reranker.score = lambda texts: [0.5] * len(texts)
    assert find(searcher, rerank=True).rerank_failure is None, "the place was given back"


def reads(milvus: FakeMilvus) -> int:
    return sum(operation == "query" for operation, _, _ in milvus.calls)


def test_a_search_without_a_place_reads_no_candidates_for_a_reranker(
    milvus: FakeMilvus, reranker: ScriptedReranker, ten: Library
) -> None:
    """A list of texts has one place for all of them, and candidates are whole rows, which take memory."""
    gate = Gate()

    def slow(texts: Sequence[str]) -> list[float]:
        gate()
        return [0.5] * len(texts)

    reranker.score = slow
    settings = SearchSettings(FetchSettings(whole_rows=2))
    searcher = Searcher(milvus, COLLECTION, settings, reranking=Reranking(reranker, max_waiting=1))
    find(searcher, limit=2)
    before = reads(milvus)
    find(searcher, limit=2)
    plain = reads(milvus) - before
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    first = threading.Thread(target=lambda: find(searcher, vectors, query=["a", "b"], rerank=True))
    first.start()
    gate.await_call()
    before = reads(milvus)
    assert find(searcher, limit=2, rerank=True).rerank_failure == "overloaded"
    assert reads(milvus) - before == plain
    gate.open()
    first.join()
    assert [query for query, _, _ in reranker.calls] == ["a", "b"]


def test_no_time_left_asks_nobody(searcher: Searcher, reranker: ScriptedReranker, ten: Library) -> None:
    ticks = iter(range(0, 10_000, 2))
    late = Searcher(
        searcher.api, COLLECTION, reranking=Reranking(reranker, clock=lambda: float(next(ticks)))
    )  # each look at the clock is two seconds later
    found = find(late, rerank=True, limit=2)
    assert (doc_ids(found), found.rerank_failure, reranker.calls) == (["0", "1"], "timeout", [])


def test_reading_the_candidates_is_part_of_the_budget(reranker: ScriptedReranker, clock: Clock) -> None:
    """The first read of whole rows takes all the time that it may, and a little more."""
    milvus = Slow(clock)
    milvus.create_collection(DOCUMENTS)
    for number in range(3):
        Library(milvus).put(str(number), 5.0 * number)
    settings = SearchSettings(FetchSettings(whole_rows=2))
    searcher = Searcher(milvus, COLLECTION, settings, clock, reranking=Reranking(reranker))
    found = find(searcher, timeout_s=20.0, limit=3, rerank={"budget_ms": 500})
    first, *others = milvus.allowed
    assert first == pytest.approx(0.5)
    assert all(left_s > 10 for left_s in others)
    assert (doc_ids(found), found.rerank_failure, found.partial) == (["0", "1", "2"], "timeout", False)
    assert reranker.calls == []


def test_half_of_the_time_is_left_for_what_follows(
    searcher: Searcher, reranker: ScriptedReranker, ten: Library
) -> None:
    find(searcher, timeout_s=1.0, rerank={"budget_ms": 60_000})
    assert 0 < reranker.calls[0][2] <= 0.5


def test_explain_has_the_places_before_and_after(searcher: Searcher, ten: Library) -> None:
    explanation = find(searcher, rerank={"top": 4}, limit=2, explain=True).explanation
    assert explanation is not None
    assert "rerank" in explanation.phases_ms
    places = [result.rerank for result in explanation.queries[0].results]
    assert [(place.before, place.after) for place in places if place] == [(4, 1), (3, 2)]
    plain = find(searcher, limit=2, explain=True).explanation
    assert plain is not None
    assert [result.rerank for result in plain.queries[0].results] == [None, None]


def test_an_older_version_is_not_reranked(searcher: Searcher, reranker: ScriptedReranker, library: Library) -> None:
    library.put("a", 0.0, offset=1, text="first")
    library.put("a", 5.0, offset=2, text="second")
    found = find(searcher, rerank=True)
    assert [text for _, texts, _ in reranker.calls for text in texts] == ["second"]
    assert doc_ids(found) == ["a"]


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_searches_by_words_are_reranked_too(reranker: ScriptedReranker, mode: str) -> None:
    api = FakeMilvus(server=ServerInfo("v2.5.27", (2, 5, 27), lite=False))
    api.create_collection(
        documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    )
    library = Library(api)
    for number in range(4):
        library.put(str(number), 5.0 * number, text=f"fox {'fox ' * (4 - number)}")
    searcher = Searcher(api, COLLECTION, reranking=Reranking(reranker))
    request = parse_request({"query": "fox", "mode": mode})
    vectors = EAST if request.embeds else None
    plain = doc_ids(searcher.search(request, vectors, 5.0, now_ms=0))
    found = searcher.search(request.model_copy(update={"rerank": True}), vectors, 5.0, now_ms=0)
    assert doc_ids(found) == plain[::-1]
    legs = {"dense", "keyword"} if mode == "hybrid" else set()
    assert all(result.scores.keys() == {"rerank", *legs} for result in found.results[0])


def test_the_size_of_an_answer_is_bounded_after_the_cut(
    milvus: FakeMilvus, reranker: ScriptedReranker, library: Library
) -> None:
    for number in range(10):
        library.put(str(number), number, text="x" * 1000)
    small = Searcher(milvus, COLLECTION, SearchSettings(max_answer_bytes=3000), reranking=Reranking(reranker))
    assert doc_ids(find(small, rerank=True, limit=2)) == ["9", "8"]
