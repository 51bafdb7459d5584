"""Options of a search on real servers: own vectors, parameters of every index, groups, counts, explanations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.embedding import UnrelatedSimilarity
from pipeline.query import (
    InvalidRequest,
    RelevanceScale,
    Reranking,
    Searcher,
    SearchResult,
    SearchSettings,
    parse_request,
)
from pipeline.store import IndexSettings, MilvusServerApi, open_collection
from pipeline.store.partition_names import partition_name
from pipeline.timestamps import event_time_ms
from tests.support.names import unique
from tests.support.rigs.reranking import ScriptedReranker
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

DIMENSION = 16
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")


def axis(number: int) -> list[float]:
    return [float(number == index) for index in range(DIMENSION)]


def row(number: int, date: str, document: int, chunk: int) -> dict[str, Any]:
    vector = np.array(axis(0), np.float32)
    vector[1] = 0.1 * number
    return {
        "id": f"{number:064x}",
        "doc_id": f"{date} {document}",
        "chunk": chunk,
        "text": f"chunk {chunk} word{document}",
        "vector": vector,
        "event_time": event_time_ms(date) + document,
        "kafka_topic": "t",
        "kafka_partition": 0,
        "kafka_offset": number // 3,
        "n": document,
    }


@pytest.fixture(scope="module")
def shelf(api: MilvusServerApi) -> Iterator[str]:
    """A collection with three chunks of three documents on each of three days."""
    name = unique("options")
    try:
        open_collection(api, name, {"name": "test"}, DIMENSION, IndexSettings(), create=True)
        number = 0
        for date in DAYS:
            partition = partition_name("day", event_time_ms(date))
            api.create_partition(name, partition)
            rows = []
            for document in range(3):
                rows += [row(number + chunk, date, document, chunk) for chunk in range(3)]
                number += 3
            api.upsert(name, partition, rows)
        eventually(lambda: len(find(api, name, axis(0), limit=100, group_by=None).results[0]) == 27, what="all rows")
        yield name
    finally:
        api.drop_collection(name)


def find(api: MilvusServerApi, name: str, vector: Any, **body: Any) -> SearchResult:
    request = parse_request({"vector": vector, **body})
    assert request.vector is not None
    return Searcher(api, name).search(request, request.vector.values, 20.0, now_ms=0)


def places(found: SearchResult, query: int = 0) -> list[tuple[str, int]]:
    return [(result.doc_id, result.chunk) for result in found.results[query]]


def test_vectors_of_the_client(api: MilvusServerApi, shelf: str) -> None:
    found = find(api, shelf, [axis(0), axis(1)], limit=1)
    assert [places(found, query) for query in (0, 1)] == [[("2026-11-20 0", 0)], [("2026-11-22 2", 2)]]
    assert found.mode == "dense"
    for scale in (1e-18, 1e18):
        (scaled,) = find(api, shelf, [scale * number for number in axis(0)], limit=1).results[0]
        assert scaled.score == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(InvalidRequest, match=r"/vector: has 3 numbers; the collection's vectors have 16"):
        find(api, shelf, [1, 2, 3])


def test_words_of_the_text_and_a_vector_of_the_client(api: MilvusServerApi, shelf: str) -> None:
    body: dict[str, Any] = {"query": "word2", "fusion": {"dense": 0.1, "keyword": 1}, "explain": True}
    if not api.server.capabilities.bm25:
        with pytest.raises(InvalidRequest, match="needs a keyword index"):
            find(api, shelf, axis(0), **body)
        assert find(api, shelf, axis(0), query="word2").mode == "dense"
        return
    found = find(api, shelf, axis(0), **body)
    assert found.mode == "hybrid"
    assert found.results[0][0].doc_id.endswith(" 2")
    assert found.explanation is not None
    first = found.explanation.queries[0].results[0]
    assert first.orders["keyword"].rank >= 1
    assert found.results[0][0].scores == {name: place.score for name, place in first.orders.items()}


def test_chunks_of_a_document_are_together_and_the_limit_counts_documents(api: MilvusServerApi, shelf: str) -> None:
    found = find(api, shelf, axis(0), limit=3, group_size=2)
    assert places(found) == [(f"2026-11-20 {document}", chunk) for document in range(3) for chunk in range(2)]
    assert len(find(api, shelf, axis(0), limit=9, group_size=10).results[0]) == 27


@pytest.mark.parametrize("top", [20, 60])
def test_candidates_are_reranked_also_where_they_are_read_whole_afterwards(
    api: MilvusServerApi, shelf: str, top: int
) -> None:
    reranker = ScriptedReranker()
    scale = RelevanceScale(UnrelatedSimilarity(0.1, 0.4))
    searcher = Searcher(api, shelf, reranking=Reranking(reranker), scale=scale)
    vectors = np.array([axis(0)], np.float32)
    body = {"query": "a b", "mode": "dense", "limit": 5, "group_by": None}
    plain = searcher.search(parse_request({**body, "limit": 27}), vectors, 20.0, now_ms=0)
    found = searcher.search(parse_request({**body, "rerank": {"top": top}}), vectors, 20.0, now_ms=0)
    ((_, texts, _),) = reranker.calls
    assert texts == [result.text for result in plain.results[0]][:top]
    assert places(found) == places(plain)[:top][::-1][:5]
    assert plain.results[0][0].relevance == pytest.approx(scale.of(1.0), abs=1e-3)
    assert [result.relevance for result in found.results[0]] == [result.score for result in found.results[0]]


def test_rows_are_counted_by_filter_and_time_range(api: MilvusServerApi, shelf: str) -> None:
    for body, total in (
        ({}, 27),
        ({"time": {"from": "2026-11-21"}}, 18),
        ({"time": {"from": "2026-11-21", "to": "2026-11-21T00:00:00.002Z"}}, 6),
        ({"filter": {"type": "eq", "key": "n", "value": 1}}, 9),
        ({"filter": {"type": "eq", "key": "n", "value": 1}, "time": {"to": "2026-11-21"}}, 3),
        ({"filter": {"type": "eq", "key": "n", "value": 7}}, 0),
        ({"time": {"from": "2027-01-01"}}, 0),
    ):
        found = find(api, shelf, axis(0), limit=1, count=True, **body)
        assert (found.total, [text for text in found.warnings if "total" in text]) == (total, []), body


def test_rows_of_a_released_partition_are_not_counted(api: MilvusServerApi, shelf: str) -> None:
    if api.server.lite:  # it keeps every partition loaded
        assert find(api, shelf, axis(0), count=True).total == 27
        return
    api.release_partitions(shelf, ["d20261120"])
    try:
        assert find(api, shelf, axis(0), count=True).total == 18
    finally:
        api.load_partitions(shelf, ["d20261120"])


def test_an_explanation_names_what_was_done(api: MilvusServerApi, shelf: str) -> None:
    found = find(api, shelf, axis(0), limit=2, explain=True, params={"ef": 3}, time={"to": "2026-11-22"}, count=True)
    explanation = found.explanation
    assert explanation is not None
    assert explanation.index is not None
    assert (explanation.index.type, explanation.index.metric) == ("HNSW", "COSINE")
    assert explanation.params == {"ef": 8}
    assert explanation.partitions.partitions == ("d20261120", "d20261121")
    assert [(skip.name, skip.reason) for skip in explanation.partitions.skipped] == [
        ("d20261122", "outside_time_range")
    ]
    assert [(done.limit, done.rows) for done in explanation.rounds] == [(8, 8)]
    assert list(explanation.phases_ms) == ["plan", "candidates", "versions", "rows", "warnings", "count"]
    assert [one.orders["dense"].rank for one in explanation.queries[0].results] == [1, 4]


EXTREMES: dict[str, list[dict[str, Any]]] = {
    "FLAT": [{}],
    "HNSW": [{"ef": 1}, {"ef": 32_768}],
    "IVF_FLAT": [{"nprobe": 1}, {"nprobe": 16}],
    "IVF_SQ8": [{"nprobe": 1}, {"nprobe": 16}],
    "SCANN": [{"nprobe": 16}, {"reorder_k": 1}, {"nprobe": 16, "reorder_k": 65_536}],
    "AUTOINDEX": [{"level": 1}, {"level": 10}],
}


@pytest.mark.parametrize("kind", EXTREMES)
def test_a_built_index_takes_every_parameter_that_is_let_through(api: MilvusServerApi, kind: str) -> None:
    """Before an index is built the server takes anything, so the rows are flushed and indexed first."""
    name = unique("index")
    rows = 2_000
    index = IndexSettings(kind, "COSINE", {"nlist": 16} if "nlist" in IndexSettings(kind).info().params else {})
    random = np.random.default_rng(1)
    vectors = random.normal(size=(rows, DIMENSION)).astype(np.float32)
    try:
        open_collection(api, name, {"name": "test"}, DIMENSION, index, create=True)
        stored = [
            {**row(number, DAYS[0], number, 0), "vector": vector, "event_time": 0}
            for number, vector in enumerate(vectors)
        ]
        api.upsert(name, None, stored)
        api.flush(name)
        if not api.server.lite:
            eventually(lambda: api.index_progress(name) == (rows, 0), within=60, what="the index")
        for params in EXTREMES[kind]:
            for limit in (1, 25, 250):
                found = find(api, name, vectors[7].tolist(), limit=limit, params=params)
                assert 1 <= len(found.results[0]) <= limit
                assert found.results[0][0].doc_id == f"{DAYS[0]} 7"
        configured = Searcher(api, name, SearchSettings(params={"ef": 1, "nprobe": 65_536}))
        request = parse_request({"query": "q", "limit": 5, "mode": "dense"})
        best = configured.search(request, vectors[7:8], 20.0, now_ms=0).results[0][0]
        assert best.score == pytest.approx(1.0, abs=0.02)
        with pytest.raises(InvalidRequest, match=r"^/params/radius: is not a parameter of"):
            find(api, name, vectors[7].tolist(), params={"radius": 1})
    finally:
        api.drop_collection(name)
