"""Event times and versions as producers write them: RFC 3339, or a number of seconds or milliseconds."""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s?([Zz]|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_SECONDS_BELOW = 10**11
"""A number below this is taken as seconds (up to the year 5138), at or above as milliseconds (from 1973 on)."""
_MILLISECONDS_BELOW = 10**14
_LAST_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last time that can be written."""


def event_time_ms(value: object) -> int:
    """The event time in epoch milliseconds.

    A string is RFC 3339 (without an offset UTC, a date alone is its midnight); a number is epoch seconds or, by its
    magnitude, milliseconds. Raises ValueError saying what would be right.
    """
    if isinstance(value, str):
        microseconds = rfc3339_microseconds(value)
        if microseconds < 0:
            raise ValueError("lies before 1970")
        return microseconds // 1000
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_kind(value)}; write an RFC 3339 time, or epoch seconds or milliseconds as a number")
    if value < 0:
        raise ValueError("lies before 1970")
    if value >= _MILLISECONDS_BELOW:
        raise ValueError("looks like micro- or nanoseconds; write epoch seconds or milliseconds")
    return int(value * 1000) if value < _SECONDS_BELOW else int(value)


def rfc3339_microseconds(text: str) -> int:
    """Epoch microseconds of an RFC 3339 time; a leap second (:60) is the first of the next minute.

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
    microseconds = (since.days * 86_400 + since.seconds) * 10**6 + int((fraction or "0")[:6].ljust(6, "0"))
    if microseconds // 1000 > _LAST_MS:
        raise ValueError(problem)
    return microseconds


def _kind(value: object) -> str:
    names = {bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "of another type")
