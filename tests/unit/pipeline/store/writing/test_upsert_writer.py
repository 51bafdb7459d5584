"""The upsert writer case by case; crashes and lost replies are in tests/property/test_writer.py."""

import pytest

from pipeline.errors import NotLoaded, OutcomeUnknown, Unavailable
from pipeline.records import MAX_TEXT_BYTES, Delete, Put
from pipeline.store.partition_names import Partitioning, partition_name
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.protocol.decisions import Earlier, Entry
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.rows import row_id
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import NOON_MS, delete, embed_all, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.power_loss import PowerLoss
from tests.support.stores import Store, make_store, write

TODAY, TOMORROW = "d20261122", "d20261123"
TOO_LONG = "x" * (MAX_TEXT_BYTES + 1)


def writes(fake: FakeMilvus) -> list[tuple[str, str, int]]:
    return [call for call in fake.calls if call[0] in ("upsert", "delete")]


def test_the_days_of_the_tests() -> None:
    assert partition_name("day", NOON_MS) == TODAY


def test_the_order_of_calls_is_the_protocol(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b c", 1)])
    fake.calls.clear()
    applied = write(writer, [put("k", "d", 2, day=1)])
    assert writes(fake) == [
        ("upsert", "docs__ledger", 1),
        ("upsert", "docs", 1),
        ("delete", "docs", 3),
        ("upsert", "docs__ledger", 1),
    ]
    assert (applied.rows_written, applied.rows_deleted) == (1, 3)
    assert store.rows() == {TOMORROW: {("k", 0): "d"}}


def test_what_is_stored_already_is_not_embedded_and_nothing_is_written(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1), put("gone", "x", 2)])
    write(store.upsert_writer(), [delete("gone", 3)])
    fake.calls.clear()
    plan = store.upsert_writer().plan([put("k", "a b", 1), delete("gone", 3)])
    applied = store.upsert_writer().apply(plan, [])
    assert (list(plan.to_embed), list(plan.deletes), plan.unchanged) == ([], [], 2)
    assert (applied.rows_written, applied.rows_deleted) == (0, 0)
    assert writes(fake) == []


