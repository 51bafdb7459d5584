"""The checks of a document that must exist: where its rows are, of which version, and what the ledger says. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.audit.case import (
    DocumentCase,
    footprint_text,
    names_record,
    numbers_text,
    partitions_of,
    record_text,
    rows_text,
    same_content,
)
from pipeline.audit.expected_state import ExpectedWrite
from pipeline.audit.findings import Finding, StoredRow
from pipeline.store import DEFAULT_PARTITION, NOWHERE, chunking_of, interval


@dataclass(frozen=True, slots=True)
class _Rows:
    """A document's rows beside what they should be."""

    expected: ExpectedWrite
    home: str
    """The Milvus partition where they belong."""
    count: int
    """Chunks that the document must have."""
    all: Sequence[StoredRow]
    strays: Sequence[StoredRow]
    """Outside `home`, or with an id for another Milvus partition."""
    surplus: Sequence[StoredRow]
    """In their place, with a chunk beyond the last one."""
    stale: Sequence[StoredRow]
    """In their place, of another version."""
    current: Sequence[StoredRow]
    """In their place, of the expected version."""


def check_put(
    case: DocumentCase, expected: ExpectedWrite, event_time: int, own_rows: Sequence[tuple[StoredRow, str]]
) -> Finding:
    """Compare a document that must exist; `own_rows`: each row with the Milvus partition its id was computed for."""
    entry, scope = case.entry, case.scope
    stored_as_expected = entry is not None and not entry.pending and same_content(entry, expected)
    home = _home(case, expected, event_time, own_rows, stored_as_expected=stored_as_expected)
    if home in scope.unloaded:
        return Finding("unverifiable")
    if not own_rows and stored_as_expected and not case.problems and _is_gone(case, home):
        return Finding("pruned", (), expected)
    # Texts cut by another chunking cannot be compared, and their number is in the ledger only.
    other_chunking = entry is not None and stored_as_expected and chunking_of(entry.fingerprint) != scope.fingerprint
    count = entry.footprint.get(home, 0) if entry is not None and other_chunking else len(expected.chunks)
    rows = _classify(expected, home, count, own_rows, compare_text=not other_chunking)
    for check in _CHECKS:
        check(case, rows)
    return case.finding("sound", expected, unread=other_chunking)


def _is_gone(case: DocumentCase, milvus_partition: str) -> bool:
    return milvus_partition not in case.scope.milvus_partitions and milvus_partition != DEFAULT_PARTITION


def _home(
    case: DocumentCase,
    expected: ExpectedWrite,
    event_time: int,
    own_rows: Sequence[tuple[StoredRow, str]],
    *,
    stored_as_expected: bool,
) -> str:
    """The Milvus partition where the rows belong: by the setting `partitioning`, or by an earlier value of it."""
    by_name = case.scope.partitioning.place(event_time, expected.timestamp_ms)
    if case.scope.append:
        existing = {row.milvus_partition for row, _ in own_rows}
        if by_name in existing or not existing:
            return by_name
        earlier = min(existing)
    elif stored_as_expected and case.entry is not None and len(case.entry.footprint) == 1:
        earlier = next(iter(case.entry.footprint))
    else:
        return by_name
    times = interval(earlier)
    fits = earlier == DEFAULT_PARTITION if times is None else times[0] <= event_time < times[1]
    return earlier if fits else by_name


