"""Documents whose ids are in a query: found whatever their texts say, by one bounded read."""

from typing import Any

import pytest

from pipeline.errors import NotLoaded, RequestRefused, Unavailable
from pipeline.query import Searcher, SearchResult, SearchSettings, parse_request
from pipeline.query.id_retriever import MAX_IDS, ids_in
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, EAST, Library, doc_ids


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("ticket-4711", ["ticket-4711"]),
        ("readme", ["readme"]),
        ("42", ["42"]),
        ("  #42! ", ["#42!", "#42"]),
        ("refund failed", []),
        ("top 10 films of 2026", []),
        ("1,000 or 3.14", []),
        ("order 1000023", ["order 1000023", "1000023"]),
        (
            "what is wrong with 'ticket-4711'?",
            ["what is wrong with 'ticket-4711'?", "what is wrong with 'ticket-4711", "'ticket-4711'?", "ticket-4711"],
        ),
        ("compare E1234 os.path", ["compare E1234 os.path", "E1234", "os.path"]),
        ("?!", ["?!"]),
        ("x" * 1025, []),
        ("é" * 513, []),
    ],
)
def test_what_may_be_an_id(query: str, ids: list[str]) -> None:
    assert ids_in(query) == ids


def test_few_ids_are_taken_from_a_long_query() -> None:
    assert len(ids_in(" ".join(f"id-{number}" for number in range(1_000)))) == MAX_IDS


@pytest.fixture
def words() -> FakeMilvus:
    api = FakeMilvus(server=ServerInfo("2.5.0", (2, 5, 0), lite=False))
    spec = documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    api.create_collection(spec)
    return api


@pytest.fixture
def library(words: FakeMilvus) -> Library:
    return Library(words)


def put(library: Library, doc_id: str, angle: float, day: str = "2026-11-22", **more: Any) -> str:
    """A document whose text has no word of its id."""
    return library.put(doc_id, angle, day, text="nothing", **more)