def test_the_same_content_again_writes_the_ledger_row_only(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b", 1)])
    fake.calls.clear()
    plan = writer.plan([put("k", "a b", 5)])
    assert (list(plan.to_embed), plan.unchanged) == ([], 1)
    writer.apply(plan, [])
    assert writes(fake) == [("upsert", "docs__ledger", 1)]
    assert writer.plan([put("k", "older content", 3)]).stale == 1


def test_another_model_or_other_metadata_is_written_again(store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a", 1)])
    assert len(store.upsert_writer(fingerprint="next").plan([put("k", "a", 1)]).to_embed) == 1
    assert len(store.upsert_writer().plan([put("k", "a", 2, metadata={"lang": "en"})]).to_embed) == 1


def test_a_deleted_document_is_not_brought_back_by_an_older_record(store: Store) -> None:
    write(store.upsert_writer(), [delete("never seen", 9)])
    plan = store.upsert_writer().plan([put("never seen", "a", 8)])
    assert (plan.stale, list(plan.to_embed)) == (1, [])
    write(store.upsert_writer(), [put("never seen", "b", 10)])
    assert store.rows() == {TODAY: {("never seen", 0): "b"}}


def test_tenants_have_documents_of_their_own(store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a", 1), put("k", "b", 2, tenant="acme"), put("k", "c", 3, tenant="")])
    assert store.count() == 3
    write(writer, [delete("k", 4, tenant="acme")])
    assert store.count() == 2
    assert {entry.tenant: entry.state for entry in store.ledger_entries()} == {
        None: "live",
        "acme": "deleted",
        "": "live",
    }


def test_a_key_twice_in_a_batch_is_a_bug_of_the_caller(store: Store) -> None:
    with pytest.raises(ValueError, match="fold"):
        store.upsert_writer().plan([put("k", "a", 1), put("k", "b", 2)])


# --- batches in flight together ----------------------------------------------------------------------------------


def test_there_and_back_in_flight_together(store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a a", 1)])
    plans = [writer.plan([operation]) for operation in (put("k", "b", 2, day=1), put("k", "a a", 3))]
    for plan in plans:
        writer.apply(plan, embed_all(plan.to_embed))
    assert store.rows() == {TODAY: {("k", 0): "a", ("k", 1): "a"}}
    assert store.ledger()["k"].position.offset == 3


def test_delete_and_put_in_flight_together(store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b", 1)])
    plans = [writer.plan([operation]) for operation in (delete("k", 2), put("k", "c", 3), delete("k", 4))]
    for plan in plans[:2]:
        writer.apply(plan, embed_all(plan.to_embed))
    assert store.rows() == {TODAY: {("k", 0): "c"}}
    writer.apply(plans[2], [])
    assert store.rows() == {}


def test_a_version_overtaken_in_flight_is_dropped_when_applied(store: Store) -> None:
    writer = store.upsert_writer()
    plans = [writer.plan([put("k", text, n, version=v)]) for n, (text, v) in enumerate([("new", 7), ("old", 6)])]
    results = [writer.apply(plan, embed_all(plan.to_embed)) for plan in plans]
    assert (results[1].stale, results[1].rows_written) == (1, 0)
    assert store.rows() == {TODAY: {("k", 0): "new"}}


def test_the_same_record_in_flight_twice_is_written_once(store: Store) -> None:
    writer = store.upsert_writer()
    plans = [writer.plan([put("k", "a", 1)]) for _ in range(2)]
    results = [writer.apply(plan, embed_all(plan.to_embed)) for plan in plans]
    assert [(result.rows_written, result.unchanged) for result in results] == [(1, 0), (0, 1)]


def test_an_older_version_is_not_lost_when_the_newer_one_in_flight_is_refused(store: Store) -> None:
    writer = store.upsert_writer()
    plans = [writer.plan([put("k", text, n, version=v)]) for n, (text, v) in enumerate([(TOO_LONG, 7), ("old", 6)])]
    results = [writer.apply(plan, embed_all(plan.to_embed)) for plan in plans]
    assert [len(result.refused) for result in results] == [1, 0]
    assert store.rows() == {TODAY: {("k", 0): "old"}}


def test_operations_left_out_of_a_plan_change_nothing(store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("gone", "a", 1), put("same", "a", 2)])
    before = store.ledger()
    plan = writer.plan([put("new", "a", 3), delete("gone", 4), put("same", "a", 5)]).without(lambda change: True)
    writer.apply(plan, [])
    assert store.ledger() == before
    assert len(writer.plan([put("new", "a", 3)]).to_embed) == 1


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_refused_document_keeps_what_was_stored_before(store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b", 1)])
    before = store.ledger()
    applied = write(writer, [put("k", f"c {TOO_LONG}", 2, day=1), put("good", "x", 3)])
    [(operation, reason, message)] = applied.refused
    assert (operation.position.offset, reason) == (2, "row_refused")
    assert "exceeds max length" in message
    assert store.rows() == {TODAY: {("k", 0): "a", ("k", 1): "b", ("good", 0): "x"}}
    assert store.ledger()["k"] == before["k"]
    assert len(writer.plan([put("k", "d", 3)]).to_embed) == 1


def test_a_refused_new_document_leaves_no_trace(store: Store) -> None:
    applied = write(store.upsert_writer(), [put("k", TOO_LONG, 1), put("good", "x", 2)])
    assert len(applied.refused) == 1
    assert store.ledger().keys() == {"good"}


def test_a_refusal_is_undone_even_if_that_takes_several_tries(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a", 1)])
    before = store.ledger()
    plan = writer.plan([put("k", TOO_LONG, 2)])
    fake.fail_next("upsert", Unavailable("away"), collection="docs")
    with pytest.raises(Unavailable):
        writer.apply(plan, embed_all(plan.to_embed))
    assert store.ledger()["k"].pending
    assert len(writer.apply(plan, embed_all(plan.to_embed)).refused) == 1
    assert store.ledger() == before


def test_a_document_found_pending_and_then_refused_stays_pending(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b", 1)])
    plan = writer.plan([put("k", "c", 2, day=1)])
    fake.fail_next("delete", OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        writer.apply(plan, embed_all(plan.to_embed))
    write(store.upsert_writer(), [put("k", TOO_LONG, 3)])
    entry = store.ledger()["k"]
    assert (entry.pending, entry.position.offset, dict(entry.footprint)) == (True, 1, {TODAY: 2, TOMORROW: 1})
    write(store.upsert_writer(), [put("k", "d", 4)])
    assert store.rows() == {TODAY: {("k", 0): "d"}}


def test_a_milvus_partition_too_many_refuses_only_its_documents(store: Store) -> None:
    writer = store.upsert_writer(max_partitions=1)
    plan = writer.plan([put("a", "x", 1, day=-100), put("b", "x", 2)])
    assert [(operation.key[1], reason) for operation, reason, _ in plan.refused] == [("a", "too_many_partitions")]
    writer.apply(plan, embed_all(plan.to_embed))
    assert store.count() == 1


def test_what_no_row_can_hold_is_refused_before_anything_is_written(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    plan = writer.plan([put("a", "x", 1, metadata={"n": 2**70}), put("b" * 1025, "x", 2), put("good", "x", 3)])
    assert [(operation.position.offset, reason) for operation, reason, _ in plan.refused] == [
        (1, "not_storable"),
        (2, "not_storable"),
    ]
    assert [record.position.offset for record in plan.to_embed] == [3]


def test_a_milvus_partition_dropped_in_between_is_made_again(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("old", "x y", 1), put("k", "x", 2, day=1)])
    plan = writer.plan([put("k", "y", 3), put("old", "z", 4, day=1)])
    fake.drop_partition("docs", TODAY)
    writer.apply(plan, embed_all(plan.to_embed))
    assert store.rows() == {TODAY: {("k", 0): "y"}, TOMORROW: {("old", 0): "z"}}


# --- what is remembered ------------------------------------------------------------------------------------------


def test_after_forget_another_workers_writes_are_seen_though_reads_lag(fake: FakeMilvus, store: Store) -> None:
    fake.staleness_writes = 100
    ours, theirs = store.upsert_writer(), store.upsert_writer()
    write(ours, [put("k", "a", 1)])
    write(theirs, [put("k", "b", 2, day=1)])
    ours.forget()
    write(ours, [put("k", "c", 3, day=2)])
    assert store.rows() == {"d20261124": {("k", 0): "c"}}


def test_own_writes_are_seen_though_reads_lag(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    fake.staleness_writes = 100
    for offset in range(3):
        write(writer, [put("k", f"text{offset}", offset, day=offset)])
    assert store.rows() == {"d20261124": {("k", 0): "text2"}}


def test_an_outage_leaves_the_plan_to_be_made_again(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    fake.down = True
    with pytest.raises(Unavailable):
        writer.plan([put("k", "a", 1)])
    fake.down = False
    write(writer, [put("k", "a", 1)])
    assert store.count() == 1


def test_without_time_partitions_everything_is_in_the_default_one(fake: FakeMilvus, store: Store) -> None:
    writer = UpsertWriter(fake, "docs", store.partitions(), Partitioning("none"), fingerprint="model")
    write(writer, [put("k", "a b", 1)])
    write(writer, [put("k", "c", 2, day=9)])
    assert {name: [row["text"] for row in rows.values()] for name, rows in fake.stored("docs").items()} == {
        "_default": ["c"]
    }


def test_reads_miss_nothing_at_first_after_an_outage_and_when_much_was_forgotten(
    fake: FakeMilvus, store: Store
) -> None:
    now = [0.0]
    ledger = Ledger(fake, "docs", WritePolicy(), staleness_s=60, max_cached=2, clock=lambda: now[0])
    writer = UpsertWriter(fake, "docs", store.partitions(), Partitioning("day"), fingerprint="model", ledger=ledger)
    fake.staleness_writes = 100
    theirs = [put(f"theirs{number}", "a", number) for number in range(5)]
    write(store.upsert_writer(), theirs)

    def sees(number: int) -> bool:
        return not writer.plan([theirs[number]]).to_embed

    assert sees(0)
    now[0] = 61.0
    assert not sees(1)
    fake.down = True
    with pytest.raises(Unavailable):
        sees(2)
    fake.down = False
    assert sees(2)
    now[0] = 200.0
    assert not sees(3)
    write(writer, [put(f"ours{number}", "x", number) for number in range(4)])
    assert sees(4)


def test_one_instant_serves_every_read_until_others_may_have_written_again(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    fake.calls.clear()
    for number in range(3):
        writer.plan([put(f"a{number}", "a", number)])
    assert [call for call, *_ in fake.calls].count("clock") == 1
    writer.forget()
    for number in range(3):
        writer.plan([put(f"b{number}", "a", number)])
    assert [call for call, *_ in fake.calls].count("clock") == 2


# --- a Milvus that has lost what was not flushed -----------------------------------------------------------------


def test_an_intent_is_written_again_after_an_outage(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b", 1)])
    power = PowerLoss(fake)
    plan = writer.plan([put("k", "c", 2, day=1)])
    fake.fail_next("upsert", Unavailable("away"), collection="docs")
    with pytest.raises(Unavailable):
        writer.apply(plan, embed_all(plan.to_embed))
    power.strike(lambda _, states: 0)
    assert not store.ledger()["k"].pending
    seen: list[Entry] = []
    fake.on_write.append(lambda collection, *_: seen.append(store.ledger()["k"]) if collection == "docs" else None)
    writer.apply(plan, embed_all(plan.to_embed))
    assert [(entry.pending, dict(entry.footprint)) for entry in seen] == 2 * [(True, {TODAY: 2, TOMORROW: 1})]
    assert store.rows() == {TOMORROW: {("k", 0): "c"}}


def test_what_was_known_before_an_outage_is_read_again(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    power = PowerLoss(fake)
    write(writer, [put("k", "a b", 1)])
    fake.down = True
    with pytest.raises(Unavailable):
        writer.plan([put("other", "a", 2)])
    fake.down = False
    power.strike(lambda _, states: 0)
    assert len(writer.plan([put("k", "a b", 1)]).to_embed) == 1


@pytest.mark.parametrize("lost", [("k", 0), ("k", 2)])
def test_a_row_that_is_missing_is_written_again_with_the_vectors_of_the_others(
    fake: FakeMilvus, store: Store, lost: tuple[str, int]
) -> None:
    write(store.upsert_writer(), [put("k", "a b c", 1), put("whole", "d", 2)])
    fake.put_back("docs", TODAY, row_id(None, *lost, TODAY), None)
    writer = store.upsert_writer()
    plan = writer.plan([put("k", "a b c", 1), put("whole", "d", 2)])
    assert [record.key for record in plan.to_embed] == [(None, "k")]
    [vectors] = writer.reusable(plan, [[chunk for item in embed_all(plan.to_embed) for chunk in item.chunks]])
    assert len(vectors) == 2
    writer.apply(plan, embed_all(plan.to_embed))
    assert store.rows() == {TODAY: {("k", 0): "a", ("k", 1): "b", ("k", 2): "c", ("whole", 0): "d"}}
    assert not store.ledger()["k"].pending


def test_rows_of_an_older_version_do_not_pass_for_the_stored_one(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1)])
    power = PowerLoss(fake)
    write(store.upsert_writer(), [put("k", "c d", 2)])
    power.strike(lambda place, states: 0 if place[0] == "docs" else states - 1)
    assert store.rows() == {TODAY: {("k", 0): "a", ("k", 1): "b"}}
    write(store.upsert_writer(), [put("k", "c d", 2)])
    assert store.rows() == {TODAY: {("k", 0): "c", ("k", 1): "d"}}


@pytest.mark.parametrize(
    "last", [put("k", "c", 2, day=1), put("k", "a", 2), delete("k", 2)], ids=["move", "shrink", "delete"]
)
def test_rows_that_come_back_are_deleted_again(fake: FakeMilvus, store: Store, last: Put | Delete) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1)])
    power = PowerLoss(fake)
    write(store.upsert_writer(), [last])
    after = store.rows()
    power.strike(lambda place, states: 0 if place[0] == "docs" and place[1] == TODAY else states - 1)
    assert store.rows() != after
    write(store.upsert_writer(), [last])
    assert store.rows() == after


def test_a_newer_record_of_the_same_content_is_not_taken_for_stored_if_the_ledgers_own_is_met_with_it(
    fake: FakeMilvus, store: Store
) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1)])
    fake.put_back("docs", TODAY, row_id(None, "k", 1, TODAY), None)
    plan = store.upsert_writer().plan([put("k", "a b", 2)], [Earlier(put("k", "a b", 1), None)])
    assert len(plan.to_embed) == 1


def test_after_a_newer_record_of_the_same_content_the_rows_still_count_as_its_own(store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1)])
    write(store.upsert_writer(), [put("k", "a b", 2)])
    plan = store.upsert_writer().plan([put("k", "a b", 2)])
    assert (plan.unchanged, list(plan.to_embed)) == (1, [])


def test_a_milvus_partition_that_retention_dropped_is_not_filled_again(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1)])
    fake.drop_partition("docs", TODAY)
    assert store.upsert_writer().plan([put("k", "a b", 1)]).unchanged == 1


def test_a_milvus_partition_that_an_operator_released_holds_up_no_redo(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1), put("missing", "a", 2, day=1)])
    fake.release_partitions("docs", [TODAY])
    fake.put_back("docs", TOMORROW, row_id(None, "missing", 0, TOMORROW), None)
    plan = store.upsert_writer().plan([put("k", "a b", 1), put("missing", "a", 2, day=1)])
    assert ([one.key for one in plan.to_embed], plan.unchanged) == ([(None, "missing")], 1)


