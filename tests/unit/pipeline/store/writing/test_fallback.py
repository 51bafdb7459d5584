"""Deletes that are applied where the put behind them is refused."""

from dataclasses import replace

import pytest

from pipeline.errors import OutcomeUnknown
from pipeline.intake import fold
from pipeline.records import MAX_TEXT_BYTES, Delete, Put
from pipeline.store.partition_names import Partitioning
from pipeline.store.writing.protocol.decisions import Applied, WritePlan
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import delete, embed_all, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, write

TOO_LONG = "x" * (MAX_TEXT_BYTES + 1)


@pytest.fixture
def writer(store: Store) -> UpsertWriter:
    """Sends a row a request, so that a document can be refused half-way."""
    policy = WritePolicy(max_rows=1)
    return UpsertWriter(store.api, store.name, store.partitions(), Partitioning("day"), policy, fingerprint="model")


def planned(writer: UpsertWriter, operation: Put, fallback: Delete) -> WritePlan:
    return replace(writer.plan(fold([fallback, operation]).operations), fallback={fallback.key: fallback})


def apply(writer: UpsertWriter, plan: WritePlan) -> Applied:
    return writer.apply(plan, embed_all(plan.to_embed))


def test_a_document_refused_half_way_is_deleted_in_its_old_and_in_its_new_place(
    store: Store, writer: UpsertWriter
) -> None:
    write(writer, [put("k", "a b", 1, version=9), put("other", "x", 2)])
    applied = apply(writer, planned(writer, put("k", f"c {TOO_LONG}", 4, day=1, version=3), delete("k", 3)))
    assert [refusal[0].position.offset for refusal in applied.refused] == [4]
    assert [one.position.offset for one in applied.instead] == [3]
    assert (applied.written, applied.deleted, list(applied.unfinished)) == (0, 1, [])
    assert [set(rows) for rows in store.rows().values()] == [{("other", 0)}]
    entry = store.ledger()["k"]
    assert (entry.state, entry.pending, entry.position.offset, dict(entry.footprint)) == ("deleted", False, 3, {})
    assert len(writer.plan([put("k", "again", 5, version=2)]).to_embed) == 1


def test_it_is_deleted_even_if_that_takes_several_tries(fake: FakeMilvus, store: Store, writer: UpsertWriter) -> None:
    write(writer, [put("k", "a b", 1, version=9)])
    plan = planned(writer, put("k", f"c {TOO_LONG}", 4, day=1, version=3), delete("k", 3))
    fake.fail_next("delete", OutcomeUnknown("lost"), applied=True)
    with pytest.raises(OutcomeUnknown):
        apply(writer, plan)
    assert store.ledger()["k"].pending
    assert [one.position.offset for one in apply(writer, plan).instead] == [3]
    assert (store.rows(), store.ledger()["k"].state) == ({}, "deleted")


def test_a_document_that_was_never_stored_keeps_the_delete(store: Store, writer: UpsertWriter) -> None:
    apply(writer, planned(writer, put("k", TOO_LONG, 4, version=3), delete("k", 3)))
    assert (store.rows(), store.ledger()["k"].state) == ({}, "deleted")


def test_a_put_that_is_stored_needs_no_delete(store: Store, writer: UpsertWriter) -> None:
    applied = apply(writer, planned(writer, put("k", "a", 4), delete("k", 3)))
    assert (applied.written, applied.deleted, list(applied.instead)) == (1, 0, [])
    assert store.ledger()["k"].state == "live"


def test_a_delete_older_than_what_is_stored_is_not_applied(store: Store, writer: UpsertWriter) -> None:
    write(writer, [put("k", "a b", 5)])
    before = store.rows(), store.ledger()
    applied = apply(writer, planned(writer, put("k", TOO_LONG, 6), delete("k", 3)))
    assert (len(applied.refused), list(applied.instead)) == (1, [])
    assert (store.rows(), store.ledger()) == before
