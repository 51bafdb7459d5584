"""The range of --from and --to."""

import pytest

from consumers.kafka import TimeRange, parse_time_range
from pipeline.errors import UsageError
from tests.support.documents import NOON_MS

TIMES = TimeRange(1_795_348_800_000, 1_795_348_801_500)


def test_times_are_rfc_3339_and_the_first_millisecond_at_or_after_them() -> None:
    assert parse_time_range("2026-11-22T12:00:00Z", "2026-11-22T13:00:01.500+01:00") == TIMES
    assert parse_time_range("2026-11-22", "2026-11-22T00:00:00.0001Z").to_ms == NOON_MS - 12 * 3_600_000 + 1


@pytest.mark.parametrize(
    ("from_", "to", "problem"),
    [
        ("yesterday", "2026-11-22", "--from 'yesterday' is not an RFC 3339 time"),
        ("2026-11-22", "2026-11-31", "--to '2026-11-31' is not an RFC 3339 time"),
        ("1969-12-31T23:59:59Z", "2026-11-22", "--from '1969-12-31T23:59:59Z' lies before 1970"),
        ("2026-11-22", "2026-11-22T00:00:00Z", "is empty: --to is exclusive"),
        ("2026-11-22T01:00:00+01:00", "2026-11-21", "ends before it begins"),
    ],
)
def test_a_bad_range_is_a_usage_error_that_names_it(from_: str, to: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem.replace("+", r"\+")):
        parse_time_range(from_, to)
