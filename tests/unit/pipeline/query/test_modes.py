"""Searches by meaning, by words and by both."""

from collections.abc import Callable

import pytest

from pipeline.query import InvalidRequest, Searcher, SearchResult, parse_request
from pipeline.store import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, EAST, LEDGER, Clock, Library, doc_ids, find, searches

SERVERS = {
    "lite": ServerInfo("milvus_lite-3.2.2", (3, 2, 2), lite=True),
    "2.5": ServerInfo("v2.5.27", (2, 5, 27), lite=False),
}


@pytest.fixture(params=list(SERVERS))
def words(request: pytest.FixtureRequest) -> FakeMilvus:
    """A server that fills a keyword index; its scores are negative on Lite."""
    api = FakeMilvus(server=SERVERS[request.param])
    spec = documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    api.create_collection(spec)
    library = Library(api)
    library.put("east", 0.0, text="nothing of it")
    library.put("north", 80.0, text="refund E1234 failed")
    library.put("north-east", 40.0, text="a refund")
    return api


def search(api: FakeMilvus, query: str, **body: object) -> SearchResult:
    searcher = Searcher(api, COLLECTION, clock=Clock())
    request = parse_request({"query": query, **body})
    return searcher.search(request, None if request.mode == "keyword" else EAST, 5.0, now_ms=0)


def test_words_are_found_best_first_and_without_a_vector(words: FakeMilvus) -> None:
    found = search(words, "refund e1234", mode="keyword")
    assert (doc_ids(found), found.mode) == (["north", "north-east"], "keyword")
    scores = [result.score for result in found.results[0]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    assert searches(words) == 1


def test_a_search_is_hybrid_where_the_server_has_a_keyword_index(words: FakeMilvus) -> None:
    found = search(words, "refund E1234")
    assert found.mode == "hybrid"
    assert doc_ids(found)[0] == "north", "a code decides by its words"
    by_doc = {result.doc_id: result for result in found.results[0]}
    assert set(by_doc) == {"east", "north-east", "north"}
    assert set(by_doc["north"].scores) == {"dense", "keyword"}
    assert set(by_doc["east"].scores) == {"dense"}
    assert search(words, "refund E1234", mode="dense").results[0][0].scores == {}


def test_weights_that_are_given_decide(words: FakeMilvus) -> None:
    assert doc_ids(search(words, "refund E1234", fusion={"dense": 1, "keyword": 0}))[0] == "east"
    assert "east" not in doc_ids(search(words, "refund", fusion={"dense": 0, "keyword": 1, "k": 1}))


def test_words_obey_the_filter_the_time_range_and_the_limit(words: FakeMilvus) -> None:
    Library(words).put("old", 0.0, day="2026-11-01", text="refund")
    late = search(words, "refund", mode="keyword", time={"from": "2026-11-20"}, limit=5)
    assert set(doc_ids(late)) == {"north", "north-east"}
    only = {"type": "eq", "key": "doc_id", "value": "north"}
    assert doc_ids(search(words, "refund", filter=only)) == ["north"]
    assert len(search(words, "refund", limit=1).results[0]) == 1


@pytest.mark.parametrize("body", [{"mode": "keyword"}, {"mode": "hybrid"}, {"fusion": {"dense": 0, "keyword": 1}}])
def test_words_hide_no_newer_version(words: FakeMilvus, body: dict[str, object]) -> None:
    library = Library(words)
    library.put("changed", 170.0, offset=5, text="a refund E1234 failed")
    library.put("changed", 175.0, offset=6, text="thanks")
    for number in range(4):
        library.put(f"near {number}", number, text="thanks")
    assert doc_ids(search(words, "a refund E1234 failed", limit=1, **body)) == ["changed"], "nothing newer is known"
    library.enter("changed", 6)
    found = search(words, "a refund E1234 failed", limit=1, **body)
    assert (doc_ids(found), found.warnings) == (["north"], ())
    library.enter("changed", 6, pending=True)
    found = search(words, "a refund E1234 failed", limit=1, **body)
    assert doc_ids(found) == ["changed"]
    assert "may be shown in an older version" in found.warnings[0]


def test_a_search_by_meaning_without_a_filter_reads_no_ledger(words: FakeMilvus) -> None:
    Library(words).enter("north", 1)
    words.calls.clear()
    search(words, "refund", mode="dense")
    assert [call for call in words.calls if call[1] == LEDGER] == []


def test_without_a_keyword_index_a_search_is_by_meaning_and_words_are_refused(
    searcher: Searcher, library: Library
) -> None:
    library.put("a", 0.0)
    assert find(searcher).mode == "dense"
    for body, at in (({"mode": "keyword"}, "/mode"), ({"mode": "hybrid"}, "/mode"), ({"fusion": {}}, "/fusion")):
        with pytest.raises(InvalidRequest, match="needs a keyword index") as refused:
            find(searcher, **body)
        assert refused.value.at == at


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        ({"mode": "both"}, "/mode", "must be dense, keyword, hybrid or null"),
        ({"mode": 1}, "/mode", "must be dense"),
        ({"mode": "dense", "fusion": {}}, "/fusion", "is for hybrid searches"),
        ({"fusion": []}, "/fusion", "must be an object such as"),
        ({"fusion": {"dense": 1}}, "/fusion", "takes both weights"),
        ({"fusion": {"dense": 0, "keyword": 0}}, "/fusion", "two weights of 0"),
        ({"fusion": {"dense": -1, "keyword": 0}}, "/fusion/dense", "must be 0, or from 0.000001 to 100"),
        ({"fusion": {"dense": True, "keyword": 0}}, "/fusion/dense", "must be 0, or from"),
        ({"fusion": {"dense": 0, "keyword": 1e-323}}, "/fusion/keyword", "must be 0, or from"),
        ({"fusion": {"dense": 101, "keyword": 0}}, "/fusion/dense", "must be 0, or from"),
        ({"fusion": {"k": 0}}, "/fusion/k", "from 1 to 1,000"),
        ({"fusion": {"weights": 1}}, "/fusion/weights", "is not a known key"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, object], at: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"query": "q", **body})
    assert refused.value.at == at
    assert words in str(refused.value)


@pytest.mark.parametrize("weight", [0, 1e-6, 100])
def test_a_weight_may_be_anything_that_can_be_compared(weight: float) -> None:
    fusion = parse_request({"query": "q", "fusion": {"dense": weight, "keyword": 1}}).fusion
    assert fusion is not None
    assert fusion.of("q").weights == {"dense": weight, "keyword": 1}


def test_the_second_leg_has_the_time_that_the_first_left(words: FakeMilvus) -> None:
    clock = Clock()
    left: list[float | None] = []

    def slow(operation: str, *_: object) -> None:
        clock.now += 1.0 * (operation == "search")

    words.hook = slow
    seen: Callable[..., object] = words.search

    def search_noting(collection: str, search: object) -> object:
        left.append(search.timeout_s)
        return seen(collection, search)

    words.search = search_noting  # type: ignore[method-assign, assignment]
    Searcher(words, COLLECTION, clock=clock).search(parse_request({"query": "refund"}), EAST, 9.0, now_ms=0)
    assert left[0] is not None
    assert left[1] is not None
    assert left[1] < left[0]
