"""A Milvus partition's name gives its interval, and every event time is in the interval of its own partition."""

import re
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.store.milvus.api import DEFAULT_PARTITION
from pipeline.store.partition_names import (
    MAX_EVENT_TIME_MS,
    MIN_EVENT_TIME_MS,
    Granularity,
    Partitioning,
    Tier,
    granularity,
    in_order,
    interval,
    partition_name,
)

GRANULARITIES: list[Granularity] = [by for by in get_args(Granularity) if by != "none"]
granularities = st.sampled_from(GRANULARITIES)
# Uniform times hardly ever meet a boundary or a leap day, so years near ours and round instants are drawn as well.
times = st.one_of(
    st.integers(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    st.integers(0, 4_102_444_800_000),
    st.builds(
        lambda day, hour, off: day * 86_400_000 + hour * 3_600_000 + off,
        st.integers(-700_000, 2_900_000),
        st.integers(0, 23),
        st.integers(-1, 1),
    ),
).filter(lambda time: MIN_EVENT_TIME_MS <= time <= MAX_EVENT_TIME_MS)


def held(by: Granularity, time: int) -> tuple[int, int]:
    span = interval(partition_name(by, time))
    assert span is not None
    return span


@given(granularities, times)
@example("week", MIN_EVENT_TIME_MS)
@example("week", MAX_EVENT_TIME_MS)
@example("month", MAX_EVENT_TIME_MS)
@example("year", MAX_EVENT_TIME_MS)
@example("hour", MAX_EVENT_TIME_MS)
def test_an_event_time_is_in_the_interval_of_its_partition(by: Granularity, time: int) -> None:
    start, end = held(by, time)
    assert start <= time < end


@given(granularities, times)
def test_a_name_holds_all_of_its_interval_and_nothing_beside_it(by: Granularity, time: int) -> None:
    name = partition_name(by, time)
    start, end = held(by, time)
    for inside in (start, end - 1):
        if MIN_EVENT_TIME_MS <= inside <= MAX_EVENT_TIME_MS:
            assert partition_name(by, inside) == name
    for outside in (start - 1, end):
        if MIN_EVENT_TIME_MS <= outside <= MAX_EVENT_TIME_MS:
            assert partition_name(by, outside) != name


@given(granularities, times)
def test_neighbours_touch_without_gap_or_overlap(by: Granularity, time: int) -> None:
    start, end = held(by, time)
    if end <= MAX_EVENT_TIME_MS:
        assert held(by, end)[0] == end
    if start - 1 >= MIN_EVENT_TIME_MS:
        assert held(by, start - 1)[1] == start


@given(granularities, times, times)
def test_names_sort_by_time(by: Granularity, one: int, other: int) -> None:
    one, other = sorted((one, other))
    assert partition_name(by, one) <= partition_name(by, other)


@given(granularities, times)
def test_names_are_legal_on_every_server(by: Granularity, time: int) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,254}", partition_name(by, time))


@given(granularities, times)
def test_the_length_is_that_of_the_granularity(by: Granularity, time: int) -> None:
    start, end = held(by, time)
    days = (end - start) / 86_400_000
    assert (
        days
        in {"hour": {1 / 24}, "day": {1.0}, "week": {7.0}, "month": {28.0, 29.0, 30.0, 31.0}, "year": {365.0, 366.0}}[
            by
        ]
    )


@given(granularities, times)
def test_the_granularity_is_read_from_the_name(by: Granularity, time: int) -> None:
    assert granularity(partition_name(by, time)) == by


@given(st.lists(st.tuples(granularities, times), max_size=8))
def test_in_order_is_by_time_whatever_the_granularity(drawn: list[tuple[Granularity, int]]) -> None:
    names = [partition_name(by, time) for by, time in drawn] + ["foreign", DEFAULT_PARTITION]
    ordered = in_order(names)
    assert sorted(ordered) == sorted(names)
    assert ordered[-2:] == [DEFAULT_PARTITION, "foreign"]
    starts = [span[0] for name in ordered[:-2] if (span := interval(name)) is not None]
    assert len(starts) == len(drawn)
    assert starts == sorted(starts)


