"""Records of one document in two Kafka partitions, each read by another worker."""

from dataclasses import replace

import pytest

from pipeline.errors import Unavailable
from pipeline.records import KafkaPartition
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import delete, embed_all, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, make_store, write


@pytest.fixture
def store() -> Store:
    return make_store(FakeMilvus(), "docs")


def worker(store: Store, partition: int) -> UpsertWriter:
    owned: list[KafkaPartition] = [("documents", partition)]
    ledger = Ledger(store.api, "docs", WritePolicy(), owned=lambda: owned)
    partitions = MilvusPartitions(store.api, "docs")
    return UpsertWriter(store.api, "docs", partitions, Partitioning("day"), fingerprint="model", ledger=ledger)


def test_a_lower_version_does_not_replace_what_the_other_worker_has_stored_seconds_ago(store: Store) -> None:
    first, second = worker(store, 0), worker(store, 1)
    write(first, [put("d", "one", 1, version=1)])
    write(second, [put("d", "five", 1, version=5, partition=1)])
    write(first, [put("d", "three", 2, version=3)])
    assert store.rows() == {"d20261122": {("d", 0): "five"}}
    write(first, [put("d", "six", 3, version=6)])
    write(second, [put("d", "seven", 2, version=7, partition=1)])
    assert store.rows() == {"d20261122": {("d", 0): "seven"}}


def test_rows_that_the_other_worker_has_moved_are_deleted(store: Store) -> None:
    first, second = worker(store, 0), worker(store, 1)
    write(first, [put("d", "one", 1, day=0)])
    write(second, [put("d", "two", 2, day=1, partition=1)])
    write(first, [put("d", "three", 3, day=0)])
    assert store.rows() == {"d20261122": {("d", 0): "three"}}


def test_what_the_other_worker_stores_between_plan_and_write_counts(store: Store) -> None:
    first, second = worker(store, 0), worker(store, 1)
    write(second, [put("d", "one", 1, version=1, partition=1)])
    plan = first.plan([put("d", "two", 5, version=2)])
    write(second, [put("d", "nine", 6, version=9, partition=1)])
    assert first.apply(plan, embed_all(plan.to_embed)).stale == 1
    assert store.rows() == {"d20261122": {("d", 0): "nine"}}


def test_the_other_workers_delete_is_seen(store: Store) -> None:
    first, second = worker(store, 0), worker(store, 1)
    write(first, [put("d", "one", 1)])
    write(second, [delete("d", 2, partition=1)])
    write(first, [put("d", "one", 1)])
    assert store.rows() == {}


def test_documents_of_one_worker_are_read_once(store: Store) -> None:
    own = worker(store, 0)
    write(own, [put("d", "one", 1)])
    fake = store.api
    assert isinstance(fake, FakeMilvus)
    fake.calls.clear()
    write(own, [put("d", "two", 2)])
    assert [operation for operation, *_ in fake.calls].count("clock") == 0


def test_once_documents_are_shared_what_the_other_worker_begins_between_plan_and_write_counts(store: Store) -> None:
    first, second = worker(store, 0), worker(store, 1)
    write(first, [put("d", "one", 1, version=1)])
    write(second, [put("d", "two", 1, version=2, partition=1)])
    plan = first.plan([put("d", "three", 2, version=3), put("new", "one", 3, version=1)])
    write(second, [put("new", "nine", 2, version=9, partition=1)])
    assert first.apply(plan, embed_all(plan.to_embed)).stale == 1
    assert store.rows() == {"d20261122": {("d", 0): "three", ("new", 0): "nine"}}


def test_a_document_that_the_other_worker_has_finished_is_not_restored(store: Store) -> None:
    """A record with its key that is rejected finds it pending, and takes that for a write that was cut off."""
    fake = store.api
    assert isinstance(fake, FakeMilvus)
    other, own = worker(store, 0), worker(store, 1)
    fake.fail_next("upsert", Unavailable("gone"), collection="docs")
    plan_of_other = other.plan([put("d", "good", 1, version=4)])
    vectors = embed_all(plan_of_other.to_embed)
    with pytest.raises(Unavailable):
        other.apply(plan_of_other, vectors)  # its intent is written

    at = delete("d", 7, partition=1)
    plan = replace(own.plan([at]), restoring={at.key})
    other.apply(plan_of_other, vectors)
    applied = own.apply(plan, [])
    assert (applied.written, applied.deleted, applied.unchanged) == (0, 0, 1)
    assert store.rows() == {"d20261122": {("d", 0): "good"}}


def test_a_document_that_nobody_finishes_is_restored(store: Store) -> None:
    fake = store.api
    assert isinstance(fake, FakeMilvus)
    other, own = worker(store, 0), worker(store, 1)
    plan_of_other = other.plan([put("d", "half", 1)])
    fake.fail_next("upsert", Unavailable("gone"), applied=True, collection="docs")
    with pytest.raises(Unavailable):
        other.apply(plan_of_other, embed_all(plan_of_other.to_embed))
    assert store.rows() == {"d20261122": {("d", 0): "half"}}
    at = delete("d", 7, partition=1)
    own.apply(replace(own.plan([at]), restoring={at.key}), [])
    assert store.rows() == {}
