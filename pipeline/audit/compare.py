"""Whether what is stored of one document is what its records ask for. Pure.

The records decide, as far as they are still in the topic; the ledger says which of several possible ones was the last,
and where the rows are.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pipeline.audit.expected_state import ExpectedState, ExpectedWrite
from pipeline.audit.findings import AuditScope, Finding, FindingKind, Outcome, Problem, StoredRow, asked, origin
from pipeline.records import Position
from pipeline.store.partitions import DEFAULT_PARTITION, interval, partition_name
from pipeline.store.writing.protocol import NOWHERE, Decision, Entry, Footprint, comparable, decide


@dataclass(slots=True)
class _Case:
    """One document under examination."""

    entry: Entry | None
    rows: Sequence[StoredRow]
    view: AuditScope
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: FindingKind, sentence: str, partitions: Collection[str] = (), *, mendable: bool = True) -> None:
        self.problems.append(Problem(kind, sentence, tuple(sorted(partitions)), mendable))

    def verdict(self, outcome: Outcome, wanted: ExpectedWrite | None = None, *, unread: bool = False) -> Finding:
        return Finding("problem" if self.problems else outcome, tuple(self.problems), wanted, unread)

    @property
    def places(self) -> set[str]:
        """Milvus partitions where rows are or may be."""
        return {row.milvus_partition for row in self.rows} | set(self.entry.footprint if self.entry else ())


def compare_document(word: ExpectedState, entry: Entry | None, rows: Sequence[StoredRow], view: AuditScope) -> Finding:
    """Compare one document's last word with its ledger row and all of its rows (append mode: no ledger row)."""
    case = _Case(entry, rows, view)
    if any(name in view.unloaded for name in case.places):
        return Finding("unverifiable")
    if not word.candidates:
        return _without_records(case)
    known = None if entry is None else _by_ledger(case, word, entry)
    if isinstance(known, Finding):
        return known
    # Where arrival decided and the ledger does not tell, the rows do.
    written = {row.position for row in rows}
    wanted = known or next((each for each in word.candidates if each.position in written), word.candidates[0])
    # A record that the ledger names was accepted, whatever can be told of it now.
    if word.maybe_nothing and not rows and (known is None or entry is None or entry.pending):
        _pending(case)
        return case.verdict("undecided", wanted)
    ours = _own_rows(case)
    if wanted.event_time is not None:
        return _compare_put(case, wanted, wanted.event_time, ours)
    _compare_delete(case, wanted, ours)
    return case.verdict("sound", wanted)


def _by_ledger(case: _Case, word: ExpectedState, entry: Entry) -> ExpectedWrite | Finding | None:
    """The candidate that the ledger names, None if it names an older one, a verdict if it cannot be compared."""
    if not case.view.of_this_log(entry):
        return None
    named = [each for each in word.candidates if each.position == entry.position]
    if not named and entry.versioned:
        # Of equal versions with the same content in two Kafka partitions, the ledger need not name the last.
        named = [each for each in word.candidates if _names(entry, each) and _same_content(entry, each)]
    if named or entry.position == NOWHERE:
        return next(iter(named), None)
    if word.by_batches and not entry.pending and case.view.where(entry.position) == "here":
        # It may name a record that is the last by some cut into batches: only rows and ledger can be compared.
        found = _footprint(case.rows)
        if found != dict(entry.footprint):
            case.add("ledger", f"rows and ledger row disagree ({_told(found)}; {_told(entry.footprint)})", case.places)
        return case.verdict("unverifiable")
    return _beyond(case, word.candidates[0], entry)


def _without_records(case: _Case) -> Finding:
    """No record of it was read: it has left the topic, or never was there."""
    entry, rows, view = case.entry, case.rows, case.view
    position = max((row.position for row in rows), default=NOWHERE)
    if entry is not None and (entry.position != NOWHERE or not rows):
        position = entry.position
    where = "here" if position == NOWHERE else view.where(position)
    if entry is not None and not view.of_this_log(entry):
        where = "gone"
    if where == "later":
        return Finding("changing")
    live = bool(rows) or (entry is not None and entry.state == "live")
    _pending(case, mendable=False)
    if where == "here" and live:
        case.add(
            "extra", f"no record of it asks for these rows; they name {_name(position)}", case.places, mendable=False
        )
    elif view.append:
        return Finding("unverifiable")
    elif entry is None:
        case.add(
            "ledger", "there are rows but no ledger row, and its record has left the topic", case.places, mendable=False
        )
    elif not entry.pending and _footprint(rows) != dict(entry.footprint):
        case.add(
            "ledger",
            f"rows and ledger row disagree ({_told(_footprint(rows))}; the ledger says {_told(entry.footprint)}), and "
            "its record has left the topic",
            case.places,
            mendable=False,
        )
    return case.verdict("unverifiable")


