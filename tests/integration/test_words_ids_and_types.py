"""Words of texts, ids in queries and types of metadata, on servers as they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.query import InvalidRequest, Searcher, SearchResult, parse_request
from pipeline.query.id_retriever import IdRetriever
from pipeline.query.retrievers import Queries, RowSelection
from pipeline.records import JsonValue
from pipeline.store import (
    IndexSettings,
    KeywordSettings,
    MilvusServerApi,
    keyword_settings_of,
    open_collection,
)
from tests.support.documents import DIMENSION, put
from tests.support.names import unique
from tests.support.stores import Store, temporary_store, write
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

MODEL = {"name": "model"}
INDEX = IndexSettings("FLAT", "COSINE", {})


@pytest.fixture
def store(api: MilvusServerApi) -> Iterator[Store]:
    with temporary_store(api, "words") as made:
        yield made


def search(
    api: MilvusServerApi, name: str, query: str = "alpha", searcher: Searcher | None = None, **body: Any
) -> SearchResult:
    request = parse_request({"query": query, **body})
    vectors = None if request.mode == "keyword" else np.ones((1, DIMENSION), np.float32)
    return (searcher or Searcher(api, name)).search(request, vectors, 20.0, now_ms=0)


def ids(found: SearchResult) -> list[str]:
    return [result.doc_id for result in found.results[0]]


def test_a_document_is_read_by_its_id(api: MilvusServerApi, store: Store) -> None:
    hostile = ['a-"1', "b\\2", "c\n3", "d 4", "é_5", '") or chunk >= 0 or ("']
    documents = [put(name, "alpha beta", number, day=-(number % 2)) for number, name in enumerate(hostile)]
    tenants = [put("x-1", "alpha", 10 + number, tenant=tenant) for number, tenant in enumerate(["one", "two"])]
    write(store.upsert_writer(), [*documents, *tenants])
    info = api.describe(store.name)
    assert info is not None

    def found(text: str, expression: str = "", partitions: list[str] | None = None) -> list[tuple[str, int]]:
        rows = RowSelection(10, expression, ["doc_id", "chunk", "event_time", "$meta"], partitions)
        (hits,) = IdRetriever(api).retrieve(info, Queries([text], None), rows, 10.0).hits
        return [(hit.fields["doc_id"], hit.fields["chunk"]) for hit in hits]

    eventually(lambda: len(found("x-1")) == 2, what="both tenants' documents")
    for name in ('a-"1', "b\\2", "é_5"):
        assert found(f"what about {name} ?") == [(name, 0)]
    assert found("d 4") == [], "a number and a letter: no word of it looks like an id"
    assert found('") or chunk >= 0 or ("') == []
    assert found("x-1", '$meta["tenant"] == "two"') == [("x-1", 0)]
    assert found("b\\2", 'chunk == 1 or doc_id == "nothing"') == [], "the filter stays one condition"
    assert found("b\\2", partitions=["d20261122"]) == []
    assert found("b\\2", partitions=["d20261121"]) == [("b\\2", 0)]


def test_a_type_that_no_row_has_is_a_warning(api: MilvusServerApi, store: Store) -> None:
    metadata: dict[str, JsonValue] = {"priority": 2, "tags": ["red", "blue"], "customer": {"city": "Ulm"}}
    write(store.upsert_writer(), [put(f"{number}", "alpha", number, metadata=metadata) for number in range(3)])
    searcher = Searcher(api, store.name)

    def warnings(node: dict[str, Any]) -> tuple[str, ...]:
        return search(api, store.name, searcher=searcher, filter=node).warnings

    def named(key: Any, wanted: str, stored: str) -> tuple[str, ...]:
        return (
            f"the filter looks for {wanted} in {key!r}, and no row with such a value was found; rows have {stored}",
        )

    eventually(lambda: warnings({"type": "eq", "key": "priority", "value": 2}) == (), what="the rows")
    for _ in range(2):  # the second time the server is asked for rows of the type
        assert warnings({"type": "eq", "key": "priority", "value": "2"}) == named("priority", "a text", "a number")
        assert warnings({"type": "gt", "key": "tags", "value": 1}) == named(
            "tags", "a number", "a list or a list of a text"
        )
        assert warnings({"type": "contains", "key": "tags", "value": 7}) == named(
            "tags", "a list of a number", "a list or a list of a text"
        )
        city = ["customer", "city"]
        assert warnings({"type": "eq", "key": city, "value": True}) == named(city, "true or false", "a text")
        assert warnings({"type": "contains", "key": "tags", "value": "red"}) == ()
        assert warnings({"type": "eq", "key": ["customer", "town"], "value": "Ulm"}) == (
            "the filter names ['customer', 'town'], and no row with such a field was found",
        )


def test_words_filter_where_the_collection_was_created_so(api: MilvusServerApi) -> None:
    name, wanted = unique("match"), KeywordSettings(enable_match=True)
    if not api.server.capabilities.text_match:
        with pytest.raises(UsageError, match=r"milvus\.enable_match needs"):
            open_collection(api, name, MODEL, DIMENSION, INDEX, create=True, keywords=wanted)
        assert api.describe(name) is None
        with temporary_store(api, "plain") as plain, pytest.raises(InvalidRequest, match=r"needs Milvus 2\.5"):
            search(api, plain.name, filter={"type": "match", "value": "alpha"})
        return
    info = open_collection(api, name, MODEL, DIMENSION, INDEX, create=True, keywords=wanted)
    assert keyword_settings_of(info) == wanted
    try:
        texts = ["Refund failed, twice.", "the refund", 'it "failed"', "nothing"]
        rows = [
            {
                "id": f"{number:064x}", "doc_id": f"{number}", "chunk": 0, "text": text, "event_time": 0,
                "vector": np.ones(DIMENSION, np.float32), "kafka_topic": "t", "kafka_partition": 0,
                "kafka_offset": number, "lang": "en",
            }
            for number, text in enumerate(texts)
        ]  # fmt: skip
        api.upsert(name, None, rows)

        def matching(node: dict[str, Any]) -> set[str]:
            return set(ids(search(api, name, filter=node)))

        every = {"type": "match", "value": "REFUND failed", "words": "all"}
        eventually(lambda: matching(every) == {"0"}, what="the text with both words")
        assert matching({**every, "words": "any"}) == {"0", "1", "2"}
        assert matching({"type": "not", "filter": every}) == {"1", "2", "3"}
        assert matching({"type": "not", "filter": {**every, "words": "any"}}) == {"3"}
        english = {"type": "eq", "key": "lang", "value": "en"}
        assert matching({"type": "and", "filters": [english, {"type": "match", "value": 'x" or "refund'}]}) == set()
        assert matching({"type": "and", "filters": [english, {"type": "not", "filter": every}]}) == {"1", "2", "3"}
        assert ids(search(api, name, "failed", mode="keyword", filter=every)) == ["0"]
    finally:
        api.drop_collection(name)
    with temporary_store(api, "plain") as plain, pytest.raises(InvalidRequest, match="this one was not"):
        search(api, plain.name, filter={"type": "match", "value": "alpha"})


def test_a_collection_without_a_keyword_index_is_searched_by_meaning(api: MilvusServerApi) -> None:
    name = unique("off")
    info = open_collection(api, name, MODEL, DIMENSION, INDEX, create=True, keywords=KeywordSettings("off"))
    try:
        assert "sparse" not in {field.name for field in info.fields}
        # Opened again with the default: it stays what it is.
        again = open_collection(api, name, MODEL, DIMENSION, INDEX, create=True)
        assert again.indexes.keys() == {"vector"}
        assert search(api, name).mode == "dense"
        with pytest.raises(InvalidRequest, match=r"milvus\.sparse: off"):
            search(api, name, mode="keyword")
    finally:
        api.drop_collection(name)


def test_a_keyword_index_stays_where_it_is_turned_off_later(api: MilvusServerApi, store: Store) -> None:
    before = api.describe(store.name)
    after = open_collection(api, store.name, MODEL, DIMENSION, INDEX, create=True, keywords=KeywordSettings("off"))
    assert before is not None
    assert (after.fields, after.indexes) == (before.fields, before.indexes)


def test_own_tokenizers_cut_the_texts(api: MilvusServerApi) -> None:
    stop = {"tokenizer": "standard", "filter": [{"type": "stop", "stop_words": ["alpha"]}]}
    name, keywords = unique("analyzer"), KeywordSettings(analyzer=stop)
    if api.server.capabilities.analyzers == "none":
        with pytest.raises(UsageError, match=r"milvus\.analyzer needs Milvus 2\.5"):
            open_collection(api, name, MODEL, DIMENSION, INDEX, create=True, keywords=keywords)
        assert api.describe(name) is None
        return
    info = open_collection(api, name, MODEL, DIMENSION, INDEX, create=True, keywords=keywords)
    try:
        assert keyword_settings_of(info).analyzer == stop
        write(Store(api, name).append_writer(), [put("a", "alpha", 1), put("b", "beta", 2)])
        eventually(lambda: ids(search(api, name, "beta", mode="keyword")) == ["b"], what="the row")
        found = search(api, name, "alpha gamma", mode="keyword")
        assert ids(found) == []
    finally:
        for dropped in (name, f"{name}__marks", f"{name}__ledger"):
            api.drop_collection(dropped)