@given(st.text(max_size=16))
@example("d20260230")
@example("d20261301")
@example("m202613")
@example("m202600")
@example("w2026W54")
@example("w2025W53")
@example("w2026W00")
@example("h2026112224")
@example("d00000101")
@example("d20261122 ")
@example("d20261122\n")
@example("d٢٠٢٦١١٢٢")
@example("D20261122")
@example("../d20261122")
def test_only_names_we_give_have_an_interval(name: str) -> None:
    span = interval(name)
    if span is None:
        return
    by = granularity(name)
    assert by is not None
    # The first instant of a week may lie in the year before the first.
    assert partition_name(by, max(span[0], MIN_EVENT_TIME_MS)) == name


@pytest.mark.parametrize("name", ["d20260230", "w2025W53", "m202613", "h2026112224", "D20261122", "d20261122\n", ""])
def test_no_interval_for_what_is_no_time(name: str) -> None:
    assert interval(name) is None


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("hour", "h2026112213"),
        ("day", "d20261122"),
        ("week", "w2026W47"),
        ("month", "m202611"),
        ("year", "y2026"),
        ("none", "_default"),
    ],
)
def test_the_names_of_the_contract(by: Granularity, name: str) -> None:
    time = datetime(2026, 11, 22, 13, 5, tzinfo=UTC)
    assert partition_name(by, int(time.timestamp() * 1000)) == name


def test_a_week_belongs_to_the_iso_year() -> None:
    first = datetime(2027, 1, 1, tzinfo=UTC)  # a Friday
    assert partition_name("week", int(first.timestamp() * 1000)) == "w2026W53"
    span = interval("w2026W53")
    assert span is not None
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=span[0]) == datetime(2026, 12, 28, tzinfo=UTC)


@pytest.mark.parametrize("time", [MIN_EVENT_TIME_MS - 1, MAX_EVENT_TIME_MS + 1])
def test_a_time_without_a_four_digit_year_has_no_partition(time: int) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        partition_name("day", time)
    assert partition_name("none", time) == DEFAULT_PARTITION


DAY_MS = 86_400_000
TIERED = Partitioning("day", (Tier(60 * DAY_MS, "month"), Tier(730 * DAY_MS, "year")))


@given(times, st.integers(-(10**12), 4 * 10**12))
def test_a_tier_is_chosen_by_the_distance_to_the_record(time: int, record_time: int) -> None:
    distance = record_time - time
    by: Granularity = "day" if distance < 60 * DAY_MS else "month" if distance < 730 * DAY_MS else "year"
    assert TIERED.place(time, record_time) == partition_name(by, time)
    assert granularity(TIERED.place(time, record_time)) in TIERED.granularities


@given(granularities, times, st.integers(0, 4 * 10**12))
def test_a_tier_never_makes_milvus_partitions_finer(by: Granularity, time: int, record_time: int) -> None:
    tiered = Partitioning(by, TIERED.tiers)
    span, plain = interval(tiered.place(time, record_time)), held(by, time)
    assert span is not None
    assert span[1] - span[0] >= plain[1] - plain[0]
    assert span[0] <= time < span[1]


def test_without_time_partitions_no_tier_counts() -> None:
    assert Partitioning("none", TIERED.tiers).place(0, 10**13) == DEFAULT_PARTITION


@pytest.mark.parametrize(("distance_days", "near"), [(0, True), (59, True), (-59, True), (60, False), (-60, False)])
@pytest.mark.parametrize("tiers", [(), TIERED.tiers])
def test_near_is_what_lies_within_the_first_tier(tiers: tuple[Tier, ...], distance_days: int, near: bool) -> None:
    now = 1_790_000_000_000
    assert Partitioning("day", tiers).near(now - distance_days * DAY_MS, now) is near
