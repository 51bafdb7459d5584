"""Searches by meaning, by words and by both."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from pipeline.errors import NotLoaded, RateLimited, RequestRefused, Unavailable, UnlistedAnswer
from pipeline.query import InvalidRequest, Searcher, SearchResult, parse_request
from pipeline.records import SPARSE_FIELD, VECTOR_FIELD
from pipeline.store import Hit, IndexSettings, VectorSearch
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import IndexInfo, ServerInfo
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


def search(api: FakeMilvus, query: str | list[str], **body: object) -> SearchResult:
    searcher = Searcher(api, COLLECTION, clock=Clock())
    request = parse_request({"query": query, **body})
    vectors = None if request.mode == "keyword" else EAST.repeat(len(request.queries), 0)
    return searcher.search(request, vectors, 5.0, now_ms=0)


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
    assert fusion.of("q").weights == {"dense": weight, "keyword": 1, "id": 2 * (weight + 1)}


def test_the_second_leg_has_the_time_that_the_first_left(words: FakeMilvus) -> None:
    clock = Clock()
    left: list[float] = []

    def search_slowly(collection: str, search: VectorSearch) -> list[list[Hit]]:
        assert search.timeout_s
        left.append(search.timeout_s)
        clock.now += 1.0
        return answer(collection, search)

    answer, words.search = words.search, search_slowly  # type: ignore[method-assign]
    Searcher(words, COLLECTION, clock=clock).search(parse_request({"query": "refund"}), EAST, 9.0, now_ms=0)
    assert left == [9.0, 4.0], "half of it, so that what was found can still be read"


def fail_search(api: FakeMilvus, number: int, error: Exception) -> None:
    """Let one of the searches from now on raise: the first is 1."""
    count = 0

    def fail(operation: str, _: str, when: Literal["before", "after"]) -> None:
        nonlocal count
        count += (operation, when) == ("search", "before")
        if (operation, when, count) == ("search", "before", number):
            raise error

    api.hook = fail


@pytest.mark.parametrize("error", [Unavailable("away"), RateLimited("quota"), UnlistedAnswer("new words")])
def test_what_vectors_find_is_kept_where_the_search_by_words_fails(words: FakeMilvus, error: Exception) -> None:
    fail_search(words, 2, error)
    found = search(words, "refund E1234", limit=3)
    assert (doc_ids(found), found.mode, found.partial) == (["east", "north-east", "north"], "hybrid", True)
    assert [set(result.scores) for result in found.results[0]] == [{"dense"}] * 3
    (warning,) = found.warnings
    assert warning == "Milvus did not answer the keyword search of this hybrid search: what only that finds is missing"
    words.hook = None
    found = search(words, "refund E1234", limit=3)
    assert (found.partial, found.warnings) == (False, ())


def test_a_hybrid_search_fails_as_one_by_meaning_does(words: FakeMilvus) -> None:
    fail_search(words, 1, Unavailable("away"))
    with pytest.raises(Unavailable, match="away"):
        search(words, "refund E1234")


def test_both_orders_of_the_rows_before_stay_where_more_rows_do_not_come(words: FakeMilvus) -> None:
    library = Library(words)
    for chunk in range(20):
        library.put("long", 1.0, day="2026-11-01", chunk=chunk, text="refund E1234")
    library.put("other", 20.0, day="2026-11-01", text="refund")
    fail_search(words, 4, Unavailable("away"))
    found = search(words, "refund E1234", limit=2, time={"to": "2026-11-10"})
    assert (doc_ids(found), found.partial, found.warnings) == (["long"], True, ())
    assert set(found.results[0][0].scores) == {"dense", "keyword"}


def test_no_search_by_words_begins_without_time(words: FakeMilvus) -> None:
    clock = Clock()

    def slow(operation: str, _: str, when: Literal["before", "after"]) -> None:
        clock.now += 5.0 * ((operation, when) == ("search", "before"))

    words.hook = slow
    found = Searcher(words, COLLECTION, clock=clock).search(parse_request({"query": "refund"}), EAST, 5.0, now_ms=0)
    assert searches(words) == 1
    assert (len(found.results[0]), found.partial) == (3, True)
    assert "the keyword search" in found.warnings[0]


def test_a_search_by_words_that_takes_long_leaves_time_to_read_what_vectors_find(words: FakeMilvus) -> None:
    clock = Clock()

    def search_slowly(collection: str, search: VectorSearch) -> list[list[Hit]]:
        if search.anns_field == SPARSE_FIELD:
            assert search.timeout_s
            clock.now += search.timeout_s
            raise Unavailable("deadline exceeded")
        return answer(collection, search)

    answer, words.search = words.search, search_slowly  # type: ignore[method-assign]
    request = parse_request({"query": "refund", "limit": 50})
    found = Searcher(words, COLLECTION, clock=clock).search(request, EAST, 5.0, now_ms=0)
    assert (len(found.results[0]), found.partial) == (3, True)


def test_a_partition_released_between_both_searches_is_left_out(words: FakeMilvus) -> None:
    Library(words).put("released", 0.0, day="2026-11-01", text="refund")
    fail_search(words, 2, NotLoaded("released"))
    found = search(words, "refund", time={"from": "2026-01-01"})
    assert (found.partial, len(found.results[0])) == (False, 4)


def test_a_text_without_words_finds_by_its_meaning(words: FakeMilvus) -> None:
    refused = RequestRefused("the text has no tokens")
    fail_search(words, 2, refused)
    found = search(words, "?!")
    assert (doc_ids(found), found.partial, found.warnings) == (["east", "north-east", "north"], False, ())
    fail_search(words, 1, refused)
    with pytest.raises(RequestRefused):
        search(words, "?!", mode="keyword")


def test_a_text_without_words_takes_none_from_the_others(words: FakeMilvus) -> None:
    def search_refusing(collection: str, search: VectorSearch) -> list[list[Hit]]:
        if not isinstance(search.queries, np.ndarray) and "?!" in search.queries:
            raise RequestRefused("the text has no tokens")
        return answer(collection, search)

    answer, words.search = words.search, search_refusing  # type: ignore[method-assign]
    found = search(words, ["?!", "E1234"])
    assert [doc_ids(found, number)[0] for number in (0, 1)] == ["east", "north"]
    assert found.results[1][0].scores.keys() == {"dense", "keyword"}


def test_an_order_without_weight_is_not_searched(words: FakeMilvus) -> None:
    for weights, fields in (((0, 1), [SPARSE_FIELD]), ((1, 0), [VECTOR_FIELD]), ((1, 1), [VECTOR_FIELD, SPARSE_FIELD])):
        seen = searched_fields(words)
        found = search(words, ["refund", "E1234"], fusion=dict(zip(("dense", "keyword"), weights, strict=True)))
        assert (seen, found.mode, found.partial) == (fields, "hybrid", False)


def searched_fields(api: FakeMilvus) -> list[str]:
    """Gains the field of each search from now on."""
    seen: list[str] = []
    answer = FakeMilvus.search

    def search_noting(collection: str, search: VectorSearch) -> list[list[Hit]]:
        seen.append(search.anns_field)
        return answer(api, collection, search)

    api.search = search_noting  # type: ignore[method-assign]
    return seen


def test_each_text_of_a_list_has_its_results(words: FakeMilvus) -> None:
    found = search(words, ["E1234", "a", "nothing at all"], mode="keyword")
    assert [doc_ids(found, number) for number in range(3)] == [["north"], ["north-east"], ["east"]]
    both = search(words, ["E1234", "nothing of it"], limit=1)
    assert [doc_ids(both, number) for number in (0, 1)] == [["north"], ["east"]]


def test_rows_that_are_read_whole_afterwards_keep_their_scores(words: FakeMilvus) -> None:
    library = Library(words)
    for number in range(60):
        library.put(f"doc {number}", number, text="refund")
    words.calls.clear()
    found = search(words, "refund", limit=50).results[0]
    assert any((operation, collection) == ("query", COLLECTION) for operation, collection, _ in words.calls)
    assert len(found) == 50
    assert all(result.scores.keys() == {"dense", "keyword"} for result in found)
    assert all(result.text for result in found)


def test_a_sparse_field_of_another_program_is_no_keyword_index() -> None:
    api = FakeMilvus(server=SERVERS["2.5"])
    spec = documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    sparse = IndexInfo("SPARSE_INVERTED_INDEX", "IP", {})
    api.create_collection(replace(spec, indexes={**spec.indexes, SPARSE_FIELD: sparse}))
    assert search(api, "refund").mode == "dense"
    with pytest.raises(InvalidRequest, match="needs a keyword index"):
        search(api, "refund", mode="keyword")
