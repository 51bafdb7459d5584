"""What an audit says of one document."""

from dataclasses import replace

import pytest

from pipeline.audit.compare import compare_document
from pipeline.audit.expected_state import ExpectedState, ExpectedWrite, last_word, supersedes
from pipeline.audit.findings import AuditScope, Finding, StoredRow, stored_row, text_digest
from pipeline.records import Delete, Position, Put
from pipeline.store.writing.protocol import NOWHERE, DocumentHashes, Entry, final
from pipeline.store.writing.rows import append_rows, content_hash, document_rows, row_hash
from tests.support.documents import delete, embedded, put

HOME = "d20261122"
VIEW = AuditScope("day", "model", ("_default", HOME), (), {("documents", 0): (10, 100)})
DOCUMENT = put("a", "one two three", 50)
GONE = put("a", "one two three", 5)


def wanted(operation: Put | Delete, *, certain: bool = True) -> ExpectedWrite:
    document = operation.document if isinstance(operation, Put) else None
    return ExpectedWrite(
        operation.position,
        operation.timestamp_ms,
        operation.key,
        operation.version,
        certain,
        None if document is None else document.event_time,
        "" if document is None else content_hash(document.text),
        "" if document is None else row_hash(document),
        () if document is None else tuple(text_digest(word) for word in document.text.split()),
    )


def rows(document: Put, place: str = HOME) -> list[StoredRow]:
    return [stored_row(row, place) for row in document_rows(embedded(document), place)]


def entry(operation: Put | Delete, place: str = HOME, *, fingerprint: str = "model") -> Entry:
    if isinstance(operation, Delete):
        return final(operation, None, {}, fingerprint)
    facts = DocumentHashes(content_hash(operation.document.text), row_hash(operation.document), place)
    return final(operation, facts, {place: len(operation.document.text.split())}, fingerprint)


def word(*operations: Put | Delete, certain: bool = True) -> ExpectedState:
    return last_word(wanted(operation, certain=certain) for operation in operations)


def told(verdict: Finding) -> tuple[str, list[str]]:
    return verdict.outcome, [problem.kind for problem in verdict.problems]


# --- what cannot be told ---------------------------------------------------------------------------------------------


def test_a_document_whose_records_have_left_the_topic_is_judged_by_its_ledger_row() -> None:
    assert told(compare_document(word(), entry(GONE), rows(GONE), VIEW)) == ("unverifiable", [])
    assert told(compare_document(word(), entry(delete("a", 5)), [], VIEW)) == ("unverifiable", [])
    assert told(compare_document(word(), entry(GONE), rows(GONE)[1:], VIEW)) == ("problem", ["ledger"])
    assert told(compare_document(word(), None, rows(GONE), VIEW)) == ("problem", ["ledger"])
    verdict = compare_document(word(), replace(entry(GONE), pending=True), rows(GONE), VIEW)
    assert told(verdict) == ("problem", ["pending"])
    assert not any(problem.mendable for problem in verdict.problems), "there is nothing to write it from"


def test_rows_that_no_record_asks_for_are_extra_unless_compaction_may_have_taken_the_record() -> None:
    verdict = compare_document(word(), entry(DOCUMENT), rows(DOCUMENT), VIEW)
    assert told(verdict) == ("problem", ["extra"])
    assert not verdict.problems[0].mendable
    compacted = replace(VIEW, compacted=("documents",))
    assert told(compare_document(word(), entry(DOCUMENT), rows(DOCUMENT), compacted)) == ("unverifiable", [])


def test_a_document_that_a_worker_has_gone_on_with_is_changing() -> None:
    newer = put("a", "four", 100)
    assert told(compare_document(word(DOCUMENT), entry(newer), rows(newer), VIEW)) == ("changing", [])
    assert told(compare_document(word(), entry(newer), rows(newer), VIEW)) == ("changing", [])