def search(api: FakeMilvus, query: object, **body: Any) -> SearchResult:
    request = parse_request({"query": query, **body})
    vectors = None if request.mode == "keyword" else EAST.repeat(len(request.queries), axis=0)
    return Searcher(api, COLLECTION, SearchSettings()).search(request, vectors, 5.0, now_ms=0)


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_a_document_is_found_by_its_id(words: FakeMilvus, library: Library, mode: str) -> None:
    for number in range(20):
        put(library, f"near-{number}", number / 10)
    put(library, "ticket-4711", 170.0)
    put(library, "ticket-4711", 171.0, chunk=1)
    found = search(words, "what about ticket-4711?", mode=mode, limit=3)
    assert doc_ids(found)[0] == "ticket-4711"
    assert (found.results[0][0].chunk, found.results[0][0].scores["id"]) == (0, 1.0)
    assert [result.doc_id for result in found.results[0] if "id" in result.scores] == ["ticket-4711"]
    scores = [result.score for result in found.results[0]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_a_strong_search_reads_ids_strongly(words: FakeMilvus, library: Library, mode: str) -> None:
    put(library, "ticket-4711", 0.0)
    seen: list[dict[str, Any]] = []
    query = words.query

    def watched(collection: str, *args: Any, **options: Any) -> list[dict[str, Any]]:
        if collection == COLLECTION:
            seen.append(options)
        return query(collection, *args, **options)

    words.query = watched  # type: ignore[method-assign]
    assert doc_ids(search(words, "ticket-4711", mode=mode, freshness={"level": "strong"})) == ["ticket-4711"]
    assert seen
    assert all(options.keys() & {"strong", "since"} for options in seen)


def test_a_dense_search_reads_no_ids(words: FakeMilvus, library: Library) -> None:
    put(library, "near", 0.0)
    put(library, "ticket-4711", 170.0)
    assert doc_ids(search(words, "ticket-4711", mode="dense")) == ["near", "ticket-4711"]
    assert ("query", COLLECTION) not in [call[:2] for call in words.calls]


def test_without_an_id_in_the_query_scores_are_as_before(words: FakeMilvus, library: Library) -> None:
    put(library, "a", 0.0)
    found = search(words, "two words", mode="hybrid", fusion={"dense": 1, "keyword": 0})
    assert found.results[0][0].score == 1.0
    assert ("query", COLLECTION) not in [call[:2] for call in words.calls]


def test_filter_time_and_partitions_hold_for_ids(words: FakeMilvus, library: Library) -> None:
    put(library, "a-1", 0.0, "2026-11-20", lang="en")
    put(library, "a-1", 0.0, "2026-11-22", lang="de", offset=0)
    lang = {"type": "eq", "key": "lang", "value": "en"}
    assert doc_ids(search(words, "a-1", mode="keyword")) == ["a-1"]
    assert doc_ids(search(words, "a-1", mode="keyword", filter={**lang, "value": "fr"})) == []
    assert doc_ids(search(words, "a-1", mode="keyword", time={"from": "2026-11-23"})) == []
    words.release_partitions(COLLECTION, ["d20261120"])
    assert doc_ids(search(words, "a-1", mode="keyword", filter=lang)) == []


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_an_older_version_is_not_found_by_its_id(words: FakeMilvus, library: Library, mode: str) -> None:
    put(library, "a-1", 0.0, offset=1)
    put(library, "b-1", 90.0)
    library.enter("a-1", 5)
    assert "a-1" not in doc_ids(search(words, "a-1", mode=mode))


def test_each_text_has_its_own_ids(words: FakeMilvus, library: Library) -> None:
    for name in ("a-1", "b-1", "c"):
        put(library, name, 0.0)
    found = search(words, ["a-1", "b-1", "neither of them"], mode="keyword")
    assert [doc_ids(found, number) for number in range(3)] == [["a-1"], ["b-1"], []]
    assert [call[:2] for call in words.calls].count(("query", COLLECTION)) == 1


def test_the_weight_of_ids_can_be_set(words: FakeMilvus, library: Library) -> None:
    put(library, "near", 0.0)
    put(library, "a-1", 170.0)
    off = {"dense": 1, "keyword": 0, "id": 0}
    assert doc_ids(search(words, "a-1", mode="hybrid", fusion=off)) == ["near", "a-1"]
    assert doc_ids(search(words, "a-1", mode="hybrid", fusion={**off, "id": 5})) == ["a-1", "near"]


def failing(api: FakeMilvus, error: Exception) -> None:
    """Let the read of the ids fail, and no other."""
    query = api.query

    def fail(collection: str, expression: str, *args: Any, **options: Any) -> Any:
        if "doc_id in" in expression:
            raise error
        return query(collection, expression, *args, **options)

    api.query = fail  # type: ignore[method-assign]


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_a_failed_read_of_ids_costs_their_documents_only(words: FakeMilvus, library: Library, mode: str) -> None:
    put(library, "a-1", 0.0)
    failing(words, Unavailable("gone"))
    found = search(words, "a-1", mode=mode)
    assert found.partial
    assert (
        "Milvus did not answer the search for the ids in the query: what only that finds is missing" in found.warnings
    )
    failing(words, RequestRefused("refused"))
    assert not search(words, "a-1", mode=mode).partial


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_a_partition_that_is_not_loaded_is_planned_again(words: FakeMilvus, library: Library, mode: str) -> None:
    put(library, "a-1", 0.0)
    failing(words, NotLoaded("released"))
    with pytest.raises(NotLoaded):
        search(words, "a-1", mode=mode)


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_a_strong_search_finds_the_last_write_by_its_id(mode: str) -> None:
    stale = FakeMilvus(server=ServerInfo("2.5.0", (2, 5, 0), lite=False), staleness_writes=1)
    spec = documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    stale.create_collection(spec)
    library = Library(stale)
    put(library, "near", 0.0)
    put(library, "ticket-4711", 170.0)
    found = search(stale, "ticket-4711", mode=mode, limit=1, freshness={"level": "strong"})
    assert doc_ids(found) == ["ticket-4711"]
    assert found.results[0][0].scores["id"] == 1.0


def test_an_id_has_its_own_order_beside_the_words(words: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0, text="about ticket-4711")
    put(library, "ticket-4711", 0.0)
    found = search(words, "ticket-4711", mode="keyword", explain=True)
    assert doc_ids(found) == ["ticket-4711", "a"]
    assert found.explanation is not None
    assert found.explanation.candidates == 2
    orders = [{name: place.rank for name, place in one.orders.items()} for one in found.explanation.queries[0].results]
    assert orders == [{"id": 1}, {"keyword": 1}]
