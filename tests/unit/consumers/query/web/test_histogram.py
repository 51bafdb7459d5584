"""The bars of the histogram: geometry, states, labels, and the time range of each."""

from itertools import pairwise

import pytest

from consumers.query.web.histogram import HEIGHT, WIDTH, bars
from pipeline.query import PartitionState
from pipeline.store import interval


def state(name: str, rows: int | None = 1, *, loaded: bool = True) -> PartitionState:
    from_ms, to_ms = interval(name) or (None, None)
    return PartitionState(name, from_ms, to_ms, rows, loaded)


def test_nothing_has_no_bars() -> None:
    assert bars([], {}, False) == []


def test_bars_are_as_high_as_their_rows_and_beside_one_another() -> None:
    drawn = bars([state("d20261120", 50), state("d20261121", 100), state("d20261122", 0)], {}, False)
    assert [bar.height for bar in drawn] == [HEIGHT / 2, HEIGHT, 2.0]
    assert all(bar.y + bar.height == HEIGHT for bar in drawn)
    for left, right in pairwise(drawn):
        assert left.x + left.width < right.x
    assert drawn[-1].x + drawn[-1].width < WIDTH


@pytest.mark.parametrize(
    ("partition", "skipped", "searched", "drawn", "label"),
    [
        (state("d20261122", 5), {}, False, "hot", "d20261122: 5 rows, loaded"),
        (state("d20261122", 5), {}, True, "hot", "d20261122: 5 rows, searched"),
        (state("d20261122", 5), {"d20261122": "outside_time_range"}, True, "skipped", "outside the time range"),
        (state("d20261122", None, loaded=False), {"d20261122": "not_loaded"}, True, "cold", "not loaded"),
        (state("d20261122", None), {}, False, "hot", "d20261122: rows not counted, loaded"),
    ],
)
def test_the_state_of_a_partition(
    partition: PartitionState, skipped: dict[str, str], searched: bool, drawn: str, label: str
) -> None:
    [bar] = bars([partition], skipped, searched)
    assert bar.state == drawn
    assert label in bar.label


def test_many_partitions_are_drawn_together_and_none_is_lost() -> None:
    states = [state(f"h202610{day:02}{hour:02}") for day in range(1, 29) for hour in range(24)]
    drawn = bars(states, {}, False)
    assert len(drawn) <= 60
    assert drawn[0].label.startswith("h2026100100 to ")
    assert sum(int(bar.label.split(": ")[1].split()[0]) for bar in drawn) == len(states)
    assert drawn[-1].to == "2026-10-29T00:00:00Z"


def test_a_bar_has_the_interval_of_its_partitions() -> None:
    [day] = bars([state("d20261122")], {}, False)
    assert (day.from_, day.to) == ("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z")
    [any_time] = bars([state("_default")], {}, False)
    assert (any_time.from_, any_time.to) == ("", "")
    [last] = bars([state("y9999")], {}, False)
    assert (last.from_, last.to) == ("9999-01-01T00:00:00Z", "")
