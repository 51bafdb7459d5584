"""Times and durations as people and programs write them: the one grammar for records, requests and settings."""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ]((?:[01]\d|2[0-3]):[0-5]\d)(?::(\d\d)(?:[.,](\d+))?)? ?([Zz]|[+-]\d\d:?[0-5]\d)?)?",
    re.ASCII,
)
# The hours are listed because newer Pythons read 24:00 as the next midnight, older ones and RFC 3339 do not.
_SECONDS_BELOW = 10**11
"""A number below this is taken as seconds (up to the year 5138), at or above as milliseconds (from 1973 on)."""
_MILLISECONDS_BELOW = 10**14
_FIRST_US = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z: an offset can lead before it, to where no Milvus partition has a name."""
_LAST_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z, the last time that can be written."""
_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(f"\\s*(?:{_DURATION_PART.pattern})+", re.IGNORECASE | re.ASCII)


def event_time_ms(value: object) -> int:
    """The event time in epoch milliseconds.

    A string is RFC 3339 (without an offset UTC, a date alone is its midnight); a number is epoch seconds or, by its
    magnitude, milliseconds. A time before 1970 has to be a string: of a negative number the magnitude says nothing,
    and -1 is what many programs write for "unknown". Raises ValueError saying what would be right.
    """
    if isinstance(value, str):
        return rfc3339_microseconds(value) // 1000
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_kind(value)}; write an RFC 3339 time, or epoch seconds or milliseconds as a number")
    if value < 0:
        raise ValueError("is negative; write a time before 1970 as an RFC 3339 time")
    if value >= _MILLISECONDS_BELOW:
        raise ValueError("looks like micro- or nanoseconds; write epoch seconds or milliseconds")
    # Through microseconds: 1.001 * 1000 is 1000.9999999999999.
    return round(value * 1_000_000) // 1000 if value < _SECONDS_BELOW else int(value)


def rfc3339_microseconds(text: str) -> int:
    """Epoch microseconds of an RFC 3339 time; a leap second (23:59:60 UTC) is the first of the next day.

    Finer fractions are cut off. Raises ValueError.
    """
    problem = "is not an RFC 3339 time such as 2026-11-22T13:45:00Z"
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(problem)
    day, minute, second, fraction, offset = match.groups()
    leap = second == "60"
    offset = "+00:00" if offset is None or offset in "Zz" else offset
    try:
        moment = datetime.fromisoformat(f"{day}T{minute or '00:00'}:{'59' if leap else second or '00'}{offset}")
        since = moment - _EPOCH + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise ValueError(problem) from None
    if leap and since.seconds:
        raise ValueError(problem)
    microseconds = (since.days * 86_400 + since.seconds) * 10**6 + int((fraction or "0")[:6].ljust(6, "0"))
    if not _FIRST_US <= microseconds <= _LAST_US:
        raise ValueError(problem)
    return microseconds


def format_time(epoch_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, e.g. `2026-11-22T08:30:00.250Z`; whole seconds without a fraction."""
    moment = _EPOCH + timedelta(milliseconds=epoch_ms)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds" if epoch_ms % 1000 else "seconds") + "Z"


def parse_duration(text: str) -> timedelta:
    """The length of `500ms`, `45s`, `10m`, `24h`, `7d`, `2w` or a sum such as `1h30m`. Raises ValueError."""
    problem = "write a number with a unit: 500ms, 45s, 10m, 24h, 90d"
    if _DURATION.fullmatch(text) is None:
        raise ValueError(problem)
    parts = _DURATION_PART.findall(text)
    try:
        return timedelta(milliseconds=sum(float(number) * _DURATION_MS[unit.lower()] for number, unit in parts))
    except OverflowError:
        raise ValueError(f"{problem}; this one is too long") from None


def format_duration(value: timedelta) -> str:
    """The shortest exact way to write a duration with one unit."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _DURATION_MS[unit] == 0:
            return f"{milliseconds // _DURATION_MS[unit]}{unit}"
    return f"{milliseconds}ms"


def _kind(value: object) -> str:
    names = {bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "of another type")
