"""Checks of raw values that the formats share."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from pipeline.errors import RecordRejected
from pipeline.intake.reasons import Reason
from pipeline.records import SourceRecord

MAX_DEPTH = 32
"""Levels of objects and lists in a record, the outermost counted."""
MOST_DECIMAL_BYTES = 64
"""Of the digits of a decimal, some 150: to turn them into a number takes time by the square of their count."""
VALUE_HEADER, KEY_HEADER = "__value_schema_id", "__key_schema_id"
"""In which a producer may name the schema of a value or key instead of in its bytes."""
Headers = Sequence[tuple[str, bytes | None]]
_JSON_TYPES: Mapping[type, str] = {
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}

_MOST_BITS = 4_096
"""Of an integer that is an id: Python writes 4,300 digits and no more."""


def decode_utf8(value: bytes, what: str) -> str:
    """The text. Raises RecordRejected with the byte at which it stops being UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8: byte {error.start} is not valid there"
        raise RecordRejected(Reason.INVALID_UTF8, message) from None


def too_deep(what: str) -> RecordRejected:
    """The refusal of a value or field with too many levels."""
    return RecordRejected(Reason.NESTED_TOO_DEEP, f"{what} is nested over {MAX_DEPTH} levels deep")


def names_schema(headers: Headers, header: str) -> bool:
    """Whether the header names a schema. Nothing in the bytes then does, and much Avro is valid UTF-8."""
    return any(name == header for name, _ in headers)


def refuse_registry_value(value: bytes, what: str = "the value") -> None:
    """Raise RecordRejected for Confluent's wire format (Avro, Protobuf, JSON Schema).

    It begins with a zero byte; no text and no JSON does.
    """
    if value[:1] == b"\x00":
        raise RecordRejected(
            Reason.UNSUPPORTED_FORMAT,
            f"{what} begins with a zero byte as a schema registry's format does: set registry.url, and record.format "
            "to auto, avro, protobuf or json_schema; or produce JSON or plain text",
        )


def key_text(record: SourceRecord) -> str:
    """The key as it is. Raises RecordRejected where it is no text, or in a schema registry's format."""
    key = record.key or b""
    refuse_registry_value(key, "the key")
    text = decode_utf8(key, "the key")
    if names_schema(record.headers, KEY_HEADER):
        message = (
            f"the header {KEY_HEADER} names a schema of the key: set registry.url; or produce the key as plain text"
        )
        raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)
    return text


def json_type(value: object) -> str:
    """JSON's name for the type of a parsed value, with its article."""
    return _JSON_TYPES.get(type(value), "of another type")


def number(value: Decimal) -> int | float:
    """As a reader of JSON takes it: a whole number exactly, others as a 64-bit float. Raises ValueError beyond that."""
    if int(value.as_tuple().exponent) >= 0:
        return int(value)
    found = float(value)
    if not math.isfinite(found):
        raise ValueError("the number is larger than a 64-bit float can hold")
    return found


def id_text(value: object) -> str | None:
    """The text of a string or an integer that may be an id; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _MOST_BITS:
        return str(value)
    return None
