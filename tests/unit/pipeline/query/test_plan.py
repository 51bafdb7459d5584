"""Which Milvus partitions a search reads."""

from pipeline.query.answer import Skipped
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.plan import plan_search
from pipeline.query.request.filter_expressions import FilterableFields
from pipeline.query.request.filters import Equality
from pipeline.query.request.request import TimeRange
from pipeline.timestamps import event_time_ms

FIELDS = FilterableFields({"event_time": "integer"})
NAMES = ("d20261120", "d20261121", "d20261122")
DAYS = PartitionIndex(NAMES)


def test_without_a_time_the_whole_collection() -> None:
    planned = plan_search(None, None, DAYS, (), FIELDS)
    assert (planned.partitions, planned.covered, planned.skipped, planned.expression) == (None, NAMES, (), "")


def test_a_time_range_leaves_partitions_out_and_filters_rows() -> None:
    start, end = event_time_ms("2026-11-21"), event_time_ms("2026-11-22")
    planned = plan_search(TimeRange(start, end), Equality(type="eq", key="lang", value="en"), DAYS, (), FIELDS)
    assert planned.partitions == ("_default", "d20261121")
    assert planned.covered == ("d20261121",)
    assert planned.skipped == tuple(Skipped(name, "outside_time_range") for name in ("d20261120", "d20261122"))
    assert planned.expression == f'event_time >= {start} and event_time < {end} and ($meta["lang"] == "en")'


def test_one_millisecond_decides() -> None:
    midnight = event_time_ms("2026-11-22")
    assert plan_search(TimeRange(midnight, None), None, DAYS, (), FIELDS).covered == ("d20261122",)
    assert plan_search(TimeRange(midnight - 1, None), None, DAYS, (), FIELDS).covered == ("d20261121", "d20261122")
    assert plan_search(TimeRange(None, midnight), None, DAYS, (), FIELDS).covered == ("d20261120", "d20261121")
    assert plan_search(TimeRange(None, midnight + 1), None, DAYS, (), FIELDS).covered == NAMES


def test_a_name_without_an_interval_is_searched() -> None:
    planned = plan_search(TimeRange(0, 1), None, PartitionIndex(["archive", "d20261120", "d20269999"]), (), FIELDS)
    assert planned.covered == ("archive", "d20269999")


def test_nothing_left_but_the_default_partition() -> None:
    planned = plan_search(TimeRange(0, 1), None, DAYS, (), FIELDS)
    assert planned.partitions == planned.covered == ("_default",)
    assert plan_search(None, None, PartitionIndex(), (), FIELDS).covered == ("_default",)


def test_released_partitions_are_left_out_by_name() -> None:
    planned = plan_search(None, None, DAYS, {"d20261120"}, FIELDS)
    assert planned.partitions == ("_default", "d20261121", "d20261122")
    assert planned.skipped == (Skipped("d20261120", "not_loaded"),)
