"""Which Milvus partitions a search reads."""

from pipeline.query.answer import Skipped
from pipeline.query.filters import Comparison, FilterableFields
from pipeline.query.plan import plan
from pipeline.query.request import TimeRange, parse_time

CATALOGUE = FilterableFields({"event_time": "integer"})
DAYS = ("d20261120", "d20261121", "d20261122")


def test_without_a_time_the_whole_collection() -> None:
    planned = plan(None, None, DAYS, (), CATALOGUE)
    assert (planned.partitions, planned.covered, planned.skipped, planned.expression) == (None, DAYS, (), "")


def test_a_time_range_leaves_partitions_out_and_filters_rows() -> None:
    start, end = parse_time("2026-11-21"), parse_time("2026-11-22")
    planned = plan(TimeRange(start, end), Comparison("eq", "lang", ("en",)), DAYS, (), CATALOGUE)
    assert planned.partitions == ("_default", "d20261121")
    assert planned.covered == ("d20261121",)
    assert planned.skipped == tuple(Skipped(name, "outside_time_range") for name in ("d20261120", "d20261122"))
    assert planned.expression == f'event_time >= {start} and event_time < {end} and ($meta["lang"] == "en")'


def test_one_millisecond_decides() -> None:
    midnight = parse_time("2026-11-22")
    assert plan(TimeRange(midnight, None), None, DAYS, (), CATALOGUE).covered == ("d20261122",)
    assert plan(TimeRange(midnight - 1, None), None, DAYS, (), CATALOGUE).covered == ("d20261121", "d20261122")
    assert plan(TimeRange(None, midnight), None, DAYS, (), CATALOGUE).covered == ("d20261120", "d20261121")
    assert plan(TimeRange(None, midnight + 1), None, DAYS, (), CATALOGUE).covered == DAYS


def test_a_name_without_an_interval_is_searched() -> None:
    planned = plan(TimeRange(0, 1), None, ("archive", "d20261120", "d20269999"), (), CATALOGUE)
    assert planned.covered == ("archive", "d20269999")


def test_nothing_left_but_the_default_partition() -> None:
    planned = plan(TimeRange(0, 1), None, DAYS, (), CATALOGUE)
    assert planned.partitions == planned.covered == ("_default",)
    assert plan(None, None, (), (), CATALOGUE).covered == ("_default",)


def test_released_partitions_are_left_out_by_name() -> None:
    planned = plan(None, None, DAYS, {"d20261120"}, CATALOGUE)
    assert planned.partitions == ("_default", "d20261121", "d20261122")
    assert planned.skipped == (Skipped("d20261120", "not_loaded"),)
