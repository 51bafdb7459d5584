"""LlamaIndex opens a collection that was written with `milvus.compat: [llamaindex]`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.records import Put
from pipeline.store import ledger_name, marks_name, row_id
from tests.integrations.conftest import DIMENSION, Place
from tests.support.documents import embed_all, put
from tests.support.names import unique
from tests.support.stores import Store, make_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

OPENED = """
from llama_index.core import VectorStoreIndex
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.vector_stores.milvus import MilvusVectorStore

embeddings = OpenAILikeEmbedding(model_name="", api_base="http://localhost:8080/v1", api_key="none")
store = MilvusVectorStore(
    uri="http://localhost:19530", collection_name="documents", embedding_field="vector", similarity_metric="COSINE"
)
index = VectorStoreIndex.from_vector_store(store, embed_model=embeddings)
def shown(node):
    return [node.node_id, node.ref_doc_id, node.get_content(), node.metadata]
"""
RECORDS = [
    put(
        "a",
        "refund failed",
        1,
        metadata={"lang": "en", "tags": ["x", 'quote " \\ é'], "nested": {"n": 1.5}},
        tenant="t",
    ),
    put('b"\n', "refund", 2, metadata={"lang": "de"}),
    put("large", "refund", 3, metadata={"lang": "fr", "note": '"' * 30_000}),
]


def write(store: Store, records: list[Put], *, nodes: bool) -> None:
    writer = store.upsert_writer(nodes=nodes)
    plan = writer.plan(records)
    applied = writer.apply(plan, embed_all(plan.to_embed, DIMENSION))
    assert applied.refused == []


def the_row(store: Store) -> dict[str, Any]:
    [row] = store.api.query(store.name, "chunk == 0", ["$meta"], strong=True)
    return row


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    made = make_store(place.api, unique("nodes"), dimension=DIMENSION)
    try:
        yield made
    finally:
        for name in (made.name, ledger_name(made.name), marks_name(made.name)):
            place.api.drop_collection(name)


def test_nodes_are_whole(place: Place, store: Store) -> None:
    write(store, RECORDS, nodes=True)
    eventually(lambda: place.api.count(store.name) == 4, what="the rows to be visible")
    checks = """
filters = MetadataFilters(filters=[MetadataFilter(key="lang", value="en")])
found = index.as_retriever(similarity_top_k=9).retrieve("refund failed")
filtered = index.as_retriever(similarity_top_k=9, filters=filters).retrieve("refund failed")
seen = {
    "found": sorted((shown(one.node) for one in found), key=lambda node: (node[1] or "", node[2])),
    "filtered": sorted(one.node.get_content() for one in filtered),
    "read": [shown(node) for node in store.get_nodes(filters=filters)],
    "by id": [shown(node) for node in store.get_nodes(node_ids=[filtered[0].node.node_id])],
}
"""
    seen = replace(place, collection=store.name).script("llamaindex", OPENED + checks)
    event_time = RECORDS[0].document.event_time
    metadata = {**RECORDS[0].document.metadata, "event_time": event_time}
    chunks = [
        [row_id("t", "a", number, "d20261122"), "a", text, metadata] for number, text in enumerate(("refund", "failed"))
    ]
    other = [row_id(None, 'b"\n', 0, "d20261122"), 'b"\n', "refund", {"lang": "de", "event_time": event_time}]
    large, *whole = seen["found"]
    assert whole == [*reversed(chunks), other]
    assert large[1:] == [None, "refund", {}]
    assert seen["filtered"] == ["failed", "refund"]
    assert sorted(seen["read"], key=lambda node: str(node[2])) == [*reversed(chunks)]
    assert [node[1] for node in seen["by id"]] == ["a"]


def test_a_replay_makes_old_rows_whole(place: Place, store: Store) -> None:
    checks = (
        'seen = [shown(one.node)[1:] for one in index.as_retriever(similarity_top_k=9).retrieve("refund failed")]\n'
    )
    shown = replace(place, collection=store.name)
    write(store, RECORDS[1:2], nodes=False)
    eventually(lambda: place.api.count(store.name) == 1, what="the row to be visible")
    assert shown.script("llamaindex", OPENED + checks) == [[None, "refund", {}]]
    write(store, RECORDS[1:2], nodes=True)
    eventually(lambda: "_node_type" in the_row(store), what="the fields")
    assert shown.script("llamaindex", OPENED + checks)[0][:2] == ['b"\n', "refund"]


def test_a_delete_of_llamaindex_takes_the_rows_of_the_document(place: Place, store: Store) -> None:
    write(store, RECORDS[:2], nodes=True)
    eventually(lambda: place.api.count(store.name) == 3, what="the rows to be visible")
    replace(place, collection=store.name).script("llamaindex", OPENED + 'store.delete(ref_doc_id="a")\nseen = None\n')
    eventually(lambda: store.rows() == {"d20261122": {('b"\n', 0): "refund"}}, what="the rows to be gone")
    again = replace(RECORDS[0], position=RECORDS[0].position._replace(offset=9))
    assert store.upsert_writer(nodes=True).plan([again]).to_embed == []
