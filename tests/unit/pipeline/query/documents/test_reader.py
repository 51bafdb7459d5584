"""A document is read whole and in one version, or its reader learns why not."""

from typing import Any

import numpy as np
import pytest

from pipeline.errors import NotLoaded, Unavailable
from pipeline.query import (
    DeadlinePassed,
    DocumentUnreadable,
    FetchSettings,
    InvalidRequest,
    NoSuchDocument,
    SearchSettings,
    StoredDocument,
)
from pipeline.query.answer import Origin
from pipeline.records import CANARY_PREFIX, VECTOR_FIELD
from pipeline.store import ledger_name
from tests.support.documents import delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.documents import Documents, chunked
from tests.support.rigs.hostile import HOSTILE
from tests.support.stores import make_store

OLD = "The refund failed twice on Monday, and nobody knows why."
NEW = "It was sent again on Tuesday; this time the bank took it at once."
LONGER = NEW + " The customer was informed by a letter of the bank, too."


def read(documents: Documents, doc_id: str = "a", tenant: str | None = None) -> StoredDocument:
    return documents.reader.read(doc_id, tenant, 5.0)


# --- upsert mode -------------------------------------------------------------------------------------------------


def test_a_document_is_whole_again(documents: Documents) -> None:
    documents.write(put("a", OLD, 7, metadata={"lang": "en", "n": [1, None]}, version=3))
    document = read(documents)
    assert (document.text, document.text_exact, document.complete) == (OLD, True, True)
    assert [chunk.text for chunk in document.chunks] == [chunk.text for chunk in chunked(put("a", OLD, 7)).chunks]
    assert [chunk.chunk for chunk in document.chunks] == list(range(len(document.chunks)))
    assert document.metadata == {"lang": "en", "n": [1, None]}
    assert (document.doc_id, document.tenant, document.mode) == ("a", None, "upsert")
    assert (document.event_time, document.partition) == ("2026-11-22T12:00:00Z", "d20261122")
    assert (document.version, document.source) == (3, Origin("documents", 0, 7))
    assert (document.pending, document.earlier, document.warnings) == (False, (), ())


def test_the_rows_of_a_newer_record_with_the_same_content_keep_theirs(documents: Documents) -> None:
    documents.write(put("a", OLD, 7), put("a", OLD, 9))
    assert read(documents).source == Origin("documents", 0, 7)


def test_an_update_is_read_with_none_of_the_older_rows(documents: Documents) -> None:
    documents.write(put("a", LONGER, 1), put("a", OLD, 2, day=1))
    assert (read(documents).text, read(documents).partition) == (OLD, "d20261123")


@pytest.mark.parametrize("upserts", [1, 2])
@pytest.mark.parametrize("day", [0, 1])
def test_a_half_written_change_is_never_shown(documents: Documents, upserts: int, day: int) -> None:
    documents.write(put("a", OLD, 1))
    documents.interrupt(put("a", LONGER, 2, day=day), after_upserts=upserts)
    if upserts == 1 or day == 1:  # the rows of the version before are all there
        document = read(documents)
        assert (document.text, document.text_exact, document.pending) == (OLD, True, True)
        assert document.source == Origin("documents", 0, 1)
        return
    with pytest.raises(DocumentUnreadable, match="is being changed") as changing:
        read(documents)
    assert changing.value.why == "changing"
    assert documents.pauses
    documents.write(put("a", LONGER, 2))
    assert (read(documents).text, read(documents).pending) == (LONGER, False)


def test_a_pending_document_without_its_end_is_not_shown(documents: Documents) -> None:
    documents.write(put("a", OLD, 1))
    last = len(read(documents).chunks) - 1
    documents.enter("a", pending=True)
    documents.lose("a", [last])
    with pytest.raises(DocumentUnreadable, match="is being changed"):
        read(documents)


