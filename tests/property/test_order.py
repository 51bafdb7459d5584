"""Which record of a document remains: the same, however the logs are read, cut into batches, and read again.

Model: the definition in docs/guarantees.md, over all records at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit import ExpectedState, ExpectedWrite, supersedes
from pipeline.intake import fold
from pipeline.records import Position, Put
from pipeline.store.writing.ledger.ledger_rows import entry_row, row_entry
from pipeline.store.writing.protocol.decisions import Decision, Entry, advanced, decide, final
from tests.support.documents import NOON_MS, put
from tests.support.examples import examples

Log = Sequence[Put]
Logs = tuple[Sequence[tuple[int | None, int]], Sequence[tuple[int | None, int]]]
"""Version and timestamp of each record of two logs."""
NO_VERSION = st.none()
VERSIONS = st.integers(0, 4)


def records(logs: Logs) -> tuple[Log, Log]:
    first, second = (
        [
            replace(put("d", "x", offset, version=version, partition=number), timestamp_ms=NOON_MS + time)
            for offset, (version, time) in enumerate(log)
        ]
        for number, log in enumerate(logs)
    )
    return first, second


@st.composite
def two_logs(draw: st.DrawFn, versions: st.SearchStrategy[int | None], *, ordered_times: bool = True) -> Logs:
    """Two logs of one document; no two timestamps are equal."""
    sizes = draw(st.tuples(st.integers(0, 5), st.integers(0, 4)))
    times = draw(st.permutations(range(sum(sizes))))
    parts = [times[: sizes[0]], times[sizes[0] :]]
    first, second = ([(draw(versions), time) for time in (sorted(own) if ordered_times else own)] for own in parts)
    return first, second


def defined(logs: Sequence[Log]) -> Position | None:
    """The record that remains, by definition."""
    records = [each for log in logs for each in log]
    resets = [each for each in records if each.version is None]

    def before(one: Put, other: Put) -> bool:
        same = one.position.partition == other.position.partition
        return one.position < other.position if same else one.timestamp_ms < other.timestamp_ms

    def floor(reset: Put) -> int:
        return max((each.version for each in records if each.version is not None and before(each, reset)), default=-1)

    def in_one_log(one: Put, other: Put) -> bool:
        return one.position.partition == other.position.partition

    def alive(each: Put, version: int) -> bool:
        own = [reset.timestamp_ms for reset in resets if in_one_log(reset, each) and before(reset, each)]
        return all(
            before(reset, each)
            and (in_one_log(reset, each) or version >= floor(reset) or reset.timestamp_ms < max(own, default=-1))
            for reset in resets
        )

    versioned = [each for each in records if each.version is not None and alive(each, each.version)]
    newest = [(each.version or 0, time_in(logs, each), each.position) for each in versioned]
    unversioned = [(0, time_in(logs, each), each.position) for each in resets]
    return max(newest or unversioned, default=(0, 0, None))[2]


def time_in(logs: Sequence[Log], one: Put) -> int:
    """Greatest timestamp up to a record among those of its log and version."""
    log = logs[one.position.partition][: one.position.offset + 1]
    return max(each.timestamp_ms for each in log if each.version == one.version)


class Reader:
    """Reads two logs in any order and stores what it reads, as ingest does."""

    def __init__(self, logs: tuple[Log, Log], *, one_log_a_batch: bool = False) -> None:
        self.logs = logs
        self.one_log_a_batch = one_log_a_batch
        self.next = [0, 0]
        self.entry: Entry | None = None

    def store(self, batch: Sequence[Put]) -> None:
        for operation in fold(batch).operations:
            decision = decide(self.entry, operation, None, "m")
            if decision in (Decision.ADVANCE, Decision.RANK) and self.entry is not None:
                self.entry = advanced(self.entry, operation)
            elif decision is Decision.WRITE:
                self.entry = final(operation, None, {}, "m", self.entry)
            if self.entry is not None:
                self.entry = row_entry({k: v for k, v in entry_row(self.entry).items() if k != "vector"})

    def read(self, turns: Sequence[int], size: int) -> None:
        """The next record of the log of each turn, in batches."""
        records = []
        for log in turns:
            if self.next[log] < len(self.logs[log]):
                records.append(self.logs[log][self.next[log]])
                self.next[log] += 1
        for _, of_log in groupby(records, lambda each: each.position.partition if self.one_log_a_batch else 0):
            some = list(of_log)
            for start in range(0, len(some), size):
                self.store(some[start : start + size])

    def check(self) -> None:
        stored = None if self.entry is None else self.entry.position
        assert stored == defined([log[:end] for log, end in zip(self.logs, self.next, strict=True)])


turns = st.lists(st.integers(0, 1), max_size=12)
again = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(1, 5)), max_size=3)
"""Log, first offset, number of records."""


def run(
    logs: tuple[Log, Log],
    order: Sequence[int],
    size: int,
    ranges: Sequence[tuple[int, int, int]],
    *,
    one_log_a_batch: bool = False,
) -> None:
    reader = Reader(logs, one_log_a_batch=one_log_a_batch)
    half = len(order) // 2
    for part in (order[:half], order[half:], [0] * 6 + [1] * 6):
        reader.read(part, size)
        reader.check()
        for log, first, count in ranges:  # a bounded replay, or a redo from an older offset
            reader.store(logs[log][first : min(first + count, reader.next[log])])
            reader.check()


def for_all(versions: st.SearchStrategy[int | None], *, ordered_times: bool) -> Callable[[Callable[..., None]], object]:
    def decorate(test: Callable[..., None]) -> object:
        return examples(10)(
            given(two_logs(versions, ordered_times=ordered_times), turns, st.integers(1, 4), again)(test)
        )

    return decorate


@for_all(NO_VERSION, ordered_times=False)
def test_without_versions_the_later_timestamp_remains(
    logs: Logs, order: list[int], size: int, ranges: list[tuple[int, int, int]]
) -> None:
    run(records(logs), order, size, ranges, one_log_a_batch=True)


@for_all(VERSIONS, ordered_times=False)
def test_the_greatest_version_remains(
    logs: Logs, order: list[int], size: int, ranges: list[tuple[int, int, int]]
) -> None:
    run(records(logs), order, size, ranges, one_log_a_batch=True)


@for_all(NO_VERSION | VERSIONS, ordered_times=False)
def test_in_one_log_a_record_without_version_separates_versions(
    logs: Logs, order: list[int], size: int, ranges: list[tuple[int, int, int]]
) -> None:
    run((records(logs)[0], ()), order, size, [(0, first, count) for _, first, count in ranges])


@for_all(NO_VERSION, ordered_times=True)
def test_without_versions_a_batch_may_hold_both_logs(
    logs: Logs, order: list[int], size: int, ranges: list[tuple[int, int, int]]
) -> None:
    run(records(logs), order, size, ranges)


@for_all(VERSIONS, ordered_times=True)
def test_with_versions_a_batch_may_hold_both_logs(
    logs: Logs, order: list[int], size: int, ranges: list[tuple[int, int, int]]
) -> None:
    run(records(logs), order, size, ranges)


@for_all(NO_VERSION | VERSIONS, ordered_times=True)
def test_in_two_logs_a_record_without_version_ends_what_is_older_and_what_has_no_greater_version(
    logs: Logs, order: list[int], size: int, ranges: list[tuple[int, int, int]]
) -> None:
    run(records(logs), order, size, ranges, one_log_a_batch=True)


@examples(5)
@given(two_logs(NO_VERSION | VERSIONS))
def test_an_audit_expects_the_defined_record(given_: Logs) -> None:
    logs = records(given_)
    remaining: list[ExpectedWrite] = []
    for log in logs:
        of_log: list[ExpectedWrite] = []
        for operation in log:
            write = ExpectedWrite.of(operation, certain=True)
            while of_log and supersedes(write, of_log[-1]):
                of_log.pop()
            of_log.append(write)
        remaining += of_log
    state = ExpectedState.of(remaining)
    assert [write.position for write in state.candidates] == ([] if not remaining else [defined(logs)])


@examples(10)
@given(two_logs(NO_VERSION | VERSIONS, ordered_times=False), st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))
def test_what_was_folded_into_a_refused_record_counts_where_it_is(
    given_: Logs, first: int, count: int, size: int
) -> None:
    """It is read again behind later records; a delete among it is applied at once."""
    log = records(given_)[0]
    batch = log[first : first + count]
    reader = Reader((log, ()))
    reader.store(log[:first])
    # The model refuses the newest operation of the batch; a delete is never refused.
    refused = [operation.position for operation in fold(batch).operations if operation.version is not None]
    back = [each for each in batch if each.position not in refused]
    reader.store([each for each in back if each.version is None][-1:])
    for start in range(first + count, len(log), size):
        reader.store(log[start : start + size])
    reader.store(back)
    accepted = [each for each in log if each.position not in refused]
    assert (None if reader.entry is None else reader.entry.position) == defined([accepted, []])
