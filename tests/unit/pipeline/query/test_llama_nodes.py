"""The fields that rows have for LlamaIndex: a search, a document and a description show none of them."""

from collections.abc import Iterator

import pytest

from pipeline.embedding import HashEmbedder
from pipeline.query.description import describe_collection
from pipeline.records import NODE_FIELDS
from tests.support.documents import DIMENSION, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import QueryApp, query_app
from tests.support.stores import make_store, write


@pytest.fixture
def milvus() -> FakeMilvus:
    return FakeMilvus()


@pytest.fixture
def site(milvus: FakeMilvus) -> Iterator[QueryApp]:
    """A query worker over one document whose rows have the fields."""
    store = make_store(milvus, "documents", dimension=DIMENSION)
    write(store.upsert_writer(nodes=True), [put("a", "refund failed", 1, metadata={"lang": "en"})])
    with query_app(milvus, HashEmbedder(f"hash:{DIMENSION}")) as made:
        yield made


def test_results_have_the_metadata_of_the_record_only(site: QueryApp) -> None:
    for body in ({}, {"fields": ["lang", *NODE_FIELDS]}):
        [result] = site.post("/v1/search", query="refund", mode="dense", **body).json()["results"]
        assert result["metadata"] == {"lang": "en"}
    store = site.post("/v1/vector_stores/documents/search", query="refund").json()
    assert store["data"][0]["attributes"].keys() == {"lang", "event_time"}


def test_a_document_and_a_list_of_documents_have_it_only(site: QueryApp) -> None:
    assert site.call("GET", "/v1/documents/a").json()["metadata"] == {"lang": "en"}
    listed = site.post("/v1/inputs").json()
    assert [one.keys() for one in listed] == [{"lang", "doc_id", "modified_at"}]


def test_the_fields_are_neither_described_nor_filtered_nor_counted(site: QueryApp, milvus: FakeMilvus) -> None:
    info = milvus.describe("documents")
    assert info is not None
    assert [one.name for one in describe_collection(milvus, info).metadata] == ["lang"]
    for name in NODE_FIELDS:
        for key in (name, [name, "metadata"]):
            refused = site.post("/v1/search", query="q", filter={"type": "exists", "key": key})
            assert (refused.status_code, refused.json()["at"]) == (422, "/filter/key")
        refused = site.post("/v1/search", query="q", facets=["lang", name])
        assert (refused.status_code, refused.json()["at"]) == (422, "/facets/1")


def test_a_warning_proposes_no_such_field(site: QueryApp) -> None:
    site.post("/v1/search", query="q", mode="dense")
    answer = site.post("/v1/search", query="q", mode="dense", filter={"type": "eq", "key": "node_content", "value": 1})
    [warning] = answer.json()["warnings"]
    assert "_node_content" not in warning