def _beyond(case: _Case, newest: ExpectedWrite, entry: Entry) -> Finding | None:
    """The verdict where the ledger names a record that was not among those read, None where it is merely older."""
    where = case.view.where(entry.position)
    if where == "later":
        return Finding("changing")
    operation = asked(newest)
    newer = decide(entry, operation, None, case.view.fingerprint) is Decision.STALE
    if where == "gone" and (newer or not comparable(entry, operation)):
        _pending(case)
        return case.verdict("unverifiable", newest)
    if not newer:
        return None
    _pending(case)
    case.add(
        "ledger",
        f"the ledger row names {_name(entry.position)} as the newest version, and no such record of it is there; the "
        f"newest is {_name(newest.position)}",
        case.places,
    )
    return case.verdict("problem", newest)


def _own_rows(case: _Case) -> list[tuple[StoredRow, str]]:
    """The rows with ids of ours, each with the Milvus partition that its id is made for; the others are told."""
    ours, foreign = [], []
    for row in case.rows:
        made_for = origin(row, case.view)
        if made_for is None:
            foreign.append(row)
        else:
            ours.append((row, made_for))
    if foreign:
        case.add(
            "extra",
            f"{_rows(foreign)} with ids that milvus-stream never makes (the first is {foreign[0].id!r}): written by "
            "another program, to be removed by hand",
            {row.milvus_partition for row in foreign},
            mendable=False,
        )
    copied = [row for row in case.rows if row.copies > 1]
    if copied:
        case.add(
            "duplicated",
            f"{_rows(copied)} stored more than once under the same id (up to {max(r.copies for r in copied)} copies)",
            {row.milvus_partition for row in copied},
        )
    return ours


def _compare_delete(case: _Case, wanted: ExpectedWrite, ours: Sequence[tuple[StoredRow, str]]) -> None:
    entry = case.entry
    _pending(case)
    if ours:
        rows = [row for row, _ in ours]
        case.add("extra", f"deleted by {_name(wanted.position)}, but {_rows(rows)} left", _places(rows))
    elif case.problems:
        return
    elif entry is None:
        if wanted.timestamp_ms >= case.view.deletes_kept_from_ms:
            case.add("ledger", f"deleted by {_name(wanted.position)}, and no ledger row keeps that in mind")
    elif entry.state != "deleted" or entry.footprint or not _names(entry, wanted):
        case.add(
            "ledger",
            f"deleted by {_name(wanted.position)}, but the ledger row says {entry.state} by {_name(entry.position)}, "
            f"{_told(entry.footprint)}",
            entry.footprint,
        )


def _compare_put(case: _Case, wanted: ExpectedWrite, event_time: int, ours: Sequence[tuple[StoredRow, str]]) -> Finding:
    entry, view = case.entry, case.view
    same = entry is not None and _says(entry, wanted)
    home = _home(case, event_time, ours, same=same)
    if home in view.unloaded:
        return Finding("unverifiable")
    other_chunking = entry is not None and same and entry.fingerprint != view.fingerprint
    count = entry.footprint.get(home, 0) if entry is not None and other_chunking else len(wanted.chunks)
    _pending(case)
    if not ours and home not in view.milvus_partitions and home != DEFAULT_PARTITION and same and not case.problems:
        return Finding("pruned", (), wanted)
    _where_rows_are(case, ours, home)
    current = _which_are_current(
        case, wanted, [r for r, name in ours if name == r.milvus_partition == home], count, text=not other_chunking
    )
    elsewhere = [row for row, name in ours if not name == row.milvus_partition == home]
    gaps = sorted(set(range(count)) - {row.chunk for row, _ in ours})
    if not ours:
        case.add("missing", f"{_name(wanted.position)} asks for {count} chunks, and there is no row", {home})
    elif gaps and (current or elsewhere):
        case.add("incomplete", f"of {count} chunks {_numbers(gaps)} missing", {home})
    if not view.append:
        _compare_ledger(case, wanted, {home: count})
    return case.verdict("sound", wanted, unread=other_chunking)


def _home(case: _Case, event_time: int, ours: Sequence[tuple[StoredRow, str]], *, same: bool) -> str:
    """The Milvus partition where the rows belong.

    By `partitioning.by`, or one of another granularity where the document was stored before that was changed.
    """
    by_name = partition_name(case.view.by, event_time)
    if case.view.append:
        found = {row.milvus_partition for row, _ in ours}
        if by_name in found or not found:
            return by_name
        kept = min(found)
    elif same and case.entry is not None and len(case.entry.footprint) == 1:
        kept = next(iter(case.entry.footprint))
    else:
        return by_name
    held = interval(kept)
    fits = kept == DEFAULT_PARTITION if held is None else held[0] <= event_time < held[1]
    return kept if fits else by_name


