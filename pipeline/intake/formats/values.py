"""Checks of raw values that the formats share."""

from collections.abc import Mapping

from pipeline.errors import RecordRejected
from pipeline.intake.reasons import Reason

_JSON_TYPES: Mapping[type, str] = {
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def decode_utf8(value: bytes, what: str) -> str:
    """The text. Raises RecordRejected with the byte at which it stops being UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8: byte {error.start} is not valid there"
        raise RecordRejected(Reason.INVALID_UTF8, message) from None


def refuse_registry_value(value: bytes) -> None:
    """Raise RecordRejected for Confluent's wire format (Avro, Protobuf, JSON Schema).

    It begins with a zero byte; no text and no JSON does.
    """
    if value[:1] == b"\x00":
        raise RecordRejected(
            Reason.UNSUPPORTED_FORMAT,
            "the value begins with a zero byte as a schema registry's format does; produce JSON or plain text",
        )


def json_type(value: object) -> str:
    """JSON's name for the type of a parsed value, with its article."""
    return _JSON_TYPES.get(type(value), "of another type")
