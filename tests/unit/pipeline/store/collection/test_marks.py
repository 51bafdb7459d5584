"""Marks: named values that are written and never changed."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.store.collection.marks import LEDGER_MARK_STATE, Marks, sweep_ledger_marks
from pipeline.store.collection.opening import open_ledger, open_marks
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.protocol.decisions import final
from tests.support.documents import put
from tests.support.fakes.milvus import FakeMilvus

NAME = "documents/0"


@pytest.fixture
def milvus() -> FakeMilvus:
    made = FakeMilvus()
    open_marks(made, "docs")
    return made


def rows(milvus: FakeMilvus) -> list[tuple[str, int, str]]:
    return sorted(
        (row["name"], row["count"], row["payload"]) for row in milvus.stored("docs__marks")["_default"].values()
    )


def test_the_newest_value_of_a_name_counts_and_one_before_it_is_kept(milvus: FakeMilvus) -> None:
    marks = Marks(milvus, "docs")
    for offset in range(4):
        marks.write("position", {NAME: {"offset": offset}})
    marks.write("position", {"other": {"offset": 9}})
    read = Marks(milvus, "docs").read("position")
    assert {name: (mark.count, mark.payload) for name, mark in read.items()} == {
        NAME: (4, {"offset": 3}),
        "other": (1, {"offset": 9}),
    }
    assert rows(milvus) == [(NAME, 3, '{"offset":2}'), (NAME, 4, '{"offset":3}'), ("other", 1, '{"offset":9}')]


def test_kinds_do_not_mix(milvus: FakeMilvus) -> None:
    marks = Marks(milvus, "docs")
    marks.write("stamp", {NAME: {"mode": "append"}})
    assert marks.read("position") == {}
    assert marks.write("position", {NAME: {"offset": 1}})[NAME].count == 1
    assert marks.read("stamp")[NAME].payload == {"mode": "append"}


def test_another_writer_goes_on_from_what_it_has_read(milvus: FakeMilvus) -> None:
    first, second = Marks(milvus, "docs"), Marks(milvus, "docs")
    for offset in (1, 2):
        first.write("position", {NAME: {"offset": offset}})
    second.read("position")
    assert second.write("position", {NAME: {"offset": 3}})[NAME].count == 3
    assert first.read("position")[NAME].payload == {"offset": 3}
    assert [count for _, count, _ in rows(milvus)] == [2, 3]


@pytest.mark.parametrize("applied", [True, False])
def test_after_an_unknown_outcome_the_count_is_not_used_again(milvus: FakeMilvus, applied: bool) -> None:
    marks = Marks(milvus, "docs")
    marks.write("position", {NAME: {"offset": 1}})
    milvus.fail_next("upsert", OutcomeUnknown("no answer"), applied=applied)
    with pytest.raises(OutcomeUnknown):
        marks.write("position", {NAME: {"offset": 2}})
    assert marks.write("position", {NAME: {"offset": 3}})[NAME].count == 3
    assert marks.read("position")[NAME].payload == {"offset": 3}


def test_a_server_that_lost_the_newest_row_has_the_one_before_and_no_id_is_used_twice(milvus: FakeMilvus) -> None:
    marks = Marks(milvus, "docs")
    for offset in (1, 2, 3):
        marks.write("position", {NAME: {"offset": offset}})
    before = set(milvus.stored("docs__marks")["_default"])
    (newest,) = [key for key, row in milvus.stored("docs__marks")["_default"].items() if row["count"] == 3]
    milvus.delete("docs__marks", None, [newest])
    assert marks.read("position")[NAME].payload == {"offset": 2}
    assert marks.write("position", {NAME: {"offset": 4}})[NAME].count == 4
    assert not (set(milvus.stored("docs__marks")["_default"]) - before) & before


def test_what_could_not_be_deleted_is_deleted_by_a_later_write(milvus: FakeMilvus) -> None:
    marks = Marks(milvus, "docs")
    for offset in (1, 2):
        marks.write("position", {NAME: {"offset": offset}})
    milvus.fail_next("delete", Unavailable("away"))
    marks.write("position", {NAME: {"offset": 3}})
    assert len(rows(milvus)) == 3
    marks.write("position", {NAME: {"offset": 4}})
    assert [count for _, count, _ in rows(milvus)] == [3, 4]


def test_an_answer_with_less_rows_than_there_are_is_not_believed(milvus: FakeMilvus) -> None:
    marks = Marks(milvus, "docs")
    marks.write("position", {NAME: {"offset": 1}, "other": {"offset": 2}})
    whole = milvus.query

    def without_one(collection: str, expression: str, fields: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        answer = whole(collection, expression, fields, **options)
        return answer if list(fields) == ["count(*)"] else answer[1:]

    milvus.query = without_one  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="2 marks in docs__marks and only 1 answered"):
        marks.read("position")


def test_flush_marks_of_a_former_version_are_swept_from_the_ledger(milvus: FakeMilvus) -> None:
    open_ledger(milvus, "docs")
    document = entry_row(final(put("a", "text", 1), None, {}, "model"))
    mark = {**document, "id": "ab" * 20, "doc_id": "", "state": LEDGER_MARK_STATE, "kafka_partition": -2}
    milvus.upsert("docs__ledger", None, [document, mark])
    sweep_ledger_marks(milvus, "docs")
    assert list(milvus.stored("docs__ledger")["_default"]) == [document["id"]]
    milvus.down = True
    sweep_ledger_marks(milvus, "docs")  # an outage only puts it off
