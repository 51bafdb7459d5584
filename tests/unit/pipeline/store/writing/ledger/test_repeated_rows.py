"""A ledger row that the server has twice is found by its count, and the document is written again."""

from typing import Any

from pipeline.store.collection.schema import ledger_name
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.ledger.repeated_rows import repeated_entries
from pipeline.store.writing.ledger.tombstone_cleanup import SweepPolicy, TombstoneSweep
from tests.support.documents import delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.milvus_expressions import parse
from tests.support.stores import Store, make_store, write


class LostDelete:
    """A server that has lost the delete of one upsert of a ledger row, and answers the older row first."""

    def __init__(self, milvus: FakeMilvus, older: dict[str, Any]) -> None:
        self.milvus = milvus
        self.older = older

    def query(self, collection: str, expression: str, fields: list[str], **options: Any) -> list[dict[str, Any]]:
        rows = self.milvus.query(collection, expression, fields, **options)
        if not collection.endswith("__ledger") or not parse(expression)(self.older):
            return rows
        if fields == ["count(*)"]:
            return [{"count(*)": rows[0]["count(*)"] + 1}]
        others = [row for row in rows if row["id"] != self.older["id"]]
        return [*others, {name: self.older[name] for name in {"id", *fields}}]

    def upsert(self, collection: str, partition: str | None, rows: list[dict[str, Any]]) -> None:
        self.milvus.upsert(collection, partition, rows)
        if self.older["id"] in {row["id"] for row in rows}:
            self.older = {**self.older, "id": ""}  # the next upsert deletes every row of the id

    def __getattr__(self, name: str) -> Any:
        return getattr(self.milvus, name)


def test_an_older_row_does_not_hide_where_rows_are() -> None:
    fake = FakeMilvus()
    store = make_store(fake, "docs")
    write(store.upsert_writer(), [put("d", "one", 1, day=0), put("other", "x", 2)])
    older = dict(entry_row(store.ledger()["d"]))
    write(store.upsert_writer(), [put("d", "two", 3, day=1)])
    api: MilvusApi = LostDelete(fake, older)  # type: ignore[assignment]
    write(Store(api, "docs").upsert_writer(), [put("d", "three", 4, day=2), put("other", "y", 5)])
    assert store.rows() == {"d20261124": {("d", 0): "three"}, "d20261122": {("other", 0): "y"}}
    assert not store.ledger()["d"].pending


def test_an_older_row_lets_no_older_record_pass() -> None:
    fake = FakeMilvus()
    store = make_store(fake, "docs")
    write(store.upsert_writer(), [put("d", "one", 1, version=1)])
    older = dict(entry_row(store.ledger()["d"]))
    write(store.upsert_writer(), [put("d", "five", 2, version=5)])
    api: MilvusApi = LostDelete(fake, older)  # type: ignore[assignment]
    assert Store(api, "docs").upsert_writer().plan([put("d", "three", 3, version=3)]).stale == 1


def test_two_intents_of_one_record_are_two_rows() -> None:
    fake = FakeMilvus()
    store = make_store(fake, "docs")
    write(store.upsert_writer(), [put("d", "one", 1)])
    begun = store.ledger()["d"]._replace(pending=True)
    further = begun._replace(footprint={**begun.footprint, "d20261124": 1})
    fake.upsert(ledger_name("docs"), None, [entry_row(begun)])
    api: MilvusApi = LostDelete(fake, dict(entry_row(further)))  # type: ignore[assignment]
    (found,) = repeated_entries(api, ledger_name("docs"), [entry_row(begun)["id"]], 1, {}).values()
    assert found.footprint == further.footprint


def test_no_tombstone_is_swept_beside_which_the_server_has_a_newer_row() -> None:
    fake = FakeMilvus()
    store = make_store(fake, "docs")
    write(store.upsert_writer(), [put("d", "one", 1), put("gone", "x", 2)])
    write(store.upsert_writer(), [delete("d", 3), delete("gone", 4)])
    tombstone = dict(entry_row(store.ledger()["d"]))
    write(store.upsert_writer(), [put("d", "two", 5)])
    api: MilvusApi = LostDelete(fake, tombstone)  # type: ignore[assignment]
    sweep = TombstoneSweep(api, "docs", SweepPolicy(retention_s=1), wall_clock=lambda: 4e9)
    assert sweep.step([("documents", 0)]) == 1
    assert set(store.ledger()) == {"d"}
    assert store.ledger()["d"].state == "live"
