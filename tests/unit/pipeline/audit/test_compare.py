"""What an audit says of one document."""

from dataclasses import replace

import pytest

from pipeline.audit import (
    AppendedIds,
    AuditScope,
    ExpectedState,
    ExpectedWrite,
    Finding,
    StoredRow,
    compare_document,
    stored_row,
    text_digest,
)
from pipeline.records import Delete, Position, Put
from pipeline.store.partition_names import Partitioning
from pipeline.store.writing.llama_nodes import with_nodes
from pipeline.store.writing.protocol.decisions import NOWHERE, DocumentHashes, Entry, final
from pipeline.store.writing.rows import append_rows, content_hash, document_rows, row_hash
from tests.support.documents import delete, embedded, put

HOME = "d20261122"
SCOPE = AuditScope(Partitioning("day"), "model", ("_default", HOME), (), {("documents", 0): (10, 100)})
DOCUMENT = put("a", "one two three", 50)
GONE = put("a", "one two three", 5)


def expected(operation: Put | Delete, *, certain: bool = True) -> ExpectedWrite:
    words = operation.document.text.split() if isinstance(operation, Put) else []
    return ExpectedWrite.of(operation, certain=certain, chunks=tuple(map(text_digest, words)))


def rows(document: Put, place: str = HOME) -> list[StoredRow]:
    return [stored_row(row, place) for row in document_rows(embedded(document), place)]


def entry(operation: Put | Delete, place: str = HOME, *, fingerprint: str = "model") -> Entry:
    if isinstance(operation, Delete):
        return final(operation, None, {}, fingerprint)
    facts = DocumentHashes(content_hash(operation.document.text), row_hash(operation.document), place)
    return final(operation, facts, {place: len(operation.document.text.split())}, fingerprint)


def state(*operations: Put | Delete, certain: bool = True) -> ExpectedState:
    return ExpectedState.of(expected(operation, certain=certain) for operation in operations)


def summary(finding: Finding) -> tuple[str, list[str]]:
    return finding.outcome, [problem.kind for problem in finding.problems]


# --- what cannot be checked ------------------------------------------------------------------------------------------


def test_a_document_whose_records_have_left_the_topic_is_compared_with_its_ledger_row() -> None:
    assert summary(compare_document(state(), entry(GONE), rows(GONE), SCOPE)) == ("unverifiable", [])
    assert summary(compare_document(state(), entry(delete("a", 5)), [], SCOPE)) == ("unverifiable", [])
    assert summary(compare_document(state(), entry(GONE), rows(GONE)[1:], SCOPE)) == ("problem", ["ledger"])
    assert summary(compare_document(state(), None, rows(GONE), SCOPE)) == ("problem", ["ledger"])
    finding = compare_document(state(), entry(GONE)._replace(pending=True), rows(GONE), SCOPE)
    assert summary(finding) == ("problem", ["pending"])
    assert not any(problem.repairable for problem in finding.problems), "there is nothing to write it from"


def test_rows_that_no_record_asks_for_are_extra_unless_compaction_may_have_taken_the_record() -> None:
    finding = compare_document(state(), entry(DOCUMENT), rows(DOCUMENT), SCOPE)
    assert summary(finding) == ("problem", ["extra"])
    assert not finding.problems[0].repairable
    compacted = replace(SCOPE, compacted=("documents",))
    assert summary(compare_document(state(), entry(DOCUMENT), rows(DOCUMENT), compacted)) == ("unverifiable", [])


def test_a_document_that_a_worker_has_gone_on_with_is_changing() -> None:
    newer = put("a", "four", 100)
    assert summary(compare_document(state(DOCUMENT), entry(newer), rows(newer), SCOPE)) == ("changing", [])
    assert summary(compare_document(state(), entry(newer), rows(newer), SCOPE)) == ("changing", [])


def test_a_version_beyond_what_was_read_cannot_be_checked() -> None:
    before = entry(GONE)._replace(version=9, versioned=True)
    older = put("a", "four", 50, version=3)
    assert summary(compare_document(state(older), before, rows(GONE), SCOPE)) == ("unverifiable", [])
    other_topic = entry(GONE)._replace(position=Position("elsewhere", 0, 3), record_time=DOCUMENT.timestamp_ms + 1)
    assert summary(compare_document(state(DOCUMENT), other_topic, rows(GONE), SCOPE)) == ("unverifiable", [])


def test_a_ledger_row_newer_than_every_record_is_wrong() -> None:
    lying = entry(DOCUMENT)._replace(position=Position("documents", 0, 77))
    assert summary(compare_document(state(DOCUMENT), lying, rows(DOCUMENT), SCOPE)) == ("problem", ["ledger"])


def test_a_topic_created_again_makes_its_old_ledger_rows_older() -> None:
    old = entry(put("a", "four", 77))._replace(topic_id="old")
    again = replace(SCOPE, topic_ids={"documents": "new"})
    assert summary(compare_document(state(DOCUMENT), old, rows(put("a", "four", 77)), again)) == (
        "problem",
        ["stale"],
    )
    assert summary(compare_document(state(), old, rows(put("a", "four", 77)), again)) == ("unverifiable", [])


