"""The append writer: records are documents, and a redo writes the same rows."""

import pytest

from pipeline.errors import OutcomeUnknown
from pipeline.records import MAX_TEXT_BYTES
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from tests.support.documents import delete, embed_all, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, write


def test_records_of_one_key_are_all_kept_and_a_redo_adds_nothing(fake: FakeMilvus, store: Store) -> None:
    writer = store.append_writer(WritePolicy(max_rows=2))
    batch = [put("k", "a b", 1), put("k", "c", 2), put("k", "d", 3, day=1)]
    assert write(writer, batch).rows_written == 4
    assert max(size for operation, _, size in fake.calls if operation == "upsert") == 2
    write(store.append_writer(), batch)
    assert store.count() == 4
    assert not any(collection == "docs__ledger" and operation == "upsert" for operation, collection, _ in fake.calls)


def test_a_lost_reply_is_repeated(fake: FakeMilvus, store: Store) -> None:
    writer = store.append_writer()
    plan = writer.plan([put("k", "a b", 1)])
    fake.fail_next("upsert", OutcomeUnknown("lost"), applied=True)
    with pytest.raises(OutcomeUnknown):
        writer.apply(plan, embed_all(plan.to_embed))
    writer.apply(plan, embed_all(plan.to_embed))
    assert store.count() == 2


def test_a_bad_document_is_left_out_and_a_delete_is_refused(store: Store) -> None:
    writer = store.append_writer()
    plan = writer.plan([put("k", "a", 1), put("k", "x" * (MAX_TEXT_BYTES + 1), 2), delete("k", 3)])
    assert [(operation.position.offset, reason) for operation, reason, _ in plan.refused] == [
        (3, "delete_in_append_mode")
    ]
    applied = writer.apply(plan, embed_all(plan.to_embed))
    assert [(operation.position.offset, reason) for operation, reason, _ in applied.refused] == [(2, "row_refused")]
    assert store.count() == 1
