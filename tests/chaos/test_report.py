"""The report of a run: what counts as harm, and when a run has failed."""

from collections import Counter

import pytest

from tests.chaos.report import Report, table
from tests.chaos.server_alone import not_shown
from tests.support.oracle.observed import Observation
from tests.support.oracle.verdict import Verdict

CLEAN = {"missing": 0, "deleted_and_there": 0, "older": 0, "copies": 0}


def test_a_worker_that_ended_by_itself_fails_the_run() -> None:
    assert not Report(1, 1.5).failed
    assert Report(1, 1.5, unexpected_ends=["worker-0-1 ended with exit code 1"]).failed


def test_every_difference_fails_the_run() -> None:
    assert Report(1, 1.5, verdict=Verdict(ahead=["a"])).failed


def test_what_shows_until_a_reload_is_harm_unless_the_server_shows_it_alone() -> None:
    shown = Counter({"stale": 2, "lost": 1})
    explained = Report(1, 1.5, shown_until_reload=shown)
    assert (explained.harms, explained.failed) == (0, False)
    unexplained = Report(1, 1.5, shown_until_reload=shown, unexplained=["lost"])
    assert (unexplained.harms, unexplained.failed) == (1, True)


@pytest.mark.parametrize(
    ("shown", "left"),
    [
        ({}, ["duplicates", "lost"]),
        ({"deleted_and_there": 3}, ["lost"]),
        ({"older": 1}, ["lost"]),
        ({"copies": 1}, ["lost"]),
        ({"missing": 1}, ["duplicates"]),
        ({"missing": 1, "older": 1}, []),
    ],
)
def test_rows_too_many_explain_no_missing_ones(shown: dict[str, int], left: list[str]) -> None:
    assert not_shown(["lost", "duplicates"], {**CLEAN, **shown}) == left


def test_a_stall_in_an_outage_is_not_one_of_the_workers() -> None:
    seen = [Observation(float(at), {("t", 0): offset}) for at, offset in ((10, 1), (20, 1), (40, 2), (55, 3))]
    report = Report(1, 1.0)
    report.measure_stalls(seen, 5.0, 60.0, [(15.0, 39.0)])
    assert (report.longest_stall_s, report.longest_stall_with_outages_s) == (15.0, 30.0)


def test_the_table_has_a_line_a_run() -> None:
    reports = [Report(seed, 10, "plain", survived=Counter({"kill worker": 2, "reset": 1})) for seed in (3, 4)]
    head, rule, *lines = table(reports).splitlines()
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1
    assert [line.split(" | ")[1] for line in lines] == ["3", "4"]
    assert "3: 2 kill worker, 1 reset" in lines[0]
