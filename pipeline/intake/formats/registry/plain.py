"""Values of other formats as those of JSON, so that metadata is the same whatever its record was written in."""

import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from pipeline.errors import RecordRejected
from pipeline.intake.formats.values import MAX_DEPTH, number, too_deep
from pipeline.intake.reasons import Reason, quoted

AS_IS: frozenset[type] = frozenset({str, int, bool, type(None)})


def base64(value: bytes) -> str:
    """Bytes as JSON has them."""
    return b64encode(value).decode()


def finite(name: str, value: float) -> float:
    """The number. Raises RecordRejected for NaN and infinity, which JSON does not have."""
    if math.isfinite(value):
        return value
    raise RecordRejected(Reason.NOT_FINITE, f"the field {quoted(name)} holds NaN or infinity")


def plain(name: str, value: Any, depth: int = 1) -> Any:
    """The value of a field as JSON would have it. Raises RecordRejected."""
    kind = type(value)
    if kind in AS_IS:
        return value
    if kind is float:
        return finite(name, value)
    if kind is dict or kind is list:
        depth += 1
        if depth > MAX_DEPTH:
            raise too_deep(f"the field {quoted(name)}")
        if kind is dict:
            return {key: plain(name, member, depth) for key, member in value.items()}
        return [plain(name, member, depth) for member in value]
    return _WRITTEN[kind](value)


def _moment(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


_WRITTEN: Mapping[type, Callable[[Any], Any]] = {
    bytes: base64,
    datetime: _moment,
    date: date.isoformat,
    time: time.isoformat,
    Decimal: number,
    UUID: str,
}