def test_a_record_that_may_have_been_rejected_needs_no_row_until_the_ledger_names_it() -> None:
    maybe = state(DOCUMENT, certain=False)
    assert summary(compare_document(maybe, None, [], SCOPE)) == ("undecided", [])
    assert summary(compare_document(maybe, entry(DOCUMENT), rows(DOCUMENT), SCOPE)) == ("sound", [])
    assert summary(compare_document(maybe, entry(DOCUMENT), [], SCOPE)) == ("problem", ["missing"])
    before = put("a", "four", 40)
    either = ExpectedState.of([expected(before), expected(DOCUMENT, certain=False)])
    assert summary(compare_document(either, entry(before), rows(before), SCOPE)) == ("sound", [])
    assert summary(compare_document(either, entry(DOCUMENT), rows(DOCUMENT), SCOPE)) == ("sound", [])


def test_a_dropped_milvus_partition_is_no_loss_but_a_lost_row_is() -> None:
    dropped = replace(SCOPE, milvus_partitions=("_default",))
    assert summary(compare_document(state(DOCUMENT), entry(DOCUMENT), [], dropped)) == ("pruned", [])
    assert summary(compare_document(state(DOCUMENT), entry(DOCUMENT), [], SCOPE)) == ("problem", ["missing"])


def test_what_is_in_an_unloaded_milvus_partition_cannot_be_checked() -> None:
    unloaded = replace(SCOPE, unloaded=(HOME,))
    assert summary(compare_document(state(DOCUMENT), entry(DOCUMENT), [], unloaded)) == ("unverifiable", [])
    assert summary(compare_document(state(DOCUMENT), None, [], unloaded)) == ("unverifiable", [])


def test_a_delete_is_remembered_until_the_ledger_forgets_it() -> None:
    gone = delete("a", 50)
    assert summary(compare_document(state(gone), None, [], SCOPE)) == ("problem", ["ledger"])
    forgetful = replace(SCOPE, deletes_kept_from_ms=gone.timestamp_ms + 1)
    assert summary(compare_document(state(gone), None, [], forgetful)) == ("sound", [])
    assert summary(compare_document(state(gone), None, rows(DOCUMENT), forgetful)) == ("problem", ["extra"])


# --- what is not wrong -----------------------------------------------------------------------------------------------


def test_rows_of_an_older_record_with_the_same_content_are_current() -> None:
    again = put("a", "one two three", 60)
    assert summary(compare_document(state(DOCUMENT, again), entry(again), rows(DOCUMENT), SCOPE)) == ("sound", [])
    mixed = [*rows(again)[:1], *rows(DOCUMENT)[1:]]
    assert summary(compare_document(state(DOCUMENT, again), entry(again), mixed, SCOPE)) == ("problem", ["stale"])


def test_a_document_cut_by_another_chunking_is_compared_without_its_texts() -> None:
    whole = replace(rows(DOCUMENT)[0], text=text_digest("one two three"))
    stored = entry(DOCUMENT, fingerprint="other")._replace(footprint={HOME: 1})
    finding = compare_document(state(DOCUMENT), stored, [whole], SCOPE)
    assert summary(finding) == ("sound", [])
    assert finding.unread_chunking
    assert summary(compare_document(state(DOCUMENT), stored, [replace(whole, row_hash="0")], SCOPE)) == (
        "problem",
        ["stale"],
    )


def test_rows_with_fields_for_other_programs_are_as_sound_as_those_without() -> None:
    stored = [stored_row(row, HOME) for row in document_rows(embedded(DOCUMENT), HOME, nodes=True)]
    finding = compare_document(state(DOCUMENT), entry(DOCUMENT, fingerprint=with_nodes("model")), stored, SCOPE)
    assert summary(finding) == ("sound", [])
    assert not finding.unread_chunking


@pytest.mark.parametrize(("place", "fits"), [("m202611", True), ("_default", True), ("m202610", False)])
def test_a_place_of_another_granularity_is_as_good(place: str, fits: bool) -> None:
    view = replace(SCOPE, milvus_partitions=(*SCOPE.milvus_partitions, place))
    finding = compare_document(state(DOCUMENT), entry(DOCUMENT, place), rows(DOCUMENT, place), view)
    assert (finding.outcome == "sound") is fits


# --- append mode -----------------------------------------------------------------------------------------------------


def test_append_mode_asks_for_exactly_the_rows_of_every_record() -> None:
    view = replace(SCOPE, appended=AppendedIds("topic-id", {"documents": "id"}))
    stored = [stored_row(row, HOME) for row in append_rows(embedded(DOCUMENT), "id")]
    assert summary(compare_document(state(DOCUMENT), None, stored, view)) == ("sound", [])
    assert summary(compare_document(state(DOCUMENT), None, [], view)) == ("problem", ["missing"])
    assert summary(compare_document(state(DOCUMENT), None, stored[1:], view)) == ("problem", ["incomplete"])
    assert summary(compare_document(state(), None, stored, view)) == ("problem", ["extra"])
    copy = replace(stored[0], milvus_partition="d20260101")
    assert summary(compare_document(state(DOCUMENT), None, [*stored, copy], view)) == (
        "problem",
        ["misplaced", "duplicated"],
    )
    assert summary(compare_document(state(DOCUMENT), None, rows(DOCUMENT), view))[1] == ["extra", "missing"]


def test_an_intent_of_a_document_never_stored_is_pending() -> None:
    begun = entry(DOCUMENT)._replace(position=NOWHERE, pending=True, state="deleted")
    assert summary(compare_document(state(DOCUMENT), begun, [], SCOPE)) == ("problem", ["pending", "missing"])
    assert summary(compare_document(state(), begun, [], SCOPE))[1] == ["pending"]
