"""The comparison of one document's stored rows with its Kafka records. Pure.

Records still in the topic are the source of truth. The ledger only breaks ties between them, and locates the rows.
"""

from collections.abc import Sequence

from pipeline.audit.case import (
    DocumentCase,
    footprint_of,
    footprint_text,
    names_record,
    partitions_of,
    record_text,
    rows_text,
    same_content,
)
from pipeline.audit.compare_rows import check_put
from pipeline.audit.expected_state import ExpectedState, ExpectedWrite
from pipeline.audit.findings import AuditScope, Finding, StoredRow, Where
from pipeline.records import Position
from pipeline.store import NOWHERE, Entry, compare_entry


def compare_document(
    state: ExpectedState, entry: Entry | None, rows: Sequence[StoredRow], scope: AuditScope
) -> Finding:
    """Compare a document's expected state with its ledger entry and all of its rows (append mode: without entry)."""
    case = DocumentCase(entry, rows, scope)
    if any(name in scope.unloaded for name in case.places):
        return Finding("unverifiable")
    if not state.candidates:
        return _without_records(case)
    by_ledger = None if entry is None else _choose_by_ledger(case, state, entry)
    if isinstance(by_ledger, Finding):
        return by_ledger
    expected = by_ledger or _choose_by_rows(state, rows)
    # A record that the ledger names was accepted, even if that is uncertain now.
    if state.maybe_nothing and not rows and (by_ledger is None or entry is None or entry.pending):
        _check_pending(case)
        return case.finding("undecided", expected)
    own_rows = _own_rows(case)
    _check_pending(case)
    if expected.event_time is not None:
        return check_put(case, expected, expected.event_time, own_rows)
    _check_delete(case, expected, [row for row, _ in own_rows])
    return case.finding("sound", expected)


def _choose_by_rows(state: ExpectedState, rows: Sequence[StoredRow]) -> ExpectedWrite:
    """The candidate that wrote the rows, else the most probable one: where arrival decided, rows are the evidence."""
    written = {row.position for row in rows}
    return next((write for write in state.candidates if write.position in written), state.candidates[0])


def _choose_by_ledger(case: DocumentCase, state: ExpectedState, entry: Entry) -> ExpectedWrite | Finding | None:
    """The candidate that the ledger names; None if it names none; a finding if that makes a comparison impossible."""
    # 1. The entry is of a deleted topic of the same name: it names none of these records.
    if not case.scope.of_this_log(entry):
        return None
    # 2. It names a candidate, or one of equal version and content in another Kafka partition, or no record at all.
    named = [write for write in state.candidates if write.position == entry.position]
    if not named and entry.versioned:
        named = [write for write in state.candidates if names_record(entry, write) and same_content(entry, write)]
    if named or entry.position == NOWHERE:
        return next(iter(named), None)
    # 3. It may name the last record of some order of reading the logs: only rows and ledger can be compared.
    if state.by_reading and not entry.pending and case.scope.where(entry.position) == "here":
        stored = footprint_of(case.rows)
        if stored != dict(entry.footprint):
            sentence = f"rows and ledger row disagree ({footprint_text(stored)}; {footprint_text(entry.footprint)})"
            case.add("ledger", sentence, case.places)
        return case.finding("unverifiable")
    # 4. It names another record.
    return _names_other_record(case, state.candidates[0], entry)


def _names_other_record(case: DocumentCase, newest: ExpectedWrite, entry: Entry) -> Finding | None:
    """The finding for an entry that names a record which was not read; None if it is merely out of date."""
    where = case.scope.where(entry.position)
    # 1. A record behind the range: a worker is writing the document.
    if where == "later":
        return Finding("changing")
    order, _, by_arrival = compare_entry(entry, newest.as_delete())
    entry_is_newer = order < 0
    # 2. A newer record that has left the topic, or one that only the arrival makes newer or older.
    if where == "gone" and (entry_is_newer or by_arrival):
        _check_pending(case)
        return case.finding("unverifiable", newest)
    # 3. An older record.
    if not entry_is_newer:
        return None
    # 4. A newer record in the range, where there is none.
    _check_pending(case)
    case.add(
        "ledger",
        f"the ledger row names {record_text(entry.position)} as the newest version, and no such record of it is there; "
        f"the newest is {record_text(newest.position)}",
        case.places,
    )
    return case.finding("problem", newest)