def test_a_version_beyond_what_was_read_cannot_be_checked() -> None:
    before = replace(entry(GONE), version=9, versioned=True)
    older = put("a", "four", 50, version=3)
    assert told(compare_document(word(older), before, rows(GONE), VIEW)) == ("unverifiable", [])
    other_topic = replace(entry(GONE), position=Position("elsewhere", 0, 3))
    assert told(compare_document(word(DOCUMENT), other_topic, rows(GONE), VIEW)) == ("unverifiable", [])


def test_a_ledger_row_newer_than_every_record_is_wrong() -> None:
    lying = replace(entry(DOCUMENT), position=Position("documents", 0, 77))
    assert told(compare_document(word(DOCUMENT), lying, rows(DOCUMENT), VIEW)) == ("problem", ["ledger"])


def test_a_topic_made_anew_makes_its_old_ledger_rows_older() -> None:
    old = replace(entry(put("a", "four", 77)), topic_id="old")
    anew = replace(VIEW, topic_ids={"documents": "new"})
    assert told(compare_document(word(DOCUMENT), old, rows(put("a", "four", 77)), anew)) == ("problem", ["stale"])
    assert told(compare_document(word(), old, rows(put("a", "four", 77)), anew)) == ("unverifiable", [])


def test_a_record_that_may_have_been_rejected_needs_no_row_until_the_ledger_names_it() -> None:
    maybe = word(DOCUMENT, certain=False)
    assert told(compare_document(maybe, None, [], VIEW)) == ("undecided", [])
    assert told(compare_document(maybe, entry(DOCUMENT), rows(DOCUMENT), VIEW)) == ("sound", [])
    assert told(compare_document(maybe, entry(DOCUMENT), [], VIEW)) == ("problem", ["missing"])
    before = put("a", "four", 40)
    either = last_word([wanted(before), wanted(DOCUMENT, certain=False)])
    assert told(compare_document(either, entry(before), rows(before), VIEW)) == ("sound", [])
    assert told(compare_document(either, entry(DOCUMENT), rows(DOCUMENT), VIEW)) == ("sound", [])


def test_a_dropped_milvus_partition_is_no_loss_but_a_lost_row_is() -> None:
    dropped = replace(VIEW, milvus_partitions=("_default",))
    assert told(compare_document(word(DOCUMENT), entry(DOCUMENT), [], dropped)) == ("pruned", [])
    assert told(compare_document(word(DOCUMENT), entry(DOCUMENT), [], VIEW)) == ("problem", ["missing"])


def test_what_is_in_an_unloaded_milvus_partition_cannot_be_checked() -> None:
    unloaded = replace(VIEW, unloaded=(HOME,))
    assert told(compare_document(word(DOCUMENT), entry(DOCUMENT), [], unloaded)) == ("unverifiable", [])
    assert told(compare_document(word(DOCUMENT), None, [], unloaded)) == ("unverifiable", [])


def test_a_delete_is_remembered_until_the_ledger_forgets_it() -> None:
    gone = delete("a", 50)
    assert told(compare_document(word(gone), None, [], VIEW)) == ("problem", ["ledger"])
    forgetful = replace(VIEW, deletes_kept_from_ms=gone.timestamp_ms + 1)
    assert told(compare_document(word(gone), None, [], forgetful)) == ("sound", [])
    assert told(compare_document(word(gone), None, rows(DOCUMENT), forgetful)) == ("problem", ["extra"])


# --- what is not wrong -----------------------------------------------------------------------------------------------


def test_rows_of_an_older_record_with_the_same_content_are_current() -> None:
    again = put("a", "one two three", 60)
    assert told(compare_document(word(DOCUMENT, again), entry(again), rows(DOCUMENT), VIEW)) == ("sound", [])
    mixed = [*rows(again)[:1], *rows(DOCUMENT)[1:]]
    assert told(compare_document(word(DOCUMENT, again), entry(again), mixed, VIEW)) == ("problem", ["stale"])


