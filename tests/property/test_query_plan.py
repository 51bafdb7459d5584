"""Pruning by time never loses a row, whatever granularities lie side by side."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.partition_index import PartitionIndex
from pipeline.query.plan import plan_search
from pipeline.query.request.filter_expressions import FilterableFields
from pipeline.query.request.request import TimeRange
from pipeline.store.milvus.api import DEFAULT_PARTITION
from pipeline.store.partition_names import Granularity, partition_name

FIELDS = FilterableFields({"event_time": "integer"})
HOUR = 3_600_000
# Around the turn of a year, of weeks and of months, and further out.
times = st.one_of(
    st.integers(1_767_225_600_000 - 40 * 24 * HOUR, 1_767_225_600_000 + 40 * 24 * HOUR),
    st.integers(1_767_225_600_000 // HOUR - 200, 1_767_225_600_000 // HOUR + 200).map(lambda hour: hour * HOUR),
    st.integers(-62_135_596_800_000, 253_402_300_799_999),
)
granularities: st.SearchStrategy[Granularity] = st.sampled_from(["hour", "day", "week", "month", "year", "none"])
rows = st.lists(st.tuples(granularities, times), min_size=1, max_size=20)
ranges = st.builds(
    lambda a, b: TimeRange(a, b) if a is None or b is None else TimeRange(min(a, b), max(a, b) + 1),
    st.one_of(st.none(), times),
    st.one_of(st.none(), times),
)


def inside(time: int, wanted: TimeRange) -> bool:
    return (wanted.from_ms is None or time >= wanted.from_ms) and (wanted.to_ms is None or time < wanted.to_ms)


@given(rows, ranges, st.sampled_from([(), ("archive",), ("d2026", "w2026W99")]))
def test_no_partition_with_a_matching_row_is_skipped(
    stored: list[tuple[Granularity, int]], wanted: TimeRange, foreign: tuple[str, ...]
) -> None:
    places = [(partition_name(by, time), time) for by, time in stored]
    existing = sorted({name for name, _ in places if name != DEFAULT_PARTITION} | set(foreign))
    planned = plan_search(wanted, None, PartitionIndex(existing), (), FIELDS)
    searched = {*existing, DEFAULT_PARTITION} if planned.partitions is None else set(planned.partitions)
    assert all(name in searched for name, time in places if inside(time, wanted))
    assert set(foreign) <= searched
    skipped = {skip.name for skip in planned.skipped}
    assert skipped | (searched - {DEFAULT_PARTITION}) == set(existing)
    assert not skipped & searched


@given(st.lists(st.tuples(granularities.filter(lambda by: by != "none"), times), min_size=1, max_size=20), ranges)
def test_what_is_searched_could_hold_a_matching_row(stored: list[tuple[Granularity, int]], wanted: TimeRange) -> None:
    """Pruning is tight: the ends of each Milvus partition searched lie on the right side of the range."""
    existing = sorted({partition_name(by, time): (by, time) for by, time in stored}.items())
    planned = plan_search(wanted, None, PartitionIndex(name for name, _ in existing), (), FIELDS)
    for name, (by, time) in existing:
        if name not in {skip.name for skip in planned.skipped}:
            lengths = {"hour": 1, "day": 24, "week": 168, "month": 744, "year": 8784}
            reach = lengths[by] * HOUR
            assert wanted.from_ms is None or time + reach > wanted.from_ms
            assert wanted.to_ms is None or time - reach < wanted.to_ms
