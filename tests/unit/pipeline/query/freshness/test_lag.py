"""The lag in seconds: a record is as old as the first sample in which the log's end was behind it."""

from pipeline.query.freshness.lag import LONGEST_GAP_S, LagHistory, PartitionLag, total_seconds

NAME = ("topic", 0)


def observe(history: LagHistory, at: float, committed: int | None, end: int, start: int = 0) -> PartitionLag:
    (lag,) = history.observe(at, {} if committed is None else {NAME: committed}, {NAME: (start, end)})
    return lag


def test_without_records_the_lag_is_zero() -> None:
    assert observe(LagHistory(), 0.0, None, 0) == PartitionLag("topic", 0, None, 0, 0, 0.0)
    assert observe(LagHistory(), 0.0, 7, 7) == PartitionLag("topic", 0, 7, 7, 0, 0.0)


def test_what_was_there_at_the_first_sample_has_an_unknown_age() -> None:
    history = LagHistory()
    assert observe(history, 0.0, 3, 7) == PartitionLag("topic", 0, 3, 7, 4, None)
    assert observe(history, 1.0, 3, 7).lag_s is None


def test_a_record_ages_from_the_sample_in_which_it_was_seen() -> None:
    history = LagHistory()
    observe(history, 0.0, 7, 7)
    assert observe(history, 1.0, 7, 10).lag_s == 0.0
    assert observe(history, 2.0, 7, 12).lag_s == 1.0
    assert observe(history, 3.5, 9, 12).lag_s == 2.5
    assert observe(history, 4.0, 10, 12).lag_s == 2.0
    assert observe(history, 5.0, 12, 12).lag_s == 0.0


def test_after_a_gap_between_samples_the_age_is_not_known() -> None:
    history = LagHistory()
    observe(history, 0.0, 7, 7)
    later = LONGEST_GAP_S + 1
    assert observe(history, later, 7, 9).lag_s is None
    observe(history, later + 1, 9, 10)
    assert observe(history, later + 2, 9, 10).lag_s == 1.0


def test_a_log_that_begins_behind_the_committed_offset_has_only_what_it_holds() -> None:
    assert observe(LagHistory(), 0.0, 3, 20, start=15).lag == 5
    assert observe(LagHistory(), 0.0, None, 20, start=15).lag == 5


def test_a_topic_that_was_made_again_begins_again() -> None:
    history = LagHistory()
    observe(history, 0.0, 100, 100)
    assert observe(history, 1.0, None, 3) == PartitionLag("topic", 0, None, 3, 3, None)
    observe(history, 2.0, 3, 4)
    assert observe(history, 3.0, 3, 4).lag_s == 1.0


def test_kafka_partitions_come_and_go() -> None:
    history = LagHistory()
    history.observe(0.0, {}, {NAME: (0, 0)})
    both = history.observe(1.0, {}, {NAME: (0, 1), ("topic", 1): (0, 1)})
    assert [lag.lag_s for lag in both] == [0.0, None]
    assert history.observe(2.0, {}, {}) == ()


def test_the_total_is_the_greatest_and_unknown_where_one_is() -> None:
    history = LagHistory()
    assert total_seconds(()) == 0.0
    known = observe(history, 0.0, 1, 1)
    assert total_seconds((known, PartitionLag("topic", 1, 0, 1, 1, 2.5))) == 2.5
    assert total_seconds((known, PartitionLag("topic", 1, 0, 1, 1, None))) is None