def test_a_document_cut_by_another_chunking_is_compared_without_its_texts() -> None:
    whole = replace(rows(DOCUMENT)[0], text=text_digest("one two three"))
    stored = replace(entry(DOCUMENT, fingerprint="other"), footprint={HOME: 1})
    verdict = compare_document(word(DOCUMENT), stored, [whole], VIEW)
    assert told(verdict) == ("sound", [])
    assert verdict.unread_chunking
    assert told(compare_document(word(DOCUMENT), stored, [replace(whole, row_hash="0")], VIEW)) == (
        "problem",
        ["stale"],
    )


@pytest.mark.parametrize(("place", "fits"), [("m202611", True), ("_default", True), ("m202610", False)])
def test_a_place_of_another_granularity_is_as_good(place: str, fits: bool) -> None:
    view = replace(VIEW, milvus_partitions=(*VIEW.milvus_partitions, place))
    verdict = compare_document(word(DOCUMENT), entry(DOCUMENT, place), rows(DOCUMENT, place), view)
    assert (verdict.outcome == "sound") is fits


# --- append mode -----------------------------------------------------------------------------------------------------


def test_append_mode_asks_for_exactly_the_rows_of_every_record() -> None:
    view = replace(VIEW, append=True)
    stored = [stored_row(row, HOME) for row in append_rows(embedded(DOCUMENT))]
    assert told(compare_document(word(DOCUMENT), None, stored, view)) == ("sound", [])
    assert told(compare_document(word(DOCUMENT), None, [], view)) == ("problem", ["missing"])
    assert told(compare_document(word(DOCUMENT), None, stored[1:], view)) == ("problem", ["incomplete"])
    assert told(compare_document(word(), None, stored, view)) == ("problem", ["extra"])
    copy = replace(stored[0], milvus_partition="d20260101")
    assert told(compare_document(word(DOCUMENT), None, [*stored, copy], view)) == (
        "problem",
        ["misplaced", "duplicated"],
    )
    assert told(compare_document(word(DOCUMENT), None, rows(DOCUMENT), view))[1] == ["extra", "missing"]


# --- the last word ---------------------------------------------------------------------------------------------------


def candidates(*operations: Put | Delete) -> list[int]:
    return [each.position.offset for each in word(*operations).candidates]


def test_the_last_record_has_the_last_word_and_the_highest_version_before_it() -> None:
    assert candidates(put("a", "x", 1), delete("a", 2), put("a", "y", 3)) == [3]
    assert candidates(put("a", "x", 1, version=5), put("a", "y", 2, version=4)) == [1]
    assert candidates(put("a", "x", 1, version=5), put("a", "y", 2, version=5)) == [2]
    elsewhere = put("a", "y", 9, version=6, partition=1)
    assert candidates(put("a", "x", 1, version=5), elsewhere) == [9]


def test_where_arrival_decides_every_order_is_possible() -> None:
    assert sorted(candidates(put("a", "x", 1), put("a", "y", 2), put("a", "z", 9, partition=1))) == [2, 9]
    # Folded in one batch, the null value never came to delete version 5.
    assert sorted(candidates(put("a", "x", 1, version=5), delete("a", 2), put("a", "y", 3, version=4))) == [1, 3]
    assert candidates(put("a", "x", 1, version=5), delete("a", 2)) == [2]


def test_only_what_can_never_last_is_forgotten_early() -> None:
    first, second = wanted(put("a", "x", 1)), wanted(put("a", "y", 2))
    assert supersedes(second, first)
    assert not supersedes(replace(second, certain=False), first)
    assert not supersedes(wanted(put("a", "y", 2, partition=1)), first)
    assert not supersedes(wanted(put("a", "y", 2, version=1)), first)
    assert not supersedes(wanted(put("a", "y", 2, version=1)), wanted(put("a", "x", 1, version=2)))


def test_an_intent_of_a_document_never_stored_is_pending() -> None:
    begun = replace(entry(DOCUMENT), position=NOWHERE, pending=True, state="deleted")
    assert told(compare_document(word(DOCUMENT), begun, [], VIEW)) == ("problem", ["pending", "missing"])
    assert told(compare_document(word(), begun, [], VIEW))[1] == ["pending"]
