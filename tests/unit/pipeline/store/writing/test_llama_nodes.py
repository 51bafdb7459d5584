"""The fields of rows for LlamaIndex: what is in them, when they are left out, and how they come into old rows."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import MAX_METADATA_BYTES, NODE_FIELDS, Document
from pipeline.store.writing.llama_nodes import chunking_of, node_maker, with_nodes
from pipeline.store.writing.rows import document_rows, row_sizes
from tests.support.documents import NOON_MS, embed_all, embedded, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, write

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
METADATA = st.dictionaries(TEXTS.filter(bool), VALUES | st.lists(VALUES) | st.dictionaries(TEXTS, VALUES), max_size=4)


def stored(store: Store) -> dict[tuple[str, int], dict[str, Any]]:
    rows = store.api.query(store.name, "chunk >= 0", ["*"], strong=True)
    return {(row["doc_id"], row["chunk"]): row for row in rows}


@given(TEXTS.filter(bool), METADATA)
def test_a_node_has_id_metadata_and_source(doc_id: str, metadata: dict[str, Any]) -> None:
    make = node_maker(Document(doc_id, "text", NOON_MS, metadata, "acme"))
    assert make is not None
    fields = make("f" * 40)
    assert tuple(fields) == NODE_FIELDS
    node = json.loads(fields["_node_content"])
    source = {"node_id": doc_id, "node_type": "4", "class_name": "RelatedNodeInfo"}
    assert node == {
        "id_": "f" * 40,
        "metadata": {**metadata, "event_time": NOON_MS},
        "relationships": {"1": source},
        "class_name": "TextNode",
    }


@given(st.integers(0, MAX_METADATA_BYTES), st.sampled_from(['"', "a", "é"]), st.sampled_from([None, "t" * 500]))
def test_fields_are_left_out_where_milvus_would_refuse_the_row(size: int, character: str, tenant: str | None) -> None:
    metadata = {"note": character * (size // 2)}
    make = node_maker(Document("k", "text", NOON_MS, metadata, tenant))
    content = {"metadata": {**metadata, "event_time": NOON_MS}}
    least = len(orjson.dumps({**metadata, "_node_content": orjson.dumps(content).decode(), "tenant": tenant}))
    if make is None:
        assert least > MAX_METADATA_BYTES - 1_000
    else:
        whole = {**metadata, "tenant": tenant, **make("0" * 64)}
        assert len(orjson.dumps(whole)) <= MAX_METADATA_BYTES + len('"tenant":null,')


def test_rows_have_the_fields_where_they_are_wanted(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("plain", "a b", 1, metadata={"lang": "en"})])
    write(store.upsert_writer(nodes=True), [put("nodes", "a b", 2, metadata={"lang": "en"})])
    write(store.append_writer(nodes=True), [put("appended", "a", 3)])
    rows = stored(store)
    assert not set(NODE_FIELDS) & rows["plain", 0].keys()
    for key in (("nodes", 0), ("nodes", 1), ("appended", 0)):
        assert rows[key]["_node_type"] == "TextNode"
        node = json.loads(rows[key]["_node_content"])
        assert (node["id_"], node["relationships"]["1"]["node_id"]) == (rows[key]["id"], key[0])


def test_a_size_is_never_below_that_of_the_row() -> None:
    one = embedded(put("k", "a b", 1, metadata={"note": '"é' * 1_000}))
    for row, size in zip(document_rows(one, "d20261122", nodes=True), row_sizes(one, nodes=True), strict=True):
        plain = {name: value for name, value in row.items() if name != "vector"}
        assert len(orjson.dumps(plain)) + 4 * len(row["vector"]) <= size


@pytest.mark.parametrize("later", [True, False])
def test_a_replay_writes_old_rows_as_configured_now_and_embeds_nothing(store: Store, later: bool) -> None:
    record = put("k", "a b", 1, metadata={"lang": "en"})
    write(store.upsert_writer(nodes=not later), [record])
    writer = store.upsert_writer(nodes=later)
    plan = writer.plan([record])
    assert [one.document.doc_id for one in plan.to_embed] == ["k"]
    chunks = [one.chunks for one in embed_all(plan.to_embed)]
    [vectors] = writer.reusable(plan, chunks)
    assert set(vectors) == {"a", "b"}
    writer.apply(plan, embed_all(plan.to_embed))
    assert [("_node_content" in row) for row in stored(store).values()] == [later, later]
    assert store.upsert_writer(nodes=later).plan([record]).to_embed == []


def test_the_mark_of_a_fingerprint_is_no_part_of_its_chunking() -> None:
    assert chunking_of(with_nodes("model-256-32")) == chunking_of("model-256-32") == "model-256-32"
    assert with_nodes("model-256-32") != "model-256-32"
