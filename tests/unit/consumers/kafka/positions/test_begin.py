"""Where reading begins, decided without a broker."""

import pytest

from consumers.kafka.groups.commits import Commit
from consumers.kafka.positions.begin import begin_at
from consumers.kafka.topics.admin import LogRange
from pipeline.errors import OffsetsLost

P = ("t", 0)


def decide(log: LogRange, commit: Commit | None, *, read_before: bool = True, first: int = 99) -> int:
    return begin_at(P, log, commit, topic_id="id", read_before=read_before, first=first)


def test_a_first_start_follows_start_from() -> None:
    assert decide(LogRange(5, 100), None, read_before=False) == 99


def test_a_commit_counts_more_than_start_from() -> None:
    assert decide(LogRange(5, 100), Commit(7, "id")) == 7
    assert decide(LogRange(5, 100), Commit(7, "")) == 7, "committed by another tool"


@pytest.mark.parametrize("offset", [5, 100])
def test_both_ends_of_the_log_are_within_it(offset: int) -> None:
    assert decide(LogRange(5, 100), Commit(offset, "id")) == offset


@pytest.mark.parametrize(
    ("log", "commit", "message"),
    [
        (LogRange(5, 100), Commit(4, "id"), "t/0: the next record to read is 4, but the log begins at 5: 1 offsets"),
        (LogRange(5, 100), Commit(101, "id"), "the log ends at 100: .* 1 offsets are gone"),
        (LogRange(0, 3), Commit(2, "another"), "recreated since offset 2"),
        (LogRange(5, 100), None, "up to 5 records may be lost"),
    ],
)
def test_a_gap_stops_with_its_size(log: LogRange, commit: Commit | None, message: str) -> None:
    with pytest.raises(OffsetsLost, match=message):
        decide(log, commit)


def test_a_kafka_partition_without_a_commit_is_read_whole_while_it_is_whole() -> None:
    assert decide(LogRange(0, 100), None) == 0
