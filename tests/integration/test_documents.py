"""Documents read from real servers: any id, versions, tenants, partitions that are released or dropped."""

from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.errors import MilvusStreamError
from pipeline.query import DocumentReader, DocumentUnreadable, InvalidRequest, NoSuchDocument, StoredDocument
from pipeline.query.request.similar import parse_similar
from pipeline.records import EmbeddedPut, Put
from pipeline.store import MilvusServerApi
from tests.docs.blocks import DOCS
from tests.support.documents import DIMENSION, delete, put
from tests.support.rigs.documents import Documents, chunked
from tests.support.rigs.hostile import HOSTILE
from tests.support.stores import Store, temporary_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

OLD = "The refund failed twice on Monday, and nobody knows why."
NEW = "It was sent again on Tuesday; this time the bank took it at once."
IDS = (*HOSTILE, "a/history", "x" * 1_024, "é" * 512)


@pytest.fixture
def store(api: MilvusServerApi) -> Iterator[Store]:
    with temporary_store(api, "documents") as made:
        yield made


def read(documents: Documents, doc_id: str, tenant: str | None = None) -> StoredDocument | None:
    """The document, or None while no read sees it."""
    try:
        return DocumentReader(documents.searcher).read(doc_id, tenant, 20.0)
    except NoSuchDocument:
        return None


def write_together(documents: Documents, puts: list[Put]) -> None:
    writer = documents.store.append_writer() if documents.append else documents.store.upsert_writer()
    plan = writer.plan(puts)
    applied = writer.apply(plan, [chunked(record) for record in plan.to_embed])
    assert applied.written == len(puts)


@pytest.mark.parametrize("append", [False, True])
def test_any_id_names_its_document_and_no_other(api: MilvusServerApi, store: Store, append: bool) -> None:
    documents = Documents(store, append=append)
    write_together(documents, [put(doc_id, f"text {number}", number) for number, doc_id in enumerate(IDS, 1)])
    last = len(IDS)
    eventually(lambda: len(api.query(store.name, "chunk == 0", ["id"], limit=1_000)) == last, what="all rows")
    eventually(lambda: read(documents, IDS[-1]) is not None, what="the last document")
    searcher = documents.searcher
    for number, doc_id in enumerate(IDS, 1):
        document = read(documents, doc_id)
        assert document is not None, doc_id
        assert (document.doc_id, document.source.offset) == (doc_id, number)
        assert (document.text, document.text_exact) == (f"text {number}", True)
        history = documents.reader.history(doc_id, None, 20.0)
        assert [rows.rows for rows in history.partitions] == [len(document.chunks)]
        likened = documents.reader.document_vector(doc_id, None, 20.0)
        request = parse_similar({"doc_id": doc_id, "limit": last}).search
        found = searcher.search(request, likened.vectors, 20.0, now_ms=0, besides=likened.others())
        assert doc_id not in [result.doc_id for result in found.results[0]]
        assert len(found.results[0]) > last / 2