def test_a_server_that_has_loaded_nothing_yet_is_waited_for(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("k", "a b", 1)])
    fake.release_partitions("docs", [TODAY])
    with pytest.raises(NotLoaded):
        store.upsert_writer().plan([put("k", "a b", 1)])


def test_a_first_read_of_records_asks_for_no_rows(fake: FakeMilvus, store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b", 1), put("moved", "a", 2), delete("gone", 3)])
    fake.calls.clear()
    write(writer, [put("k", "a b", 4), put("moved", "a", 5, day=1), put("gone", "a", 6), put("new", "a", 7)])
    assert [call[:2] for call in fake.calls if call[0] == "query"] == [("query", "docs__ledger")]


def test_places_left_behind_are_forgotten_once_they_are_durable(fake: FakeMilvus, store: Store) -> None:
    durable: set[int] = set()
    writer = UpsertWriter(
        fake,
        "docs",
        store.partitions(),
        Partitioning("day"),
        fingerprint="model",
        durable=lambda at: at.offset in durable,
    )
    write(writer, [put("k", "a b", 1)])
    write(writer, [put("k", "a", 2, day=1)])
    assert store.ledger()["k"].former == {TODAY: 2}
    write(writer, [put("k", "a", 3, day=2)])
    assert store.ledger()["k"].former == {TODAY: 2, TOMORROW: 1}
    durable.add(3)
    write(writer, [put("k", "a", 4, day=3)])
    assert store.ledger()["k"].former == {"d20261124": 1}


def test_an_old_date_whose_milvus_partition_was_dropped_after_the_plan_takes_no_place_of_the_present() -> None:
    fake = FakeMilvus()
    make_store(fake, "docs")
    partitions = MilvusPartitions(fake, "docs", max_partitions=3)
    writer = UpsertWriter(fake, "docs", partitions, Partitioning("day"), fingerprint="model")
    write(writer, [put("old", "x", 1, day=-200)])
    plan = writer.plan([put("other", "x", 2, day=-200)])
    (dropped,) = (name for name in fake.partitions("docs") if name.startswith("d"))
    fake.release_partitions("docs", [dropped])
    fake.drop_partition("docs", dropped)
    for name in ("d20261121", "d20261122", "d20261123"):
        fake.create_partition("docs", name)
    applied = writer.apply(plan, embed_all(plan.to_embed))
    assert [reason for _, reason, _ in applied.refused] == ["too_many_partitions"]
