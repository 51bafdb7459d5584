"""The writers against a real Milvus and Milvus Lite: rows counted partition by partition."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from pipeline.errors import NotLoaded
from pipeline.records import MAX_TEXT_BYTES, Delete, Put
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.milvus.client import connect
from pipeline.store.milvus.error_mapping import RetryPolicy
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.ledger.tombstone_cleanup import SweepPolicy, TombstoneSweep
from pipeline.store.writing.rows import document_rows, ledger_id, row_id
from tests.support.documents import DAY_MS, NOON_MS, delete, embed_all, put
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.stores import Store, make_store, write

pytestmark = pytest.mark.servers

TODAY, TOMORROW = "d20261122", "d20261123"


@pytest.fixture(scope="module", params=["real", "lite"])
def api(request: pytest.FixtureRequest) -> Iterator[MilvusApi]:
    connected = connect(request.getfixturevalue({"real": "milvus_uri", "lite": "milvus_lite_uri"}[request.param]))
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def empty(api: MilvusApi) -> Iterator[Store]:
    """Making a collection takes seconds, emptying it does not."""
    made = make_store(api, unique("writer"))
    yield made
    api.drop_collection(made.name)
    api.drop_collection(f"{made.name}__ledger")
    api.drop_collection(f"{made.name}__marks")


@pytest.fixture
def store(empty: Store) -> Iterator[Store]:
    yield empty
    for partition in empty.api.partitions(empty.name):
        empty.api.drop_partition(empty.name, partition)
    empty.api.delete(f"{empty.name}__ledger", None, [ledger_id(None, doc_id) for doc_id in empty.ledger()])


def check(store: Store, expected: dict[str, dict[tuple[str, int], str]]) -> None:
    """Exactly these rows: `count` sees every copy, also one that a query hides."""
    assert store.rows() == expected
    assert store.count() == sum(len(rows) for rows in expected.values())


def test_the_life_of_a_document(store: Store) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b c", 1, metadata={"lang": "en"}), put("other", "z", 2)])
    check(store, {TODAY: {("k", 0): "a", ("k", 1): "b", ("k", 2): "c", ("other", 0): "z"}})
    write(writer, [put("k", "d", 3)])
    check(store, {TODAY: {("k", 0): "d", ("other", 0): "z"}})
    write(writer, [put("k", "e f", 4)])
    check(store, {TODAY: {("k", 0): "e", ("k", 1): "f", ("other", 0): "z"}})
    write(store.upsert_writer(), [put("k", "g h i", 5, day=1)])
    check(store, {TODAY: {("other", 0): "z"}, TOMORROW: {("k", 0): "g", ("k", 1): "h", ("k", 2): "i"}})
    write(store.upsert_writer(), [put("k", "j", 6)])
    check(store, {TODAY: {("k", 0): "j", ("other", 0): "z"}})
    write(store.upsert_writer(), [delete("k", 7)])
    check(store, {TODAY: {("other", 0): "z"}})
    assert store.upsert_writer().plan([put("k", "j", 6)]).stale == 1
    write(store.upsert_writer(), [put("k", "again", 8)])
    check(store, {TODAY: {("k", 0): "again", ("other", 0): "z"}})
    entry = store.ledger()["k"]
    assert (entry.pending, entry.state, dict(entry.footprint), entry.position.offset) == (False, "live", {TODAY: 1}, 8)


def test_batches_in_flight_together_and_the_same_one_twice(store: Store) -> None:
    writer = store.upsert_writer()
    batches: list[list[Put | Delete]] = [
        [put("k", "a b", 1), put("same", "s", 2)],
        [put("k", "a b", 1), put("same", "s", 2)],
        [put("k", "c", 3, day=1)],
        [delete("k", 4)],
        [put("k", "d e", 5, day=1)],
    ]
    plans = [writer.plan(batch) for batch in batches]
    written = [writer.apply(plan, embed_all(plan.to_embed)).rows_written for plan in plans]
    assert written == [3, 0, 1, 0, 2]
    check(store, {TODAY: {("same", 0): "s"}, TOMORROW: {("k", 0): "d", ("k", 1): "e"}})


def test_another_workers_redo_right_after_changes_nothing(store: Store) -> None:
    batch = [put(f"k{number}", "a b", number, day=number % 3) for number in range(1500)]
    write(store.upsert_writer(), batch)
    redo = store.upsert_writer().plan(batch)
    assert (redo.unchanged, len(redo.to_embed)) == (1500, 0)
    assert store.count() == 3000


def test_a_redo_finds_rows_that_are_missing_twice_or_back(store: Store, request: pytest.FixtureRequest) -> None:
    write(store.upsert_writer(), [put("moved", "old", 1), put("gone", "x y", 2), *kept()])
    write(store.upsert_writer(), [put("moved", "new", 6, day=1), delete("gone", 7)])
    batch: list[Put | Delete] = [*kept(), put("moved", "new", 6, day=1), delete("gone", 7)]
    assert store.upsert_writer().plan(batch).unchanged == len(batch)

    store.api.delete(store.name, TODAY, [row_id(None, "missing", 1, TODAY)])
    old = [put("moved", "old", 1), put("gone", "x y", 2)]
    back = [row for item in embed_all(old) for row in document_rows(item, TODAY)]
    store.api.upsert(store.name, TODAY, back)
    damaged = {"moved", "missing", "gone"}
    if store.api.server.capabilities.stores_repeated_ids:
        [twice] = embed_all([put("twice", "s t", 4)])
        with closing(milvus_client(request.getfixturevalue("milvus_uri"))) as other:
            row = {**document_rows(twice, TODAY)[0]}
            other.insert(store.name, [row | {"vector": row["vector"].tolist()}], partition_name=TODAY)
        damaged.add("twice")

    plan = store.upsert_writer().plan(batch)
    assert {*(one.key[1] for one in plan.to_embed), *(one.key[1] for one in plan.deletes)} == damaged
    write(store.upsert_writer(), batch)
    words = {("missing", 0): "a", ("missing", 1): "b", ("twice", 0): "s", ("twice", 1): "t", ("whole", 0): "z"}
    check(store, {TODAY: words, TOMORROW: {("moved", 0): "new"}})


def kept() -> list[Put]:
    return [put("missing", "a b", 3), put("twice", "s t", 4), put("whole", "z", 5)]


def test_a_refused_document_is_found_and_the_others_are_stored(store: Store) -> None:
    # Lite counts characters and has no limit in bytes; both refuse what is longer than the field in characters.
    too_long = "x" * (MAX_TEXT_BYTES + 1)
    batch = [put(f"k{number}", too_long if number == 13 else "a b", number) for number in range(40)]
    before = write(store.upsert_writer(), [put("k13", "old", 0)])
    assert before.rows_written == 1
    applied = write(store.upsert_writer(), [record for record in batch if record.position.offset])
    assert [operation.key[1] for operation, _, _ in applied.refused] == ["k13"]
    assert store.rows()[TODAY]["k13", 0] == "old"
    assert store.count() == 2 * 38 + 1
    assert not any(entry.pending for entry in store.ledger_entries())


def test_append(store: Store) -> None:
    batch = [put("k", "a b", number, day=number % 2) for number in range(100)]
    for _ in range(2):
        write(store.append_writer(), batch)
    assert store.count() == 200
    assert {partition: len(rows) for partition, rows in store.rows().items()} == {TODAY: 2, TOMORROW: 2}


def test_a_ledger_released_behind_the_writers_back_is_loaded_again(
    milvus_uri: str, unique_name: Callable[..., str]
) -> None:
    api = connect(milvus_uri, retry=RetryPolicy(not_loaded_s=0.5))
    name = unique_name("released")
    try:
        store = make_store(api, name)
        writer = store.upsert_writer()
        write(writer, [put("k", "one two", 1)])
        with closing(milvus_client(milvus_uri)) as other:
            other.release_collection(f"{name}__ledger")
        with pytest.raises(NotLoaded):
            writer.plan([put("other", "x", 2)])
        assert write(writer, [put("k", "three", 3), put("other", "x", 4)]).written == 2
        assert store.count() == 2
    finally:
        api.drop_collection(name)
        api.drop_collection(f"{name}__ledger")
        api.drop_collection(f"{name}__marks")
        api.close()


def test_a_sweep_removes_old_tombstones_and_dates_those_of_earlier_versions(store: Store) -> None:
    ledger = f"{store.name}__ledger"
    write(
        store.upsert_writer(), [put("live", "a", 1), put("young", "b", 2), put("old", "c", 3), put("undated", "d", 4)]
    )
    write(store.upsert_writer(), [delete(doc_id, 5) for doc_id in ("young", "old", "undated")])
    before = store.ledger()
    now_ms = max(NOON_MS + DAY_MS, before["young"].written_ms)
    changed = [before["old"]._replace(written_ms=now_ms - 2 * DAY_MS), before["undated"]._replace(written_ms=0)]
    store.api.upsert(ledger, None, [entry_row(entry) for entry in changed])
    sweep = TombstoneSweep(store.api, store.name, SweepPolicy(DAY_MS / 1000), wall_clock=lambda: now_ms / 1000 + 1)
    assert sweep.step([("documents", 0)]) == 1
    after = store.ledger()
    assert after.keys() == {"live", "young", "undated"}
    assert after["undated"].written_ms == now_ms + 1000
    assert (after["live"], after["young"]) == (before["live"], before["young"])


def test_a_ledger_row_that_is_there_twice_hides_no_rows(store: Store, request: pytest.FixtureRequest) -> None:
    if not store.api.server.capabilities.answers_older_rows:
        pytest.skip("an upsert of this server replaces its row")
    names = ("older first", "newer first")
    write(store.upsert_writer(), [*(put(name, "one", 1) for name in names), put("other", "x", 2)])
    older = store.ledger()
    write(store.upsert_writer(), [put(name, "two", 3, day=1) for name in names])
    newer = store.ledger()
    ledger = f"{store.name}__ledger"
    with closing(milvus_client(request.getfixturevalue("milvus_uri"))) as other:
        # An insert replaces nothing: as if the delete of an upsert had been lost.
        store.api.delete(ledger, None, [ledger_id(None, name) for name in names])
        for first, second, name in ((older, newer, names[0]), (newer, older, names[1])):
            for entry in (first[name], second[name]):
                other.insert(ledger, [{**entry_row(entry), "vector": [1.0, 1.0]}])
    answered = store.ledger()
    assert any(answered[name] == older[name] for name in names), "this server answers the newer of two rows"
    write(store.upsert_writer(), [*(put(name, "three", 4, day=2) for name in names), put("other", "x", 2)])
    check(store, {TODAY: {("other", 0): "x"}, "d20261124": {(name, 0): "three" for name in names}})
    assert not any(entry.pending for entry in store.ledger().values())
