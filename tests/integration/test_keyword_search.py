"""Searches by exact words, and by both orders, on a server that fills a keyword index."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from pipeline.query import Searcher, SearchResult, parse_request
from pipeline.store import MilvusServerApi, connect
from tests.support.documents import DIMENSION, delete, put
from tests.support.stores import Store, temporary_store, write
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def api(milvus_lite_uri: str) -> Iterator[MilvusServerApi]:
    with closing(connect(milvus_lite_uri)) as connected:
        yield connected


@pytest.fixture
def store(api: MilvusServerApi) -> Iterator[Store]:
    with temporary_store(api, "keywords") as made:
        yield made


def find(api: MilvusServerApi, store: Store, query: str, **body: Any) -> SearchResult:
    request = parse_request({"query": query, **body})
    vectors = None if request.mode == "keyword" else np.ones((1, DIMENSION), np.float32)
    return Searcher(api, store.name).search(request, vectors, 20.0, now_ms=0)


def ids(found: SearchResult) -> list[str]:
    return [result.doc_id for result in found.results[0]]


def test_words_find_what_is_stored_now(api: MilvusServerApi, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("a", "alpha E1234 omega", 1), put("b", "alpha beta", 2), put("c", "gamma", 3, day=-3)])
    eventually(lambda: ids(find(api, store, "E1234", mode="keyword")) == ["a"], what="the row with the code")
    found = find(api, store, "alpha E1234", mode="keyword", group_by=None)
    assert {result.text for result in found.results[0]} == {"alpha", "E1234"}
    scores = [result.score for result in found.results[0]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    assert ids(find(api, store, "gamma", mode="keyword", time={"from": "2026-11-22"})) == []
    assert ids(find(api, store, "gamma", mode="keyword", time={"to": "2026-11-22"})) == ["c"]
    assert ids(find(api, store, "alpha", mode="keyword", filter={"type": "ne", "key": "doc_id", "value": "a"})) == ["b"]
    assert ids(find(api, store, "?!", mode="keyword")) == []

    write(writer, [put("a", "alpha omega", 4), delete("b", 5)])
    eventually(lambda: ids(find(api, store, "E1234", mode="keyword")) == [], what="no row of the older version")
    eventually(lambda: ids(find(api, store, "beta", mode="keyword")) == [], what="no row of a deleted document")


def test_both_orders_find_what_either_finds(api: MilvusServerApi, store: Store) -> None:
    write(store.upsert_writer(), [put("a", "alpha", 1), put("b", "E1234", 2)])
    eventually(lambda: set(ids(find(api, store, "E1234"))) == {"a", "b"}, what="both documents")
    found = find(api, store, "E1234")
    by_id = {result.doc_id: result for result in found.results[0]}
    assert found.mode == "hybrid"
    assert ids(found)[0] == "b"
    assert (set(by_id["a"].scores), set(by_id["b"].scores)) == ({"dense"}, {"dense", "keyword"})
    assert find(api, store, "E1234", mode="dense").mode == "dense"


def test_a_document_is_found_by_its_id(api: MilvusServerApi, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("ticket-4711", "alpha beta", 1), put("b", "gamma", 2), put("c", "ticket", 3)])
    for mode in ("keyword", "hybrid"):
        eventually(
            lambda mode=mode: ids(find(api, store, "where is ticket-4711", mode=mode))[:1] == ["ticket-4711"],  # type: ignore[misc]
            what="the document",
        )
    found = find(api, store, "ticket-4711", mode="keyword")
    assert (found.results[0][0].text, found.results[0][0].scores["id"]) == ("alpha", 1.0)
    assert ids(found) == ["ticket-4711", "c"]
    assert ids(find(api, store, "ticket-4711", mode="keyword", time={"to": "2026-11-22"})) == []
    write(writer, [delete("ticket-4711", 4)])
    eventually(lambda: ids(find(api, store, "ticket-4711", mode="keyword")) == ["c"], what="no deleted document")