def test_versions_tenants_and_deletes(api: MilvusServerApi, store: Store) -> None:
    documents = Documents(store)
    documents.write(
        put("a", NEW, 1, metadata={"größe": [1, None], "lang": "en"}), put("a", OLD, 2, day=1, version=None)
    )
    documents.write(put("t", OLD, 3, tenant="one"), put("t", NEW, 4, tenant='two"'), put("gone", OLD, 5))
    documents.write(delete("gone", 6))

    def text(doc_id: str, tenant: str | None = None) -> str | None:
        document = read(documents, doc_id, tenant)
        return None if document is None else document.text

    eventually(lambda: text("a") == OLD, what="the newer version")
    eventually(lambda: text("t", 'two"') == NEW, what="the other tenant's")
    document = read(documents, "a")
    assert document is not None
    assert (document.partition, document.text_exact, document.pending) == ("d20261123", True, False)
    history = documents.reader.history("a", None, 20.0)
    assert history.ledger is not None
    assert history.ledger.written_by == document.source
    assert {rows.name: rows.rows for rows in history.partitions} == {
        "d20261122": 0,
        "d20261123": len(document.chunks),
    }
    assert text("t", "one") == OLD
    assert text("t", "three") is None
    with pytest.raises(InvalidRequest, match=r"^/tenant"):
        documents.reader.read("t", None, 20.0)

    def deleted_at() -> str | None:
        try:
            documents.reader.read("gone", None, 20.0)
        except NoSuchDocument as error:
            return error.deleted_at
        return None

    eventually(lambda: deleted_at() is not None, what="the tombstone")

    # Similar: the same id of another tenant is another document.
    likened = documents.reader.document_vector("t", "one", 20.0)
    request = parse_similar({"doc_id": "t"}).search

    def similar(permitted: str | None) -> set[tuple[str, object]]:
        found = documents.searcher.search(
            request, likened.vectors, 20.0, now_ms=0, tenant=permitted, besides=likened.others()
        )
        return {(result.doc_id, result.metadata.get("tenant")) for result in found.results[0]}

    eventually(lambda: similar(None) == {("a", None), ("t", 'two"')}, what="the others")
    assert similar('two"') == {("t", 'two"')}
    assert similar("one") == set()

    # A change that is pending, of which no row is written yet: the version before, which is whole.
    documents.enter("a", pending=True)
    eventually(lambda: (found := read(documents, "a")) is not None and found.pending, what="the intent")
    documents.lose("a", [1])

    def why_not() -> str | None:
        try:
            documents.reader.read("a", None, 20.0)
        except DocumentUnreadable as error:
            return error.why
        return None

    eventually(lambda: why_not() == "changing", what="the loss of a row")


def test_partitions_that_are_released_or_dropped(api: MilvusServerApi, store: Store) -> None:
    documents = Documents(store)
    documents.write(put("a", OLD, 1), put("b", OLD, 2, day=1))
    eventually(lambda: read(documents, "a") is not None and read(documents, "b") is not None, what="the documents")
    if not api.server.lite:  # it keeps every partition loaded
        api.release_partitions(store.name, ["d20261122"])
        documents.searcher.forget()
        with pytest.raises(DocumentUnreadable, match="d20261122, which is not loaded"):
            documents.reader.read("a", None, 20.0)
        history = documents.reader.history("a", None, 20.0)
        assert [rows.state for rows in history.partitions] == ["not_loaded"]
        api.load_partitions(store.name, ["d20261122"])
    api.drop_partition(store.name, "d20261123")
    for _ in range(2):  # with a listing of before, and of now
        with pytest.raises(NoSuchDocument, match="d20261123, which was dropped"):
            documents.reader.read("b", None, 20.0)
        documents.searcher.forget()
    assert [rows.state for rows in documents.reader.history("b", None, 20.0).partitions] == ["dropped"]
    for name in (store.name, f"{store.name}__ledger"):
        api.drop_collection(name)
    for _ in range(2):
        with pytest.raises(MilvusStreamError) as caught:
            documents.reader.read("a", None, 20.0)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("overlap", [0, 32])
def test_a_long_text_cut_by_the_chunker_is_exact(store: Store, overlap: int) -> None:
    text = (DOCS / "guarantees.md").read_text()
    model = HashEmbedder(f"hash:{DIMENSION}")
    chunker = Chunker(model.tokenizer, ChunkingPolicy(128, overlap))
    record = put("long", text, 1)
    (chunks,) = chunker.chunk([text])
    assert len(chunks) > 50
    vectors = np.random.default_rng(1).standard_normal((len(chunks), DIMENSION)).astype(np.float32)
    writer = store.upsert_writer()
    writer.apply(writer.plan([record]), [EmbeddedPut(record, chunks, vectors)])
    documents = Documents(store)
    eventually(lambda: read(documents, "long") is not None, what="the document")
    document = documents.reader.read("long", None, 20.0)
    assert (document.text == text, document.text_exact, document.complete) == (True, True, True)
