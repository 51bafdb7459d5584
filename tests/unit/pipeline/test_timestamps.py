"""Times and durations as people and programs write them."""

from datetime import timedelta

import pytest

from pipeline.timestamps import (
    event_time_ms,
    format_duration,
    format_time,
    parse_duration,
    rfc3339_microseconds,
)

DAY_MS = 86_400_000
NOON_MS = 1_795_348_800_000
"""2026-11-22T12:00:00Z"""


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T12:00:00Z", NOON_MS),
        ("2026-11-22t12:00:00z", NOON_MS),
        ("2026-11-22 12:00:00Z", NOON_MS),
        ("2026-11-22T12:00:00", NOON_MS),
        ("2026-11-22T12:00", NOON_MS),
        ("2026-11-22", NOON_MS - DAY_MS // 2),
        ("2026-11-22T13:30:00+01:30", NOON_MS),
        ("2026-11-22T13:30:00+0130", NOON_MS),
        ("2026-11-22T00:15:00-11:45", NOON_MS),
        ("2026-11-22T12:00:00-00:00", NOON_MS),
        ("2026-11-22T12:00:00.1Z", NOON_MS + 100),
        ("2026-11-22T12:00:00,25Z", NOON_MS + 250),
        ("2026-11-22T12:00:00.9999999999999999999999Z", NOON_MS + 999),
        ("2026-11-22T12:00:00.0004", NOON_MS),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("2017-01-01T05:29:60.25+05:30", 1_483_228_800_250),
        ("2024-02-29", 1_709_164_800_000),
    ],
)
def test_rfc3339(text: str, moment: int) -> None:
    assert event_time_ms(text) == moment


def test_microseconds_are_kept_for_versions() -> None:
    assert rfc3339_microseconds("1970-01-01T00:00:01.2345678Z") == 1_234_567


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11",
        "20261122",
        "2026-W47-7",
        "2026-11-31",
        "2025-02-29",
        "2026-13-01",
        "0000-01-01",
        "10000-01-01",
        "-2026-11-22",
        "2026-11-22T",
        "2026-11-22T12",
        "2026-11-22T24:00:00Z",
        "2026-11-22T12:60:00Z",
        "2026-11-22T12:00:61Z",
        "2026-11-22T12:00:60Z",
        "2026-11-22T23:59:60+01:00",
        "2026-11-22T12:00:00.Z",
        "2026-11-22T12:00.5Z",
        "2026-11-22T12:00:00+1",
        "2026-11-22T12:00:00+24:00",
        "2026-11-22T12:00:00+05:99",
        "2026-11-22T12:00:00 UTC",
        "2026-11-22T12:00:00\nZ",
        "2026-11-22T12:00:00Z\n",
        " 2026-11-22",
        "２０２６-11-22",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:60Z",
        "1795348800",
        "1795348800000",
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="not an RFC 3339 time such as"):
        event_time_ms(text)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (0, 0),
        (-0.0, 0),
        (1_795_348_800, NOON_MS),
        (NOON_MS, NOON_MS),
        (1_795_348_800.5, NOON_MS + 500),
        (1_795_348_800.9999, NOON_MS + 999),
        (NOON_MS + 0.75, NOON_MS),
        (1.001, 1_001),
        (10**11 - 1, (10**11 - 1) * 1_000),
        (10**11, 10**11),
        (10**14 - 1, 10**14 - 1),
    ],
)
def test_a_number_is_seconds_or_milliseconds_by_its_magnitude(number: float, moment: int) -> None:
    assert event_time_ms(number) == moment


@pytest.mark.parametrize("number", [10**14, NOON_MS * 1_000, NOON_MS * 10**6, 2**63 - 1, 2**70, 1e14, 1e300])
def test_micro_and_nanoseconds_are_not_guessed(number: float) -> None:
    with pytest.raises(ValueError, match="micro- or nanoseconds; write epoch seconds or milliseconds"):
        event_time_ms(number)


@pytest.mark.parametrize("number", [-1, -0.001, -NOON_MS, -(2**63), -1e300])
def test_negative_numbers_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="negative; write a time before 1970 as an RFC 3339 time"):
        event_time_ms(number)


@pytest.mark.parametrize(("value", "named"), [(True, "true or false"), ([1], "a list"), ({}, "an object")])
def test_other_types_are_named(value: object, named: str) -> None:
    with pytest.raises(ValueError, match=f"is {named}; write an RFC 3339 time"):
        event_time_ms(value)


def test_times_are_rfc_3339() -> None:
    assert format_time(1_795_336_200_000) == "2026-11-22T08:30:00Z"
    assert format_time(1_795_336_200_250) == "2026-11-22T08:30:00.250Z"
    assert format_time(-1) == "1969-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("10m", 600_000),
        ("24h", DAY_MS),
        ("7d", 7 * DAY_MS),
        ("2w", 14 * DAY_MS),
        ("1h30m", 5_400_000),
        (" 1.5 H 1 s ", 5_401_000),
        ("0s", 0),
        ("1ms", 1),
        ("45s", 45_000),
        ("90m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("1.5h", 5_400_000),
        (" 24 H ", DAY_MS),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "h",
        "24",
        "1y",
        "h24",
        "1h-30m",
        "1.h",
        "9" * 400 + "d",
        "1h and",
        "5ſ",
        "-1h",
        "1h30",
        "1 year",
        "1h,5m",
        "1..5h",
        "٣h",
        "9" * 30 + "w",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write a number with a unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "0ms"), (1, "1ms"), (90_000, "90s"), (3_600_000, "1h"), (14 * DAY_MS, "14d")]
)
def test_a_duration_is_written_with_one_unit(milliseconds: int, text: str) -> None:
    assert parse_duration(text) == timedelta(milliseconds=milliseconds)
    assert format_duration(timedelta(milliseconds=milliseconds)) == text
