"""A range of Kafka's record timestamps, as the options --from and --to give it."""

from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.timestamps import format_time, rfc3339_microseconds


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Kafka timestamps [from_ms, to_ms), epoch milliseconds."""

    from_ms: int
    to_ms: int

    def text(self) -> tuple[str, str]:
        """Both ends as RFC 3339."""
        return format_time(self.from_ms), format_time(self.to_ms)


def parse_time_range(from_: str, to: str) -> TimeRange:
    """Parse `--from` and `--to`. Raises UsageError for a text that is no RFC 3339 time, and for an empty range."""
    times = TimeRange(_time_ms("--from", from_), _time_ms("--to", to))
    if times.from_ms >= times.to_ms:
        problem = "is empty: --to is exclusive" if times.from_ms == times.to_ms else "ends before it begins"
        raise UsageError(f"the range --from {from_} --to {to} {problem}; give a --to that is later than --from")
    return times


def _time_ms(option: str, text: str) -> int:
    try:
        microseconds = rfc3339_microseconds(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} {error}") from None
    if microseconds < 0:
        raise UsageError(f"{option} {text!r} lies before 1970")
    return -(-microseconds // 1000)  # Kafka's times are milliseconds: the first one at or after the given moment
