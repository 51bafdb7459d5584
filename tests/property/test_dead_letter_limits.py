"""The limits on rejected records, against a count that remembers everything."""

from collections.abc import Sequence
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dead_letters import DeadLetterLimiter, DeadLetterLimits
from pipeline.errors import TooManyRejected
from pipeline.records import Position, Rejected, SourceRecord
from tests.support.documents import source_record

Counted = tuple[int, bool]
"""Kafka partition, and whether the record is good."""


def _records(counted: Sequence[Counted], topic: str = "docs") -> list[tuple[SourceRecord, bool]]:
    """Offsets with holes, as compaction leaves them."""
    offsets = dict.fromkeys(range(4), 0)
    made = []
    for number, (partition, good) in enumerate(counted):
        offsets[partition] += 1 + number % 3
        made.append((source_record(b"", None, at=(topic, partition, offsets[partition])), good))
    return made


def _count(limits: DeadLetterLimiter, batch: Sequence[tuple[SourceRecord, bool]], stage: str = "decode") -> None:
    rejected = [Rejected(record, stage, "bad", "") for record, good in batch if not good]
    limits.check(stage, [record for record, _ in batch], rejected)


def _expected(counted: Sequence[tuple[SourceRecord, bool]], policy: DeadLetterLimits) -> Position | None:
    """The record at which to stop, the slow way."""
    seen: dict[int, list[bool]] = {}
    for record, good in counted:
        history = seen.setdefault(record.position.partition, [])
        history.append(good)
        if good:
            continue
        run = len(list(takewhile(lambda was_good: not was_good, reversed(history))))
        bad = history[-policy.window :].count(False)
        if policy.max_consecutive is not None and run > policy.max_consecutive:
            return record.position
        if policy.max_ratio is not None and len(history) >= policy.window and bad / policy.window > policy.max_ratio:
            return record.position
    return None


policies = st.builds(
    DeadLetterLimits,
    max_ratio=st.none() | st.sampled_from([0.25, 0.5, 0.75]),
    window=st.integers(1, 6),
    max_consecutive=st.none() | st.integers(1, 8),
)
histories = st.lists(st.tuples(st.sampled_from([0, 0, 0, 1]), st.booleans()), max_size=60)


@given(policies, histories, st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_it_stops_at_the_same_record_however_the_batches_are_cut(
    policy: DeadLetterLimits, counted: list[Counted], sizes: list[int]
) -> None:
    records = _records(counted)
    stop = _expected(records, policy)
    limits = DeadLetterLimiter(policy)
    left = records
    message = ""
    while left and not message:
        size = sizes[len(left) % len(sizes)]
        batch, left = left[:size], left[size:]
        try:
            _count(limits, batch)
        except TooManyRejected as error:
            message = str(error)
            assert stop in [record.position for record, _ in batch]
    assert bool(message) == (stop is not None)
    if stop is not None:
        assert f"docs/{stop.partition} " in message
        assert f"to {stop.offset}, bad " in message


@given(histories, st.integers(0, 120), st.integers(1, 40))
def test_records_counted_again_do_not_count_twice(counted: list[Counted], at: int, back: int) -> None:
    policy = DeadLetterLimits(max_ratio=0.5, window=10, max_consecutive=4)
    records = _records(counted)
    if _expected(records, policy) is not None:
        return
    limits = DeadLetterLimiter(policy)
    _count(limits, records[:at])
    _count(limits, records[max(0, at - back) : at])
    _count(limits, records[at:])


@given(histories)
def test_without_limits_nothing_stops(counted: list[Counted]) -> None:
    _count(DeadLetterLimiter(DeadLetterLimits(max_ratio=None, max_consecutive=None)), _records(counted))


@pytest.mark.parametrize(
    ("history", "stops"),
    [("bbb", False), ("bbbg", False), ("bbbgb", True), ("bbggb", False), ("bbggbb", False), ("bbggbbb", True)],
)
def test_the_ratio_is_of_a_full_window_that_slides(history: str, stops: bool) -> None:
    limits = DeadLetterLimiter(DeadLetterLimits(max_ratio=0.5, window=4, max_consecutive=None))
    records = _records([(0, each == "g") for each in history])
    _count(limits, records[:-1])
    if stops:
        with pytest.raises(TooManyRejected, match="3 of the last 4 records"):
            _count(limits, records[-1:])
    else:
        _count(limits, records[-1:])


def test_each_stage_is_counted_for_itself() -> None:
    limits = DeadLetterLimiter(DeadLetterLimits(max_ratio=None, max_consecutive=3))
    records = _records([(0, False)] * 3)
    _count(limits, records)
    _count(limits, records, "write")
    with pytest.raises(TooManyRejected):
        _count(limits, _records([(0, False)] * 4), "write")


def test_the_error_says_where_why_and_what_to_do() -> None:
    limits = DeadLetterLimiter(DeadLetterLimits(max_ratio=None, max_consecutive=4))
    records = [record for record, _ in _records([(2, False)] * 5)]
    reasons = ["invalid_json", "missing_text", "missing_text", "missing_text", "invalid_json"]
    rejected = [Rejected(record, "decode", why, "") for record, why in zip(records, reasons, strict=True)]
    with pytest.raises(TooManyRejected) as raised:
        limits.check("decode", records, rejected)
    message = str(raised.value)
    assert "5 records in a row of Kafka partition docs/2" in message
    assert "dead_letters.max_consecutive=4" in message
    assert f"offsets {records[0].position.offset} to {records[-1].position.offset}" in message
    assert "missing_text 3, invalid_json 2" in message
    assert "dlq list" in message
    assert raised.value.exit_code == 1


def test_the_defaults_let_a_tenth_of_garbage_pass_and_stop_a_mapping_error() -> None:
    limits = DeadLetterLimiter(DeadLetterLimits())
    _count(limits, _records([(0, number % 10 != 0) for number in range(20_000)]))
    with pytest.raises(TooManyRejected, match="1,001 records in a row"):
        _count(DeadLetterLimiter(DeadLetterLimits()), _records([(0, False)] * 1_001))
    with pytest.raises(TooManyRejected, match="1,001 of the last 2,000 records"):
        _count(
            DeadLetterLimiter(DeadLetterLimits()),
            _records([(0, number % 2 == 0) for number in range(4_000)] + [(0, False)]),
        )
