"""The plan of a replay: its group, its samples, and what it reports before it begins."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.kafka import TimeRange
from consumers.replay import Estimate, ReplayPlan
from consumers.replay.plan import group_name, sample_windows
from consumers.replay.range import ReplayRange, ReplaySpan

TIMES = TimeRange(1_795_348_800_000, 1_795_348_801_500)


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
def test_samples_lie_in_the_range_and_do_not_overlap(spans: list[tuple[int, int]], size: int) -> None:
    ranges = {("t", n): ReplayRange(0, start, start + size, start) for n, (start, size) in enumerate(spans)}
    windows = sample_windows(ranges, size)
    for name, found in ranges.items():
        offsets = [o for window in windows if name in window for o in range(*window[name])]
        assert offsets == sorted(set(offsets))
        assert set(offsets) <= set(range(found.start, found.end))
        assert len(offsets) == min(3 * size, found.records)
        assert {found.start, found.end - 1} <= set(offsets)


def _plan(**ranges: ReplayRange) -> ReplayPlan:
    span = ReplaySpan("g.replay.1", {(topic, 0): found for topic, found in ranges.items()}, {})
    return ReplayPlan("documents", True, TIMES, span, {("a", 0): Estimate(1_000, 7)})


def test_the_plan_says_what_will_be_read_and_what_will_not() -> None:
    plan = _plan(a=ReplayRange(5, 5, 30, 12, left_to_group=4), b=ReplayRange(0, 0, 9, 0), c=ReplayRange(0, 4, 4, 4))
    report = plan.as_dict()
    assert (report["from"], report["to"]) == ("2026-11-22T12:00:00Z", "2026-11-22T12:00:01.500Z")
    assert (report["records"], report["estimated_bytes"], report["estimated_chunks"]) == (27, 1_000, 7)
    assert report["resumed"] is True
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