def _classify(
    expected: ExpectedWrite,
    home: str,
    count: int,
    own_rows: Sequence[tuple[StoredRow, str]],
    *,
    compare_text: bool,
) -> _Rows:
    # Each row is exactly one of:
    #
    # 1. A stray: it, or the Milvus partition of its id, is not at home.
    # 2. Surplus: its chunk is beyond the last one.
    # 3. Stale: metadata or text are of another version.
    # 4. Stale, too: content of the expected version, but an older record than the other rows have. A write gives all
    #    rows the position of its record, so this is a leftover, and searches show only the newest.
    # 5. Current.
    in_place = [row for row, made_for in own_rows if made_for == row.milvus_partition == home]
    fitting: list[StoredRow] = []
    stale: list[StoredRow] = []
    for row in in_place:
        if row.chunk < count:
            same_text = not compare_text or row.text == expected.chunks[row.chunk]
            (fitting if same_text and row.row_hash == expected.row_hash else stale).append(row)
    newest = max((row.position for row in fitting), default=NOWHERE)
    return _Rows(
        expected=expected,
        home=home,
        count=count,
        all=[row for row, _ in own_rows],
        strays=[row for row, made_for in own_rows if not made_for == row.milvus_partition == home],
        surplus=[row for row in in_place if row.chunk >= count],
        stale=stale + [row for row in fitting if row.position != newest],
        current=[row for row in fitting if row.position == newest],
    )


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_misplaced(case: DocumentCase, rows: _Rows) -> None:
    if rows.strays:
        sentence = f"{rows_text(rows.strays)} outside {rows.home}, where its event time belongs"
        case.add("misplaced", sentence, partitions_of(rows.strays))


def _check_duplicated(case: DocumentCase, rows: _Rows) -> None:
    ids = Counter(row.id for row in rows.all)
    chunks = Counter(row.chunk for row in rows.all)
    repeated = [row for row in rows.all if ids[row.id] > 1 or chunks[row.chunk] > 1]
    if repeated:
        what = "id" if any(ids[row.id] > 1 for row in repeated) else "chunk"
        numbers = numbers_text(sorted({row.chunk for row in repeated}))
        sentence = f"the same {what} in several Milvus partitions: chunks {numbers}"
        case.add("duplicated", sentence, partitions_of(repeated))


def _check_surplus(case: DocumentCase, rows: _Rows) -> None:
    if rows.surplus:
        numbers = numbers_text(sorted(row.chunk for row in rows.surplus))
        sentence = f"chunks {numbers} beyond the {rows.count} of the document"
        case.add("incomplete", sentence, partitions_of(rows.surplus))


def _check_stale(case: DocumentCase, rows: _Rows) -> None:
    if rows.stale:
        oldest = min(row.position for row in rows.stale)
        others = " and others" if any(row.position != oldest for row in rows.stale) else ""
        case.add(
            "stale",
            f"{rows_text(rows.stale)} not of the newest version, which is {record_text(rows.expected.position)}: "
            f"they were written by {record_text(oldest)}{others}",
            partitions_of(rows.stale),
        )


def _check_missing(case: DocumentCase, rows: _Rows) -> None:
    gaps = sorted(set(range(rows.count)) - {row.chunk for row in rows.all})
    if not rows.all:
        asked_by = record_text(rows.expected.position)
        case.add("missing", f"{asked_by} asks for {rows.count} chunks, and there is no row", {rows.home})
    elif gaps and (rows.current or rows.strays):
        case.add("incomplete", f"of {rows.count} chunks {numbers_text(gaps)} missing", {rows.home})


def _check_ledger(case: DocumentCase, rows: _Rows) -> None:
    """The ledger entry, unless a pending change or the rows explain a difference already."""
    entry, expected, footprint = case.entry, rows.expected, {rows.home: rows.count}
    if case.scope.append or any(problem.kind in ("pending", "missing", "stale") for problem in case.problems):
        return
    if entry is None:
        case.add("ledger", "there is no ledger row for its rows", footprint)
        return
    hashes = entry.content_hash, entry.row_hash
    clauses = (
        (entry.state != "live", "it says deleted"),
        (
            dict(entry.footprint) != footprint,
            f"its footprint is {footprint_text(entry.footprint)}, not {footprint_text(footprint)}",
        ),
        (hashes != (expected.content_hash, expected.row_hash), "its hashes are those of other content"),
        (
            not names_record(entry, expected),
            f"it names {record_text(entry.position)}, not {record_text(expected.position)}, as the newest version",
        ),
    )
    wrong = [clause for applies, clause in clauses if applies]
    if wrong:
        case.add("ledger", f"the ledger row is wrong: {'; '.join(wrong)}", {*entry.footprint, *footprint})


_CHECKS: tuple[Callable[[DocumentCase, _Rows], None], ...] = (
    _check_misplaced,
    _check_duplicated,
    _check_surplus,
    _check_stale,
    _check_missing,
    _check_ledger,
)
