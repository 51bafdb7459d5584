"""The index of Milvus partitions says what each interval by itself says."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.partition_index import PartitionIndex
from pipeline.query.request.request import TimeRange
from pipeline.store import interval
from pipeline.store.partition_names import partition_name
from pipeline.timestamps import event_time_ms

FIRST_MS, LAST_MS = event_time_ms("2025-12-20"), event_time_ms("2026-02-10")
TIMES = st.integers(FIRST_MS, LAST_MS)
NAMES = st.sets(
    st.builds(partition_name, st.sampled_from(["hour", "day", "week", "month", "year"]), TIMES)
    | st.sampled_from(["archive", "d20269999", "_default", "x"]),
    max_size=40,
)


@given(NAMES, TIMES)
def test_a_time_is_held_by_every_interval_that_contains_it(names: set[str], time_ms: int) -> None:
    expected = {name for name in names if (span := interval(name)) is None or span[0] <= time_ms < span[1]}
    assert sorted(PartitionIndex(names).holding(time_ms)) == sorted(expected)


@given(NAMES, TIMES | st.none(), TIMES | st.none())
def test_outside_is_every_interval_that_the_range_does_not_meet(
    names: set[str], from_ms: int | None, to_ms: int | None
) -> None:
    if from_ms is not None and to_ms is not None:
        from_ms, to_ms = min(from_ms, to_ms), max(from_ms, to_ms) + 1

    def meets(name: str) -> bool:
        span = interval(name)
        return span is None or ((to_ms is None or span[0] < to_ms) and (from_ms is None or span[1] > from_ms))

    expected = sorted(name for name in names if not meets(name))
    assert PartitionIndex(names).outside(TimeRange(from_ms, to_ms)) == expected
