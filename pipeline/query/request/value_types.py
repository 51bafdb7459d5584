"""Types of single values in a request: whole numbers in a range, durations and times, each with one message."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.timestamps import parse_duration, rfc3339_microseconds

_LONGEST = timedelta(days=100 * 366)


@dataclass(frozen=True)
class Expected:
    """One message for every value that does not fit the annotated type."""

    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(handler(source), "expected", custom_error_message=self.message)


@dataclass(frozen=True)
class Between:
    """A whole number from `low` to `high`, with one message for everything else."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        message = f"must be a whole number from {self.low:,} to {self.high:,}"
        bounded = core_schema.int_schema(strict=True, ge=self.low, le=self.high)
        return core_schema.custom_error_schema(bounded, "expected", custom_error_message=message)


def _duration_ms(value: object) -> int:
    try:
        duration = parse_duration(value) if isinstance(value, str) else timedelta(0)
    except ValueError:
        duration = timedelta(0)
    milliseconds = duration // timedelta(milliseconds=1)
    if milliseconds <= 0 or duration > _LONGEST:
        message = "must be a number above 0 with a unit, such as 90m, 1h30m, 24h or 7d (at most 100 years)"
        raise PydanticCustomError("duration", message)
    return milliseconds


def _time_ms(value: object) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return rfc3339_microseconds(value) // 1_000
    except ValueError:
        pass
    raise PydanticCustomError("time", "must be an RFC 3339 time such as 2026-11-22T08:30:00Z, or a date")


Time = Annotated[
    int | None,
    PlainValidator(_time_ms),
    WithJsonSchema(
        {
            "type": ["string", "null"],
            "description": "RFC 3339; without an offset UTC, a date alone is its midnight.",
            "examples": ["2026-11-22", "2026-11-22T08:30:00Z"],
        }
    ),
]
Duration = Annotated[
    int | None,
    PlainValidator(_duration_ms),
    WithJsonSchema({"type": "string", "examples": ["90m", "1h30m", "24h", "7d"]}),
]


HalfLife = Annotated[
    int,
    PlainValidator(_duration_ms),
    WithJsonSchema({"type": "string", "examples": ["90m", "12h", "7d"]}),
]
