"""Replay without servers: times, names, samples, what is told, and the guard of the live collection."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.replay.guard import GuardedWriter
from consumers.replay.job import RejectedLog, ReplaySummary, nothing
from consumers.replay.plan import Estimate, ReplayPlan, ReplayTimes, group_name, replay_times, sample_windows
from consumers.replay.range import ReplayRange, ReplaySpan
from pipeline.errors import Unavailable, UsageError
from pipeline.records import Position, Receipt, Rejected, SourceRecord
from pipeline.store import WritePolicy
from pipeline.store.writing.ledger import Ledger
from pipeline.store.writing.protocol import intent
from tests.support.documents import NOON_MS, delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, make_store, write

TIMES = ReplayTimes(1_795_348_800_000, 1_795_348_801_500)


# --- the range -------------------------------------------------------------------------------------------------------


def test_times_are_rfc_3339_and_the_first_millisecond_at_or_after_them() -> None:
    assert replay_times("2026-11-22T12:00:00Z", "2026-11-22T13:00:01.500+01:00") == TIMES
    assert replay_times("2026-11-22", "2026-11-22T00:00:00.0001Z").to_ms == NOON_MS - 12 * 3_600_000 + 1


@pytest.mark.parametrize(
    ("from_", "to", "problem"),
    [
        ("yesterday", "2026-11-22", "--from 'yesterday' is not an RFC 3339 time"),
        ("2026-11-22", "2026-11-31", "--to '2026-11-31' is not an RFC 3339 time"),
        ("1969-12-31T23:59:59Z", "2026-11-22", "--from '1969-12-31T23:59:59Z' lies before 1970"),
        ("2026-11-22", "2026-11-22T00:00:00Z", "is empty: --to is exclusive"),
        ("2026-11-22T01:00:00+01:00", "2026-11-21", "ends before it begins"),
    ],
)
def test_a_bad_range_is_a_usage_error_that_names_it(from_: str, to: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem.replace("+", r"\+")):
        replay_times(from_, to)


def test_the_group_is_the_same_for_the_same_replay_only() -> None:
    names = {
        group_name("live", "documents", ["a", "b"], TIMES),
        group_name("other", "documents", ["a", "b"], TIMES),
        group_name("live", "news", ["a", "b"], TIMES),
        group_name("live", "documents", ["a"], TIMES),
        group_name("live", "documents", ["a", "b"], replace(TIMES, from_ms=1)),
        group_name("live", "documents", ["a", "b"], replace(TIMES, to_ms=TIMES.to_ms + 1)),
    }
    assert len(names) == 6
    assert group_name("live", "documents", ["b", "a"], TIMES) in names
    assert "live" not in names


@given(st.lists(st.tuples(st.integers(0, 1_000), st.integers(1, 200)), max_size=4), st.integers(1, 30))
def test_samples_lie_in_the_range_and_do_not_overlap(spans: list[tuple[int, int]], each: int) -> None:
    ranges = {("t", n): ReplayRange(0, start, start + size, start) for n, (start, size) in enumerate(spans)}
    windows = sample_windows(ranges, each)
    for name, found in ranges.items():
        offsets = [o for window in windows if name in window for o in range(*window[name])]
        assert offsets == sorted(set(offsets))
        assert set(offsets) <= set(range(found.start, found.end))
        assert len(offsets) == min(3 * each, found.records)
        assert {found.start, found.end - 1} <= set(offsets)


# --- what is told ----------------------------------------------------------------------------------------------------


def _plan(**ranges: ReplayRange) -> ReplayPlan:
    span = ReplaySpan("g.replay.1", {(topic, 0): found for topic, found in ranges.items()}, {})
    return ReplayPlan("documents", True, TIMES, span, {("a", 0): Estimate(1_000, 7)})


def test_the_plan_says_what_will_be_read_and_what_will_not() -> None:
    plan = _plan(a=ReplayRange(5, 5, 30, 12, left_to_group=4), b=ReplayRange(0, 0, 9, 0), c=ReplayRange(0, 4, 4, 4))
    told = plan.as_dict()
    assert (told["from"], told["to"]) == ("2026-11-22T12:00:00Z", "2026-11-22T12:00:01.500Z")
    assert (told["records"], told["estimated_bytes"], told["estimated_chunks"]) == (27, 1_000, 7)
    assert told["resumed"] is True
    assert list(plan.span.to_read) == [("a", 0), ("b", 0)]
    expired, left = plan.warnings()
    assert expired.startswith("a/0: the log begins at offset 5, later than --from")
    assert left.startswith("a/0: 4 offsets of the range from 30 on are left out")


def test_the_minutes_are_those_of_the_slower_of_model_and_rate() -> None:
    plan = _plan(a=ReplayRange(0, 0, 600, 0))
    assert plan.minutes is None
    assert replace(plan, chunks_per_s=0.35).minutes == pytest.approx(7 / 0.35 / 60)
    assert replace(plan, chunks_per_s=0.35, rate=2.0).minutes == pytest.approx(600 / 2 / 60)
    assert replace(plan, rate=2.0).as_dict()["max_records_per_s"] == 2.0


def test_the_summary_says_what_became_of_rejected_records_and_of_an_unfinished_range() -> None:
    summary = replace(
        nothing(_plan()), records=9, written=7, rejected=2, rejected_by_reason={"invalid_json": 2}, finished=False
    )
    line = summary.line()
    assert "9 records in 0.0 s into documents, 7 written, 2 rejected (invalid_json 2; " in line
    assert "none was sent to the dead-letter topic" in line
    assert line.endswith("the same command goes on from here")
    assert "unchanged" not in line
    assert ReplaySummary(**summary.as_dict()) == summary  # type: ignore[arg-type]  # the values are what they were


def test_a_rejected_record_is_finished_by_being_counted_and_logged(capsys: pytest.CaptureFixture[str]) -> None:
    receipts: list[Receipt] = []
    rejected = RejectedLog(receipts.append)
    record = SourceRecord(Position("t", 1, 42), NOON_MS, b"k", b"secret text")
    rejected.send(Rejected(record, "decode", "invalid_json", "it is not JSON"))
    assert [receipt.positions for receipt in receipts] == [[("t", 1, 42)]]
    assert rejected.reasons == {"invalid_json": 1}
    said = "".join(capsys.readouterr())
    assert "t/1/42" in said
    assert "secret" not in said


# --- the guard of the live collection --------------------------------------------------------------------------------


@pytest.fixture
def fake() -> FakeMilvus:
    return FakeMilvus()


@pytest.fixture
def store(fake: FakeMilvus) -> Store:
    return make_store(fake, "docs")


def _guarded(store: Store, active: Callable[[], bool], *, fingerprint: str = "model") -> GuardedWriter:
    writer = store.upsert_writer(fingerprint=fingerprint)
    return GuardedWriter(writer, lambda _: _ledger(store), active, pause_s=0)


def _ledger(store: Store) -> Ledger:
    return Ledger(store.api, store.name, WritePolicy())


def _set_pending(store: Store, doc_id: str) -> None:
    """As a live worker leaves it between intent and final row."""
    ledger = _ledger(store)
    key = (None, doc_id)
    entry = ledger.read([key])[key][0]
    ledger.cache({key: entry})
    begun = intent(entry, put(doc_id, "newer text", 9), {"d20261122": 2})
    assert begun is not None
    ledger.write([begun])


def test_what_is_stored_stays_as_it_is_beside_live_workers(fake: FakeMilvus, store: Store) -> None:
    write(store.upsert_writer(), [put("a", "old", 1), put("b", "x y", 2), put("gone", "z", 3)])
    write(store.upsert_writer(), [put("a", "new", 4), delete("gone", 5)])
    before, ledger = store.rows(), store.ledger()
    guarded = _guarded(store, lambda: True)
    plan = guarded.plan([put("a", "old", 1), put("b", "x y", 2), put("gone", "z", 3)])
    assert (plan.unchanged, plan.stale, list(plan.in_flight)) == (1, 2, [])
    assert guarded.apply(plan, []).rows_written == 0
    assert (store.rows(), store.ledger()) == (before, ledger)


def test_a_document_that_a_live_worker_is_writing_is_left_to_it(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    _set_pending(store, "a")
    plan = _guarded(store, lambda: True).plan([put("a", "text", 1)])
    assert (plan.unchanged, list(plan.in_flight)) == (1, [])


def test_a_pending_document_nobody_is_at_is_repaired(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    _set_pending(store, "a")
    write(_guarded(store, lambda: False), [put("a", "text", 1)])
    assert store.ledger()["a"].pending is False
    assert store.rows() == {"d20261122": {("a", 0): "text"}}


def test_a_change_beside_live_workers_ends_the_replay_before_anything_is_written(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    before, ledger = store.rows(), store.ledger()
    guarded = _guarded(store, lambda: True, fingerprint="other chunking")
    with pytest.raises(UsageError, match=r"documents/0/1: .* Stop the workers and start this replay again"):
        guarded.plan([put("a", "text", 1)])
    assert (store.rows(), store.ledger()) == (before, ledger)
    write(_guarded(store, lambda: False, fingerprint="other chunking"), [put("a", "text", 1)])
    assert store.ledger()["a"].fingerprint == "other chunking"


def test_workers_started_between_plan_and_write_end_the_replay(store: Store) -> None:
    active = False
    guarded = _guarded(store, lambda: active)
    plan = guarded.plan([put("a", "text", 1)])
    active = True
    with pytest.raises(UsageError, match="Stop the workers"):
        guarded.apply(plan, [])
    assert store.rows() == {}


def test_a_document_that_a_worker_begins_between_the_look_and_the_plan_is_left_to_it(store: Store) -> None:
    write(store.upsert_writer(), [put("a", "text", 1)])
    looks = 0

    def look(strong: bool) -> Ledger:
        nonlocal looks
        looks += 1
        assert strong == (looks > 1), "what would be written is looked at again, strongly"
        ledger = _ledger(store)
        if looks == 1:
            ledger.read([(None, "a")])
            ledger.cache({(None, "a"): ledger.read([(None, "a")])[None, "a"][0]})  # answers from memory from now on
            _set_pending(store, "a")
        return ledger

    guarded = GuardedWriter(store.upsert_writer(), look, lambda: True, pause_s=0)
    plan = guarded.plan([put("a", "text", 1)])
    assert looks == 2
    assert (plan.unchanged, list(plan.in_flight)) == (1, [])


def test_of_two_kafka_partitions_the_later_timestamp_is_newer(store: Store) -> None:
    write(store.upsert_writer(), [put("moved", "newer", 5, partition=1)])
    guarded = _guarded(store, lambda: False)
    assert guarded.plan([put("moved", "older", 3, partition=0)]).stale == 1
    plan = guarded.plan([put("moved", "newest", 6, partition=0)])
    assert (plan.stale, len(plan.to_embed)) == (0, 1)


def test_an_outage_while_looking_is_an_outage(fake: FakeMilvus, store: Store) -> None:
    def away() -> bool:
        raise Unavailable("no broker")

    with pytest.raises(Unavailable):
        _guarded(store, away).plan([put("a", "text", 1)])
    assert store.rows() == {}