def test_a_change_that_ends_is_waited_for(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    documents.interrupt(put("a", LONGER, 2), after_upserts=2)
    documents.reader._sleep = lambda _: documents.write(put("a", LONGER, 2))
    document = read(documents)
    assert (document.text, document.pending) == (LONGER, False)


def test_a_ledger_that_is_read_before_a_change_and_rows_after_it(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    documents.searcher.snapshot()
    changed = False

    def hook(operation: str, collection: str, when: str) -> None:
        nonlocal changed
        if (operation, collection, when) == ("query", "documents", "before") and not changed:
            changed = True
            documents.write(put("a", NEW, 2))

    api.hook = hook
    document = read(documents)
    assert changed
    assert (document.text, document.source.offset, document.pending) == (NEW, 2, False)


def test_a_first_write_that_is_not_finished(documents: Documents) -> None:
    documents.interrupt(put("a", OLD, 1), after_upserts=2)
    with pytest.raises(NoSuchDocument, match="being written at the moment"):
        read(documents)


def test_a_deleted_document(documents: Documents) -> None:
    documents.write(put("a", OLD, 1), delete("a", 2))
    with pytest.raises(NoSuchDocument, match="was deleted at 20") as deleted:
        read(documents)
    assert deleted.value.deleted_at is not None
    with pytest.raises(NoSuchDocument, match="no document with this id") as unknown:
        read(documents, "b")
    assert unknown.value.deleted_at is None


def test_rows_that_are_lost_are_said_to_be_missing(documents: Documents) -> None:
    documents.write(put("a", OLD, 1))
    documents.lose("a", [1])
    document = read(documents)
    assert (document.text, document.text_exact, document.complete) == (None, False, False)
    assert 1 not in [chunk.chunk for chunk in document.chunks]
    assert ["milvus-stream audit" in warning for warning in document.warnings] == [True]


def test_rows_that_retention_dropped(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    api.drop_partition("documents", "d20261122")
    with pytest.raises(NoSuchDocument, match="d20261122, which was dropped"):
        read(documents)


def test_rows_in_a_partition_that_is_not_loaded(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    api.release_partitions("documents", ["d20261122"])
    with pytest.raises(DocumentUnreadable, match="d20261122, which is not loaded") as unreadable:
        read(documents)
    assert unreadable.value.why == "not-loaded"


def test_a_partition_released_since_the_last_listing(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    read(documents)
    api.release_partitions("documents", ["d20261122"])
    with pytest.raises(NotLoaded):
        read(documents)
    with pytest.raises(DocumentUnreadable):  # it is listed again
        read(documents)


def test_a_collection_that_is_dropped_and_made_again(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    read(documents)
    for name in ("documents", "documents__ledger"):
        api.drop_collection(name)
    with pytest.raises(Unavailable, match="dropped"):
        read(documents)
    with pytest.raises(Unavailable, match="does not exist yet"):
        read(documents)
    make_store(api, "documents")
    documents.write(put("a", NEW, 1))
    assert read(documents).text == NEW


@pytest.mark.parametrize("bounds", [{"fetch": FetchSettings(max_candidates=3)}, {"max_answer_bytes": 400}])
def test_a_document_that_is_too_large_is_cut(api: FakeMilvus, bounds: dict[str, Any]) -> None:
    documents = Documents(make_store(api, "documents"), settings=SearchSettings(**bounds))
    documents.write(put("a", LONGER, 1))
    document = read(documents)
    assert (document.text, document.complete) == (None, False)
    assert 1 <= len(document.chunks) < len(chunked(put("a", LONGER, 1)).chunks)
    assert [chunk.chunk for chunk in document.chunks] == list(range(len(document.chunks)))
    assert ["larger than one answer" in warning for warning in document.warnings] == [True]
    assert documents.pauses == []


def test_many_chunks_are_read_in_pages(documents: Documents, api: FakeMilvus) -> None:
    text = " ".join(map(str, range(1_000)))
    documents.write(put("a", text, 1))
    api.calls.clear()
    assert read(documents).text == text
    assert sum(call[:2] == ("query", "documents") for call in api.calls) == -(-len(read(documents).chunks) // 128)


def test_time_is_bounded(documents: Documents) -> None:
    documents.write(put("a", OLD, 1))
    with pytest.raises(DeadlinePassed):
        documents.reader.read("a", None, 0.0)


def test_without_a_ledger_all_that_is_stored_is_shown(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    api.drop_collection(ledger_name("documents"))
    document = read(documents)
    assert [chunk.text for chunk in document.chunks] == [chunk.text for chunk in chunked(put("a", OLD, 7)).chunks]
    assert not document.text_exact
    assert ["the ledger is not there" in warning for warning in document.warnings] == [True]


# --- tenants -----------------------------------------------------------------------------------------------------


def test_a_tenant_reads_its_own_document(documents: Documents) -> None:
    documents.write(put("a", OLD, 1, tenant="one"), put("a", NEW, 2, tenant="two"), put("b", NEW, 3, tenant="two"))
    assert [read(documents, "a", tenant).text for tenant in ("one", "two")] == [OLD, NEW]
    for doc_id, tenant in (("a", "three"), ("b", "one")):
        with pytest.raises(NoSuchDocument):
            read(documents, doc_id, tenant)
    assert (read(documents, "b").tenant, read(documents, "b").text) == ("two", NEW)
    with pytest.raises(InvalidRequest, match=r"^/tenant: several tenants"):
        read(documents, "a")
    documents.write(delete("a", 4, tenant="one"))
    assert read(documents, "a").tenant == "two"
    documents.write(delete("a", 5, tenant="two"))
    with pytest.raises(NoSuchDocument, match="deleted"):
        read(documents, "a")
    documents.write(put("a", OLD, 6))
    assert read(documents, "a").tenant is None


# --- append mode ---------------------------------------------------------------------------------------------------


def test_all_versions_newest_first(records: Documents) -> None:
    records.write(put("a", NEW, 5), put("a", OLD, 3, day=1), put("a", "short", 9, day=-1), put("b", OLD, 6))
    document = read(records)
    assert (document.mode, document.source.offset, document.text, document.text_exact) == ("append", 9, "short", True)
    assert [(version.source.offset, version.partition) for version in document.earlier] == [
        (5, "d20261122"),
        (3, "d20261123"),
    ]
    assert [version.text_exact for version in document.earlier] == [False, False]
    assert [version.text for version in document.earlier] == [NEW, OLD]


def test_of_several_kafka_partitions_the_later_event_time_is_newer(records: Documents) -> None:
    records.write(put("a", OLD, 50), put("a", NEW, 1, day=2, partition=1), put("a", LONGER, 2, day=1, topic="z"))
    document = read(records)
    assert [document.text, *(version.text for version in document.earlier)] == [NEW, LONGER, OLD]


@pytest.mark.parametrize("bounds", [{"fetch": FetchSettings(max_candidates=9)}, {"max_answer_bytes": 400}])
def test_versions_beyond_the_bounds_are_left_out(api: FakeMilvus, bounds: dict[str, Any]) -> None:
    records = Documents(make_store(api, "records"), append=True, settings=SearchSettings(**bounds))
    records.write(*(put("a", OLD, offset) for offset in range(1, 9)))
    document = read(records)
    assert len(document.earlier) < 7
    assert document.warnings


def test_the_metadata_of_many_versions_is_bounded(api: FakeMilvus) -> None:
    records = Documents(make_store(api, "records"), append=True, settings=SearchSettings(max_answer_bytes=100_000))
    records.write(*(put("a", "short", offset, metadata={"m": "x" * 30_000}) for offset in range(1, 9)))
    assert len(read(records).earlier) == 2


def test_appended_documents_of_tenants(records: Documents) -> None:
    records.write(put("a", OLD, 1, tenant="one"), put("a", NEW, 2, tenant="two"))
    assert [read(records, "a", tenant).text for tenant in ("one", "two")] == [OLD, NEW]
    with pytest.raises(InvalidRequest, match=r"^/tenant"):
        read(records)
    with pytest.raises(NoSuchDocument):
        read(records, "a", "three")
    records.write(put("a", LONGER, 3))
    assert (read(records).text, read(records).earlier) == (LONGER, ())


@pytest.mark.parametrize("doc_id", [*HOSTILE, "x" * 1_024, "é" * 512])
def test_hostile_ids(documents: Documents, records: Documents, doc_id: str) -> None:
    for made in (documents, records):
        made.write(put(doc_id, OLD, 1), put(doc_id + "'"[: 1024 - len(doc_id.encode())], NEW, 2))
        document = read(made, doc_id)
        assert document.doc_id == doc_id
        assert made.reader.history(doc_id, None, 5.0).doc_id == doc_id
        assert read(made, doc_id).text in (OLD, NEW)


# --- history -----------------------------------------------------------------------------------------------------


def test_the_history_of_a_document_that_moved(documents: Documents) -> None:
    documents.write(put("a", LONGER, 1), put("a", OLD, 2, day=1, topic_id="T"), put("a", OLD, 4, day=1, topic_id="T"))
    history = documents.reader.history("a", None, 5.0)
    assert history.mode == "upsert"
    ledger = history.ledger
    assert ledger is not None
    assert (ledger.state, ledger.pending, ledger.fingerprint, ledger.topic_id) == ("live", False, "model", "T")
    assert ledger.record is not None
    assert (ledger.record.offset, ledger.record.timestamp) == (4, "2026-11-22T12:00:00.004Z")
    assert ledger.written_by == Origin("documents", 0, 2)
    chunks = len(chunked(put("a", OLD, 2)).chunks)
    assert ledger.footprint == {"d20261123": chunks}
    where = {rows.name: (rows.state, rows.expected, rows.rows) for rows in history.partitions}
    assert where["d20261123"] == ("loaded", chunks, chunks)
    assert {name: rows for name, rows in where.items() if name != "d20261123"} in (
        {},
        {"d20261122": ("loaded", 0, 0)},
    )


def test_the_history_of_a_change_that_is_pending(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD, 1))
    documents.interrupt(put("a", LONGER, 2, day=1), after_upserts=2)
    history = documents.reader.history("a", None, 5.0)
    assert history.ledger is not None
    assert history.ledger.pending
    assert {rows.name: [source.source.offset for source in rows.sources] for rows in history.partitions} == {
        "d20261122": [1],
        "d20261123": [2],
    }
    api.release_partitions("documents", ["d20261122"])
    api.drop_partition("documents", "d20261123")
    documents.searcher.forget()
    history = documents.reader.history("a", None, 5.0)
    assert [(rows.name, rows.state, rows.rows) for rows in history.partitions] == [
        ("d20261122", "not_loaded", 0),
        ("d20261123", "dropped", 0),
    ]


def test_the_history_of_a_deleted_document_and_of_none(documents: Documents) -> None:
    documents.write(put("a", OLD, 1), delete("a", 2))
    ledger = documents.reader.history("a", None, 5.0).ledger
    assert ledger is not None
    assert (ledger.state, ledger.written_by, ledger.footprint) == ("deleted", None, {})
    assert ledger.deleted_at is not None
    with pytest.raises(NoSuchDocument):
        documents.reader.history("b", None, 5.0)
    documents.interrupt(put("c", OLD, 3), after_upserts=1)
    ledger = documents.reader.history("c", None, 5.0).ledger
    assert ledger is not None
    assert (ledger.pending, ledger.record) == (True, None)


def test_the_history_in_append_mode(records: Documents) -> None:
    records.write(put("a", OLD, 1), put("a", NEW, 2, day=1))
    history = records.reader.history("a", None, 5.0)
    assert (history.mode, history.ledger) == ("append", None)
    assert [(rows.name, [source.source.offset for source in rows.sources]) for rows in history.partitions] == [
        ("d20261122", [1]),
        ("d20261123", [2]),
    ]


# --- vectors -----------------------------------------------------------------------------------------------------


def test_a_document_is_compared_by_the_mean_of_its_chunks(documents: Documents, records: Documents) -> None:
    vectors = chunked(put("a", OLD, 1)).vectors
    for made in (documents, records):
        made.write(put("a", OLD, 1), put("b", "short", 2))
        vector = made.reader.document_vector("a", None, 5.0).vectors
        assert vector.dtype == np.float32
        mean = vectors.mean(axis=0)
        assert vector[0] @ mean / np.linalg.norm(vector) / np.linalg.norm(mean) == pytest.approx(1.0)
        assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(vectors, axis=1).mean())
        only = made.reader.document_vector("b", None, 5.0).vectors
        assert only == pytest.approx(chunked(put("b", "short", 2)).vectors)


def test_a_chunk_of_a_canary_is_none(documents: Documents) -> None:
    doc_id = f"{CANARY_PREFIX}1"
    documents.write(put(doc_id, OLD, 1))
    chunk = read(documents, doc_id).chunks[0].id
    with pytest.raises(NoSuchDocument):
        documents.reader.chunk_vector(chunk, None, 5.0)


def test_a_chunk_is_compared_by_its_vector(documents: Documents) -> None:
    documents.write(put("a", OLD, 1, tenant="one"))
    chunk = read(documents, "a", "one").chunks[1]
    found = documents.reader.chunk_vector(chunk.id, None, 5.0)
    assert found.key == ("one", "a")
    assert found.vectors[0] == pytest.approx(chunked(put("a", OLD, 1)).vectors[1])
    assert documents.reader.chunk_vector(chunk.id, "one", 5.0).key == ("one", "a")
    for chunk_id, tenant in ((chunk.id, "two"), ('x" or id != "', None)):
        with pytest.raises(NoSuchDocument):
            documents.reader.chunk_vector(chunk_id, tenant, 5.0)


def test_a_chunk_of_an_older_version_is_no_chunk(documents: Documents) -> None:
    documents.write(put("a", LONGER, 1))
    chunk = read(documents).chunks[0].id
    documents.enter("a", position=documents.store.ledger()["a"].position._replace(offset=2))
    with pytest.raises(NoSuchDocument, match="has changed since"):
        documents.reader.chunk_vector(chunk, None, 5.0)
    documents.enter("a", pending=True)
    assert documents.reader.chunk_vector(chunk, None, 5.0).warnings


def test_vectors_that_cancel_out(documents: Documents, api: FakeMilvus) -> None:
    documents.write(put("a", OLD[:20], 1))
    rows = list(api.stored("documents")["d20261122"].values())
    assert len(rows) == 2
    vector = np.ones_like(rows[0][VECTOR_FIELD])
    api.upsert("documents", "d20261122", [{**rows[0], "vector": vector}, {**rows[1], "vector": -vector}])
    with pytest.raises(InvalidRequest, match=r"^/doc_id: .* no common direction"):
        documents.reader.document_vector("a", None, 5.0)
