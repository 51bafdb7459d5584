"""Options of a search over a fake Milvus: vectors of the client, index parameters, the number of rows."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from pipeline.errors import NotFound, RequestRefused, Unavailable
from pipeline.query import InvalidRequest, Searcher, SearchResult, SearchSettings, parse_request
from pipeline.query.answer import ExplainedIndex, FusionUsed, Place
from pipeline.store import Hit, IndexSettings, VectorSearch
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, EAST, Clock, Library, doc_ids, eq, find


class SeenMilvus(FakeMilvus):
    """`seen`: the parameters and row limit of each search; `timeouts`: the limit of each query that counts."""

    def __init__(self, kind: str = "HNSW", **params: int) -> None:
        super().__init__()
        self.seen: list[tuple[dict[str, Any], int]] = []
        self.timeouts: list[float] = []
        index = IndexSettings(kind, "COSINE", params)
        self.create_collection(documents_spec(COLLECTION, dimension=2, index=index, stamp={"name": "test"}, bm25=False))

    def search(self, collection: str, search: VectorSearch) -> list[list[Hit]]:
        self.seen.append((dict(search.params), search.limit))
        return super().search(collection, search)

    def query(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        if arguments[2] == ["count(*)"]:
            self.timeouts.append(options["timeout"])
        return super().query(*arguments, **options)


def by_vector(searcher: Searcher, vector: Any, **body: Any) -> SearchResult:
    request = parse_request({"vector": vector, **body})
    assert request.vector is not None
    return searcher.search(request, request.vector.values, 5.0, now_ms=0)


def test_the_vector_of_the_request_is_searched_with(searcher: Searcher, library: Library) -> None:
    library.put("east", 0.0)
    library.put("north", 90.0)
    assert doc_ids(by_vector(searcher, [0, 3])) == ["north", "east"]
    both = by_vector(searcher, [[0, 1], [1, 0]], limit=1)
    assert [doc_ids(both, number) for number in (0, 1)] == [["north"], ["east"]]
    assert both.mode == "dense"


@pytest.mark.parametrize(("vector", "at"), [([1, 0, 0], "/vector"), ([[1], [2]], "/vector/0")])
def test_a_vector_of_another_dimension(searcher: Searcher, milvus: FakeMilvus, vector: Any, at: str) -> None:
    with pytest.raises(InvalidRequest, match=r"the collection's vectors have 2$") as caught:
        by_vector(searcher, vector)
    assert caught.value.at == at
    assert "search" not in [operation for operation, _, _ in milvus.calls]


# --- parameters of the index ------------------------------------------------------------------------------------


def test_parameters_of_the_request_come_before_those_of_the_configuration() -> None:
    milvus = SeenMilvus()
    searcher = Searcher(milvus, COLLECTION, SearchSettings(params={"ef": 100}))
    find(searcher, limit=2)
    find(searcher, limit=2, params={"ef": 200})
    find(Searcher(milvus, COLLECTION), limit=2)
    assert milvus.seen == [({"ef": 100}, 8), ({"ef": 200}, 8), ({"ef": 64}, 8)]


def test_a_parameter_is_raised_to_the_rows_that_are_read() -> None:
    milvus = SeenMilvus()
    find(Searcher(milvus, COLLECTION), limit=50, params={"ef": 10})
    assert milvus.seen == [({"ef": 200}, 200)]


def test_configured_parameters_of_another_index_are_left_out() -> None:
    milvus = SeenMilvus("IVF_FLAT", nlist=8)
    find(Searcher(milvus, COLLECTION, SearchSettings(params={"ef": 100, "nprobe": 999})), limit=2)
    assert milvus.seen == [({"nprobe": 8}, 8)]


@pytest.mark.parametrize(
    ("kind", "params", "at", "words"),
    [
        ("HNSW", {"nprobe": 8}, "/params/nprobe", "is not a parameter of HNSW: it has ef"),
        ("HNSW", {"radius": 1}, "/params/radius", "is not a parameter of HNSW"),
        ("HNSW", {"ef": 0}, "/params/ef", "write a whole number from 1 to 32768"),
        ("FLAT", {"ef": 64}, "/params/ef", "is not a parameter of FLAT: it has no parameters"),
        ("IVF_FLAT", {"nprobe": 129}, "/params/nprobe", "write at most nlist, 128"),
        ("AUTOINDEX", {"level": 0}, "/params/level", "write a whole number from 1 to 10"),
    ],
)
def test_a_parameter_that_the_index_does_not_take(kind: str, params: dict[str, Any], at: str, words: str) -> None:
    milvus = SeenMilvus(kind)
    with pytest.raises(InvalidRequest, match=words) as caught:
        find(Searcher(milvus, COLLECTION), params=params)
    assert (caught.value.at, milvus.seen) == (at, [])


# --- the number of rows -----------------------------------------------------------------------------------------


def test_rows_of_the_filter_and_the_time_range_are_counted_whatever_the_query(
    searcher: Searcher, library: Library
) -> None:
    for number in range(6):
        library.put(f"doc {number // 2}", 90.0, f"2026-11-2{number // 2}", chunk=number % 2, lang="ab"[number % 2])
    assert find(searcher).total is None
    assert find(searcher, count=True, limit=1).total == 6, "rows, which are chunks"
    assert find(searcher, count=True, filter=eq("lang", "a")).total == 3
    assert find(searcher, count=True, time={"from": "2026-11-21"}).total == 4
    assert find(searcher, count=True, time={"from": "2026-11-21T00:00:01Z"}).total == 2
    assert find(searcher, count=True, filter=eq("lang", "none"), time={"from": "2026-11-21"}).total == 0
    assert find(searcher, count=True, min_score=0.9, group_by=None).total == 6


def test_rows_of_another_tenant_are_neither_counted_nor_explained(searcher: Searcher, library: Library) -> None:
    for number, tenant in enumerate(["one", "two", "two"]):
        library.put(f"doc {number}", float(number), tenant=tenant)
    library.put("doc 1", 5.0, offset=9, tenant="two")
    for tenant, total, older in (("one", 1, 0), ("two", 3, 1), ("three", 0, 0)):
        request = parse_request({"vector": [1, 0], "count": True, "explain": True})
        found = searcher.search(request, EAST, 5.0, now_ms=0, tenant=tenant)
        assert found.explanation is not None
        assert (found.total, found.explanation.candidates) == (total, total)
        assert found.explanation.queries[0].older_versions == older


@pytest.mark.parametrize("error", [Unavailable("slow"), NotFound("dropped"), RequestRefused("no")])
def test_a_count_that_fails_fails_no_search(searcher: Searcher, library: Library, error: Exception) -> None:
    library.put("a", 0.0)

    def fail(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        if operation == "query" and when == "before":
            raise error

    library.api.hook = fail
    found = find(searcher, count=True)
    assert (doc_ids(found), found.total, found.partial) == (["a"], None, False)
    assert found.warnings == (
        "total is null: Milvus did not count the rows in the time there was; narrow time or filter",
    )


def test_a_count_has_at_most_a_second_and_half_of_what_is_left(clock: Clock) -> None:
    milvus = SeenMilvus()
    Library(milvus).put("a", 0.0)
    searcher = Searcher(milvus, COLLECTION, clock=clock)
    find(searcher, count=True, timeout_s=60.0)
    find(searcher, count=True, timeout_s=1.0)
    assert milvus.timeouts == [1.0, pytest.approx(0.5)]

    def slow(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        if operation == "search" and when == "after":
            clock.now += 9

    milvus.hook = slow
    found = find(searcher, count=True, timeout_s=5.0)
    assert (found.total, doc_ids(found), len(milvus.timeouts)) == (None, ["a"], 2)
    assert "total is null" in found.warnings[0]


# --- explain ----------------------------------------------------------------------------------------------------


def test_nothing_is_explained_unless_wanted(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0)
    assert find(searcher).explanation is None


def test_a_dense_search_explained(make_searcher: Callable[..., Searcher], library: Library) -> None:
    for chunk in range(10):
        library.put("long", chunk, "2026-11-21", chunk=chunk)
    library.put("moved", 11.0, "2026-11-21", offset=5)
    library.put("moved", 12.0, "2026-11-22", offset=6)
    library.put("old", 0.0, "2026-11-20")
    found = find(make_searcher(), time={"from": "2026-11-21"}, limit=2, explain=True, count=True)
    explanation = found.explanation
    assert explanation is not None
    assert doc_ids(found) == ["long", "moved"]
    assert (explanation.mode, explanation.index) == ("dense", ExplainedIndex("FLAT", "COSINE"))
    assert (explanation.params, explanation.consistency) == ({}, "bounded")
    assert explanation.partitions == found.searched
    assert [skip.name for skip in explanation.partitions.skipped] == ["d20261120"]
    assert [(done.limit, done.rows) for done in explanation.rounds] == [(8, 8), (32, 12)]
    assert explanation.candidates == 20
    assert list(explanation.phases_ms) == ["plan", "candidates", "versions", "rows", "warnings", "count"]
    (query,) = explanation.queries
    assert (query.fusion, query.older_versions) == (None, 1)
    assert [(one.id, one.orders["dense"].rank, one.fused) for one in query.results] == [
        (found.results[0][0].id, 1, None),
        (found.results[0][1].id, 12, None),
    ]
    assert query.results[1].orders["dense"].score == pytest.approx(np.cos(np.radians(12)))


@pytest.fixture
def words() -> FakeMilvus:
    """A server that fills a keyword index."""
    api = FakeMilvus(server=ServerInfo("v2.5.27", (2, 5, 27), lite=False))
    spec = documents_spec(COLLECTION, dimension=2, index=IndexSettings(), stamp={"name": "test"}, bm25=True)
    api.create_collection(spec)
    library = Library(api)
    library.put("east", 0.0, text="nothing of it")
    library.put("north", 80.0, text="refund failed")
    library.put("north-east", 40.0, text="a refund")
    return api


def test_a_hybrid_search_takes_its_words_from_the_text_and_its_vector_from_the_request(words: FakeMilvus) -> None:
    body = {"query": "refund failed", "fusion": {"dense": 1, "keyword": 1}, "group_by": None, "explain": True}
    found = by_vector(Searcher(words, COLLECTION), [1, 0], **body)
    explanation = found.explanation
    assert explanation is not None
    assert (found.mode, explanation.mode, explanation.params) == ("hybrid", "hybrid", {"ef": 64})
    (query,) = explanation.queries
    assert query.fusion == FusionUsed(60, {"dense": 1, "keyword": 1, "id": 4})
    orders = {
        result.doc_id: {name: place.rank for name, place in one.orders.items()}
        for result, one in zip(found.results[0], query.results, strict=True)
    }
    assert orders == {
        "north": {"dense": 3, "keyword": 1},
        "north-east": {"dense": 2, "keyword": 2},
        "east": {"dense": 1},
    }
    for result, one in zip(found.results[0], query.results, strict=True):
        assert (result.id, result.score) == (one.id, one.fused)
        assert result.scores == {name: place.score for name, place in one.orders.items()}
    assert [done.rows for done in explanation.rounds] == [5], "three by vectors, two by words"


def test_only_the_orders_that_were_searched_are_explained(words: FakeMilvus) -> None:
    searcher = Searcher(words, COLLECTION)
    request = parse_request({"query": "refund", "mode": "keyword", "explain": True})
    explanation = searcher.search(request, None, 5.0, now_ms=0).explanation
    assert explanation is not None
    assert (explanation.index, explanation.params, explanation.queries[0].fusion) == (None, {}, None)
    assert set(explanation.queries[0].results[0].orders) == {"keyword"}
    only_words = {"query": "refund", "fusion": {"dense": 0, "keyword": 1}, "explain": True}
    explanation = by_vector(searcher, [1, 0], **only_words).explanation
    assert explanation is not None
    assert (explanation.index, explanation.mode) == (None, "hybrid")
    assert explanation.queries[0].results[0].orders.keys() == {"keyword"}
    assert explanation.queries[0].results[0].orders["keyword"] == Place(1, 1.0)


def test_the_score_before_recency_is_explained(words: FakeMilvus) -> None:
    body = {"query": "refund", "recency": {"half_life": "1d", "weight": 0.5}, "explain": True}
    request = parse_request({"vector": [1, 0], **body})
    assert request.vector is not None
    found = Searcher(words, COLLECTION).search(request, request.vector.values, 5.0, now_ms=2_000_000_000_000)
    assert found.explanation is not None
    for result, one in zip(found.results[0], found.explanation.queries[0].results, strict=True):
        assert one.fused is not None
        assert result.score < one.fused


def test_what_the_ledger_drops_is_counted(searcher: Searcher, library: Library) -> None:
    library.put("old", 0.0, offset=5, lang="en")
    for number in range(12):
        library.put(f"doc {number:02}", 1.0 + number, lang="en")
    library.enter("old", 6)
    for limit, names in ((2, 2), (13, 12)):
        found = find(searcher, filter=eq("lang", "en"), limit=limit, explain=True)
        assert found.explanation is not None
        assert (len(found.results[0]), found.explanation.queries[0].older_versions) == (names, 1)


def test_effective_parameters_are_those_of_the_last_read() -> None:
    milvus = SeenMilvus()
    library = Library(milvus)
    for chunk in range(200):
        library.put("long", chunk / 10, chunk=chunk)
    found = find(Searcher(milvus, COLLECTION), limit=10, explain=True, params={"ef": 50})
    assert found.explanation is not None
    assert [params["ef"] for params, _ in milvus.seen] == [50, 160, 640]
    assert found.explanation.params == {"ef": 640}


def test_a_dropped_partition_is_among_the_skipped_ones(searcher: Searcher, library: Library) -> None:
    for day in (20, 21):
        library.put(f"doc {day}", day, f"2026-11-{day}")
    before = {"to": "2026-11-22"}
    find(searcher, EAST, time={"to": "2026-11-21"})
    library.api.drop_partition(COLLECTION, "d20261120")
    found = find(searcher, time={"to": "2026-11-21"}, explain=True)
    assert found.explanation is not None
    assert found.explanation.partitions == found.searched
    assert ("d20261120", "dropped") in [(skip.name, skip.reason) for skip in found.searched.skipped]
    assert doc_ids(find(searcher, time=before)) == ["doc 21"]