def _without_records(case: DocumentCase) -> Finding:
    """The finding for a document without a record in the range: its records have left the topic, or never existed."""
    where, position = _newest_named(case)
    # 1. A record behind the range: a worker is writing the document.
    if where == "later":
        return Finding("changing")
    _check_pending(case, repairable=False)
    # 2. A record that would have been read if it existed.
    if where == "here" and case.live:
        sentence = f"no record of it asks for these rows; they name {record_text(position)}"
        case.add("extra", sentence, case.places, repairable=False)
    # 3. A record that has left the topic: the rows must be those of the ledger entry. Append mode has none.
    elif not case.scope.append:
        _check_leftover(case)
    return case.finding("unverifiable")


def _newest_named(case: DocumentCase) -> tuple[Where, Position]:
    """The newest record that rows or ledger entry name, and where it is."""
    entry, rows = case.entry, case.rows
    position = max((row.position for row in rows), default=NOWHERE)
    if entry is not None and (entry.position != NOWHERE or not rows):
        position = entry.position
    if entry is not None and not case.scope.of_this_log(entry):
        return "gone", position
    return ("here" if position == NOWHERE else case.scope.where(position)), position


def _check_leftover(case: DocumentCase) -> None:
    """The rows of a document whose records have left the topic must be those of its ledger entry."""
    entry, stored = case.entry, footprint_of(case.rows)
    if entry is None:
        sentence = "there are rows but no ledger row, and its record has left the topic"
    elif not entry.pending and stored != dict(entry.footprint):
        sentence = (
            f"rows and ledger row disagree ({footprint_text(stored)}; the ledger says "
            f"{footprint_text(entry.footprint)}), and its record has left the topic"
        )
    else:
        return
    case.add("ledger", sentence, case.places, repairable=False)


def _own_rows(case: DocumentCase) -> list[tuple[StoredRow, str]]:
    """The rows with ids that milvus-stream makes, each with the Milvus partition its id was computed for.

    Reports the other rows, and ids that are stored repeatedly.
    """
    own, foreign = [], []
    for row in case.rows:
        made_for = row.made_for(case.scope)
        if made_for is None:
            foreign.append(row)
        else:
            own.append((row, made_for))
    if foreign:
        case.add(
            "extra",
            f"{rows_text(foreign)} with ids that milvus-stream never makes (the first is {foreign[0].id!r}): written "
            "by another program, to be removed by hand",
            partitions_of(foreign),
            repairable=False,
        )
    copied = [row for row in case.rows if row.copies > 1]
    if copied:
        most = max(row.copies for row in copied)
        sentence = f"{rows_text(copied)} stored more than once under the same id (up to {most} copies)"
        case.add("duplicated", sentence, partitions_of(copied))
    return own


def _check_pending(case: DocumentCase, *, repairable: bool = True) -> None:
    if case.entry is not None and case.entry.pending:
        case.add(
            "pending",
            f"a change was begun and not finished ({footprint_text(case.entry.footprint)} may hold rows)",
            case.entry.footprint,
            repairable=repairable,
        )


def _check_delete(case: DocumentCase, expected: ExpectedWrite, own_rows: Sequence[StoredRow]) -> None:
    """A deleted document has no rows, and a ledger entry that says so."""
    entry, deleted_by = case.entry, f"deleted by {record_text(expected.position)}"
    if own_rows:
        case.add("extra", f"{deleted_by}, but {rows_text(own_rows)} left", partitions_of(own_rows))
    elif case.problems:
        return
    elif entry is None:
        if expected.timestamp_ms >= case.scope.deletes_kept_from_ms:
            case.add("ledger", f"{deleted_by}, and no ledger row keeps that in mind")
    elif entry.state != "deleted" or entry.footprint or not names_record(entry, expected):
        case.add(
            "ledger",
            f"{deleted_by}, but the ledger row says {entry.state} by {record_text(entry.position)}, "
            f"{footprint_text(entry.footprint)}",
            entry.footprint,
        )