def _where_rows_are(case: _Case, ours: Sequence[tuple[StoredRow, str]], home: str) -> None:
    strays = [row for row, made_for in ours if not made_for == row.milvus_partition == home]
    if strays:
        case.add("misplaced", f"{_rows(strays)} outside {home}, where its event time belongs", _places(strays))
    ids = Counter(row.id for row, _ in ours)
    chunks = Counter(row.chunk for row, _ in ours)
    twice = [row for row, _ in ours if ids[row.id] > 1 or chunks[row.chunk] > 1]
    if twice:
        what = "id" if any(ids[row.id] > 1 for row in twice) else "chunk"
        numbers = _numbers(sorted({row.chunk for row in twice}))
        case.add("duplicated", f"the same {what} in several Milvus partitions: chunks {numbers}", _places(twice))


def _which_are_current(
    case: _Case, wanted: ExpectedWrite, rows: Sequence[StoredRow], count: int, *, text: bool
) -> list[StoredRow]:
    """The rows of the wanted version among those in their place; those of another are told."""
    surplus = [row for row in rows if row.chunk >= count]
    if surplus:
        numbers = _numbers(sorted(row.chunk for row in surplus))
        case.add("incomplete", f"chunks {numbers} beyond the {count} of the document", _places(surplus))
    current: list[StoredRow] = []
    stale: list[StoredRow] = []
    for row in rows:
        if row.chunk < count:
            fits = row.row_hash == wanted.row_hash and (not text or row.text == wanted.chunks[row.chunk])
            (current if fits else stale).append(row)
    # Rows keep the position of the record that wrote them, all at once: one of an older record is a leftover, and
    # searches show only the rows of the newest.
    newest = max((row.position for row in current), default=NOWHERE)
    stale += [row for row in current if row.position != newest]
    if stale:
        at = min(row.position for row in stale)
        case.add(
            "stale",
            f"{_rows(stale)} not of the newest version, which is {_name(wanted.position)}: "
            f"they were written by {_name(at)}{' and others' if any(r.position != at for r in stale) else ''}",
            _places(stale),
        )
    return [row for row in current if row.position == newest]


def _pending(case: _Case, *, mendable: bool = True) -> None:
    if case.entry is not None and case.entry.pending:
        case.add(
            "pending",
            f"a change was begun and not finished ({_told(case.entry.footprint)} may hold rows)",
            case.entry.footprint,
            mendable=mendable,
        )


def _compare_ledger(case: _Case, wanted: ExpectedWrite, footprint: Footprint) -> None:
    """The ledger row against what is right; silent where rows or a pending change say it already."""
    entry = case.entry
    if any(problem.kind in ("pending", "missing", "stale") for problem in case.problems):
        return
    if entry is None:
        case.add("ledger", "there is no ledger row for its rows", footprint)
        return
    wrong = []
    if entry.state != "live":
        wrong.append("it says deleted")
    if dict(entry.footprint) != dict(footprint):
        wrong.append(f"its footprint is {_told(entry.footprint)}, not {_told(footprint)}")
    if (entry.content_hash, entry.row_hash) != (wanted.content_hash, wanted.row_hash):
        wrong.append("its hashes are those of other content")
    if not _names(entry, wanted):
        wrong.append(f"it names {_name(entry.position)}, not {_name(wanted.position)}, as the newest version")
    if wrong:
        case.add("ledger", f"the ledger row is wrong: {'; '.join(wrong)}", {*entry.footprint, *footprint})


def _names(entry: Entry, wanted: ExpectedWrite) -> bool:
    """Whether the ledger row is of this record, or of one of the same version: of equal versions, any may be told."""
    same_version = (entry.versioned, entry.version) == (wanted.version is not None, wanted.version or 0)
    return same_version and (entry.versioned or entry.position == wanted.position)


def _says(entry: Entry, wanted: ExpectedWrite) -> bool:
    return not entry.pending and _same_content(entry, wanted)


def _same_content(entry: Entry, wanted: ExpectedWrite) -> bool:
    state = "deleted" if wanted.event_time is None else "live"
    hashes = entry.content_hash, entry.row_hash
    return entry.state == state and hashes == (wanted.content_hash, wanted.row_hash)


def _footprint(rows: Sequence[StoredRow]) -> dict[str, int]:
    """What the ledger would say of these rows, if they are chunks 0 … n-1 without a gap."""
    chunks: dict[str, list[int]] = {}
    for row in rows:
        chunks.setdefault(row.milvus_partition, []).append(row.chunk)
    return {
        name: len(numbers) if sorted(numbers) == list(range(len(numbers))) else -len(numbers)
        for name, numbers in chunks.items()
    }


def _name(position: Position) -> str:
    return "no record" if position == NOWHERE else f"{position.topic}/{position.partition}/{position.offset}"


def _rows(rows: Sequence[StoredRow]) -> str:
    return "1 row" if len(rows) == 1 else f"{len(rows)} rows"


def _places(rows: Sequence[StoredRow]) -> set[str]:
    return {row.milvus_partition for row in rows}


def _told(footprint: Footprint) -> str:
    parts = [f"{abs(count)} in {name}" for name, count in sorted(footprint.items())]
    return f"chunks: {', '.join(parts)}" if parts else "no rows"


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown
